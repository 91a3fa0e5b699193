//! A target is verified by reading it back, and a wrong one is removed.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Conversion, Error, ErrorKind, Journal, MemorySink, MemorySource, Order, ReadBack, Receipt,
    Result, Sink, SinkCapabilities, SinkHint, Source, StoredRange, Target, TargetOffset, TargetRange,
};

use crate::engine::made::{Identity, Made, block_on, made, resources};

/// A sink that changes the bytes before they are read back.
struct Bad {
    inner: MemorySink,
    /// The written bytes, also before they are published.
    copy: MemorySink,
    when: ReadBack,
    spoil: fn(&mut Vec<u8>),
    ours: bool,
}

impl Sink for Bad {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn capabilities(&self) -> SinkCapabilities {
        self.inner.capabilities().read_back(self.when)
    }

    fn written(&self) -> Option<u64> {
        self.inner.written()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        self.inner.prepare(expected)
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.copy.write(at, pieces.clone()).await?;
            self.inner.write(at, pieces).await
        })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        self.inner.zero(range)
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        self.inner.finish(len)
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        self.inner.abort()
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        Box::pin(async move {
            self.copy.finish(len).await?;
            let bytes = self.copy.read_back(len).await?.read(StoredRange::first(len)).await?;
            let mut bytes = bytes.to_vec();
            (self.spoil)(&mut bytes);
            Ok(Arc::new(MemorySource::new("bad", bytes)) as Arc<dyn Source>)
        })
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        if self.ours { self.inner.retract(receipt) } else { Box::pin(async { Ok(false) }) }
    }
}

fn small() -> Made {
    made(65536, &[(2, 1, 0), (3, 3, 1), (5, 2, 2)], 0)
}

/// The result of a verified conversion to such a sink, and the remaining target.
fn converted(when: ReadBack, spoil: fn(&mut Vec<u8>), ours: bool) -> (Result<()>, Option<Vec<u8>>) {
    let inner = MemorySink::new();
    let sink = Box::new(Bad { inner: inner.clone(), copy: MemorySink::new(), when, spoil, ours });
    let target = Target { layout: Box::new(Identity(Order::Any)), sink };
    let run = Conversion::new(small().disk(), target).resources(resources()).verify(true).run();
    (block_on(run).map(drop), inner.published())
}

#[test]
fn a_target_that_reads_back_the_same_is_published() {
    for when in [ReadBack::Before, ReadBack::After] {
        let (ended, published) = converted(when, |_| (), true);
        ended.unwrap();
        assert!(published.unwrap() == small().guest, "{when:?}");
    }
}

#[test]
fn a_target_that_reads_back_differently_is_not_published_or_is_retracted() {
    let spoils: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes[70_000] ^= 1, |bytes| bytes.truncate(bytes.len() - 1), |bytes| bytes.push(0)];
    for when in [ReadBack::Before, ReadBack::After] {
        for (index, spoil) in spoils.into_iter().enumerate() {
            let (ended, published) = converted(when, spoil, true);
            let error: Error = ended.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::VerificationFailed, "{when:?} {index}: {error}");
            assert_eq!(error.message().contains("it was deleted"), when == ReadBack::After, "{error}");
            assert!(published.is_none(), "{when:?} {index}");
        }
    }
}

#[test]
fn a_replaced_target_is_not_deleted_and_the_error_says_so() {
    let (ended, published) = converted(ReadBack::After, |bytes| bytes[0] ^= 1, false);
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VerificationFailed);
    assert!(error.message().contains("replaced by another object"), "{error}");
    assert!(published.is_some());
}

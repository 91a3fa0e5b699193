//! Stalled runs end, slow ones do not. The runtime's clock is paused when a wait begins, and then jumps: no test
//! waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Budget, Capabilities, Conversion, Disk, Error, ErrorKind, HeadTail,
    Identity as SourceIdentity, Journal, Layout, LayoutFacts, LayoutInput, MemorySink, MemorySource, Order,
    OutputSize, Part, Receipt, Result, Segment, Sink, SinkCapabilities, SinkHint, Source, StoredRange,
    Target, TargetOffset, TargetRange, Traffic, Warning, Write, Writes,
};

use crate::engine::made::{Identity, Made, block_on, made, resources};

const LONG: Duration = Duration::from_secs(3600);

/// Runs `future` with a paused clock, which jumps to the next timer whenever all tasks wait. One at a time.
pub(crate) async fn jumping<T>(future: impl Future<Output = T>) -> T {
    tokio::time::pause();
    let done = future.await;
    tokio::time::resume();
    done
}

/// A source that never answers.
#[derive(Debug)]
struct Silent(MemorySource);

impl Source for Silent {
    fn url(&self) -> &str {
        self.0.url()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn identity(&self) -> &SourceIdentity {
        self.0.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().in_flight(1)
    }

    fn traffic(&self) -> Traffic {
        self.0.traffic()
    }

    fn read(&self, _: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(jumping(std::future::pending()))
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.0.segments(range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        self.0.verify()
    }
}

/// A sink that stalls from an offset on, and is slow to finish.
struct Lazy {
    inner: MemorySink,
    stuck_from: u64,
}

impl Sink for Lazy {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn capabilities(&self) -> SinkCapabilities {
        self.inner.capabilities().in_flight(1)
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

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        Box::pin(async move {
            let bytes = self.inner.read_back(len).await?.read(StoredRange::first(len)).await?;
            Ok(Arc::new(Silent(MemorySource::new("silent", bytes))) as Arc<dyn Source>)
        })
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        self.inner.retract(receipt)
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        if at.get() < self.stuck_from {
            return self.inner.write(at, pieces);
        }
        Box::pin(jumping(std::future::pending()))
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        self.inner.zero(range)
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            jumping(tokio::time::sleep(LONG)).await;
            self.inner.finish(len).await
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        self.inner.abort()
    }
}

fn small() -> Made {
    made(65536, &[(2, 1, 0), (3, 3, 1), (5, 2, 2)], 0)
}

/// The disk's bytes, followed by a footer.
struct WithFooter(Identity);

impl WithFooter {
    const LEN: u64 = 512;
}

impl Layout for WithFooter {
    fn format(&self) -> &'static str {
        self.0.format()
    }

    fn variant(&self) -> String {
        self.0.variant()
    }

    fn options(&self) -> String {
        String::new()
    }

    fn input(&self) -> LayoutInput {
        self.0.input()
    }

    fn unit(&self) -> Option<u64> {
        self.0.unit()
    }

    fn needs_map(&self) -> bool {
        self.0.needs_map()
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        self.0.virtual_bytes(source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        let longer = |output: OutputSize| OutputSize { bytes: output.bytes + Self::LEN, ..output };
        Ok(self.0.output_size(facts)?.map(longer))
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        self.0.begin(facts)
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        self.0.place(part)
    }

    fn flush(&mut self) -> Vec<Write> {
        Vec::new()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        let footer = Write::Bytes(TargetOffset::new(virtual_bytes), vec![vec![7; Self::LEN as usize].into()]);
        Ok((Box::new(std::iter::once(footer)), virtual_bytes + Self::LEN))
    }

    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        self.0.recognise(target)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        self.0.open(target)
    }
}

fn lazy(layout: impl Layout + 'static, stuck_from: u64) -> (Target, MemorySink) {
    let inner = MemorySink::new();
    let sink = Lazy { inner: inner.clone(), stuck_from };
    (Target { layout: Box::new(layout), sink: Box::new(sink) }, inner)
}

#[test]
fn a_stalled_source_is_unavailable() {
    let made = small();
    let disk = made.disk_over(Arc::new(Silent(MemorySource::new("silent", made.store.clone()))));
    let error: Error = block_on(Conversion::reading(disk).resources(resources()).run()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable, "{error}");
    assert!(error.is_retryable() && error.message().contains("60 seconds"), "{error}");
}

#[test]
fn a_stalled_destination_is_unavailable() {
    let (target, sink) = lazy(Identity(Order::Any), 0);
    let run = Conversion::new(small().disk(), target).resources(resources()).run();
    let error: Error = block_on(run).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error}");
    assert_eq!(sink.published(), None);
}

#[test]
fn a_destination_that_stalls_at_the_very_end_is_unavailable() {
    let made = small();
    let (target, sink) = lazy(WithFooter(Identity(Order::Any)), made.guest.len() as u64);
    let run = Conversion::new(made.disk(), target).resources(resources()).run();
    let error: Error = block_on(run).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error}");
    assert_eq!(sink.published(), None);
}

#[test]
fn a_target_that_stalls_while_it_is_read_back_is_not_verified() {
    let (target, sink) = lazy(Identity(Order::Any), u64::MAX);
    let run = Conversion::new(small().disk(), target).resources(resources()).verify(true).run();
    let error: Error = block_on(run).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VerificationFailed, "{error}");
    assert!(error.is_retryable() && error.message().contains("60 seconds"), "{error}");
    assert_eq!(sink.published(), None);
}

#[test]
fn finishing_a_target_may_take_long() {
    let (target, sink) = lazy(Identity(Order::Any), u64::MAX);
    let made = small();
    block_on(Conversion::new(made.disk(), target).resources(resources()).run()).unwrap();
    assert!(sink.published().unwrap() == made.guest);
}

#[test]
fn waiting_for_memory_of_others_is_not_a_stall() {
    let budget = Budget::new(Budget::SMALLEST);
    let resources = resources().budget(Some(budget.clone()));
    block_on(async {
        let room = (budget.reserve_for_run(u64::MAX).await.unwrap(), budget.reserve(u64::MAX).await.unwrap());
        assert_eq!(budget.used(), budget.total());
        let run = Conversion::reading(small().disk()).resources(resources).run();
        let later = async {
            jumping(tokio::time::sleep(LONG)).await;
            drop(room);
        };
        let (ended, ()) = tokio::join!(run, later);
        ended.unwrap();
    });
}

//! Objects of any length, for images that are too large to build.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use diskferry_core::internal::check_range;
use diskferry_core::{
    BoxFuture, Capabilities, Identity, Result, Segment, Source, StoredOffset, StoredRange, Traffic,
};

/// An object of any length that is zero except for some pieces.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) len: u64,
    pub(crate) pieces: BTreeMap<u64, Vec<u8>>,
    pub(crate) fetched: AtomicU64,
    pub(crate) requests: AtomicU64,
    identity: Identity,
}

impl Sparse {
    pub(crate) fn new(len: u64, pieces: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Self {
        let pieces = pieces.into_iter().collect();
        let zero = || AtomicU64::new(0);
        Self { len, pieces, fetched: zero(), requests: zero(), identity: Identity::default() }
    }
}

impl Source for Sparse {
    fn url(&self) -> &str {
        "memory:sparse"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(8 << 20).gap_bytes(0).in_flight(4).remote(true)
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
            .requests(self.requests.load(Ordering::Relaxed))
            .bytes(self.fetched.load(Ordering::Relaxed))
            .retries(0)
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.fetched.fetch_add(range.len(), Ordering::Relaxed);
            let mut out = vec![0; usize::try_from(range.len()).unwrap()];
            for (at, piece) in &self.pieces {
                let lies =
                    StoredRange::between(StoredOffset::new(*at), StoredOffset::new(at + piece.len() as u64));
                let Some(both) = lies.intersection(range) else { continue };
                let from = (both.start().get() - at) as usize;
                let to = (both.start().get() - range.start().get()) as usize;
                let len = both.len() as usize;
                out[to..to + len].copy_from_slice(&piece[from..from + len]);
            }
            Ok(out.into())
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(vec![Segment { range, hole: false }]) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

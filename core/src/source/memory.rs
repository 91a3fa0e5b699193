//! A source in memory, for tests, fuzzers and small images. It needs no runtime.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::address::StoredRange;
use crate::error::{Error, Result};
use crate::source::source::{BoxFuture, Source, all_data, check_range};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};

/// A source over bytes in memory.
#[derive(Debug)]
pub struct MemorySource {
    url: String,
    bytes: Bytes,
    identity: Identity,
    requests: AtomicU64,
    read: AtomicU64,
}

impl MemorySource {
    /// A source over `bytes`, shown as `memory:name`.
    pub fn new(name: &str, bytes: impl Into<Bytes>) -> Self {
        Self {
            url: format!("memory:{name}"),
            bytes: bytes.into(),
            identity: Identity::default(),
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
        }
    }
}

impl Source for MemorySource {
    fn url(&self) -> &str {
        &self.url
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { request_bytes: 1 << 20, gap_bytes: 0, in_flight: 4, remote: false }
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.read.load(Ordering::Relaxed),
            retries: 0,
        }
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            let bounds =
                usize::try_from(range.start().get()).ok().zip(usize::try_from(range.end().get()).ok());
            let (start, end) =
                bounds.ok_or_else(|| Error::internal("the range exceeds the address space"))?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.read.fetch_add(range.len(), Ordering::Relaxed);
            Ok(self.bytes.slice(start..end))
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(all_data(range)) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

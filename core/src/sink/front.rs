//! The first bytes of a source that is longer than the target written to it: a device that is read back.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::StoredRange;
use crate::error::Result;
use crate::source::{BoxFuture, Capabilities, Identity, Segment, Source, Traffic, check_range};

/// The first `len` bytes of a source. `expect_all` is not forwarded, since the rest is never read.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) inner: Arc<dyn Source>,
    /// At most the length of `inner`.
    pub(super) len: u64,
}

impl Source for Front {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            self.inner.read(range).await
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.inner.segments(range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.verify()
    }
}

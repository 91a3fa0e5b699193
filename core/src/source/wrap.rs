//! Wrappers around sources. Each forwards every method and changes one thing.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::address::StoredRange;
use crate::error::{Error, Result};
use crate::source::source::{BoxFuture, Source, covering};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};

macro_rules! forward {
    ($($method:ident -> $type:ty),*) => {
        $(fn $method(&self) -> $type { self.inner.$method() })*

        fn expect_all(&self) {
            self.inner.expect_all();
        }
    };
}
pub(super) use forward;

/// Counts the traffic of a source that does not count it itself.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Source>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    /// Counts reads of `inner` from now on.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self { inner, requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl Source for Counted {
    forward!(url -> &str, len -> u64, identity -> &Identity, capabilities -> Capabilities,
        verify -> BoxFuture<'_, Result<()>>);

    fn traffic(&self) -> Traffic {
        let counted = self.inner.traffic();
        if counted != Traffic::default() {
            return counted;
        }
        let (requests, bytes) = (&self.requests, &self.bytes);
        Traffic::default().requests(requests.load(Ordering::Relaxed)).bytes(bytes.load(Ordering::Relaxed))
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let bytes = self.inner.read(range).await?;
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(bytes)
        })
    }

    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.inner.read_parts(parts, give).await?;
            self.bytes.fetch_add(covering(parts).map_or(0, StoredRange::len), Ordering::Relaxed);
            Ok(())
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.inner.segments(range)
    }
}

/// Records every range that is read. Used by tests to check which requests a plan makes.
#[derive(Debug)]
pub struct Recording {
    inner: Arc<dyn Source>,
    reads: Mutex<Vec<StoredRange>>,
}

impl Recording {
    /// Records reads of `inner`.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self { inner, reads: Mutex::new(Vec::new()) }
    }

    /// The ranges read so far, in order.
    pub fn reads(&self) -> Vec<StoredRange> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for Recording {
    forward!(url -> &str, len -> u64, identity -> &Identity, capabilities -> Capabilities, traffic -> Traffic,
        verify -> BoxFuture<'_, Result<()>>);

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).push(range);
        self.inner.read(range)
    }

    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).extend(covering(parts));
        self.inner.read_parts(parts, give)
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.inner.segments(range)
    }
}

/// Fails reads that a rule selects. Used by tests.
pub struct Failing {
    inner: Arc<dyn Source>,
    rule: Box<dyn Fn(u64, StoredRange) -> Option<Error> + Send + Sync>,
    count: AtomicU64,
}

impl Failing {
    /// `rule` is called for every read with its number, from 0 on, and its range. If it returns an error, the read
    /// fails with it.
    pub fn new(
        inner: Arc<dyn Source>,
        rule: impl Fn(u64, StoredRange) -> Option<Error> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, rule: Box::new(rule), count: AtomicU64::new(0) }
    }
}

impl std::fmt::Debug for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failing").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Source for Failing {
    forward!(url -> &str, len -> u64, identity -> &Identity, capabilities -> Capabilities, traffic -> Traffic,
        verify -> BoxFuture<'_, Result<()>>);

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        match (self.rule)(number, range) {
            Some(error) => Box::pin(async move { Err(error) }),
            None => self.inner.read(range),
        }
    }

    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        let Some(range) = covering(parts) else { return Box::pin(async { Ok(()) }) };
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        match (self.rule)(number, range) {
            Some(error) => Box::pin(async move { Err(error) }),
            None => self.inner.read_parts(parts, give),
        }
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.inner.segments(range)
    }
}

//! A target in memory, for tests and small images.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::sink::Sink;
use crate::sink::types::{ReadBack, Receipt, SinkCapabilities, WriteOrder};
use crate::source::{BoxFuture, MemorySource, Source};

/// A sink into memory. Clones share the target, so that a clone can read it afterwards.
#[derive(Clone, Debug, Default)]
pub struct MemorySink(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    written: u64,
    published: bool,
}

impl MemorySink {
    /// An empty target.
    pub fn new() -> Self {
        Self::default()
    }

    /// The target, after it was published.
    pub fn published(&self) -> Option<Vec<u8>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.published.then(|| state.bytes.clone())
    }
}

impl Sink for MemorySink {
    fn url(&self) -> &str {
        "memory:"
    }

    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            order: WriteOrder::Any,
            sparse: true,
            buffers: false,
            in_flight: 4,
            read_back: ReadBack::After,
        }
    }

    fn written(&self) -> Option<u64> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).written)
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let full = || Error::new(ErrorKind::DestinationFull, "the target exceeds the address space");
            let mut at = usize::try_from(at.get()).map_err(|_| full())?;
            for piece in pieces {
                let end = at.checked_add(piece.len()).ok_or_else(full)?;
                if state.bytes.len() < end {
                    state.bytes.resize(end, 0);
                }
                state.bytes.get_mut(at..end).ok_or_else(full)?.copy_from_slice(&piece);
                state.written += piece.len() as u64;
                at = end;
            }
            Ok(())
        })
    }

    fn zero(&self, _range: TargetRange) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = usize::try_from(len);
            let bytes = bytes.map_err(|_| {
                Error::new(ErrorKind::DestinationFull, "the target exceeds the address space")
            })?;
            state.bytes.resize(bytes, 0);
            state.published = true;
            Ok(Receipt {
                url: self.url().to_owned(),
                bytes: len,
                written: state.written,
                etag: None,
                warnings: Vec::new(),
            })
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.published {
                *state = State::default();
            }
            !state.published
        })
    }

    fn read_back(&self, _len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        Box::pin(async move {
            let bytes = self
                .published()
                .ok_or_else(|| Error::internal("the target was read back before it was published"))?;
            Ok(Arc::new(MemorySource::new("memory:", bytes)) as Arc<dyn Source>)
        })
    }

    fn retract(&self, _receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(std::mem::take(&mut state.published))
        })
    }
}

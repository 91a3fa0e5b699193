//! The trait of destinations.
//!
//! A [`Sink`] is one target that is being written: a file, a block device, standard output, an S3 upload. The target
//! appears under its name only when it is complete: [`Sink::finish`] publishes it, and in all other cases nothing
//! remains. Two destinations cannot fully guarantee that: a block device is overwritten, and looks empty until its
//! target is complete; data that went to standard output cannot be taken back.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::journal::Journal;
use crate::sink::types::{Receipt, SinkCapabilities, SinkHint};
use crate::source::{BoxFuture, Source};

/// One target that is being written.
///
/// Dropping a sink that was not finished undoes it as far as possible without waiting; [`abort`](Self::abort) waits.
/// After an error of `write` or `zero`, only `abort` may be called.
///
/// An implementation needs six methods; the others describe optional abilities. Wrappers must forward all of them.
///
/// ```
/// use bytes::Bytes;
/// use diskferry_core::{MemorySink, Sink, SinkHint, TargetOffset};
///
/// # #[tokio::main]
/// # async fn main() -> diskferry_core::Result<()> {
/// let sink = MemorySink::new();
/// sink.prepare(SinkHint::default().most_bytes(Some(9)).exact(true)).await?;
/// sink.write(TargetOffset::ZERO, vec![Bytes::from("disk"), Bytes::from("ferry")]).await?;
/// assert_eq!(sink.published(), None);
///
/// let receipt = sink.finish(9).await?;
/// assert_eq!((receipt.bytes, sink.published().as_deref()), (9, Some(&b"diskferry"[..])));
/// # Ok(())
/// # }
/// ```
pub trait Sink: Send + Sync {
    /// The URL or path, fit to be shown.
    fn url(&self) -> &str;

    /// The capabilities of the sink.
    fn capabilities(&self) -> SinkCapabilities;

    /// Writes `pieces`, one after the other, from `at` on. The pieces hold memory of the budget that they were read
    /// in. A sink drops them before it completes, and copies data that it buffers into memory of its own
    /// ([`SinkHint::memory`]).
    ///
    /// # Errors
    /// The `destination_*` codes. If the future is dropped, any of the bytes may have been written.
    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>>;

    /// Makes `range`, which was not written before, read as zeros.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>>;

    /// Sets the final length, waits for stable storage if requested, and publishes the target under its name. Called
    /// once, after every write is complete. For a sparse sink, bytes from 0 to `len` that were not written read as
    /// zero. For any other sink, every byte was written or zeroed.
    ///
    /// # Errors
    /// The `destination_*` codes; nothing is published then.
    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>>;

    /// Aborts: no part of the target remains, and a previous object under the name is unchanged (a block device looks
    /// empty; standard output just ends).
    ///
    /// It takes effect before or after publishing and never in between. Returns false if the target was published
    /// already, which is not undone; then the result of [`finish`](Self::finish) is valid.
    fn abort(&self) -> BoxFuture<'_, bool>;

    /// Called once, before the first write. Checks whether the destination can hold the target, and allocates space
    /// if requested. A destination without limits has nothing to check.
    ///
    /// # Errors
    /// `destination_unsuitable` if the destination can never hold the target; `destination_full`, and the other
    /// `destination_*` codes.
    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        let _ = expected;
        Box::pin(async { Ok(()) })
    }

    /// Bytes written so far, if the sink counts them. Otherwise the bytes of completed writes are used.
    fn written(&self) -> Option<u64> {
        None
    }

    /// Its journal, if the target can be continued after this process was killed.
    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    /// The target as a source, to be read back. Called before [`finish`](Self::finish), after every write is
    /// complete, or after it: see [`SinkCapabilities::read_back`]. The target is `len` bytes long.
    ///
    /// # Errors
    /// `destination_unsuitable` if it cannot be read back; the `destination_*` codes. The returned source itself
    /// fails with `source_*` codes.
    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let message = format!("the {len} bytes written to {} cannot be read back", self.url());
        Box::pin(async { Err(Error::new(ErrorKind::DestinationUnsuitable, message)) })
    }

    /// Deletes a published target that turned out wrong, if it is still the one that `receipt` describes. Returns
    /// false if it is not, or if the destination does not support this.
    ///
    /// # Errors
    /// The `destination_*` codes: the target may still exist.
    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        let _ = receipt;
        Box::pin(async { Ok(false) })
    }
}

/// A boxed sink is a sink.
impl<S: Sink + ?Sized> Sink for Box<S> {
    fn url(&self) -> &str {
        (**self).url()
    }

    fn capabilities(&self) -> SinkCapabilities {
        (**self).capabilities()
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        (**self).write(at, pieces)
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        (**self).zero(range)
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        (**self).finish(len)
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        (**self).abort()
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        (**self).prepare(expected)
    }

    fn written(&self) -> Option<u64> {
        (**self).written()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        (**self).journal()
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        (**self).read_back(len)
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        (**self).retract(receipt)
    }
}

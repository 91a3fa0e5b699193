//! Where the bytes of a target land.
//!
//! A [`Sink`] is one target being written: a file, a block device, standard output, an S3 upload. It appears under its
//! name only when it is complete: [`Sink::finish`] publishes, everything else leaves nothing behind. Two places cannot do
//! that fully: a block device is overwritten, and looks empty until its target is complete; what went to standard output
//! cannot be taken back.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::journal::Journal;
use crate::sink::types::{Receipt, SinkCapabilities, SinkHint};
use crate::source::{BoxFuture, Source};

/// One target being written.
///
/// Dropping a sink that was not finished undoes it as far as that can be done without waiting; [`abort`](Self::abort)
/// waits. After an error of `write` or `zero` the only call that makes sense is `abort`.
///
/// A sink of your own needs six methods; the others say what a place can do beyond that. Wrappers forward all of them.
pub trait Sink: Send + Sync {
    /// The URL or path as a person may see it.
    fn url(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> SinkCapabilities;

    /// Writes `pieces`, one after the other, from `at` on. They hold memory of the budget that they were read in: a sink
    /// drops them before it answers, and copies what it gathers into memory of its own ([`SinkHint::memory`]).
    ///
    /// # Errors
    /// The `destination_*` codes. If the future is dropped, any of the bytes may have been written.
    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>>;

    /// Makes `range`, which was not written before, read as zeros.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>>;

    /// Returns the target its final length, waits for stable storage if asked, and publishes it under its name. Called once,
    /// after every write was answered. A sparse sink was told of every byte from 0 to `len` or reads it as zero; any other
    /// was told of every one.
    ///
    /// # Errors
    /// The `destination_*` codes; nothing is published then.
    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>>;

    /// Gives up: nothing stays behind, and what was under the name before is still there (a block device looks empty;
    /// standard output ends where it is).
    ///
    /// It comes before or after the publishing and never in between. Returns false if the target was published already,
    /// which is not undone; then the answer of [`finish`](Self::finish) stands.
    fn abort(&self) -> BoxFuture<'_, bool>;

    /// Called once, before the first write. Checks whether the target can be that large, and allocates it if asked. A
    /// place without a limit of its own has nothing to check.
    ///
    /// # Errors
    /// `destination_unsuitable` if the place can never hold it; `destination_full`, and the other `destination_*` codes.
    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        let _ = expected;
        Box::pin(async { Ok(()) })
    }

    /// Bytes really written so far, if the sink counts them. Otherwise those of the writes that it answered are taken.
    fn written(&self) -> Option<u64> {
        None
    }

    /// Its journal, if it can be continued after this process was killed.
    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    /// The target as a source, to be read back: before [`finish`](Self::finish), after every write was answered, or after
    /// it, as [`SinkCapabilities::read_back`] says. It is `len` bytes long.
    ///
    /// # Errors
    /// `destination_unsuitable` if it cannot be read back; the `destination_*` codes. The source itself answers the
    /// `source_*` codes.
    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let message = format!("the {len} bytes that went to {} cannot be read back", self.url());
        Box::pin(async { Err(Error::new(ErrorKind::DestinationUnsuitable, message)) })
    }

    /// Takes back what was published and turned out wrong, if it is still what `receipt` says. Returns false if it is not,
    /// or if this place cannot take anything back.
    ///
    /// # Errors
    /// The `destination_*` codes: it may still be there.
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

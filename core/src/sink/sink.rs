//! Where the bytes of a target land.
//!
//! A [`Sink`] is one target being written: a file, a block device, standard output, an S3 upload. It shows under its
//! name only when it is whole: [`Sink::finish`] publishes, everything else leaves nothing behind. Two places cannot have
//! it quite so: a block device is overwritten, and looks empty until its target is whole; what went to standard output
//! cannot be taken back.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::Result;
use crate::sink::journal::Journal;
use crate::sink::types::{Receipt, SinkCapabilities, SinkHint};
use crate::source::{BoxFuture, Source};

/// One target being written.
///
/// Dropping a sink that was not finished undoes it as far as that can be done without waiting; [`abort`](Self::abort)
/// waits. After an error of `write` or `zero` the only call that makes sense is `abort`.
pub trait Sink: Send + Sync {
    /// The URL or path as a person may see it.
    fn url(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> SinkCapabilities;

    /// Bytes really written so far.
    fn written(&self) -> u64;

    /// Its journal, where it can be gone on with after this process was killed.
    fn journal(&self) -> Option<&dyn Journal>;

    /// Called once, before the first write: whether the target can be so large, with room taken where asked.
    ///
    /// # Errors
    /// `destination_unsuitable` for what the place cannot hold whatever is free there; `destination_full`, and the other
    /// `destination_*` codes.
    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>>;

    /// Writes `pieces`, one behind the other, from `at` on. They take room of the budget that they were read in: a sink lets
    /// go of them before it answers, and what it gathers it copies into memory of its own ([`SinkHint::memory`]).
    ///
    /// # Errors
    /// The `destination_*` codes. Dropping the future leaves it open which of the bytes were written.
    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>>;

    /// Makes `range`, which was not written before, read as zeros.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>>;

    /// Gives the target its final length, waits for stable storage where asked, and publishes it under its name.
    /// Called once, after every write was answered. A sparse sink was told of every byte from 0 to `len` or reads it as
    /// zero; any other was told of every one.
    ///
    /// # Errors
    /// The `destination_*` codes; nothing is published then.
    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>>;

    /// Gives up: nothing stays behind, and what was under the name before is there still (a block device looks empty;
    /// standard output ends where it is).
    ///
    /// It comes before or after the publishing and never between: false where the target was published already, which is
    /// not undone, and then the answer of [`finish`](Self::finish) stands.
    fn abort(&self) -> BoxFuture<'_, bool>;

    /// The target as a source, to be read back: before [`finish`](Self::finish), after every write was answered, or after
    /// it, as [`SinkCapabilities::read_back`] says. It is `len` bytes long.
    ///
    /// # Errors
    /// `destination_unsuitable` where it cannot be read back; the `destination_*` codes. The source itself answers the
    /// `source_*` codes.
    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>>;

    /// Takes back what was published and turned out wrong, if it is still what `receipt` says. False where it is not, or
    /// where it cannot be taken back.
    ///
    /// # Errors
    /// The `destination_*` codes: it may be there still.
    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>>;
}

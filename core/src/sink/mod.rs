//! Where the bytes of a target land.
//!
//! A [`Sink`] is one target being written: a file, a block device, standard output, an S3 upload. It shows under its
//! name only when it is whole: [`Sink::finish`] publishes, everything else leaves nothing behind.

pub mod file;
pub mod memory;
mod place;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::Result;
use crate::source::BoxFuture;

/// In which order a sink takes writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOrder {
    /// Any, also several at once, as long as no two overlap.
    Any,
    /// One after the other, each beginning where the last one ended; zeros included.
    Sequential,
}

/// What a sink can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SinkCapabilities {
    /// In which order it takes writes.
    pub order: WriteOrder,
    /// True where bytes never written read as zeros, and [`Sink::zero`] costs nothing there.
    pub sparse: bool,
    /// Most writes worth having in flight at once.
    pub in_flight: usize,
}

/// What was published.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Receipt {
    /// The URL or path as a person may see it.
    pub url: String,
    /// Length of the target in bytes.
    pub bytes: u64,
    /// Bytes that were really written (holes and zeros for free left out).
    pub written: u64,
    /// The entity tag of an object.
    pub etag: Option<String>,
}

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

    /// Writes `pieces`, one behind the other, from `at` on.
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
    /// Called once, after every write was answered.
    ///
    /// # Errors
    /// The `destination_*` codes; nothing is published then.
    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>>;

    /// Gives up: nothing stays behind, and what was under the name before is there still.
    ///
    /// It comes before or after the publishing and never between: false where the target was published already, which is
    /// not undone, and then the answer of [`finish`](Self::finish) stands.
    fn abort(&self) -> BoxFuture<'_, bool>;
}

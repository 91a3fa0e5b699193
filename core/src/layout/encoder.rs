//! How a target compresses.

use std::fmt;

use crate::disk::{Compression, SourceStream};
use crate::error::Result;
use crate::layout::part::Coding;

/// Turns a unit of guest bytes into what a target stores. Pure, and used from many threads at once.
pub trait Encoder: Send + Sync + fmt::Debug {
    /// Size of a unit in bytes, at most [`crate::disk::MAX_UNIT_BYTES`].
    fn unit_bytes(&self) -> u64;

    /// The most bytes that a unit becomes.
    fn most_bytes(&self) -> usize;

    /// Encodes `guest`, a whole unit (the disk's end filled up with zeros), into the beginning of `out`, which is
    /// [`most_bytes`](Self::most_bytes) long and holds anything.
    ///
    /// # Errors
    /// `internal`: a unit can always be encoded.
    fn encode(&self, unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding>;

    /// The kind of compressed stream that [`pass_through`](Self::pass_through) takes from a source with the same unit; `None`
    /// if every unit must be compressed again.
    fn passthrough(&self) -> Option<Compression>;

    /// Like [`encode`](Self::encode), with the stream that the source has for the unit: it was seen to decode to `guest`, and
    /// has no byte too many. `None` if it does not suit.
    ///
    /// # Errors
    /// See [`encode`](Self::encode).
    fn pass_through(
        &self,
        unit: u64,
        guest: &[u8],
        stream: &SourceStream,
        out: &mut [u8],
    ) -> Result<Option<Coding>>;
}

//! The compression of a target.

use std::fmt;

use crate::disk::{Compression, SourceStream};
use crate::error::Result;
use crate::layout::part::Coding;

/// Encodes units of guest bytes for a target. Pure, and called from many threads at once.
pub trait Encoder: Send + Sync + fmt::Debug {
    /// Size of a unit in bytes, at most [`crate::disk::MAX_UNIT_BYTES`].
    fn unit_bytes(&self) -> u64;

    /// The most bytes that a unit is encoded to.
    fn most_bytes(&self) -> usize;

    /// Encodes `guest` into the beginning of `out`. `guest` is a whole unit, padded with zeros at the disk's end.
    /// `out` is [`most_bytes`](Self::most_bytes) long; its initial content is undefined.
    ///
    /// # Errors
    /// `internal`: every unit can be encoded.
    fn encode(&self, unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding>;

    /// The kind of compressed stream that [`pass_through`](Self::pass_through) takes from a source with the same unit; `None`
    /// if every unit must be compressed again.
    fn passthrough(&self) -> Option<Compression>;

    /// Like [`encode`](Self::encode), but with the unit's stream from the source. The stream was verified to decode
    /// to `guest`, and has no excess bytes. `None` if the target cannot store it.
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

//! Images that can be read only once, from front to back: standard input.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::GuestRange;
use crate::disk::disk::ImageInfo;
use crate::disk::extent::Codec;
use crate::error::{Result, Warning};
use crate::source::BoxFuture;

/// An image that is read in one pass.
pub trait ImageStream: Send {
    /// The facts known so far. If [`virtual_bytes_known`](Self::virtual_bytes_known) is false, `virtual_bytes` is
    /// final only after [`next`](Self::next) has returned the last piece.
    fn info(&self) -> &ImageInfo;

    /// False for a raw stream, whose size is known only at its end.
    fn virtual_bytes_known(&self) -> bool;

    /// Bytes read from the stream so far.
    fn stored_bytes(&self) -> u64;

    /// The warnings so far.
    fn warnings(&self) -> Vec<Warning>;

    /// The next piece, in stored order, or `None` at the end. Pieces do not overlap; guest bytes in no piece are
    /// zero.
    ///
    /// # Errors
    /// `malformed`, `truncated`, the `source_*` codes. After an error or the end there are no more pieces.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Piece>>>;
}

/// Stored bytes in memory, with their guest range.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The guest bytes.
    pub guest: GuestRange,
    /// The stored bytes: either the guest bytes themselves, or the input of `codec`.
    pub bytes: Bytes,
    /// The codec, if the bytes must be decoded.
    pub codec: Option<Arc<dyn Codec>>,
    /// The stored offset of the bytes, for messages.
    pub stored_at: u64,
}

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
    /// The facts known so far; `virtual_bytes` is final only once [`next`](Self::next) has given its last piece where
    /// [`virtual_bytes_known`](Self::virtual_bytes_known) is false.
    fn info(&self) -> &ImageInfo;

    /// False for a raw stream, whose size shows at its end.
    fn virtual_bytes_known(&self) -> bool;

    /// Bytes taken from the stream so far.
    fn stored_bytes(&self) -> u64;

    /// What was remarkable so far.
    fn warnings(&self) -> Vec<Warning>;

    /// The next piece, in stored order, or `None` at the end. No guest byte is in two pieces; what is in none is zero.
    ///
    /// # Errors
    /// `malformed`, `truncated`, the `source_*` codes. After an error, and after the end, there is nothing more.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Piece>>>;
}

/// Stored bytes in hand, and the guest bytes that they are for.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The guest bytes.
    pub guest: GuestRange,
    /// The stored bytes: the guest bytes themselves, or what `codec` makes them from.
    pub bytes: Bytes,
    /// How to decode, where it must be decoded.
    pub codec: Option<Arc<dyn Codec>>,
    /// Where the bytes lay, for messages.
    pub stored_at: u64,
}

//! Bytes that come in one pass, such as standard input.

use bytes::Bytes;

use crate::error::Result;
use crate::source::source::BoxFuture;

/// Bytes that come one after the other.
pub trait ByteStream: Send {
    /// What a person knows it as, such as `-`.
    fn url(&self) -> &str;

    /// The next bytes, at most `most` of them and at least one, or none at the end.
    ///
    /// # Errors
    /// The `source_*` codes.
    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>>;
}

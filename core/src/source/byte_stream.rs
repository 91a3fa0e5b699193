//! Bytes that are read in one pass, such as standard input.

use bytes::Bytes;

use crate::error::Result;
use crate::source::source::BoxFuture;

/// A sequence of bytes.
pub trait ByteStream: Send {
    /// The name to show, such as `-`.
    fn url(&self) -> &str;

    /// The next bytes: at least one and at most `most`, or none at the end.
    ///
    /// # Errors
    /// The `source_*` codes.
    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>>;
}

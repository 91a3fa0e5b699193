//! Random-access bytes of a stored object.
//!
//! A [`Source`] is what an image is read from: a file, an S3 object, a URL. Its contract is small on purpose:
//! exact ranged reads, an identity that a change would be noticed by, and what a request costs. Wrappers compose
//! on it as filters do (see [`wrap`]).

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::address::{StoredOffset, StoredRange};
use crate::error::{Error, Result};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};

/// A boxed future, so that traits with `async` methods stay object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Random-access bytes of one stored object.
///
/// Reading is exact: a source gives all bytes of the range or an error, and only ever bytes of the object that
/// was opened: where it notices that the object changed, that is `source_changed`. Dropping a future of it stops
/// the request. Many reads may be under way at once.
pub trait Source: Send + Sync + fmt::Debug {
    /// The URL or path as a person may see it: no credentials, no signed query.
    fn url(&self) -> &str;

    /// Stored length in bytes.
    fn len(&self) -> u64;

    /// True where there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a change of the object would be noticed by.
    fn identity(&self) -> &Identity;

    /// What a request costs here.
    fn capabilities(&self) -> Capabilities;

    /// What was asked of the object so far, opening it included.
    fn traffic(&self) -> Traffic;

    /// All bytes of `range`.
    ///
    /// # Errors
    /// `truncated` where the range passes the end (see [`check_range`]); the `source_*` codes.
    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>>;

    /// What is known, without reading, of which bytes are a hole of a sparse file: segments that cover `range`
    /// from its start on, in order, possibly not to its end (at most [`SEGMENTS`] in one answer, at least one for a
    /// range that is not empty). Where nothing is known it is one segment of data.
    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>>;

    /// Tells, before the first long read, that all of it is going to be read: a source that can then compare the whole with
    /// what is known of it prepares for that, and does so in [`verify`](Self::verify).
    fn expect_all(&self) {}

    /// Confirms, after the last read, that the object is still the one that was opened, where each read did not.
    ///
    /// # Errors
    /// `source_changed`.
    fn verify(&self) -> BoxFuture<'_, Result<()>>;
}

/// The most segments in one answer of [`Source::segments`].
pub const SEGMENTS: usize = 4096;

/// The check that every source makes of a range before it reads.
///
/// # Errors
/// `truncated` where the range passes the object's end.
pub fn check_range(source: &dyn Source, range: StoredRange) -> Result<()> {
    if range.end().get() > source.len() {
        return Err(Error::truncated(format!(
            "bytes {range} were asked for and the object ends at {}",
            source.len()
        ))
        .at(range.start()));
    }
    Ok(())
}

/// One answer of [`Source::segments`] for a source that knows of no hole.
pub(crate) fn all_data(range: StoredRange) -> Vec<Segment> {
    if range.is_empty() { Vec::new() } else { vec![Segment { range, hole: false }] }
}

/// Reads up to `len` bytes from `start`, fewer where the object ends before.
///
/// # Errors
/// The `source_*` codes.
pub async fn read_up_to(source: &dyn Source, start: StoredOffset, len: u64) -> Result<Bytes> {
    let rest = source.len().saturating_sub(start.get());
    match StoredRange::new(start, len.min(rest)) {
        Some(range) if !range.is_empty() => source.read(range).await,
        _ => Ok(Bytes::new()),
    }
}

//! The trait of sources.
//!
//! An image is read from a [`Source`]: a file, an S3 object, a URL. The contract is small: exact ranged reads, an
//! identity that shows changes, and the cost of a request. Wrappers can be composed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{StoredOffset, StoredRange};
use crate::error::{Error, Result};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};

/// A boxed future, so that traits with `async` methods stay object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Random-access bytes of one stored object.
///
/// Reads are exact: a source returns all bytes of the range or an error, and only bytes of the object that was
/// opened. If it detects that the object changed, it fails with `source_changed`. Dropping a future stops its
/// request. Many reads may be in flight at once.
///
/// An implementation needs five methods; the others describe optional abilities. Wrappers must forward all of them.
///
/// ```
/// use bytes::Bytes;
/// use diskferry_core::{BoxFuture, Capabilities, Error, Identity, Result, Source, StoredRange};
///
/// /// An object that is one byte repeated.
/// #[derive(Debug)]
/// struct Repeated(u8, u64, Identity);
///
/// impl Source for Repeated {
///     fn url(&self) -> &str {
///         "memory:repeated"
///     }
///
///     fn len(&self) -> u64 {
///         self.1
///     }
///
///     fn identity(&self) -> &Identity {
///         &self.2
///     }
///
///     fn capabilities(&self) -> Capabilities {
///         Capabilities::default().in_flight(8)
///     }
///
///     fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
///         Box::pin(async move {
///             if range.end().get() > self.1 {
///                 return Err(Error::truncated(format!("bytes {range} of {}", self.1)));
///             }
///             Ok(vec![self.0; range.len() as usize].into())
///         })
///     }
/// }
/// ```
pub trait Source: Send + Sync + fmt::Debug {
    /// The URL or path, fit to be shown: no credentials, no signed query.
    fn url(&self) -> &str;

    /// Length of the object in bytes.
    fn len(&self) -> u64;

    /// The identity, which distinguishes the object from a changed one.
    fn identity(&self) -> &Identity;

    /// The cost of requests.
    fn capabilities(&self) -> Capabilities;

    /// Reads all bytes of `range`.
    ///
    /// # Errors
    /// `truncated` if the range passes the end; the `source_*` codes.
    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>>;

    /// Reads `parts` with one request. Calls `give` with the index and the bytes of each part as soon as its last
    /// byte has arrived, so that a long request is decoded while it arrives. The parts are sorted by their starts,
    /// are not empty, and may overlap; bytes between them are read and dropped. Each part is given once. After an
    /// error, the parts given so far remain valid.
    ///
    /// The default implementation [reads](Self::read) everything before it gives any part. The memory of all parts is
    /// then in use as long as that of one.
    ///
    /// # Errors
    /// Errors of [`read`](Self::read).
    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(all) = covering(parts) else { return Ok(()) };
            let bytes = self.read(all).await?;
            if bytes.len() as u64 != all.len() {
                return Err(Error::internal(format!("a source returned {} bytes for {all:?}", bytes.len())));
            }
            for (index, part) in parts.iter().enumerate() {
                let skip = (part.start().get() - all.start().get()) as usize;
                give(index, bytes.slice(skip..skip + part.len() as usize));
            }
            Ok(())
        })
    }

    /// True if the object is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The traffic so far, opening included, if the source counts it itself; otherwise zero. A source that makes more
    /// requests than it receives, such as retries, counts them. Other sources are counted by the wrapper in which an
    /// image is opened, [`HeadTailSource`](crate::HeadTailSource).
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// Reports which bytes are known to be a hole of a sparse file, without reading them. The segments cover `range`
    /// from its start, in order, possibly not to its end. One answer has at most 4096 segments, and at least one if
    /// the range is not empty. A source without this information returns one segment of data.
    ///
    /// # Errors
    /// The `source_*` codes.
    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(all_data(range)) })
    }

    /// Announces, before the first long read, that the whole object will be read. A source that can compare it with a
    /// checksum prepares for that, and compares in [`verify`](Self::verify).
    fn expect_all(&self) {}

    /// Checks, after the last read, that the object is still the one that was opened. A source whose reads all check
    /// that has nothing to add.
    ///
    /// # Errors
    /// `source_changed`.
    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A shared source is a source.
impl<S: Source + ?Sized> Source for Arc<S> {
    fn url(&self) -> &str {
        (**self).url()
    }

    fn len(&self) -> u64 {
        (**self).len()
    }

    fn identity(&self) -> &Identity {
        (**self).identity()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        (**self).read(range)
    }

    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        (**self).read_parts(parts, give)
    }

    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }

    fn traffic(&self) -> Traffic {
        (**self).traffic()
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        (**self).segments(range)
    }

    fn expect_all(&self) {
        (**self).expect_all();
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        (**self).verify()
    }
}

/// The most segments in one answer of [`Source::segments`].
pub const SEGMENTS: usize = 4096;

/// The shortest range that contains all of `parts`.
pub fn covering(parts: &[StoredRange]) -> Option<StoredRange> {
    let start = parts.iter().map(|part| part.start()).min()?;
    let end = parts.iter().map(|part| part.end()).max()?;
    Some(StoredRange::between(start, end))
}

/// Checks a range before it is read. Every source makes this check.
///
/// # Errors
/// `truncated` if the range passes the end of the object.
pub fn check_range(source: &dyn Source, range: StoredRange) -> Result<()> {
    if range.end().get() > source.len() {
        return Err(Error::truncated(format!(
            "cannot read bytes {range}: the object ends at {}",
            source.len()
        ))
        .at(range.start()));
    }
    Ok(())
}

/// The answer of [`Source::segments`] for a source that knows of no hole.
pub(crate) fn all_data(range: StoredRange) -> Vec<Segment> {
    if range.is_empty() { Vec::new() } else { vec![Segment { range, hole: false }] }
}

/// Reads up to `len` bytes from `start`, fewer if the object ends before.
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

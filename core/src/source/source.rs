//! Random-access bytes of a stored object.
//!
//! A [`Source`] is what an image is read from: a file, an S3 object, a URL. Its contract is
//! small: exact ranged reads, an identity that shows changes, and the cost of a request. Wrappers compose on it.

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
/// Reading is exact: a source gives all bytes of the range or an error, and only ever bytes of the object that was
/// opened. If it notices that the object changed, that is `source_changed`. Dropping a future of it stops the request.
/// Many reads may be under way at once.
///
/// A source of your own needs five methods; the others say what a source may know beyond that. Wrappers forward all of
/// them.
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
    /// The URL or path as a person may see it: no credentials, no signed query.
    fn url(&self) -> &str;

    /// Stored length in bytes.
    fn len(&self) -> u64;

    /// What tells the object from a changed one.
    fn identity(&self) -> &Identity;

    /// What a request costs here.
    fn capabilities(&self) -> Capabilities;

    /// All bytes of `range`.
    ///
    /// # Errors
    /// `truncated` if the range passes the end; the `source_*` codes.
    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>>;

    /// Reads `parts` with one request, and calls `give` with the index and the bytes of each as soon as the last of them has
    /// come: a long request is then decoded while it arrives. The parts ascend by their starts, none is empty, and they may
    /// overlap; bytes between them are read and dropped. Each is given once. After an error, what was given stays valid.
    ///
    /// By default all of it is [read](Self::read) before any is given, and the memory of all is in use as long as that of a
    /// part is.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(all) = covering(parts) else { return Ok(()) };
            let bytes = self.read(all).await?;
            if bytes.len() as u64 != all.len() {
                return Err(Error::internal(format!("a source gave {} bytes for {all:?}", bytes.len())));
            }
            for (index, part) in parts.iter().enumerate() {
                let skip = (part.start().get() - all.start().get()) as usize;
                give(index, bytes.slice(skip..skip + part.len() as usize));
            }
            Ok(())
        })
    }

    /// True if there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was asked of the object so far, opening it included, if the source counts that itself; otherwise nothing. A
    /// source that makes more requests than it is asked for, such as retries, counts them. Others are counted by the
    /// wrapper in which an image is opened, [`HeadTailSource`](crate::HeadTailSource).
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// What is known, without reading, of which bytes are a hole of a sparse file: segments that cover `range` from its
    /// start, in order, possibly not to its end. One answer has at most 4096 segments, and at least one if the range is
    /// not empty. A source that knows nothing answers one segment of data.
    ///
    /// # Errors
    /// The `source_*` codes.
    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(all_data(range)) })
    }

    /// Says, before the first long read, that all of the object is going to be read. A source that can compare the whole
    /// with a checksum prepares for that, and compares in [`verify`](Self::verify).
    fn expect_all(&self) {}

    /// Confirms, after the last read, that the object is still the one that was opened. A source whose reads confirm that
    /// each has nothing to add.
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

/// The shortest range that has all of `parts`.
pub fn covering(parts: &[StoredRange]) -> Option<StoredRange> {
    let start = parts.iter().map(|part| part.start()).min()?;
    let end = parts.iter().map(|part| part.end()).max()?;
    Some(StoredRange::between(start, end))
}

/// The check that every source makes of a range before it reads.
///
/// # Errors
/// `truncated` if the range passes the object's end.
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

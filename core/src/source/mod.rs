//! Random-access bytes of a stored object.
//!
//! A [`Source`] is what an image is read from: a file, an S3 object, a URL. Its contract is small on purpose:
//! exact ranged reads, an identity that a change would be noticed by, and what a request costs. Wrappers compose
//! on it as filters do (see [`wrap`]).

pub mod file;
pub mod gate;
mod local;
pub mod map;
pub mod memory;
pub mod stdin;
pub mod wrap;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{StoredOffset, StoredRange};
use crate::error::{Error, ErrorKind, Result};

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

/// A run of stored bytes that is known to be a hole, or else holds data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Which bytes.
    pub range: StoredRange,
    /// True where they are zeros that need not be read.
    pub hole: bool,
}

/// What an object is recognised by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Identity {
    /// The entity tag of a stored object, as the server gave it (with its quotes).
    pub etag: Option<String>,
    /// The version of a stored object.
    pub version_id: Option<String>,
    /// Device, inode and modification time in nanoseconds of a local file.
    pub file: Option<(u64, u64, i128)>,
}

/// What a request costs at a source, for the planner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The best length of one request, in bytes: long enough that its fixed cost does not matter.
    pub request_bytes: u64,
    /// A gap of at most so many bytes between two needed ranges is cheaper read through than asked around.
    pub gap_bytes: u64,
    /// Most requests worth having in flight at once.
    pub in_flight: usize,
    /// True where a request crosses a network.
    pub remote: bool,
}

/// What was asked of a source so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Requests made, those that failed and were made again included.
    pub requests: u64,
    /// Bytes of content received, those of broken answers included.
    pub bytes: u64,
    /// Requests made again after a failure.
    pub retries: u64,
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            bytes: self.bytes.saturating_add(other.bytes),
            retries: self.retries.saturating_add(other.retries),
        }
    }
}

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

/// A name that may be opened beside an image: one plain file name.
///
/// No separator of any system, no drive or scheme (`:`), no control character, not `.` or `..`, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SiblingName(String);

impl SiblingName {
    /// Takes a name that an image states.
    ///
    /// # Errors
    /// `external_data_refused` where it is anything but a plain name.
    pub fn new(name: &str) -> Result<Self> {
        let plain = !name.is_empty()
            && name.len() <= 255
            && name != "."
            && name != ".."
            && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ':'));
        if plain {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::new(
                ErrorKind::ExternalDataRefused,
                format!("the image names {name:?}, which is not a plain file name beside it"),
            )
            .hint("only files in the same directory or under the same prefix are opened"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hands out what lies beside an image: the only way by which a name in an image can lead to bytes.
pub trait Gate: Send + Sync {
    /// Opens the sibling of that name.
    ///
    /// # Errors
    /// `external_data_refused` where the caller does not open siblings; the `source_*` codes.
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>>;
}

/// The gate that opens nothing: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Closed;

impl Gate for Closed {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let error = Error::new(
            ErrorKind::ExternalDataRefused,
            format!(
                "the image keeps data in {:?} beside it, and siblings are not opened here",
                name.as_str()
            ),
        );
        Box::pin(async move { Err(error) })
    }
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

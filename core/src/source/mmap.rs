//! Local files read through a memory map.
//!
//! Reading copies nothing: the returned bytes are in the page cache. This has a risk that only the embedder can
//! accept, so it is never the default: if another process shortens the file meanwhile, touching the missing pages
//! kills this process with `SIGBUS`. Each read checks the length first, which makes that unlikely but not impossible.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

use crate::address::StoredRange;
use crate::error::{Error, Result};
use crate::local::blocking;
use crate::source::local_file::{LocalFile, failed_io};
use crate::source::source::{BoxFuture, Source, check_range};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};

/// A regular file or a block device that is mapped into memory, read-only.
#[derive(Debug)]
pub struct MapSource {
    local: Arc<LocalFile>,
    /// `None` if the file is empty.
    map: Option<Arc<Mmap>>,
    /// The whole map, which is kept alive by this and by each slice of it.
    bytes: Bytes,
}

/// Owns the map for `Bytes`.
struct Pages(Arc<Mmap>);

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MapSource {
    /// Opens and maps the file `path`; symbolic links are followed.
    ///
    /// # Errors
    /// Errors of [`FileSource::open`](super::file::FileSource::open); `source_unavailable` if the file cannot be
    /// mapped.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move |_| LocalFile::open(&path).and_then(Self::over)).await
    }

    pub(super) fn over(local: LocalFile) -> Result<Self> {
        let map = match usize::try_from(local.len()) {
            Ok(0) => None,
            Ok(len) => Some(Arc::new(map(&local, len)?)),
            Err(_) => {
                return Err(Error::new(
                    crate::error::ErrorKind::SourceUnavailable,
                    format!("{} has {} bytes, which is too long for a memory map", local.url(), local.len()),
                )
                .retry(false)
                .hint("read it without --mmap"));
            }
        };
        let bytes = map.as_ref().map_or_else(Bytes::new, |map| Bytes::from_owner(Pages(Arc::clone(map))));
        Ok(Self { local: Arc::new(local), map, bytes })
    }
}

/// Maps all `len` bytes, shared and read-only.
#[allow(unsafe_code)]
fn map(local: &LocalFile, len: usize) -> Result<Mmap> {
    // SAFETY: the map is read-only and lives as long as the last `Bytes` made of it, which owns it. The compiler must
    // be able to rely on the bytes not changing while they are borrowed. This cannot be enforced for a file that
    // others may write, so it is a documented condition for the embedder: nobody writes to or shortens the file
    // meanwhile. If somebody does, every read and `verify` compare length and time and fail with `source_changed`. No
    // code relies on a byte being the same when read twice for memory safety (parsers copy the bytes that they
    // check). A missing page ends the process with `SIGBUS`; it does not read other memory.
    let mapped = unsafe { MmapOptions::new().len(len).map(&**local.file()) };
    mapped.map_err(|error| {
        failed_io("mapping", local.url(), &error).retry(false).hint("read it without --mmap")
    })
}

impl Source for MapSource {
    fn url(&self) -> &str {
        self.local.url()
    }

    fn len(&self) -> u64 {
        self.local.len()
    }

    fn identity(&self) -> &Identity {
        self.local.identity()
    }

    fn capabilities(&self) -> Capabilities {
        // A request has almost no cost; whole pages are read anyway.
        Capabilities { request_bytes: 2 << 20, gap_bytes: 4 << 10, in_flight: 4, remote: false }
    }

    fn traffic(&self) -> Traffic {
        self.local.traffic()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            self.local.unchanged()?;
            let bounds =
                usize::try_from(range.start().get()).ok().zip(usize::try_from(range.end().get()).ok());
            let (start, end) =
                bounds.ok_or_else(|| Error::internal("the range exceeds the address space"))?;
            if let Some(map) = &self.map {
                // Starts read-ahead without waiting. It is only advice, so a failure does not matter.
                let _ = map.advise_range(Advice::WillNeed, start, end - start);
            }
            self.local.count(range.len());
            Ok(self.bytes.slice(start..end))
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        super::file::segments(&self.local, range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        let local = Arc::clone(&self.local);
        Box::pin(blocking(move |_| local.verify()))
    }
}

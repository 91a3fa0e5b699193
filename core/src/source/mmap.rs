//! Local files read through a memory map.
//!
//! Reading copies nothing: the bytes handed out are the page cache's. That has a price that only the embedder can
//! accept, so it is a choice and never a default: where somebody shortens the file meanwhile, touching the pages that
//! are gone kills the process with `SIGBUS`. Each read looks at the length first, which makes that unlikely and not
//! impossible.

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
    /// None if there is no byte.
    map: Option<Arc<Mmap>>,
    /// The whole map; it keeps it alive, and so does each slice of it.
    bytes: Bytes,
}

/// The map as an owner of bytes.
struct Pages(Arc<Mmap>);

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MapSource {
    /// Opens and maps what `path` names; symbolic links are followed.
    ///
    /// # Errors
    /// Those of [`FileSource::open`](super::file::FileSource::open); `source_unavailable` if it cannot be mapped.
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
                    format!("{} is {} bytes long, too long to be mapped", local.url(), local.len()),
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
    // SAFETY: the map is read-only and lives as long as the last `Bytes` made of it, which owns it. What the compiler
    // must be able to rely on is that the bytes do not change while they are borrowed, and that cannot be enforced on
    // a file that others may write. It is a condition of this source, said to the embedder who chooses it: nobody
    // writes to or shortens the file meanwhile. If somebody does, every read and `verify` compare length and time
    // and fail with `source_changed`; nothing here trusts a byte to be the same when read twice for memory safety
    // (parsers copy what they check); and a page that is gone ends the process with `SIGBUS`, it reads no other memory.
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
        // A request costs nothing but its bookkeeping; a page is the least that is read anyway.
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
                bounds.ok_or_else(|| Error::internal("a map is longer than the address space"))?;
            if let Some(map) = &self.map {
                // Starts reading ahead and waits for nothing. It is advice: that it fails changes nothing.
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

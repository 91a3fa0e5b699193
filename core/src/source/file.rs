//! Local files and block devices, read with `pread` or by io_uring.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::StoredRange;
use crate::error::Result;
use crate::local::{FileIo, Moved, Ring, blocking};
use crate::source::local_file::LocalFile;
use crate::source::source::{BoxFuture, Source, all_data, check_range};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};

/// A regular file or a block device.
///
/// Every read confirms that the file is the one that was opened (inode, length, time of modification), so a change is
/// `source_changed` at the next read and not only at the end. Its methods need a tokio runtime, whose threads for
/// blocking calls they use; dropping a read leaves at most the one system call that it is in.
#[derive(Debug)]
pub struct FileSource {
    local: Arc<LocalFile>,
    /// None if it is read by plain calls.
    ring: Option<Arc<Ring>>,
}

impl FileSource {
    /// Opens what `path` names; symbolic links are followed.
    ///
    /// # Errors
    /// `source_not_found`, `source_forbidden`, `source_unavailable`; `usage` for a directory, a FIFO or the like.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, FileIo::default()).await
    }

    /// Like [`open`](Self::open), and says how it is read.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_with(path: impl AsRef<Path>, io: FileIo) -> Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move |_| LocalFile::open(&path).map(|local| Self::over(local, io.ring()))).await
    }

    /// A file that is open already, shown as `url`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub(crate) fn of_file(file: std::fs::File, url: String) -> Result<Self> {
        LocalFile::of_file(file, url).map(|local| Self::over(local, None))
    }

    pub(super) fn over(local: LocalFile, ring: Option<Arc<Ring>>) -> Self {
        Self { local: Arc::new(local), ring }
    }
}

impl Source for FileSource {
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
        // 2 MiB make the call and the change of threads cheap beside the copy; a disk reads 128 KiB in the time that
        // another request costs it.
        Capabilities { request_bytes: 2 << 20, gap_bytes: 128 << 10, in_flight: 4, remote: false }
    }

    fn traffic(&self) -> Traffic {
        self.local.traffic()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let local = Arc::clone(&self.local);
            let Some(ring) = &self.ring else {
                return blocking(move |stop| local.read(range, stop)).await;
            };
            let buffer = LocalFile::buffer(range)?;
            let Moved { data, done } = ring.read(local.file(), range.start().get(), buffer).await?;
            if done < data.len() {
                return blocking(move |stop| local.read_on(range, data, done, stop)).await;
            }
            local.whole(range, data)
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        segments(&self.local, range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        let local = Arc::clone(&self.local);
        Box::pin(blocking(move |_| local.verify()))
    }
}

/// The segments of a local file. Only what lies in it is asked of the file system.
pub(super) fn segments(local: &Arc<LocalFile>, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
    let Some(within) = range.intersection(StoredRange::first(local.len())) else {
        return Box::pin(async move { Ok(all_data(range)) });
    };
    let local = Arc::clone(local);
    Box::pin(blocking(move |stop| local.segments(within, stop)))
}

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
/// Every read checks that the file is unchanged since it was opened (inode, length, modification time). A change is
/// therefore `source_changed` at the next read and not only at the end. The methods need a tokio runtime, and use its
/// threads for blocking calls. After a read is dropped, at most its current system call continues.
///
/// ```
/// use diskferry_core::{FileSource, Source, StoredRange};
///
/// # #[tokio::main]
/// # async fn main() -> diskferry_core::Result<()> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let path = dir.path().join("disk.raw");
/// # std::fs::write(&path, "a boot sector").expect("a file");
/// let source = FileSource::open(&path).await?;
/// assert_eq!(source.len(), 13);
/// assert_eq!(source.read(StoredRange::first(6)).await?, "a boot");
/// source.verify().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileSource {
    local: Arc<LocalFile>,
    /// `None` if the file is read by plain calls.
    ring: Option<Arc<Ring>>,
}

impl FileSource {
    /// Opens the file `path`; symbolic links are followed.
    ///
    /// # Errors
    /// `source_not_found`, `source_forbidden`, `source_unavailable`; `usage` for a directory, a FIFO or the like.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, FileIo::default()).await
    }

    /// Like [`open`](Self::open), with a choice of how the file is read.
    ///
    /// # Errors
    /// Errors of [`open`](Self::open).
    pub async fn open_with(path: impl AsRef<Path>, io: FileIo) -> Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move |_| LocalFile::open(&path).map(|local| Self::over(local, io.ring()))).await
    }

    /// A file that is already open, shown as `url`.
    ///
    /// # Errors
    /// Errors of [`open`](Self::open).
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
        // With 2 MiB the costs of the call and of changing threads are small compared to the copy. A disk reads 128
        // KiB in the time of another request.
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

/// The segments of a local file. The file system is only asked about ranges within the file.
pub(super) fn segments(local: &Arc<LocalFile>, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
    let Some(within) = range.intersection(StoredRange::first(local.len())) else {
        return Box::pin(async move { Ok(all_data(range)) });
    };
    let local = Arc::clone(local);
    Box::pin(blocking(move |stop| local.segments(within, stop)))
}

//! The common part of local sources: an open file whose changes are detected.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::address::{StoredOffset, StoredRange};
use crate::error::{Error, ErrorKind, Result};
use crate::local::Stop;
use crate::memory::Buffer;
use crate::source::gate::SiblingName;
use crate::source::source::SEGMENTS;
use crate::source::types::{Identity, Segment, Traffic};

/// An open regular file or block device, and its metadata when it was opened.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: Arc<File>,
    place: Place,
    url: String,
    len: u64,
    stamp: Stamp,
    identity: Identity,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// The directory in which the name is looked up again.
#[derive(Debug)]
enum Place {
    /// The file has no name that could be reused.
    Open,
    Path(PathBuf),
    Beside(Arc<OwnedFd>, SiblingName),
}

/// The metadata that shows a change. The node of a block device says nothing about its content: it only identifies
/// the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    node: u64,
    content: Option<(u64, i128)>,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            node: meta.rdev(),
            content: meta.is_file().then(|| (meta.size(), modified(meta))),
        }
    }
}

fn modified(meta: &Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

/// Non-blocking: opening a FIFO must not wait for a writer.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// Inspects a name without opening the file.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl LocalFile {
    /// Opens the file `path`; symbolic links are followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let url = path.display().to_string();
        let opened = rustix::fs::open(path, OPEN, Mode::empty());
        let file = File::from(opened.map_err(|errno| failed("opening", &url, errno))?);
        Self::of(file, Place::Path(path.to_owned()), url)
    }

    /// A file that is already open.
    pub(super) fn of_file(file: File, url: String) -> Result<Self> {
        Self::of(file, Place::Open, url)
    }

    fn of(file: File, place: Place, url: String) -> Result<Self> {
        let meta = file.metadata().map_err(|error| failed_io("looking at", &url, &error))?;
        let kind = meta.file_type();
        let len = if kind.is_file() {
            meta.len()
        } else if kind.is_block_device() {
            rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|errno| failed("getting the length of", &url, errno))?
        } else {
            let (what, hint) = if kind.is_dir() {
                ("a directory", "name the image in it")
            } else {
                ("neither a file nor a block device", "pipe it to standard input and name the source `-`")
            };
            return Err(Error::new(ErrorKind::Usage, format!("{url} is {what}")).hint(hint));
        };
        Ok(Self::new(file, place, url, len, &meta))
    }

    /// Opens the regular file `name` in `dir`, shown as `url`. A symbolic link is refused: it could lead anywhere.
    pub(super) fn open_beside(dir: &Arc<OwnedFd>, name: &SiblingName, url: String) -> Result<Self> {
        let refused = |what| {
            Error::new(
                ErrorKind::ExternalDataRefused,
                format!("the image refers to {:?} next to it, which is {what}", name.as_str()),
            )
            .hint("only regular files in the image's directory are opened")
        };
        let file = match rustix::fs::openat(&**dir, name.as_str(), OPEN | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(refused("a symbolic link")),
            Err(Errno::NXIO) => return Err(refused("not a file")),
            Err(errno) => return Err(failed("opening", &url, errno)),
        };
        let meta = file.metadata().map_err(|error| failed_io("looking at", &url, &error))?;
        if !meta.is_file() {
            return Err(refused(if meta.is_dir() { "a directory" } else { "not a regular file" }));
        }
        let len = meta.len();
        Ok(Self::new(file, Place::Beside(Arc::clone(dir), name.clone()), url, len, &meta))
    }

    fn new(file: File, place: Place, url: String, len: u64, meta: &Metadata) -> Self {
        let identity =
            Identity { file: Some((meta.dev(), meta.ino(), modified(meta))), ..Identity::default() };
        let (requests, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { file: Arc::new(file), place, url, len, stamp: Stamp::of(meta), identity, requests, bytes }
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            retries: 0,
        }
    }

    /// Counts a request that returned `bytes` bytes.
    pub(super) fn count(&self, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads all bytes of `range`, which must be within the file. They are returned only if the file is unchanged
    /// afterwards: a writer sets the modification time before the bytes, so the bytes are those of the opened file.
    pub(super) fn read(&self, range: StoredRange, stop: &Stop) -> Result<Bytes> {
        self.read_on(range, Self::buffer(range)?, 0, stop)
    }

    /// A buffer for `range`.
    pub(super) fn buffer(range: StoredRange) -> Result<Buffer> {
        Buffer::for_bytes(range.len())
    }

    /// Continues a [`read`](Self::read) whose first `filled` bytes are present.
    pub(super) fn read_on(
        &self,
        range: StoredRange,
        mut buffer: Buffer,
        mut filled: usize,
        stop: &Stop,
    ) -> Result<Bytes> {
        let len = buffer.len();
        while filled < len {
            stop.check()?;
            let at = range.start().get() + filled as u64;
            match rustix::io::pread(&self.file, buffer.split_at_mut(filled).1, at) {
                Ok(0) => {
                    return Err(self.changed(&format!("it ends at {at}, and had {} bytes", self.len)));
                }
                Ok(more) => filled += more,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(failed("reading", &self.url, errno).at(StoredOffset::new(at)));
                }
            }
        }
        self.whole(range, buffer)
    }

    /// The bytes that were read, if the file is unchanged.
    pub(super) fn whole(&self, range: StoredRange, buffer: Buffer) -> Result<Bytes> {
        self.count(range.len());
        self.unchanged()?;
        Ok(buffer.freeze())
    }

    /// Data and holes from the start of `range` on, as the file system reports them. A file system without this
    /// information reports data.
    pub(super) fn segments(&self, range: StoredRange, stop: &Stop) -> Result<Vec<Segment>> {
        let mut found = Vec::new();
        let mut at = range.start();
        while at < range.end() && found.len() < SEGMENTS {
            stop.check()?;
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at.get())) {
                Ok(data) => StoredOffset::new(data),
                // There is no data up to the end of the file.
                Err(Errno::NXIO) => range.end(),
                Err(_) => at,
            };
            let hole = data > at;
            let end = if hole {
                data
            } else {
                match rustix::fs::seek(&self.file, SeekFrom::Hole(at.get())) {
                    Ok(end) if end > at.get() => StoredOffset::new(end),
                    _ => range.end(),
                }
            };
            let end = end.min(range.end());
            found.push(Segment { range: StoredRange::between(at, end), hole });
            at = end;
        }
        // Otherwise bytes after the new end of a truncated file would be taken for a hole.
        self.unchanged()?;
        Ok(found)
    }

    /// Checks that the open file is unchanged.
    pub(super) fn unchanged(&self) -> Result<()> {
        let meta = self.file.metadata().map_err(|error| failed_io("looking at", &self.url, &error))?;
        let now = Stamp::of(&meta);
        match (self.stamp.content, now.content) {
            _ if now == self.stamp => Ok(()),
            (Some((was, _)), Some((is, _))) if was != is => {
                Err(self.changed(&format!("it had {was} bytes and has {is}")))
            }
            _ => Err(self.changed("it was written to")),
        }
    }

    /// Checks that the open file is unchanged, and that its name still refers to it.
    pub(super) fn verify(&self) -> Result<()> {
        self.unchanged()?;
        if self.stamp.content.is_none() {
            let len = rustix::fs::seek(&self.file, SeekFrom::End(0))
                .map_err(|errno| failed("getting the length of", &self.url, errno))?;
            if len != self.len {
                return Err(self.changed(&format!("it had {} bytes and has {len}", self.len)));
            }
        }
        let found = match &self.place {
            Place::Open => return Ok(()),
            Place::Path(path) => rustix::fs::open(path, LOOK, Mode::empty()),
            Place::Beside(dir, name) => {
                rustix::fs::openat(&**dir, name.as_str(), LOOK | OFlags::NOFOLLOW, Mode::empty())
            }
        };
        let meta = match found {
            Ok(found) => File::from(found).metadata(),
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(self.changed("it was removed or renamed")),
            Err(errno) => return Err(failed("looking at", &self.url, errno)),
        };
        let meta = meta.map_err(|error| failed_io("looking at", &self.url, &error))?;
        if Stamp::of(&meta) == self.stamp {
            Ok(())
        } else {
            Err(self.changed("its name refers to another file"))
        }
    }

    fn changed(&self, how: &str) -> Error {
        Error::new(ErrorKind::SourceChanged, format!("{} changed since it was opened: {how}", self.url))
    }
}

/// The error for a failed system call on a source.
pub(super) fn failed(doing: &str, url: &str, errno: Errno) -> Error {
    let (kind, retry) = match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP => (ErrorKind::SourceNotFound, false),
        Errno::ACCESS | Errno::PERM => (ErrorKind::SourceForbidden, false),
        Errno::STALE => (ErrorKind::SourceChanged, true),
        Errno::NXIO | Errno::ISDIR => (ErrorKind::Usage, false),
        _ => (ErrorKind::SourceUnavailable, true),
    };
    let error = io::Error::from(errno);
    Error::new(kind, format!("{doing} {url} failed: {error}")).retry(retry).caused_by(error)
}

/// Like [`failed`], for calls of the standard library.
pub(super) fn failed_io(doing: &str, url: &str, error: &io::Error) -> Error {
    failed(doing, url, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_have_their_codes() {
        for (errno, kind, retryable) in [
            (Errno::NOENT, ErrorKind::SourceNotFound, false),
            (Errno::ACCESS, ErrorKind::SourceForbidden, false),
            (Errno::STALE, ErrorKind::SourceChanged, true),
            (Errno::IO, ErrorKind::SourceUnavailable, true),
        ] {
            let error = failed("reading", "x", errno);
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{errno}");
        }
    }
}

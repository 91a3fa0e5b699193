//! The gate to the files next to a local image.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::error::Result;
use crate::local::{FileIo, blocking};
use crate::source::file::FileSource;
use crate::source::gate::{Gate, SiblingName};
use crate::source::local_file::{LocalFile, failed};
#[cfg(feature = "mmap")]
use crate::source::mmap::MapSource;
use crate::source::source::{BoxFuture, Source};

/// Opens regular files in one directory, and nothing else.
///
/// The directory is opened once: names are looked up in it, even if its path later refers to another directory.
/// Symbolic links are not followed.
#[derive(Debug)]
pub struct FileGate {
    dir: Arc<OwnedFd>,
    shown: PathBuf,
    #[cfg(feature = "mmap")]
    mmap: bool,
    io: FileIo,
}

impl FileGate {
    /// A gate to the directory of `image`, as that path is written: if `image` is a symbolic link, the directory that
    /// contains the link.
    ///
    /// # Errors
    /// `source_not_found`, `source_forbidden`, `source_unavailable`.
    pub async fn beside(image: impl AsRef<Path>) -> Result<Self> {
        let image = image.as_ref();
        let shown = image.parent().unwrap_or(image).to_owned();
        let dir = if shown.as_os_str().is_empty() { PathBuf::from(".") } else { shown.clone() };
        blocking(move |_| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(&dir, flags, Mode::empty())
                .map_err(|errno| failed("opening the directory", &dir.display().to_string(), errno))?;
            Ok(Self {
                dir: Arc::new(dir),
                shown,
                #[cfg(feature = "mmap")]
                mmap: false,
                io: FileIo::default(),
            })
        })
        .await
    }

    /// Reads siblings through memory maps; see [`MapSource`] for the conditions.
    #[cfg(feature = "mmap")]
    #[must_use]
    pub fn mmap(mut self, mmap: bool) -> Self {
        self.mmap = mmap;
        self
    }

    /// How siblings are read that are not mapped.
    #[must_use]
    pub fn io(mut self, io: FileIo) -> Self {
        self.io = io;
        self
    }
}

impl Gate for FileGate {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let url = self.shown.join(name.as_str()).display().to_string();
        let (dir, name, io) = (Arc::clone(&self.dir), name.clone(), self.io);
        #[cfg(feature = "mmap")]
        let mmap = self.mmap;
        Box::pin(blocking(move |_| {
            let local = LocalFile::open_beside(&dir, &name, url)?;
            #[cfg(feature = "mmap")]
            if mmap {
                return Ok(Arc::new(MapSource::over(local)?) as Arc<dyn Source>);
            }
            Ok(Arc::new(FileSource::over(local, io.ring())) as Arc<dyn Source>)
        }))
    }
}

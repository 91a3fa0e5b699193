//! The name of a target file: claimed through a temporary file next to it, and published in one step.
//!
//! ```text
//! claim    create .NAME.diskferry.partial, lock it       killed here: the lock is gone with the process, and the
//! write    …                                             next run sees an unlocked partial file and removes it
//! publish  rename it to NAME, not over another file
//! ```
//!
//! A journal, `.NAME.diskferry.journal`, can be next to the partial file: with it, the next run can continue the
//! partial file. It is valid only while the partial file exists, and belongs to the process that holds the lock.
//!
//! All runs use the same partial name, so a second run meets the lock of the first. All calls are relative to the
//! directory that was opened at the start, so renaming the directory meanwhile has no effect.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// A directory, the final name in it, and the partial name.
#[derive(Debug)]
pub(super) struct Place {
    dir: OwnedFd,
    name: OsString,
    partial: OsString,
    journal: OsString,
    url: String,
}

/// Inspects a name itself, without following a symbolic link and without opening the file.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Place {
    /// Finds the directory of `path`.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let url = path.display().to_string();
        let name = match path.file_name() {
            Some(name) if !path.as_os_str().as_bytes().ends_with(b"/") => name.to_owned(),
            _ => return Err(unsuitable(format!("{url} names a directory")).hint("name a file in it")),
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(parent, OFlags::RDONLY | flags, Mode::empty()) {
            // A directory may be writable and not readable; then it cannot be synced by itself.
            Err(Errno::ACCESS) => rustix::fs::open(parent, OFlags::PATH | flags, Mode::empty()),
            opened => opened,
        };
        let dir = dir.map_err(|errno| match errno {
            Errno::NOENT => Error::new(
                ErrorKind::DestinationUnavailable,
                format!("the directory {} of {url} does not exist", parent.display()),
            )
            .retry(false)
            .hint("create the directory first"),
            errno => failed("opening the directory of", &url, errno),
        })?;
        let (partial, journal) = (hidden_name(&name, "partial"), hidden_name(&name, "journal"));
        Ok(Self { dir, name, partial, journal, url })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Checks what exists under the name: it must be nothing, or with `force` a regular file, whose permissions are
    /// returned.
    pub(super) fn admit(&self, force: bool) -> Result<Option<u32>> {
        let Some(found) = self.look(&self.name)? else { return Ok(None) };
        // A dangling link counts as existing.
        let meta = if found.is_symlink() {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty())
                .ok()
                .and_then(|file| File::from(file).metadata().ok())
                .unwrap_or(found)
        } else {
            found
        };
        let (url, kind) = (&self.url, meta.file_type());
        if kind.is_dir() {
            Err(unsuitable(format!("{url} is a directory")).hint("name a file in it"))
        } else if kind.is_block_device() {
            Err(unsuitable(format!(
                "{url} is a block device, which is written in place and not replaced by a file"
            ))
            .hint("write to it with BlockDeviceSink"))
        } else if !kind.is_file() && !kind.is_symlink() {
            Err(unsuitable(format!("{url} is not a regular file"))
                .hint("write to standard output, `-`, and redirect it there"))
        } else if force {
            Ok(kind.is_file().then(|| meta.permissions().mode() & 0o777))
        } else {
            Err(self.exists())
        }
    }

    /// Claims the partial file that a dead process left together with a journal. It is locked until it is closed.
    pub(super) fn claim_left(&self) -> Result<Option<File>> {
        let Some((file, meta)) = self.open_left()? else { return Ok(None) };
        // A file of another user must not be read or written with this user's permissions.
        let ours = meta.uid() == rustix::process::geteuid().as_raw() && meta.nlink() == 1;
        let journal = self.look(&self.journal)?.is_some_and(|meta| meta.is_file());
        match lock(&file) {
            Ok(()) if ours && journal && self.is_partial(&file)? => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Err(self.busy("another conversion is writing to it")),
            _ => Ok(None),
        }
    }

    /// Creates the partial file and locks it until it is closed. The file of a dead process is removed.
    pub(super) fn claim(&self) -> Result<File> {
        /// Two runs that start at once can mistake each other's new file for that of a dead process. One of them then
        /// retries. Each round eliminates a run, so a few rounds are enough.
        const ROUNDS: usize = 16;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..ROUNDS {
            match rustix::fs::openat(&self.dir, &self.partial, flags, Mode::from_raw_mode(0o666)) {
                Ok(file) => {
                    let file = File::from(file);
                    match lock(&file) {
                        Ok(()) if self.is_partial(&file)? => {
                            self.remove_journal()?;
                            return Ok(file);
                        }
                        Ok(()) | Err(Errno::WOULDBLOCK) => {}
                        // The file system has no locks: the exclusive creation protects the file.
                        Err(_) => return Ok(file),
                    }
                }
                Err(Errno::EXIST) => self.clear()?,
                Err(errno) => return Err(failed("creating a partial file for", &self.url, errno)),
            }
        }
        Err(self.busy("other conversions create and remove it concurrently"))
    }

    /// Removes a partial file that no process has locked.
    fn clear(&self) -> Result<()> {
        let Some((file, _)) = self.open_left()? else { return Ok(()) };
        match lock(&file) {
            Ok(()) => self.remove(&file),
            Err(Errno::WOULDBLOCK) => Err(self.busy("another conversion is writing to it")),
            Err(errno) => Err(self.busy(&format!("its partial file cannot be locked ({errno})"))),
        }
    }

    /// The existing partial file, if it is a regular file.
    fn open_left(&self) -> Result<Option<(File, Metadata)>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, &self.partial, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("looking at the partial file of", &self.url, errno)),
        };
        let meta = file.metadata().map_err(|error| failed_io("looking at", &self.url, &error))?;
        if !meta.is_file() {
            return Err(unsuitable(format!(
                "the partial file {:?} of {} is not a regular file",
                self.partial, self.url
            )));
        }
        Ok(Some((file, meta)))
    }

    /// The content of the journal, if there is one of at most `most` bytes.
    pub(super) fn read_journal(&self, most: u64) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, &self.journal, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(failed("opening the journal of", &self.url, errno)),
        };
        let meta =
            file.metadata().map_err(|error| failed_io("looking at the journal of", &self.url, &error))?;
        if !meta.is_file() || meta.len() > most || meta.uid() != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = file.take(most).read_to_end(&mut bytes);
        read.map_err(|error| failed_io("reading the journal of", &self.url, &error))?;
        Ok(Some(bytes))
    }

    /// Replaces the journal in one step, and syncs it if requested.
    pub(super) fn write_journal(&self, bytes: &[u8], sync: bool) -> Result<()> {
        let doing = "writing the journal of";
        let new = self.new_journal();
        self.unlink(&new)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Readable by the owner only: nobody else has a use for it.
        let file = rustix::fs::openat(&self.dir, &new, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(|errno| failed(doing, &self.url, errno))?);
        let written = file.write_all(bytes).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        written.map_err(|error| failed_io(doing, &self.url, &error))?;
        let renamed = rustix::fs::renameat(&self.dir, &new, &self.dir, &self.journal);
        renamed.map_err(|errno| failed(doing, &self.url, errno))
    }

    /// Removes the journal.
    pub(super) fn remove_journal(&self) -> Result<()> {
        self.unlink(&self.journal)?;
        self.unlink(&self.new_journal())
    }

    fn new_journal(&self) -> OsString {
        let mut new = self.journal.clone();
        new.push("~");
        new
    }

    fn unlink(&self, name: &OsStr) -> Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("removing a journal of", &self.url, errno)),
        }
    }

    /// Removes the partial file, if it is `file`.
    pub(super) fn remove(&self, file: &File) -> Result<()> {
        if self.is_partial(file)? {
            match rustix::fs::unlinkat(&self.dir, &self.partial, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("removing the partial file of", &self.url, errno)),
            }
        }
        Ok(())
    }

    /// Publishes the partial file, which is `file`: in one step, and without `force` never over another file.
    pub(super) fn publish(&self, file: &File, force: bool) -> Result<()> {
        if !self.is_partial(file)? {
            let message =
                format!("the partial file of {} was removed or replaced by another process", self.url);
            return Err(Error::new(ErrorKind::DestinationUnavailable, message));
        }
        let renamed = if force {
            rustix::fs::renameat(&self.dir, &self.partial, &self.dir, &self.name)
        } else {
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.dir, &self.partial, &self.dir, &self.name, flags) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish_otherwise(),
                renamed => renamed,
            }
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST => self.exists(),
            errno => failed("renaming the partial file to", &self.url, errno),
        })
    }

    /// Publishes on network and user-space file systems that cannot rename without replacing. A second link never
    /// replaces. If links are not available either, the name is checked before renaming, which leaves a short race.
    fn publish_otherwise(&self) -> rustix::io::Result<()> {
        match rustix::fs::linkat(&self.dir, &self.partial, &self.dir, &self.name, AtFlags::empty()) {
            Ok(()) => {
                // The file is complete and in place. A second name that remains is not a failure: the next run
                // removes it.
                let _ = rustix::fs::unlinkat(&self.dir, &self.partial, AtFlags::empty());
                Ok(())
            }
            Err(Errno::EXIST) => Err(Errno::EXIST),
            Err(_) => match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(&self.dir, &self.partial, &self.dir, &self.name),
                Err(errno) => Err(errno),
            },
        }
    }

    /// Syncs the name. If that fails, the name of a file that replaced no other is removed again.
    pub(super) fn sync(&self, file: &File, force: bool) -> Result<()> {
        let synced = match rustix::fs::fsync(&self.dir) {
            // The directory is not readable, so the whole file system is synced.
            Err(Errno::BADF) => rustix::fs::syncfs(file),
            // The file system cannot sync directories.
            Err(Errno::INVAL) => Ok(()),
            synced => synced,
        };
        synced.map_err(|errno| {
            if !force && self.look(&self.name).ok().flatten().is_some_and(|meta| same(&meta, file)) {
                let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
            }
            failed("syncing the directory of", &self.url, errno)
        })
    }

    /// The metadata of `name`, without following a link.
    fn look(&self, name: &OsStr) -> Result<Option<Metadata>> {
        match rustix::fs::openat(&self.dir, name, LOOK, Mode::empty()) {
            Ok(file) => {
                let meta = File::from(file).metadata();
                meta.map(Some).map_err(|error| failed_io("looking at", &self.url, &error))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("looking at", &self.url, errno)),
        }
    }

    fn is_partial(&self, file: &File) -> Result<bool> {
        Ok(self.look(&self.partial)?.is_some_and(|meta| same(&meta, file)))
    }

    fn exists(&self) -> Error {
        Error::new(ErrorKind::DestinationExists, format!("{} exists", self.url))
            .hint("choose another name, or replace it with --force")
    }

    fn busy(&self, why: &str) -> Error {
        Error::new(ErrorKind::DestinationBusy, format!("{} is in use: {why}", self.url)).hint(format!(
            "wait for the other conversion; if there is none, remove {:?} in the same directory",
            self.partial
        ))
    }
}

/// The temporary name for `name`. A digest replaces a name that would become too long.
fn hidden_name(name: &OsStr, what: &str) -> OsString {
    /// One byte less than the limit for a name, for the new journal that replaces an old one.
    const LONGEST: usize = 254;
    let build = |middle: &OsStr| {
        let mut hidden = OsString::from(".");
        hidden.push(middle);
        hidden.push(".diskferry.");
        hidden.push(what);
        hidden
    };
    let hidden = build(name);
    if hidden.len() <= LONGEST {
        return hidden;
    }
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    build(OsStr::new(&hex))
}

fn lock(file: &File) -> rustix::io::Result<()> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn same(meta: &Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
}

fn unsuitable(message: String) -> Error {
    Error::new(ErrorKind::DestinationUnsuitable, message)
}

/// The error for a failed system call on a destination.
pub(super) fn failed(doing: &str, url: &str, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::DestinationFull,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::DestinationForbidden,
        Errno::ISDIR | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP => ErrorKind::DestinationUnsuitable,
        _ => ErrorKind::DestinationUnavailable,
    };
    let error = io::Error::from(errno);
    Error::new(kind, format!("{doing} {url} failed: {error}")).caused_by(error)
}

/// Like [`failed`], for calls of the standard library.
pub(super) fn failed_io(doing: &str, url: &str, error: &io::Error) -> Error {
    failed(doing, url, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &tempfile::TempDir) -> Place {
        Place::find(&dir.path().join("disk.raw")).unwrap()
    }

    #[test]
    fn without_rename_noreplace_a_link_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let place = at(&dir);
        let file = place.claim().unwrap();
        std::fs::write(dir.path().join("disk.raw"), "another's").unwrap();
        assert_eq!(place.publish_otherwise(), Err(Errno::EXIST));
        assert_eq!(std::fs::read(dir.path().join("disk.raw")).unwrap(), b"another's");
        std::fs::remove_file(dir.path().join("disk.raw")).unwrap();
        place.publish_otherwise().unwrap();
        assert!(!place.is_partial(&file).unwrap(), "its first name is gone");
        assert!(same(&place.look(OsStr::new("disk.raw")).unwrap().unwrap(), &file));
    }

    #[test]
    fn only_its_own_partial_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = at(&dir);
        let file = place.claim().unwrap();
        std::fs::rename(dir.path().join(&place.partial), dir.path().join("moved")).unwrap();
        std::fs::write(dir.path().join(&place.partial), "foreign").unwrap();
        place.remove(&file).unwrap();
        assert!(dir.path().join(&place.partial).exists());
    }

    #[test]
    fn system_errors_have_their_codes() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::DestinationFull),
            (Errno::DQUOT, ErrorKind::DestinationFull),
            (Errno::FBIG, ErrorKind::DestinationFull),
            (Errno::ROFS, ErrorKind::DestinationForbidden),
            (Errno::ACCESS, ErrorKind::DestinationForbidden),
            (Errno::IO, ErrorKind::DestinationUnavailable),
        ] {
            assert_eq!(failed("writing to", "x", errno).kind(), kind, "{errno}");
        }
    }
}

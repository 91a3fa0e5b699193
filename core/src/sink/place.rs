//! Where a file will appear: claimed beside its name, published in one step.
//!
//! ```text
//! claim    create .NAME.diskferry.partial, lock it       killed here: the lock is gone with the process, and the
//! write    …                                             next run sees an unlocked partial file and removes it
//! publish  rename it to NAME, not over another file
//! ```
//!
//! A journal lies beside it, `.NAME.diskferry.journal`: with it, the next run can continue with the partial file. It counts only
//! while that is there, and whoever holds the lock owns it too.
//!
//! One name for all runs makes the second run meet the first one's lock. All calls are relative to the directory
//! that was opened at the start, so a directory that is renamed meanwhile does not lead elsewhere.

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

/// A directory, the name to appear in it, and the name until then.
#[derive(Debug)]
pub(super) struct Place {
    dir: OwnedFd,
    name: OsString,
    partial: OsString,
    journal: OsString,
    url: String,
}

/// Looks at a name, not at what a symbolic link leads to, and opens nothing.
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
            // One may write in a directory and not list it; then it cannot be synced by itself.
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
        let (partial, journal) = (name_beside(&name, "partial"), name_beside(&name, "journal"));
        Ok(Self { dir, name, partial, journal, url })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Checks what is under the name now: nothing, or with `force` a regular file, whose permissions are given.
    pub(super) fn admit(&self, force: bool) -> Result<Option<u32>> {
        let Some(found) = self.look(&self.name)? else { return Ok(None) };
        // A link that leads nowhere stands for itself.
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

    /// The partial file that a dead process left with a journal, made this process's own until it is closed.
    pub(super) fn claim_left(&self) -> Result<Option<File>> {
        let Some((file, meta)) = self.open_left()? else { return Ok(None) };
        // Somebody else's would be read and written with this user's rights.
        let ours = meta.uid() == rustix::process::geteuid().as_raw() && meta.nlink() == 1;
        let journal = self.look(&self.journal)?.is_some_and(|meta| meta.is_file());
        match lock(&file) {
            Ok(()) if ours && journal && self.is_partial(&file)? => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Err(self.busy("another conversion is writing to it")),
            _ => Ok(None),
        }
    }

    /// Creates the partial file, and makes it this process's own until it is closed. What a dead process left is removed.
    pub(super) fn claim(&self) -> Result<File> {
        /// Two runs that begin at once can take each other's new file for a dead one's, and then one of them goes
        /// round again; each round takes another run out, so that few rounds are enough.
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
                        // A file system without locks: the exclusive creation is what keeps others out.
                        Err(_) => return Ok(file),
                    }
                }
                Err(Errno::EXIST) => self.clear()?,
                Err(errno) => return Err(failed("creating a file beside", &self.url, errno)),
            }
        }
        Err(self.busy("other runs come and go"))
    }

    /// Removes a partial file that nobody holds.
    fn clear(&self) -> Result<()> {
        let Some((file, _)) = self.open_left()? else { return Ok(()) };
        match lock(&file) {
            Ok(()) => self.remove(&file),
            Err(Errno::WOULDBLOCK) => Err(self.busy("another conversion is writing to it")),
            Err(errno) => Err(self.busy(&format!("its partial file cannot be locked ({errno})"))),
        }
    }

    /// The partial file that is there, a regular file.
    fn open_left(&self) -> Result<Option<(File, Metadata)>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, &self.partial, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("looking at the partial file of", &self.url, errno)),
        };
        let meta = file.metadata().map_err(|error| failed_io("looking at", &self.url, &error))?;
        if !meta.is_file() {
            return Err(unsuitable(format!("{:?} is in the way of {}", self.partial, self.url)));
        }
        Ok(Some((file, meta)))
    }

    /// What the journal holds, if there is one of at most `most` bytes.
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

    /// Replaces the journal in one step, and brings it to stable storage if asked.
    pub(super) fn write_journal(&self, bytes: &[u8], sync: bool) -> Result<()> {
        let doing = "writing the journal of";
        let new = self.new_journal();
        self.unlink(&new)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // It says nothing that the partial file does not, and nobody else has a use for it.
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

    /// Returns the partial file, which is `file`, its name: in one step, and without `force` never over another file.
    pub(super) fn publish(&self, file: &File, force: bool) -> Result<()> {
        if !self.is_partial(file)? {
            let message = format!("the partial file of {} was removed or replaced by somebody", self.url);
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
            errno => failed("giving its name to", &self.url, errno),
        })
    }

    /// Publishes where renaming cannot be told not to replace (network and user-space file systems): a second link
    /// never replaces; without links either, by looking first, which leaves a moment for another to slip in.
    fn publish_otherwise(&self) -> rustix::io::Result<()> {
        match rustix::fs::linkat(&self.dir, &self.partial, &self.dir, &self.name, AtFlags::empty()) {
            Ok(()) => {
                // The file is whole and in place: a second name that stays for the next run to remove is no failure.
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

    /// Brings the name to stable storage. If that fails, the name of a file that replaced none is taken back.
    pub(super) fn sync(&self, file: &File, force: bool) -> Result<()> {
        let synced = match rustix::fs::fsync(&self.dir) {
            // The directory may not be read, so all of the file system it is.
            Err(Errno::BADF) => rustix::fs::syncfs(file),
            // A file system that cannot sync directories.
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

    /// What is under `name`, itself and not what it links to.
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
        Error::new(ErrorKind::DestinationBusy, format!("{} is taken: {why}", self.url))
            .hint(format!("wait for it; if there is none, remove {:?} there", self.partial))
    }
}

/// The name beside `name`; a digest stands for one that would become too long.
fn name_beside(name: &OsStr, what: &str) -> OsString {
    /// One byte less than a name may have, for a journal that is being replaced.
    const LONGEST: usize = 254;
    let build = |middle: &OsStr| {
        let mut beside = OsString::from(".");
        beside.push(middle);
        beside.push(".diskferry.");
        beside.push(what);
        beside
    };
    let beside = build(name);
    if beside.len() <= LONGEST {
        return beside;
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

/// A system call on a destination that failed.
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
    fn where_a_rename_cannot_be_told_not_to_replace_a_link_does_not() {
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
    fn only_the_own_partial_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = at(&dir);
        let file = place.claim().unwrap();
        std::fs::rename(dir.path().join(&place.partial), dir.path().join("moved")).unwrap();
        std::fs::write(dir.path().join(&place.partial), "foreign").unwrap();
        place.remove(&file).unwrap();
        assert!(dir.path().join(&place.partial).exists());
    }

    #[test]
    fn what_the_system_says_has_its_code() {
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

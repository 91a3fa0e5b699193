//! Claiming a block device: for this process alone, or not at all.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::local::Stop;
use crate::sink::place::{failed, failed_io};

/// Between two looks at a device that others have.
const PAUSE: Duration = Duration::from_millis(25);

/// So many looks at one that is claimed, a fifth of a second in all. Some claim a device only for a moment: those who
/// search new ones for volumes, and every process that this one begins while it has the device open, which holds what it
/// inherited until it runs its own program, also where it was closed here meanwhile.
const BUSY_ROUNDS: u32 = 8;

/// Opens the device `path` for this process alone, and tells its length.
pub(super) fn claim(path: &Path, access: OFlags, stop: &Stop) -> Result<(File, u64)> {
    let url = &path.display().to_string();
    let look = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let look = look.map_err(|errno| match errno {
        Errno::NOENT => failed("opening", url, errno).retry(false),
        errno => failed("opening", url, errno),
    })?;
    let seen = File::from(look).metadata().map_err(|error| failed_io("looking at", url, &error))?;
    if !seen.file_type().is_block_device() {
        return Err(unsuitable(format!("{url} is not a block device")));
    }
    // On a block device, exclusive means: not mounted, and no other that asks for it exclusively.
    let flags = access | OFlags::EXCL | OFlags::CLOEXEC;
    let mut opened = rustix::fs::open(path, flags, Mode::empty());
    for _ in 0..BUSY_ROUNDS {
        if opened.as_ref().err() != Some(&Errno::BUSY) {
            break;
        }
        stop.check()?;
        std::thread::sleep(PAUSE);
        opened = rustix::fs::open(path, flags, Mode::empty());
    }
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::BUSY) => {
            return Err(busy(url, "it is mounted, part of a volume, or another process holds it"));
        }
        Err(errno) => return Err(failed("opening", url, errno)),
    };
    let meta = file.metadata().map_err(|error| failed_io("looking at", url, &error))?;
    if (meta.dev(), meta.ino(), meta.rdev()) != (seen.dev(), seen.ino(), seen.rdev()) {
        return Err(busy(url, "it was replaced while it was opened"));
    }
    if is_read_only(meta.rdev()) {
        let message = format!("the device {url} is read-only");
        return Err(Error::new(ErrorKind::DestinationForbidden, message));
    }
    lock(&file, url, stop)?;
    let len = rustix::fs::seek(&file, SeekFrom::End(0))
        .map_err(|errno| failed("asking for the length of", url, errno))?;
    if len == 0 {
        return Err(unsuitable(format!("the device {url} is 0 bytes long: there is no medium in it")));
    }
    Ok((file, len))
}

/// Opens the device that `file` is once more, for what goes past the kernel's cache. The claim stays that of `file`.
pub(super) fn open_direct(path: &Path, file: &File) -> Option<File> {
    let direct = rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    let direct = direct.inspect_err(|error| tracing::debug!(%error, "no writing past the cache")).ok()?;
    let (direct, same) = (File::from(direct), file.metadata().ok()?.rdev());
    direct
        .metadata()
        .is_ok_and(|meta| meta.file_type().is_block_device() && meta.rdev() == same)
        .then_some(direct)
}

/// Locks it too: that keeps udev from looking at what is half written, and those out who ask only for the lock.
fn lock(file: &File, url: &str, stop: &Stop) -> Result<()> {
    /// udev itself holds it for a moment after each change: waited for a second in all.
    const ROUNDS: u32 = 40;
    for round in 0..ROUNDS {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            // If it cannot be locked, the exclusive opening is what keeps others out.
            Err(_) => return Ok(()),
        }
        stop.check()?;
        if round + 1 < ROUNDS {
            std::thread::sleep(PAUSE);
        }
    }
    Err(busy(url, "another process has locked it"))
}

/// As the kernel tells it; where it does not, writing does.
fn is_read_only(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/dev/block/{major}:{minor}/ro");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn busy(url: &str, why: &str) -> Error {
    Error::new(ErrorKind::DestinationBusy, format!("{url} is in use: {why}"))
        .hint("see with lsblk and fuser what uses it; unmount it, or choose another device")
}

pub(super) fn unsuitable(message: String) -> Error {
    Error::new(ErrorKind::DestinationUnsuitable, message)
}

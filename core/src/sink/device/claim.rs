//! Claims a block device for exclusive use.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::local::Stop;
use crate::sink::place::{failed, failed_io};

/// The pause between two attempts to claim a busy device.
const PAUSE: Duration = Duration::from_millis(25);

/// The number of attempts, a fifth of a second in total. Some processes claim a device only for a moment: those that
/// probe new devices for volumes, and every process that this one spawns while the device is open. A spawned process
/// holds inherited descriptors until it executes its program, even if they were closed here meanwhile.
const BUSY_ROUNDS: u32 = 8;

/// Opens the device `path` exclusively, and returns its length.
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
    // For a block device, `O_EXCL` means: not mounted, and not opened with `O_EXCL` by another process.
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
            return Err(busy(url, "it is mounted, part of a volume, or open in another process"));
        }
        Err(errno) => return Err(failed("opening", url, errno)),
    };
    let meta = file.metadata().map_err(|error| failed_io("looking at", url, &error))?;
    if (meta.dev(), meta.ino(), meta.rdev()) != (seen.dev(), seen.ino(), seen.rdev()) {
        return Err(busy(url, "it was replaced while it was being opened"));
    }
    if is_read_only(meta.rdev()) {
        let message = format!("the device {url} is read-only");
        return Err(Error::new(ErrorKind::DestinationForbidden, message));
    }
    lock(&file, url, stop)?;
    let len = rustix::fs::seek(&file, SeekFrom::End(0))
        .map_err(|errno| failed("getting the length of", url, errno))?;
    if len == 0 {
        return Err(unsuitable(format!("the device {url} is 0 bytes long: it has no medium")));
    }
    Ok((file, len))
}

/// Opens the device of `file` again, for direct writes. The claim remains that of `file`.
pub(super) fn open_direct(path: &Path, file: &File) -> Option<File> {
    let direct = rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    let direct =
        direct.inspect_err(|error| tracing::debug!(%error, "direct writes are not available")).ok()?;
    let (direct, same) = (File::from(direct), file.metadata().ok()?.rdev());
    direct
        .metadata()
        .is_ok_and(|meta| meta.file_type().is_block_device() && meta.rdev() == same)
        .then_some(direct)
}

/// Also locks the device: that keeps udev from probing a half-written device, and excludes programs that only check
/// the lock.
fn lock(file: &File, url: &str, stop: &Stop) -> Result<()> {
    /// udev itself holds the lock for a moment after each change, so the lock is retried for a second in total.
    const ROUNDS: u32 = 40;
    for round in 0..ROUNDS {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            // The device does not support locks: the exclusive opening protects it.
            Err(_) => return Ok(()),
        }
        stop.check()?;
        if round + 1 < ROUNDS {
            std::thread::sleep(PAUSE);
        }
    }
    Err(busy(url, "another process has locked it"))
}

/// Whether the kernel reports the device as read-only. If it does not report it, writing will fail.
fn is_read_only(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/dev/block/{major}:{minor}/ro");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn busy(url: &str, why: &str) -> Error {
    Error::new(ErrorKind::DestinationBusy, format!("{url} is in use: {why}"))
        .hint("use lsblk and fuser to find out what uses it; unmount it, or choose another device")
}

pub(super) fn unsuitable(message: String) -> Error {
    Error::new(ErrorKind::DestinationUnsuitable, message)
}

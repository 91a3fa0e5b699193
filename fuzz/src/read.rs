//! Reads every image that opens, and checks the contracts of diskferry's traits.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use diskferry_core::{BATCH_EXTENTS, Disk, Error, Extent, ExtentKind, Gate, GuestOffset, GuestRange, MAX_UNIT_BYTES, Result, Source, Tally};
use diskferry_formats::{Declared, Format};

use crate::source::Guarded;

/// Most extents per execution.
const MOST_EXTENTS: usize = 40_000;
/// Most answers of a map per execution.
const MOST_ANSWERS: usize = 64;
/// Most guest bytes that one execution decodes in each of its ways.
const MOST_READ: u64 = 2 << 20;

/// Runs a future to its end; nothing here waits for external events.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if let Poll::Ready(out) = future.as_mut().poll(&mut context) {
            return out;
        }
    }
    panic!("it waits for something")
}

/// Opens bytes.
///
/// # Errors
/// Errors of opening.
pub fn open(bytes: impl Into<Bytes>, declared: Declared) -> Result<Disk> {
    checked(now(diskferry_formats::open(Guarded::new(bytes), declared)))
}

/// Like [`open`], with a gate.
///
/// # Errors
/// Errors of opening.
pub fn open_with(source: Arc<dyn Source>, declared: Declared, gate: Arc<dyn Gate>) -> Result<Disk> {
    checked(now(diskferry_formats::open_with(source, declared, gate)))
}

/// Checks that an error is about the image and printable, and returns the result unchanged.
///
/// # Errors
/// The error of `result`.
pub fn checked<T>(result: Result<T>) -> Result<T> {
    if let Err(error) = &result {
        check(error);
    }
    result
}

fn check(error: &Error) {
    assert!([3, 4, 5].contains(&error.kind().exit_code()), "{error:?}");
    let texts = [Some(error.message()), error.hint_text()];
    let plain = |text: &str| !text.contains(char::is_control) && text.len() < 1 << 14;
    assert!(texts.into_iter().flatten().all(plain), "{error:?}");
}

/// Reads a disk as far as the budget allows: its map from the start and at its end, the mapped data, and the same
/// bytes in different windows.
pub fn all(disk: &Disk) {
    for refusal in disk.refusals() {
        check(&refusal.into());
    }
    let size = disk.virtual_bytes();
    let mut read = 0;
    walk(disk, GuestRange::first(size), &mut read);
    let tail = GuestOffset::new(size.saturating_sub(MOST_READ));
    walk(disk, GuestRange::between(tail, GuestOffset::new(size)), &mut 0);
    windows_agree(disk);
    for warning in disk.warnings().list() {
        assert!(!warning.message.contains(char::is_control), "{warning:?}");
    }
}

/// Walks a part of the map and decodes it, until `read` reaches the limit of one execution.
fn walk(disk: &Disk, range: GuestRange, read: &mut u64) {
    let mut at = range.start();
    let mut seen = 0;
    for answer in 0..MOST_ANSWERS {
        if at >= range.end() || seen > MOST_EXTENTS {
            return;
        }
        // Windows of many lengths, but mostly all that is left.
        let window = GuestRange::between(at, range.end());
        let window = if answer % 4 == 3 { window.split_at(100_000).0 } else { window };
        let Ok(extents) = checked(now(disk.extents(window))) else { return };
        assert!(!extents.is_empty() && extents.len() <= BATCH_EXTENTS + 65_536, "{} extents", extents.len());
        seen += extents.len();
        for extent in extents {
            check_extent(disk, &extent);
            at = extent.guest.end();
            if *read < MOST_READ {
                *read += decode(disk, &extent);
            }
        }
    }
}

/// Stored bytes must be in their file, and units within their limit.
fn check_extent(disk: &Disk, extent: &Extent) {
    assert!(extent.guest.end().get() <= disk.virtual_bytes(), "{extent:?} ends after the disk");
    let stored = match &extent.kind {
        ExtentKind::Data(stored) | ExtentKind::Sparse(stored) => stored,
        ExtentKind::Coded(coded) => {
            assert!(extent.guest.len() <= MAX_UNIT_BYTES, "{extent:?}");
            assert!(coded.stored.range.len() <= 2 * MAX_UNIT_BYTES + 4096, "{extent:?} takes too many bytes");
            &coded.stored
        }
        ExtentKind::Zero | ExtentKind::Hole => return,
    };
    let file = disk.file(stored.file).expect("a map names files of the disk");
    assert!(stored.range.end().get() <= file.len(), "{extent:?} of an object of {}", file.len());
}

/// Fetches and decodes an extent within the limits; returns the number of guest bytes.
fn decode(disk: &Disk, extent: &Extent) -> u64 {
    let Some(stored) = extent.to_fetch() else { return 0 };
    let file = disk.file(stored.file).expect("a map names files of the disk");
    let ExtentKind::Coded(coded) = &extent.kind else {
        let _ = checked(now(file.read(stored.range.split_at(1 << 20).0)));
        return extent.guest.len();
    };
    let Ok(bytes) = checked(now(file.read(stored.range))) else { return 0 };
    let mut out = vec![0xa5; extent.guest.len() as usize];
    let mut tally = Tally::default();
    let decoded = checked(coded.codec.decode(extent.guest, &bytes, &mut out, &mut tally));
    if let Ok(Some(stream)) = decoded {
        assert!(bytes.get(stream.bytes).is_some(), "a stream outside of its unit");
    }
    let _ = coded.codec.warning(&tally);
    extent.guest.len()
}

/// The bytes of a disk must not depend on the windows in which it is read.
fn windows_agree(disk: &Disk) {
    let len = disk.virtual_bytes().min(MOST_READ / 2);
    let Some(whole) = guest(disk, 0, len) else { return };
    let mut at = 0;
    for step in [512, 77_777, 4096, 200_000].into_iter().cycle() {
        if at >= len {
            return;
        }
        let part = step.min(len - at);
        if let Some(bytes) = guest(disk, at, part) {
            let range = at as usize..(at + part) as usize;
            assert!(bytes == whole[range.clone()], "guest bytes {range:?} differ, alone and with others");
        }
        at += part;
    }
}

/// The `len` guest bytes from `at` on, if they can be read.
pub fn guest(disk: &Disk, at: u64, len: u64) -> Option<Bytes> {
    let range = GuestRange::new(GuestOffset::new(at), len)?;
    checked(now(disk.read(range))).ok()
}

/// Opens bytes that are declared to be of a format, and reads everything.
pub fn read_as(format: Format, bytes: &[u8]) {
    if let Ok(disk) = open(bytes.to_vec(), Declared::Format(format)) {
        all(&disk);
    }
}

/// The parts of a disk that are compared between readers: all of a small one, both ends of a large one.
pub fn compared(virtual_bytes: u64) -> Vec<(u64, u64)> {
    const PART: u64 = 512 << 10;
    if virtual_bytes <= 2 * PART {
        vec![(0, virtual_bytes)]
    } else {
        let middle = virtual_bytes / 2;
        let edge = middle - middle % 4096;
        vec![(0, PART), (edge, 8192.min(virtual_bytes - edge)), (virtual_bytes - PART / 4, PART / 4)]
    }
}

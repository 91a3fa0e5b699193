//! Shared by the tests of the readers: opening bytes, walking a map while checking its contract, reading a disk through
//! it, and qemu-img as the oracle. Each format has a file that builds its images by hand.
//!
//! Each test file uses a part of it.
#![allow(dead_code)]

pub(crate) mod files;
pub(crate) mod made;
pub(crate) mod pipe;
pub(crate) mod qcow2;
pub(crate) mod qemu;
pub(crate) mod sparse;
pub(crate) mod vhd;
pub(crate) mod vmdk;

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    Disk, Error, Extent, ExtentKind, GuestOffset, GuestRange, MAX_UNIT_BYTES, MemorySource, Result, Source,
    Tally,
};
use diskferry_formats::{Declared, Format, open};

pub(crate) const SECTOR: usize = 512;

/// Runs a future to its end, without a runtime's sockets or timers.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Opens an image of one file.
pub(crate) fn open_bytes(bytes: impl Into<Bytes>, declared: Declared) -> Result<Disk> {
    open_source(Arc::new(MemorySource::new("image", bytes)), declared)
}

/// Opens an image of one file with this declared format.
pub(crate) fn open_as(format: Format, bytes: impl Into<Bytes>) -> Result<Disk> {
    open_bytes(bytes, Declared::Format(format))
}

pub(crate) fn open_source(source: Arc<dyn Source>, declared: Declared) -> Result<Disk> {
    block_on(open(source, declared))
}

/// All extents of a disk, requested in windows of `window` bytes. Each is checked against the contract of the map:
/// extents are consecutive, cover the disk and stay inside the window, except coded units, which are whole.
pub(crate) fn walk(disk: &Disk, window: u64) -> Result<Vec<Extent>> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = GuestOffset::ZERO;
    while at.get() < disk.virtual_bytes() {
        let end = at.get().saturating_add(window).min(disk.virtual_bytes());
        let asked = GuestRange::between(at, GuestOffset::new(end));
        let before = at;
        for extent in block_on(disk.extents(asked))? {
            assert!(extent.guest.intersection(asked).is_some(), "{extent:?} is outside of {asked:?}");
            let coded = matches!(extent.kind, ExtentKind::Coded(_));
            assert!(!coded || extent.guest.len() <= MAX_UNIT_BYTES, "{extent:?} is too long to be decoded");
            // A coded unit that began before the window was already added.
            if all.last().is_some_and(|last| coded && last.guest.end() > extent.guest.start()) {
                assert_eq!(all.last().map(|last| last.guest), Some(extent.guest));
                continue;
            }
            assert_eq!(extent.guest.start(), at, "a gap or an overlap");
            at = extent.guest.end();
            all.push(extent);
        }
        assert!(at > before, "a result that does not advance");
    }
    assert_eq!(at.get(), disk.virtual_bytes());
    Ok(all)
}

/// All extents of a disk, requested at once.
pub(crate) fn extents(disk: &Disk) -> Result<Vec<Extent>> {
    walk(disk, u64::MAX)
}

/// The guest's bytes, read through the map in windows of `window` bytes, and the counts of the decoders. Afterwards,
/// the disk's warnings include those of the codecs.
pub(crate) fn read(disk: &Disk, window: u64) -> Result<(Vec<u8>, Tally)> {
    let extents = walk(disk, window)?;
    let mut out = vec![0; usize::try_from(disk.virtual_bytes()).unwrap()];
    let mut tally = Tally::default();
    for extent in extents {
        let Some(stored) = extent.to_fetch() else { continue };
        let bytes = block_on(disk.file(stored.file)?.read(stored.range))?;
        let place = extent.guest.start().get() as usize..extent.guest.end().get() as usize;
        let ExtentKind::Coded(coded) = &extent.kind else {
            out[place].copy_from_slice(&bytes);
            continue;
        };
        coded
            .codec
            .decode(extent.guest, &bytes, &mut out[place], &mut tally)
            .map_err(|error| error.at(stored.range.start()))?;
        if let Some(warning) = coded.codec.warning(&tally) {
            disk.warnings().add(warning);
        }
    }
    Ok((out, tally))
}

/// The guest's bytes.
pub(crate) fn content(disk: &Disk) -> Result<Vec<u8>> {
    read(disk, u64::MAX).map(|(bytes, _)| bytes)
}

/// The guest's bytes of a disk that must be readable.
pub(crate) fn read_all(disk: &Disk) -> Vec<u8> {
    content(disk).unwrap()
}

/// Bytes that are fetched for the extents of a disk.
pub(crate) fn fetched(disk: &Disk) -> u64 {
    let extents = extents(disk).unwrap();
    extents.iter().filter_map(Extent::to_fetch).map(|stored| stored.range.len()).sum()
}

/// The codes of a disk's warnings.
pub(crate) fn warnings(disk: &Disk) -> Vec<&'static str> {
    disk.warnings().list().into_iter().map(|warning| warning.code).collect()
}

/// Returns the error of a result, without printing a success value.
pub(crate) fn failure<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("this should fail"),
        Err(error) => error,
    }
}

/// The error of reading an image of one file, from open or from a read.
pub(crate) fn error_as(format: Format, bytes: impl Into<Bytes>) -> Error {
    failure(open_as(format, bytes).and_then(|disk| content(&disk)))
}

/// The kind and offset of an error, for tables of tests.
pub(crate) fn said(error: &Error) -> (&'static str, Option<u64>) {
    (error.kind().code(), error.offset())
}

/// Fails unless `ours` equals `truth`, with the first difference, without printing megabytes.
pub(crate) fn assert_same(ours: &[u8], truth: &[u8], what: &str) {
    assert_eq!(ours.len(), truth.len(), "{what}: length");
    // Compares everything at once first, because a loop over bytes is slow in a test build.
    if ours != truth
        && let Some(at) = ours.iter().zip(truth).position(|(a, b)| a != b)
    {
        panic!("{what}: byte {at:#x} is {:#04x} instead of {:#04x}", ours[at], truth[at]);
    }
}

/// Incompressible bytes, different at every offset.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Compressible bytes, different in every cluster.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let run = (state >> 59) as usize + 1;
        bytes.resize(bytes.len() + run, (state >> 33) as u8);
    }
    bytes.truncate(len);
    bytes
}

/// A disk of `len` bytes: noise, text and holes, and data in its last byte.
pub(crate) fn sample(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (number, chunk) in bytes.chunks_mut(48 << 10).enumerate() {
        match number % 5 {
            0 => chunk.copy_from_slice(&noise(chunk.len(), number as u64 + 1)),
            1 | 3 => {
                for (at, byte) in chunk.iter_mut().enumerate() {
                    *byte = b"all work and no play "[(at + number) % 21];
                }
            }
            _ => {}
        }
    }
    if let Some(last) = bytes.last_mut() {
        *last = 0x5a;
    }
    bytes
}

/// A disk with a boot sector and data to its last byte.
pub(crate) fn bootable(len: usize) -> Vec<u8> {
    let mut disk = noise(len, 4);
    disk[..16].fill(0xeb);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

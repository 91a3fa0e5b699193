//! CPU floors: the content of a disk is decoded, compressed or hashed by one thread per core, without planning, ordering or a
//! budget. The map is read before the measurement starts.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use diskferry_core::internal::{BLOCK, hash_block, is_zero};
use diskferry_core::{Disk, Extent, ExtentKind, FileSource, GuestOffset, GuestRange, Stored, Tally};
use diskferry_formats::{Declared, Format, internal as codec};

use super::Compress;
use crate::failure::{Failure, Result};

/// Size of the cluster or grain that the floors compress.
const UNIT: u64 = 64 << 10;
/// Size of one read of plain data.
const PIECE: u64 = 1 << 20;

/// An image and all its mapped extents.
pub(crate) struct Mapped {
    file: File,
    extents: Vec<Extent>,
    virtual_bytes: u64,
}

/// Opens an image and walks its map.
///
/// # Errors
/// The errors of the library.
pub(crate) async fn open(image: &Path) -> Result<Mapped> {
    let (disk, extents) = walk(image).await?;
    let file = File::open(image).map_err(Failure::at("opening", image))?;
    Ok(Mapped { file, extents, virtual_bytes: disk.virtual_bytes() })
}

fn is_raw(image: &Path) -> bool {
    image.extension().is_some_and(|extension| extension == "raw")
}

async fn walk(image: &Path) -> Result<(Disk, Vec<Extent>)> {
    let declared = if is_raw(image) { Declared::Format(Format::Raw) } else { Declared::Unknown };
    let disk = diskferry_formats::open(Arc::new(FileSource::open(image).await?), declared).await?;
    let end = GuestOffset::new(disk.virtual_bytes());
    let (mut at, mut extents) = (GuestOffset::ZERO, Vec::new());
    while at < end {
        for extent in disk.extents(GuestRange::between(at, end)).await? {
            at = extent.guest.end();
            if extent.to_fetch().is_some() {
                extents.push(extent);
            }
        }
    }
    Ok((disk, extents))
}

/// Returns the stored bytes that an image maps, each counted once, and the bytes that opening and walking the map reads. A raw
/// image counts as a whole, because an object has no holes.
///
/// # Errors
/// The errors of the library.
pub(crate) async fn stored(image: &Path) -> Result<(u64, u64)> {
    if is_raw(image) {
        let whole = std::fs::metadata(image).map_err(Failure::at("looking at", image))?;
        return Ok((whole.len(), 0));
    }
    let (disk, extents) = walk(image).await?;
    let mut ranges: Vec<Stored> = extents.iter().filter_map(Extent::to_fetch).collect();
    ranges.sort_unstable_by_key(|stored| stored.range.start());
    let (mut bytes, mut end) = (0, 0);
    for Stored { range, .. } in ranges {
        bytes += range.end().get().saturating_sub(range.start().get().max(end));
        end = end.max(range.end().get());
    }
    Ok((bytes, disk.traffic().bytes))
}

/// Decodes everything, and writes it to `to` if given. Returns the seconds.
///
/// # Errors
/// If a unit is corrupt, or a file cannot be read or written.
pub(crate) fn decode(image: &Mapped, to: Option<&Path>) -> Result<f64> {
    let began = Instant::now();
    let target = to.map(File::create_new).transpose().map_err(Failure::io("making the target"))?;
    if let Some(target) = &target {
        target.set_len(image.virtual_bytes).map_err(Failure::io("lengthening the target"))?;
    }
    each(
        &pieces(&image.extents, PIECE),
        || (Vec::new(), Vec::new()),
        |(stored, out), extent| {
            read(image, extent, stored)?;
            let bytes = match &extent.kind {
                ExtentKind::Coded(coded) => {
                    out.resize(length(extent.guest.len())?, 0);
                    coded.codec.decode(extent.guest, stored, out, &mut Tally::default())?;
                    out
                }
                _ => stored,
            };
            match &target {
                Some(target) => target
                    .write_all_at(bytes, extent.guest.start().get())
                    .map_err(Failure::io("writing the target")),
                None => Ok(()),
            }
        },
    )?;
    Ok(began.elapsed().as_secs_f64())
}

/// Compresses every non-zero unit separately, and discards the result. Returns the seconds.
///
/// # Errors
/// If the image cannot be read.
pub(crate) fn compress(image: &Mapped, how: Compress) -> Result<f64> {
    let began = Instant::now();
    each(
        &pieces(&image.extents, UNIT),
        || (Vec::new(), Vec::new()),
        |(stored, out), extent| {
            read(image, extent, stored)?;
            if is_zero(stored) {
                return Ok(());
            }
            out.resize(codec::most_zlib(stored.len()), 0);
            match how {
                Compress::Cluster => codec::deflate_raw(6, 12, stored, out).map(drop)?,
                Compress::Grain => codec::deflate_zlib(6, stored, out).map(drop)?,
                Compress::Zstd => codec::zstd(3, stored, out).map(drop)?,
            }
            Ok(())
        },
    )?;
    Ok(began.elapsed().as_secs_f64())
}

/// Hashes every non-zero block, like the leaves of the digest. Returns the seconds.
///
/// # Errors
/// If the image cannot be read.
pub(crate) fn hash(image: &Mapped) -> Result<f64> {
    let began = Instant::now();
    each(&pieces(&image.extents, PIECE), Vec::new, |stored, extent| {
        read(image, extent, stored)?;
        for block in stored.chunks(BLOCK as usize).filter(|block| !is_zero(block)) {
            std::hint::black_box(hash_block(block));
        }
        Ok(())
    })?;
    Ok(began.elapsed().as_secs_f64())
}

/// Splits plain data at multiples of `unit`; leaves coded units unchanged.
fn pieces(extents: &[Extent], unit: u64) -> Vec<Extent> {
    let mut pieces = Vec::new();
    for extent in extents {
        if matches!(extent.kind, ExtentKind::Coded(_)) {
            pieces.push(extent.clone());
            continue;
        }
        let mut at = extent.guest.start().get();
        while at < extent.guest.end().get() {
            let next = (at / unit + 1) * unit;
            let window = GuestRange::between(GuestOffset::new(at), GuestOffset::new(next));
            pieces.extend(extent.clip(window));
            at = next;
        }
    }
    pieces
}

fn read(image: &Mapped, extent: &Extent, into: &mut Vec<u8>) -> Result<()> {
    let Some(stored) = extent.to_fetch() else { return Ok(()) };
    into.resize(length(stored.range.len())?, 0);
    image.file.read_exact_at(into, stored.range.start().get()).map_err(Failure::io("reading the image"))
}

fn length(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Failure::Odd(format!("{bytes} bytes do not fit the address space")))
}

/// Runs `work` for each item on all cores, with one state per thread. Stops at the first error.
fn each<S>(
    pieces: &[Extent],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &Extent) -> Result<()> + Sync,
) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut state = state();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            work(&mut state, piece).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Failure::Odd("a thread of a floor panicked".to_owned())))
        })
    })
}

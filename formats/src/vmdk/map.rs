//! The block map of a disk: its extents in guest order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diskferry_core::{
    BATCH_EXTENTS, BlockMap, BoxFuture, Disk, Extent, ExtentKind, Extents, FileIndex, GuestRange, ImageInfo,
    Refusal, Result, Source, StoredOffset, Warnings,
};
use futures_util::future::join_all;

use super::scan::ScanMap;
use super::sparse::SparseMap;
use crate::flat::push_flat;

/// How an extent is mapped.
pub(crate) enum ExtentMap {
    /// Verbatim bytes of a file, from an offset on.
    Flat {
        /// Index of the file.
        file: FileIndex,
        /// The file.
        source: Arc<dyn Source>,
        /// Offset in the file.
        start: StoredOffset,
    },
    /// By grain tables.
    Sparse(Box<SparseMap>),
    /// By the markers of a stream without a footer.
    Scanned(ScanMap),
    /// Zeros.
    Zero,
}

/// An extent on the disk.
pub(crate) struct DiskExtent {
    /// Its guest bytes.
    pub(crate) guest: GuestRange,
    /// How they are mapped.
    pub(crate) map: ExtentMap,
}

/// The extents of a disk, in guest order.
pub(crate) struct VmdkMap {
    parts: Vec<DiskExtent>,
    /// Number of extents, from the first on, that were prepared or skipped.
    prepared: AtomicUsize,
}

/// Most extents whose first tables are loaded at once.
const AHEAD: usize = 32;
/// Most bytes of their tables together: a part of the cache.
const AHEAD_BYTES: u64 = 8 << 20;

impl VmdkMap {
    /// Creates the map of a disk of these extents.
    pub(crate) fn new(parts: Vec<DiskExtent>) -> Self {
        Self { parts, prepared: AtomicUsize::new(0) }
    }

    /// Loads the first tables of several extents in `window` concurrently, from number `first` on. A disk in many files
    /// then takes as few round trips as a disk in one file.
    async fn prepare(&self, first: usize, window: GuestRange) {
        if self.prepared.load(Ordering::Relaxed) > first {
            return;
        }
        let mut bytes = 0u64;
        let mut next = first;
        let mut maps = Vec::new();
        for part in self.parts.iter().skip(first).take(AHEAD) {
            let Some(wanted) = part.guest.intersection(window) else { break };
            if let ExtentMap::Sparse(map) = &part.map {
                bytes = bytes.saturating_add(map.tables_bytes());
                if bytes > AHEAD_BYTES {
                    break;
                }
                maps.push(map.prepare(wanted));
            }
            next = next.saturating_add(1);
        }
        // A single extent loads the same tables when it is mapped.
        if maps.len() > 1 {
            self.prepared.fetch_max(next, Ordering::Relaxed);
            // Errors are reported when the extent is mapped.
            let _said_then = join_all(maps).await;
        }
    }
}

impl BlockMap for VmdkMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let mut out = Extents::new();
            let first = self.parts.partition_point(|part| part.guest.end() <= window.start());
            for (number, part) in self.parts.iter().enumerate().skip(first) {
                let Some(wanted) = part.guest.intersection(window) else { break };
                self.prepare(number, window).await;
                match &part.map {
                    ExtentMap::Flat { file, source, start } => {
                        let skip = wanted.start().get().saturating_sub(part.guest.start().get());
                        let start = StoredOffset::new(start.get().saturating_add(skip));
                        push_flat(&mut out, &**source, *file, wanted, start).await?;
                    }
                    ExtentMap::Sparse(map) => map.extents(wanted, &mut out).await?,
                    ExtentMap::Scanned(map) => map.extents(wanted, &mut out).await?,
                    ExtentMap::Zero => out.push(Extent::new(wanted, ExtentKind::Zero)),
                }
                let whole = out.end().is_some_and(|end| end >= wanted.end());
                if !whole || out.len() >= BATCH_EXTENTS {
                    break;
                }
            }
            Ok(out.into_vec())
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        self.parts.iter().try_fold(0u64, |sum, part| match part.map {
            ExtentMap::Flat { .. } => sum.checked_add(part.guest.len()),
            ExtentMap::Zero => Some(sum),
            ExtentMap::Sparse(_) | ExtentMap::Scanned(_) => None,
        })
    }
}

/// Creates the disk of these extents. A refused disk has a description but no map.
pub(crate) fn disk(
    info: ImageInfo,
    files: Vec<Arc<dyn Source>>,
    extents: Vec<DiskExtent>,
    warnings: Warnings,
    refusals: Vec<Refusal>,
) -> Disk {
    if refusals.is_empty() {
        Disk::new(info, files, Box::new(VmdkMap::new(extents)), warnings, refusals)
    } else {
        Disk::refused(info, files, warnings, refusals)
    }
}

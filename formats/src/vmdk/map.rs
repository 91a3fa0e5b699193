//! The block map of a disk: its extents one behind the other.

use diskferry_core::address::{FileIndex, GuestRange, StoredOffset};
use diskferry_core::disk::{BATCH_EXTENTS, BlockMap};
use diskferry_core::error::Result;
use diskferry_core::extent::{Extent, ExtentKind, Extents};
use diskferry_core::source::{BoxFuture, Source};
use std::sync::Arc;

use super::scan::ScanMap;
use super::sparse::SparseMap;
use crate::flat::push_flat;

/// How an extent is mapped.
pub(crate) enum PartMap {
    /// Bytes as they are, from an offset in a file on.
    Flat {
        /// Which file.
        file: FileIndex,
        /// The file.
        source: Arc<dyn Source>,
        /// Where in it.
        start: StoredOffset,
    },
    /// By grain tables.
    Sparse(SparseMap),
    /// By the markers of a stream without a footer.
    Scanned(ScanMap),
    /// Zeros.
    Zero,
}

/// An extent on the disk.
pub(crate) struct Part {
    /// Its guest bytes.
    pub(crate) guest: GuestRange,
    /// How they are mapped.
    pub(crate) map: PartMap,
}

/// The extents of a disk, in guest order.
pub(crate) struct VmdkMap(pub(crate) Vec<Part>);

impl BlockMap for VmdkMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let mut out = Extents::new();
            let first = self.0.partition_point(|part| part.guest.end() <= window.start());
            for part in self.0.iter().skip(first) {
                let Some(wanted) = part.guest.intersection(window) else { break };
                match &part.map {
                    PartMap::Flat { file, source, start } => {
                        let skip = wanted.start().get().saturating_sub(part.guest.start().get());
                        let start = StoredOffset::new(start.get().saturating_add(skip));
                        push_flat(&mut out, &**source, *file, wanted, start).await?;
                    }
                    PartMap::Sparse(map) => map.extents(wanted, &mut out).await?,
                    PartMap::Scanned(map) => map.extents(wanted, &mut out).await?,
                    PartMap::Zero => out.push(Extent::new(wanted, ExtentKind::Zero)),
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
        self.0.iter().try_fold(0u64, |sum, part| match part.map {
            PartMap::Flat { .. } => sum.checked_add(part.guest.len()),
            PartMap::Zero => Some(sum),
            PartMap::Sparse(_) | PartMap::Scanned(_) => None,
        })
    }
}

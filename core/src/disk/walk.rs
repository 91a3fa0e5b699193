//! The map of a whole disk, for people and other programs.
//!
//! [`BlockMap::extents`](crate::disk::disk::BlockMap::extents) answers one window at a time and exposes codecs. A
//! [`Walk`] goes from the first guest byte to the last in bounded memory. For each stretch it reports only whether it
//! is data, compressed, zero or a hole, and where its bytes are stored.

use crate::address::{GuestOffset, GuestRange};
use crate::disk::disk::Disk;
use crate::disk::extent::{Extent, ExtentKind, Payload, Stored};
use crate::error::Result;

/// The kind of a stretch of the guest disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StretchKind {
    /// Stored verbatim.
    Data,
    /// A compressed unit.
    Compressed,
    /// The image marks the bytes as zero.
    Zero,
    /// Not mapped, or a hole of a sparse file: reads as zeros.
    Hole,
}

impl StretchKind {
    /// The name in the JSON documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Compressed => "compressed",
            Self::Zero => "zero",
            Self::Hole => "hole",
        }
    }
}

/// A stretch of the guest disk, and where its bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The guest bytes; never empty.
    pub guest: GuestRange,
    /// The kind of the bytes.
    pub kind: StretchKind,
    /// The stored bytes: as long as `guest` for data, the stored unit for compressed stretches, `None` for zeros and
    /// holes.
    pub stored: Option<Stored>,
}

impl Stretch {
    fn of(extent: &Extent) -> Self {
        let (kind, stored) = match &extent.kind {
            ExtentKind::Data(stored) => (StretchKind::Data, Some(*stored)),
            ExtentKind::Coded(coded) => match coded.codec.payload() {
                Payload::Compressed => (StretchKind::Compressed, Some(coded.stored)),
                Payload::Plain { prefix } => {
                    let range = coded.stored.range.skip(prefix).split_at(extent.guest.len()).0;
                    (StretchKind::Data, Some(Stored { file: coded.stored.file, range }))
                }
            },
            ExtentKind::Zero => (StretchKind::Zero, None),
            ExtentKind::Sparse(_) | ExtentKind::Hole => (StretchKind::Hole, None),
        };
        Self { guest: extent.guest, kind, stored }
    }

    /// Merges this stretch with its neighbour `next`, if possible.
    fn joined(&self, next: &Self) -> Option<Self> {
        if self.kind != next.kind || self.kind == StretchKind::Compressed {
            return None;
        }
        let guest = GuestRange::between(self.guest.start(), next.guest.end());
        let stored = match (self.stored, next.stored) {
            (None, None) => None,
            (Some(a), Some(b)) if a.file == b.file && a.range.end() == b.range.start() => Some(Stored {
                file: a.file,
                range: crate::address::StoredRange::between(a.range.start(), b.range.end()),
            }),
            _ => return None,
        };
        Some(Self { guest, kind: self.kind, stored })
    }
}

/// Walks the map of a disk from its first byte to its last.
///
/// The stretches cover the disk without gap or overlap. Adjacent stretches are merged if possible, except compressed
/// units. Only tables are read.
#[derive(Debug)]
pub struct Walk<'a> {
    disk: &'a Disk,
    at: GuestOffset,
    /// The last stretch so far. The next batch may extend it.
    held: Option<Stretch>,
}

impl<'a> Walk<'a> {
    /// A walk of `disk`, at its start.
    pub fn new(disk: &'a Disk) -> Self {
        Self { disk, at: GuestOffset::ZERO, held: None }
    }

    /// The next stretches, at least one, in guest order; `None` at the end. Their number is bounded by
    /// [`BATCH_EXTENTS`](crate::disk::disk::BATCH_EXTENTS).
    ///
    /// # Errors
    /// The disk's refusal; errors of its map.
    pub async fn next(&mut self) -> Result<Option<Vec<Stretch>>> {
        let end = GuestOffset::new(self.disk.virtual_bytes());
        let mut done = Vec::new();
        while self.at < end && done.is_empty() {
            for extent in self.disk.extents(GuestRange::between(self.at, end)).await? {
                self.at = extent.guest.end();
                let next = Stretch::of(&extent);
                match self.held.and_then(|held| held.joined(&next)) {
                    Some(joined) => self.held = Some(joined),
                    None => done.extend(self.held.replace(next)),
                }
            }
        }
        if done.is_empty() {
            done.extend(self.held.take());
        }
        Ok(if done.is_empty() { None } else { Some(done) })
    }
}

/// The share of each of `cells` equal parts of the disk that is mapped to stored data, from 0 to 1. `info` draws it
/// as a strip. No data is read. `None` if more than `most_bytes` of tables would have to be read.
///
/// # Errors
/// The disk's refusal; errors of its map.
pub async fn occupancy(disk: &Disk, cells: usize, most_bytes: u64) -> Result<Option<Vec<f64>>> {
    disk.admit()?;
    let size = disk.virtual_bytes();
    let parts = cells.max(1);
    // Cell boundaries in guest bytes; 128 bits hold the product of any two 64-bit numbers.
    let edge = |cell: usize| (u128::from(size) * cell as u128 / parts as u128) as u64;
    let mut filled = vec![0u64; parts];
    let mut walk = Walk::new(disk);
    let before = disk.traffic().bytes;
    let mut cell = 0;
    while let Some(stretches) = walk.next().await? {
        for stretch in stretches.iter().filter(|stretch| stretch.stored.is_some()) {
            let (start, end) = (stretch.guest.start().get(), stretch.guest.end().get());
            while cell < parts && edge(cell + 1) <= start {
                cell += 1;
            }
            for (index, filled) in filled.iter_mut().enumerate().skip(cell) {
                let (from, to) = (edge(index).max(start), edge(index + 1).min(end));
                if edge(index) >= end {
                    break;
                }
                // The part of the stretch in this cell; none if it begins after the cell.
                *filled += to.max(from) - from;
            }
        }
        if disk.traffic().bytes.checked_sub(before).is_some_and(|read| read > most_bytes) {
            return Ok(None);
        }
    }
    let share = |(cell, filled): (usize, u64)| match edge(cell + 1) - edge(cell) {
        0 => 0.0,
        len => filled as f64 / len as f64,
    };
    Ok(Some(filled.into_iter().enumerate().map(share).collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::address::{FileIndex, StoredOffset, StoredRange};
    use crate::disk::disk::{BlockMap, ImageInfo, Warnings};
    use crate::source::{BoxFuture, MemorySource, Source};

    /// Returns one extent of 10 bytes at a time, so that everything must be merged across answers.
    struct OneAtATime(fn(u64) -> ExtentKind);

    impl BlockMap for OneAtATime {
        fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
            let guest = window.split_at(10).0;
            let kind = (self.0)(guest.start().get());
            Box::pin(async move { Ok(vec![Extent::new(guest, kind)]) })
        }

        fn allocated_without_tables(&self) -> Option<u64> {
            None
        }
    }

    fn disk(virtual_bytes: u64, map: fn(u64) -> ExtentKind) -> Disk {
        let geometry = ImageInfo { virtual_bytes, ..ImageInfo::default() };
        let source: Arc<dyn Source> = Arc::new(MemorySource::new("x", vec![0; 4096]));
        Disk::new(geometry, vec![source], Box::new(OneAtATime(map)), Warnings::new(), Vec::new())
    }

    fn stored(at: u64) -> Stored {
        Stored { file: FileIndex(0), range: StoredRange::new(StoredOffset::new(at), 10).unwrap() }
    }

    async fn all(disk: &Disk) -> Vec<(u64, u64, &'static str, Option<(u64, u64)>)> {
        let mut walk = Walk::new(disk);
        let mut found = Vec::new();
        while let Some(stretches) = walk.next().await.unwrap() {
            found.extend(stretches.iter().map(|stretch| {
                let place = stretch.stored.map(|stored| (stored.range.start().get(), stored.range.len()));
                (stretch.guest.start().get(), stretch.guest.len(), stretch.kind.name(), place)
            }));
        }
        found
    }

    #[tokio::test]
    async fn stretches_merge_across_answers_and_a_sparse_range_is_a_hole() {
        let disk = disk(100, |at| match at {
            0..30 => ExtentKind::Data(stored(at + 7)),
            30..40 => ExtentKind::Data(stored(1000)),
            40..50 => ExtentKind::Sparse(stored(1010)),
            50..70 => ExtentKind::Hole,
            _ => ExtentKind::Zero,
        });
        let expected = [
            (0, 30, "data", Some((7, 30))),
            (30, 10, "data", Some((1000, 10))),
            (40, 30, "hole", None),
            (70, 30, "zero", None),
        ];
        assert_eq!(all(&disk).await, expected);
    }

    #[tokio::test]
    async fn an_empty_disk_has_no_stretch() {
        assert!(all(&disk(0, |_| ExtentKind::Hole)).await.is_empty());
    }

    #[tokio::test]
    async fn occupancy_counts_mapped_bytes_in_each_part() {
        let disk = disk(80, |at| match at {
            20..50 => ExtentKind::Data(stored(at)),
            _ => ExtentKind::Hole,
        });
        assert_eq!(occupancy(&disk, 4, 0).await.unwrap().unwrap(), [0.0, 1.0, 0.5, 0.0]);
        assert_eq!(occupancy(&disk, 8, 0).await.unwrap().unwrap(), [0., 0., 1., 1., 1., 0., 0., 0.]);
    }
}

//! The block allocation table: the location of each block. It is loaded in pages, and each page is checked before use.
//!
//! An entry is the sector where a block begins with its bitmap, or [`UNUSED`]. Blocks must not overlap each other, the
//! footers, the header or the table. A page is checked against all pages loaded before it when it is first loaded. So a
//! walk over the whole disk checks every pair of blocks, a partial walk checks the blocks that it uses, and no entry is
//! used unchecked. The memory for this is bounded by [`Slots::MOST_CHUNKS`], whatever the table claims. Entries after
//! the end of the disk are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, GuestOffset, GuestRange, Result, Source, StoredOffset, StoredRange};
use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U32;

use super::footer::SECTOR;
use super::header::Header;
use crate::table_cache::Tables;

/// The entry of a block that was never written.
const UNUSED: u32 = u32::MAX;
/// Entries that are loaded and checked together: 256 KiB of table, 128 GiB of disk in blocks of 2 MiB.
const PAGE_ENTRIES: u64 = 65_536;
/// Most pages in one result: 4 MiB of table, which covers the largest disk of the format.
const PAGES_AT_ONCE: u64 = 16;

/// The shape of the disk in blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Guest bytes of a block.
    pub(super) bytes: u64,
    /// Length of the bitmap before a block, in bytes.
    pub(super) bitmap_bytes: u64,
    /// Size of the disk in bytes.
    pub(super) virtual_bytes: u64,
}

impl Blocks {
    pub(super) fn new(header: &Header, virtual_bytes: u64) -> Self {
        let bytes = u64::from(header.block_bytes);
        Self { bytes, bitmap_bytes: header.bitmap_bytes(), virtual_bytes }
    }

    /// Number of blocks of the disk.
    fn count(&self) -> u64 {
        self.virtual_bytes.div_ceil(self.bytes.max(1))
    }

    /// Number of the block that holds a guest address.
    pub(super) fn index(&self, at: u64) -> u64 {
        at.checked_div(self.bytes).unwrap_or_default()
    }

    /// The guest bytes of block `index`, clipped to the disk.
    pub(super) fn guest(&self, index: u64) -> GuestRange {
        let start = index.saturating_mul(self.bytes);
        let end = start.saturating_add(self.bytes).min(self.virtual_bytes);
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    /// The stored bytes of block `index` that begins at `sector`: its bitmap, and its guest bytes up to the end of the
    /// disk.
    pub(super) fn stored(&self, index: u64, sector: u32) -> StoredRange {
        let start = u64::from(sector).saturating_mul(SECTOR);
        let len = self.bitmap_bytes.saturating_add(self.guest(index).len());
        StoredRange::between(StoredOffset::new(start), StoredOffset::new(start.saturating_add(len)))
    }

    /// Sectors of a whole block with its bitmap.
    fn stride(&self) -> u64 {
        (self.bitmap_bytes.saturating_add(self.bytes) / SECTOR).max(1)
    }
}

/// The start sectors of whole blocks, used to detect overlaps.
///
/// The object is divided into slots of the length of a block. Two blocks that begin in one slot always overlap, so a
/// slot stores one block. A new block can only overlap blocks of its own slot and of the two adjacent ones. Slots are
/// allocated in chunks, for the parts of the object that have blocks.
#[derive(Debug)]
struct Slots {
    stride: u64,
    /// The sector where the block of each slot begins; 0, the location of the footer's copy, for none.
    chunks: BTreeMap<u64, Box<[u32; 1024]>>,
}

impl Slots {
    /// Slots of a chunk: 4 KiB.
    const CHUNK: u64 = 1024;
    /// Most chunks: 32 MiB, 8 million blocks. Entries reach 2 TiB, which is a million blocks of 2 MiB. Only an image
    /// with tiny blocks, which no known writer creates, comes near the limit.
    const MOST_CHUNKS: usize = 8192;

    fn new(stride: u64) -> Self {
        Self { stride: stride.max(1), chunks: BTreeMap::new() }
    }

    fn position(&self, sector: u64) -> u64 {
        sector.checked_div(self.stride).unwrap_or_default()
    }

    /// Number of the chunk that contains a slot, and the slot's index in it.
    fn locate(slot: u64) -> (u64, usize) {
        (slot / Self::CHUNK, usize::try_from(slot % Self::CHUNK).unwrap_or_default())
    }

    fn get(&self, slot: u64) -> Option<u64> {
        let (chunk, within) = Self::locate(slot);
        let sector = *self.chunks.get(&chunk)?.get(within)?;
        (sector != 0).then_some(u64::from(sector))
    }

    /// The start of a block that has sectors in `start..end`, which is no longer than a block.
    fn overlapping(&self, start: u64, end: u64) -> Option<u64> {
        let slot = self.position(start);
        [slot.checked_sub(1), Some(slot), slot.checked_add(1)]
            .into_iter()
            .flatten()
            .filter_map(|slot| self.get(slot))
            .find(|other| *other < end && start < other.saturating_add(self.stride))
    }

    /// Records a block; false if there is no space.
    fn put(&mut self, sector: u32) -> bool {
        let (key, within) = Self::locate(self.position(u64::from(sector)));
        if self.chunks.len() >= Self::MOST_CHUNKS && !self.chunks.contains_key(&key) {
            return false;
        }
        let chunk = self.chunks.entry(key).or_insert_with(|| Box::new([0; 1024]));
        if let Some(place) = chunk.get_mut(within) {
            *place = sector;
        }
        true
    }
}

/// The result of checking the pages loaded so far.
#[derive(Debug)]
struct Seen {
    pages: BTreeSet<u64>,
    slots: Slots,
    /// The last block in sectors, if the disk ends inside it. It may be stored shorter than the others.
    last: Option<(u64, u64)>,
    /// The first error in the table. It is permanent.
    broken: Option<Broken>,
}

/// Why the table cannot be used, and the offset of the entry.
#[derive(Clone, Debug)]
struct Broken {
    kind: ErrorKind,
    message: String,
    at: StoredOffset,
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Self::new(broken.kind, broken.message).at(broken.at)
    }
}

/// The table of one disk.
pub(super) struct Bat {
    tables: Tables,
    /// The entries that the disk uses.
    table: StoredRange,
    blocks: Blocks,
    /// Ranges that blocks must not overlap.
    reserved: Vec<(StoredRange, &'static str)>,
    object_end: StoredOffset,
    seen: Mutex<Seen>,
}

impl Bat {
    /// Opens the table of `header`, which is inside the object. Blocks must not overlap `reserved`.
    pub(super) fn new(
        source: Arc<dyn Source>,
        header: &Header,
        blocks: Blocks,
        reserved: Vec<(StoredRange, &'static str)>,
    ) -> Self {
        let seen =
            Seen { pages: BTreeSet::new(), slots: Slots::new(blocks.stride()), last: None, broken: None };
        Self {
            object_end: StoredOffset::new(source.len()),
            tables: Tables::new(source),
            table: header.table.split_at(blocks.count().saturating_mul(4)).0,
            blocks,
            reserved,
            seen: Mutex::new(seen),
        }
    }

    /// The cache of tables, for other bulk reads.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Entries of blocks `first..=last` of the disk: all of them, or the most that one result can have.
    ///
    /// # Errors
    /// `malformed` if a loaded block overlaps metadata or another block, with the offset of its entry;
    /// `unsupported_feature` if there are too many blocks to check; the `source_*` codes.
    pub(super) async fn load(&self, first: u64, last: u64) -> Result<Entries> {
        let first_page = first / PAGE_ENTRIES;
        let last_page = (last / PAGE_ENTRIES).min(first_page.saturating_add(PAGES_AT_ONCE - 1));
        let ranges: Vec<StoredRange> = (first_page..=last_page).map(|page| self.page(page)).collect();
        let mut pages = self.tables.load(&ranges).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, bytes) in (first_page..).zip(&pages) {
            if let Some(broken) = &seen.broken {
                return Err(broken.clone().into());
            }
            if !seen.pages.contains(&page) {
                if let Err(broken) = self.check(&mut seen, page, bytes) {
                    seen.broken = Some(broken.clone());
                    return Err(broken.into());
                }
                seen.pages.insert(page);
            }
        }
        if let Some(page) = pages.first_mut() {
            let skip = usize::try_from((first % PAGE_ENTRIES).saturating_mul(4)).unwrap_or(usize::MAX);
            *page = page.slice(skip.min(page.len())..);
        }
        Ok(Entries { pages, first, last })
    }

    /// End of the block with the highest address; `None` if no block is stored. Loads every page of the table.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(super) async fn end(&self) -> Result<Option<End>> {
        let count = self.blocks.count();
        let (mut end, mut next) = (None, 0);
        while next < count {
            let entries = self.load(next, count.saturating_sub(1)).await?;
            let first = next;
            for (index, sector) in entries.iter() {
                next = index.saturating_add(1);
                let Some(sector) = sector else { continue };
                let stored = self.blocks.stored(index, sector);
                let whole = self.blocks.stride().saturating_mul(SECTOR);
                let whole = stored.start().get().saturating_add(whole);
                end = end.max(Some(End { needed: stored.end().get(), whole }));
            }
            if next == first {
                return Err(Error::internal(format!("no entry of block {first} was loaded")));
            }
        }
        Ok(end)
    }

    fn page(&self, page: u64) -> StoredRange {
        let bytes = PAGE_ENTRIES * 4;
        self.table.skip(page.saturating_mul(bytes)).split_at(bytes).0
    }

    fn check(&self, seen: &mut Seen, page: u64, bytes: &Bytes) -> Result<(), Broken> {
        let first = page.saturating_mul(PAGE_ENTRIES);
        for (index, sector) in (first..).zip(entries(bytes)) {
            if sector == UNUSED {
                continue;
            }
            let broken = |kind, message| Broken { kind, message, at: self.entry_at(index) };
            match self.place(seen, index, sector) {
                Ok(true) => {}
                Ok(false) => {
                    let most = Slots::CHUNK.saturating_mul(Slots::MOST_CHUNKS as u64);
                    let message = format!(
                        "blocks of {} bytes are spread over more than {most} slots",
                        self.blocks.bytes
                    );
                    return Err(broken(ErrorKind::UnsupportedFeature, message));
                }
                Err(what) => {
                    let message = format!(
                        "entry {index} of the block allocation table is {sector}: the block that begins at that sector \
                         overlaps {what}"
                    );
                    return Err(broken(ErrorKind::Malformed, message));
                }
            }
        }
        Ok(())
    }

    /// Address of the entry of a block.
    fn entry_at(&self, index: u64) -> StoredOffset {
        self.table.skip(index.saturating_mul(4)).start()
    }

    /// Records the location of a block, or returns a description of what it overlaps.
    fn place(&self, seen: &mut Seen, index: u64, sector: u32) -> Result<bool, String> {
        let stored = self.blocks.stored(index, sector);
        let reserved = self.reserved.iter().find(|(range, _)| range.intersection(stored).is_some());
        if let Some((range, name)) = reserved {
            return Err(format!("{name} at {range}"));
        }
        let start = u64::from(sector);
        let end = start.saturating_add(stored.len().div_ceil(SECTOR));
        if let Some((other, other_end)) = seen.last
            && other < end
            && start < other_end
        {
            return Err(format!("the last block, which begins at sector {other}"));
        }
        if let Some(other) = seen.slots.overlapping(start, end) {
            return Err(format!("another block, which begins at sector {other}"));
        }
        if self.blocks.guest(index).len() < self.blocks.bytes {
            seen.last = Some((start, end));
            return Ok(true);
        }
        Ok(seen.slots.put(sector))
    }

    /// The stored bytes of block `index`, which begins at `sector`: bitmap and data.
    ///
    /// # Errors
    /// `truncated` if the object ends before them.
    pub(super) fn stored(&self, index: u64, sector: u32) -> Result<StoredRange> {
        let stored = self.blocks.stored(index, sector);
        if stored.end() > self.object_end {
            return Err(Error::truncated(format!(
                "entry {index} of the block allocation table is {sector}: the block takes bytes {stored} and the object \
                 ends at {}",
                self.object_end
            ))
            .at(self.entry_at(index))
            .hint("if the disk is split into several files, join them first"));
        }
        Ok(stored)
    }
}

/// End of the block with the highest address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct End {
    /// End of the bytes that the disk needs.
    pub(super) needed: u64,
    /// The end of a whole block.
    pub(super) whole: u64,
}

/// Loaded, checked entries.
#[derive(Debug)]
pub(super) struct Entries {
    /// Entries from block `first` on.
    pages: Vec<Bytes>,
    first: u64,
    last: u64,
}

impl Entries {
    /// Each block's number, and its start sector if it was ever written.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Option<u32>)> {
        (self.first..=self.last)
            .zip(self.pages.iter().flat_map(|page| entries(page)))
            .map(|(index, sector)| (index, (sector != UNUSED).then_some(sector)))
    }
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = u32> {
    <[U32]>::ref_from_bytes(bytes).unwrap_or_default().iter().map(|entry| entry.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_in_the_same_and_adjacent_slots() {
        let mut slots = Slots::new(10);
        assert!(slots.put(25));
        for (sector, expected) in [(15, None), (16, Some(25)), (25, Some(25)), (34, Some(25)), (35, None)] {
            assert_eq!(slots.overlapping(sector, sector + 10), expected, "{sector}");
        }
        assert_eq!(slots.overlapping(20, 25), None, "a short block right before");
        assert_eq!(slots.overlapping(20, 26), Some(25), "a short block one sector too long");
    }

    #[test]
    fn the_memory_of_slots_is_bounded() {
        let mut slots = Slots::new(2);
        let spread = (1..).map(|chunk: u32| chunk * 2 * Slots::CHUNK as u32);
        assert_eq!(spread.take_while(|sector| slots.put(*sector)).count(), Slots::MOST_CHUNKS);
    }
}

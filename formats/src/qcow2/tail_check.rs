//! Checks that the tables are complete if the object ends in zeros.
//!
//! An entry of zeros means "not allocated", so a table that an unfinished download left as zeros reads as a hole. The
//! reference counts show the difference, because a cluster whose entry was lost is still counted. They are compared
//! only if the object ends in a sector of zeros and nothing else shows that the table that is stored last is complete:
//!
//! ```text
//! | header | refcounts | L1 | L2 | data | L2 | 0 0 0 0 0 0
//!                                           ▲ no data after this byte: were the last entries of L2 lost?
//! ```
//!
//! Clusters are compared in groups, one for each refcount block. The number of references in the tables must equal the
//! sum of the counts in the block. Plain data leaves no such evidence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use diskferry_core::internal::{is_zero, read_up_to};
use diskferry_core::{
    Error, Extent, ExtentKind, GuestRange, HeadTailSource, Result, Source, StoredOffset, StoredRange,
    Warning, Warnings,
};

use super::entry::{self, Reference};
use super::extensions::bitmap_tables;
use super::grid::Grid;
use super::header::Header;
use super::snapshots;
use crate::table_cache::Tables;
use crate::zero_tail::{SearchSteps, ZeroTail, data_end, has_data, warn_zero_tail};

/// Most bytes after the last table that are searched for data.
const SEARCHED: u64 = 4 << 20;
/// The unit in which tables are read.
const PIECE: u64 = 1 << 20;
/// Data nearly always follows the last table directly, so the search begins with a short request.
const SEARCH: SearchSteps = SearchSteps { first: 16 << 10, longest: PIECE };
/// Most bytes of tables that are loaded together: half of the cache.
const LOADED_AT_ONCE: u64 = 8 << 20;
/// A longer window is part of a walk over the disk, not a read of a few sectors.
const LONGEST_LOOK: u64 = 16 << 20;
/// Most groups of clusters: 16 MiB of counters. With the usual clusters of 64 KiB they cover 2 PiB.
const MOST_GROUPS: u64 = 1 << 20;
/// Most entries that are walked: about one second of work.
const MOST_ENTRIES: u64 = 1 << 27;
/// Most bytes of the snapshot table, and of the directory of bitmaps.
const MOST_DIRECTORY: u64 = 16 << 20;

/// Checks once, before the first extent is returned.
pub(super) struct TailCheck {
    file: Arc<HeadTailSource>,
    tail: ZeroTail,
    found: AtomicBool,
}

/// The references in the tables and the counts in the refcount blocks, for the clusters of one refcount block.
#[derive(Clone, Copy, Default)]
struct Group {
    references: u64,
    counts: u64,
}

/// One comparison of tables and reference counts.
struct Audit<'a> {
    header: &'a Header,
    tables: &'a Tables,
    object_bytes: u64,
    /// Where the zeros at the object's end begin.
    zeros_from: u64,
    groups: Vec<Group>,
    /// Clusters of a group.
    step: u64,
    entries: u64,
    /// True if an L2 table is all zeros and may be missing.
    blank_table: bool,
    /// True if an entry points past the object's end: the object is truncated, and the entry is refused when it is
    /// used.
    cut: bool,
    /// True if a part of the refcount structures may be missing.
    counts_in_doubt: bool,
    /// True if a refcount block is all zeros and may be missing.
    blank_counts: bool,
}

impl TailCheck {
    /// `None` if the object does not end in a sector of zeros, because then there is nothing to check.
    pub(super) fn new(file: Arc<HeadTailSource>) -> Option<Self> {
        let tail = ZeroTail::of(&file);
        tail.has_a_sector().then(|| Self { file, tail, found: AtomicBool::new(false) })
    }

    /// Checks that the tables are complete, before the result for a window of a walk over the disk is returned. A short
    /// window, such as a read of the partition table, is not checked, because that would take too long.
    ///
    /// # Errors
    /// `truncated` at the first zero of the object's end if they are not; the `source_*` codes.
    pub(super) async fn check(
        &self,
        window: GuestRange,
        header: &Header,
        tables: &Tables,
        warnings: &Warnings,
    ) -> Result<()> {
        let walk = window.len() > LONGEST_LOOK || window.end().get() >= header.virtual_bytes;
        if !walk || self.found.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(zeros_from) = self.doubt(header, tables).await? {
            self.compare(header, tables, warnings, zeros_from).await?;
        }
        self.found.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Warns if one of the extents is data in the zeros at the object's end.
    pub(super) fn warn_of_data(&self, extents: &[Extent], warnings: &Warnings) {
        let in_tail = |extent: &Extent| matches!(extent.kind, ExtentKind::Data(stored) if stored.range.end().get() > self.tail.start);
        if extents.iter().any(in_tail) {
            warn_zero_tail(warnings, self.tail.len);
        }
    }

    /// Where the zeros begin, if the table with the highest address may have lost its end. If it extends past the end
    /// of the object, the object is truncated, and the table is refused when it is used.
    async fn doubt(&self, header: &Header, tables: &Tables) -> Result<Option<u64>> {
        let cluster = header.grid.cluster_bytes();
        let mut last = header.l1;
        for page in pages(header.l1) {
            for at in l2_tables(header.grid, &tables.load_one(page).await?) {
                if at >= last.start() {
                    last = StoredRange::new(at, cluster).unwrap_or(last);
                }
            }
        }
        if last.start().get() >= self.file.len() {
            return Ok(None);
        }
        let end = last.end().get().min(self.file.len());
        if self.tail.start_known {
            return Ok((self.tail.start < end).then_some(self.tail.start));
        }
        // The zeros begin before the buffered bytes.
        if self.tail.start > end {
            // Data nearly always follows the table directly. These bytes are fetched again when they are converted.
            let most = end.saturating_add(SEARCHED).min(self.tail.start);
            let after = StoredRange::between(StoredOffset::new(end), StoredOffset::new(most));
            if has_data(&*self.file, after, SEARCH).await? {
                return Ok(None);
            }
        }
        let from = end.saturating_sub(cluster.max(last.len().min(PIECE)));
        let table = StoredRange::between(StoredOffset::new(from), StoredOffset::new(end));
        Ok(match data_end(&*self.file, table).await? {
            Some(used) if used == table.end() => None,
            Some(used) => Some(used.get()),
            // The whole table is lost, and perhaps what is stored before it.
            None => Some(0),
        })
    }

    async fn compare(
        &self,
        header: &Header,
        tables: &Tables,
        warnings: &Warnings,
        zeros_from: u64,
    ) -> Result<()> {
        let unsure = |why: &str| {
            warnings.add(Warning::new(
                "zero_tail",
                format!(
                    "the object ends in zeros from {} on, and a table may have lost its last entries, as in an unfinished \
                     download: {why}",
                    self.least(zeros_from)
                ),
            ));
        };
        if header.dirty || header.corrupt {
            unsure("the image was not closed, so its reference counts prove nothing");
            return Ok(());
        }
        let Some(mut audit) = Audit::new(header, tables, self.file.len(), zeros_from) else {
            unsure("it has too many clusters to compare their reference counts");
            return Ok(());
        };
        if !audit.walk(&self.file).await? {
            unsure("its tables have too many entries to compare reference counts");
            return Ok(());
        }
        match audit.missing() {
            None => Ok(()),
            Some(what) => {
                let at = self.least(zeros_from);
                Err(Error::truncated(format!(
                    "the object of {} bytes ends in zeros from {at} on, within or before its last table, and {what}",
                    self.file.len()
                ))
                .at(at)
                .hint("an unfinished download looks like this: fetch the image again"))
            }
        }
    }

    /// The latest possible start of the zeros.
    fn least(&self, zeros_from: u64) -> u64 {
        if zeros_from == 0 { self.tail.start } else { zeros_from.min(self.tail.start) }
    }
}

impl<'a> Audit<'a> {
    /// `None` if the object has too many clusters.
    fn new(header: &'a Header, tables: &'a Tables, object_bytes: u64, zeros_from: u64) -> Option<Self> {
        let cluster = header.grid.cluster_bytes();
        let step = cluster
            .saturating_mul(8)
            .checked_div(u64::from(header.refcount_bits))
            .filter(|step| *step > 0)?;
        let groups = object_bytes.div_ceil(cluster).div_ceil(step);
        let groups = usize::try_from(groups).ok().filter(|groups| *groups as u64 <= MOST_GROUPS)?;
        Some(Self {
            header,
            tables,
            object_bytes,
            zeros_from,
            groups: vec![Group::default(); groups],
            step,
            entries: 0,
            blank_table: false,
            cut: false,
            counts_in_doubt: header.refcount_table.end().get() > zeros_from,
            blank_counts: false,
        })
    }

    /// Counts everything; false if there is too much.
    async fn walk(&mut self, file: &HeadTailSource) -> Result<bool> {
        let cluster = self.header.grid.cluster_bytes();
        self.refer(StoredRange::first(cluster));
        self.refer(self.header.refcount_table);
        self.counts().await?;
        if !self.l1(self.header.l1).await? {
            return Ok(false);
        }
        if let Some(table) = self.header.snapshots {
            let bytes = read_up_to(file, table.at, MOST_DIRECTORY).await?;
            let (snapshots, len) = snapshots::tables(&bytes, table.count);
            self.refer_some(StoredRange::new(table.at, len));
            for l1 in snapshots {
                if !self.l1(l1).await? {
                    return Ok(false);
                }
            }
        }
        if let Some(directory) = self.header.extensions.bitmap_directory {
            self.refer(directory);
            let bytes = read_up_to(file, directory.start(), directory.len().min(MOST_DIRECTORY)).await?;
            for table in bitmap_tables(&bytes, self.header.extensions.bitmaps) {
                self.refer(table);
                for piece in self.stored_pieces(table) {
                    self.entries = self.entries.saturating_add(piece.len() / 8);
                    if self.entries > MOST_ENTRIES {
                        return Ok(false);
                    }
                    for word in words(&self.tables.load_one(piece).await?) {
                        self.refer_cluster(word);
                    }
                }
            }
        }
        Ok(self.entries <= MOST_ENTRIES)
    }

    /// The refcount table and its blocks.
    async fn counts(&mut self) -> Result<()> {
        let cluster = self.header.grid.cluster_bytes();
        let mut first = 0usize;
        for piece in pieces(self.header.refcount_table, PIECE) {
            let bytes = self.tables.load_one(piece).await?;
            let known = self.groups.len().saturating_sub(first);
            let blocks: Vec<(usize, StoredRange)> = (first..)
                .zip(words(&bytes).take(known))
                .filter_map(|(group, word)| {
                    Some((group, StoredRange::new(entry::refcount_block(word)?, cluster)?))
                })
                .filter(|(_, block)| block.end().get() <= self.object_bytes)
                .collect();
            for some in blocks.chunks(self.tables_at_once()) {
                let ranges: Vec<StoredRange> = some.iter().map(|(_, block)| *block).collect();
                for ((group, block), bytes) in some.iter().zip(self.tables.load(&ranges).await?) {
                    self.refer(*block);
                    self.block(*group, *block, &bytes);
                }
            }
            first = first.saturating_add(bytes.len() / 8);
        }
        Ok(())
    }

    fn block(&mut self, group: usize, block: StoredRange, bytes: &[u8]) {
        if block.end().get() > self.zeros_from {
            self.counts_in_doubt = true;
            self.blank_counts |= is_zero(bytes);
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.counts = sum(bytes, self.header.refcount_bits);
        }
    }

    /// As many tables, of a cluster each, are loaded together.
    fn tables_at_once(&self) -> usize {
        let count = LOADED_AT_ONCE.checked_div(self.header.grid.cluster_bytes()).unwrap_or_default();
        usize::try_from(count.max(1)).unwrap_or(1)
    }

    /// Counts an L1 table, its L2 tables and their references; false if there are too many.
    async fn l1(&mut self, table: StoredRange) -> Result<bool> {
        let grid = self.header.grid;
        self.refer(table);
        for page in self.stored_pieces(table) {
            let bytes = self.tables.load_one(page).await?;
            self.entries = self.entries.saturating_add(page.len() / 8);
            let found: Vec<StoredRange> = l2_tables(grid, &bytes)
                .filter_map(|at| StoredRange::new(at, grid.cluster_bytes()))
                .filter(|table| table.end().get() <= self.object_bytes)
                .collect();
            for some in found.chunks(self.tables_at_once()) {
                let entries = (some.len() as u64).saturating_mul(grid.cluster_bytes() / 8);
                self.entries = self.entries.saturating_add(entries);
                if self.entries > MOST_ENTRIES {
                    return Ok(false);
                }
                for (table, bytes) in some.iter().zip(self.tables.load(some).await?) {
                    self.refer(*table);
                    self.l2(*table, &bytes);
                }
            }
        }
        Ok(true)
    }

    fn l2(&mut self, table: StoredRange, bytes: &Bytes) {
        if is_zero(bytes) {
            self.blank_table |= table.end().get() > self.zeros_from;
            return;
        }
        let extended = self.header.grid.extended_l2();
        let each = if extended { 2 } else { 1 };
        for word in words(bytes).step_by(each) {
            match entry::reference(self.header.grid, word) {
                Reference::None => {}
                Reference::Cluster(at) => {
                    self.cut |= at.get() >= self.object_bytes && !entry::is_zero_cluster(word);
                    self.refer_at(at.get());
                }
                Reference::Compressed(range) => {
                    self.cut |= range.start().get() >= self.object_bytes;
                    self.refer(range);
                }
            }
        }
    }

    /// Counts the references of a bitmap table's entry.
    fn refer_cluster(&mut self, word: u64) {
        if let Some(at) = entry::refcount_block(word) {
            self.refer_at(at.get());
        }
    }

    fn refer_some(&mut self, range: Option<StoredRange>) {
        if let Some(range) = range {
            self.refer(range);
        }
    }

    /// Counts every cluster that contains a part of `range`. Parts past the object's end are ignored.
    fn refer(&mut self, range: StoredRange) {
        let cluster = self.header.grid.cluster_bytes().max(1);
        let skip = range.start().get().checked_rem(cluster).unwrap_or_default();
        let mut at = range.start().get().saturating_sub(skip);
        let end = range.end().get().min(self.object_bytes);
        while at < end && self.entries <= MOST_ENTRIES {
            self.refer_at(at);
            at = at.saturating_add(cluster);
        }
    }

    fn refer_at(&mut self, at: u64) {
        self.entries = self.entries.saturating_add(1);
        let number = at.checked_div(self.header.grid.cluster_bytes()).unwrap_or_default();
        let group = number.checked_div(self.step).and_then(|group| usize::try_from(group).ok());
        if let Some(group) = group.and_then(|group| self.groups.get_mut(group)) {
            group.references = group.references.saturating_add(1);
        }
    }

    /// Reads the part of a table that is in the object, in pieces.
    fn stored_pieces(&self, table: StoredRange) -> impl Iterator<Item = StoredRange> + use<> {
        let stored = table.intersection(StoredRange::first(self.object_bytes));
        let stored = stored.map(|stored| stored.split_at(stored.len().saturating_sub(stored.len() % 8)).0);
        stored.into_iter().flat_map(pages)
    }

    /// The evidence that something is missing.
    fn missing(&self) -> Option<String> {
        if self.cut {
            return None;
        }
        let differs = |(_, group): &(u64, &Group)| group.references != group.counts;
        if let Some((number, group)) = (0u64..).zip(&self.groups).find(differs) {
            let first = number.saturating_mul(self.step);
            return Some(format!(
                "the tables hold {} references to the clusters {first} to {}, whose reference counts add up to {}",
                group.references,
                first.saturating_add(self.step).saturating_sub(1),
                group.counts
            ));
        }
        if self.blank_counts {
            return Some("a refcount block is all zeros".to_owned());
        }
        (self.blank_table && self.counts_in_doubt && !self.all_counted())
            .then(|| "an L2 table is all zeros, as the end of the reference counts is".to_owned())
    }

    /// True if every cluster of the object can be counted, so that no count is missing.
    fn all_counted(&self) -> bool {
        let clusters = self.object_bytes.div_ceil(self.header.grid.cluster_bytes().max(1));
        (0u64..).zip(&self.groups).all(|(number, group)| {
            let first = number.saturating_mul(self.step);
            group.counts >= clusters.saturating_sub(first).min(self.step)
        })
    }
}

/// The parts of a table, as the block map reads an L1 table.
fn pages(table: StoredRange) -> impl Iterator<Item = StoredRange> {
    pieces(table, PIECE)
}

fn pieces(range: StoredRange, len: u64) -> impl Iterator<Item = StoredRange> {
    let count = range.len().checked_div(len).unwrap_or_default();
    (0..=count)
        .map(move |piece| range.skip(piece.saturating_mul(len)).split_at(len).0)
        .filter(|piece| !piece.is_empty())
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word))
}

/// The L2 tables that a part of an L1 table names. Errors in other entries are reported when those are used.
fn l2_tables(grid: Grid, l1: &[u8]) -> impl Iterator<Item = StoredOffset> {
    words(l1).filter_map(move |word| entry::l1_entry(grid, word).ok().flatten())
}

/// The sum of the reference counts in a block.
fn sum(block: &[u8], bits: u32) -> u64 {
    let all = block.iter().copied();
    match bits {
        1 => all.fold(0, |sum, byte| sum.saturating_add(u64::from(byte.count_ones()))),
        2 | 4 => {
            let mask = if bits == 2 { 3 } else { 15 };
            let parts = |byte: u8| {
                (0..8)
                    .step_by(if bits == 2 { 2 } else { 4 })
                    .map(move |at| u64::from(byte.wrapping_shr(at) & mask))
            };
            all.flat_map(parts).fold(0, u64::saturating_add)
        }
        _ => {
            let bytes = usize::try_from(bits / 8).unwrap_or(1).max(1);
            let number = |count: &[u8]| {
                count.iter().fold(0u64, |number, byte| number.wrapping_shl(8) | u64::from(*byte))
            };
            block.chunks_exact(bytes).map(number).fold(0, u64::saturating_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_add_up() {
        let block = [0x81, 0x02, 0x00, 0x10, 0x00, 0x00, 0x00, 0x01];
        for (bits, expected) in [
            (1, 5),
            (2, 2 + 1 + 2 + 1 + 1),
            (4, 8 + 1 + 2 + 1 + 1),
            (8, 0x81 + 2 + 0x10 + 1),
            (16, 0x8102 + 0x10 + 1),
            (32, 0x8102_0010 + 1),
            (64, 0x8102_0010_0000_0001),
        ] {
            assert_eq!(sum(&block, bits), expected, "{bits} bits");
        }
    }

    #[test]
    fn pieces_cover_a_range() {
        let range = StoredRange::new(StoredOffset::new(10), 25).unwrap();
        let all: Vec<(u64, u64)> =
            pieces(range, 10).map(|piece| (piece.start().get(), piece.len())).collect();
        assert_eq!(all, [(10, 10), (20, 10), (30, 5)]);
        assert_eq!(pieces(range.split_at(20).0, 10).count(), 2);
        assert_eq!(pieces(range.split_at(0).0, 10).count(), 0);
    }
}

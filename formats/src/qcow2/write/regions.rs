//! The offsets of all regions of a written image. The order is always the same.
//!
//! ```text
//! | header | data, in guest order … | L2 tables | L1 table | refcount blocks | refcount table |
//! ```
//!
//! Only the header depends on the regions after it. The image ends with a table of offsets whose highest bytes are
//! zero. So whatever the guest wrote, the end is never the footer of another format.

use diskferry_core::{Error, ErrorKind, Result, TargetOffset, TargetRange, UnitMap, Write, Writes};

use super::table::{EntryRun, EntryTable, EntryWidth};
use crate::qcow2::entry;
use crate::qcow2::grid::Grid;
use crate::qcow2::header::{Compression, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, NewHeader};

/// Length of an entry of the refcount table.
const REFCOUNT_TABLE_ENTRY: u64 = 8;
/// Length of a reference count.
const REFCOUNT_BYTES: u64 = 2;
/// Offsets have 56 bits.
const MOST_BYTES: u64 = 1 << 56;

/// The parts of an image, by their lengths in clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Regions {
    grid: Grid,
    virtual_bytes: u64,
    data: u64,
    l2_tables: u64,
    l1: u64,
    refcount_blocks: u64,
    refcount_table: u64,
}

impl Regions {
    /// The regions for a disk of `virtual_bytes` with `data` clusters of data after the header, mapped by `l2_tables`.
    pub(super) fn new(grid: Grid, virtual_bytes: u64, data: u64, l2_tables: u64) -> Self {
        let cluster = grid.cluster_bytes().max(1);
        let l1 = l1_bytes(grid, virtual_bytes).div_ceil(cluster);
        let fixed = data.saturating_add(l2_tables).saturating_add(l1).saturating_add(1);
        // The refcount blocks count themselves too. Each round adds nothing, or 256 times less than the round before.
        let (mut refcount_blocks, mut refcount_table) = (1u64, 1u64);
        loop {
            let total = fixed.saturating_add(refcount_blocks).saturating_add(refcount_table);
            let blocks = total.div_ceil(counted_by_block(grid));
            let table = blocks.saturating_mul(REFCOUNT_TABLE_ENTRY).div_ceil(cluster);
            if (blocks, table) == (refcount_blocks, refcount_table) {
                break;
            }
            (refcount_blocks, refcount_table) = (blocks, table);
        }
        Self { grid, virtual_bytes, data, l2_tables, l1, refcount_blocks, refcount_table }
    }

    /// Length of the image in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.refcount_table_range().end().get()
    }

    /// Checks that readers accept the image.
    ///
    /// # Errors
    /// `destination_unsuitable`.
    pub(super) fn check(&self) -> Result<()> {
        check_size(self.grid, self.virtual_bytes)?;
        let counts = self.refcount_table.saturating_mul(self.grid.cluster_bytes());
        if counts > MAX_REFCOUNT_TABLE_BYTES || self.bytes() > MOST_BYTES {
            return Err(too_much(self.grid));
        }
        Ok(())
    }

    fn range(&self, before: &[u64], clusters: u64) -> TargetRange {
        let cluster = self.grid.cluster_bytes();
        let start = before.iter().fold(1u64, |sum, region| sum.saturating_add(*region));
        let at = |clusters: u64| TargetOffset::new(clusters.saturating_mul(cluster));
        TargetRange::between(at(start), at(start.saturating_add(clusters)))
    }

    /// The data.
    pub(super) fn data_range(&self) -> TargetRange {
        self.range(&[], self.data)
    }

    fn l2_range(&self) -> TargetRange {
        self.range(&[self.data], self.l2_tables)
    }

    fn l1_range(&self) -> TargetRange {
        self.range(&[self.data, self.l2_tables], self.l1)
    }

    fn refcount_blocks_range(&self) -> TargetRange {
        self.range(&[self.data, self.l2_tables, self.l1], self.refcount_blocks)
    }

    fn refcount_table_range(&self) -> TargetRange {
        self.range(&[self.data, self.l2_tables, self.l1, self.refcount_blocks], self.refcount_table)
    }

    /// The header's cluster.
    ///
    /// # Errors
    /// `internal` if a number does not fit its field. [`check`](Self::check) excludes that.
    pub(super) fn header(&self, compression: Compression) -> Result<Vec<Write>> {
        let field = |number: u64| {
            u32::try_from(number)
                .map_err(|_| Error::internal(format!("{number} does not fit a QCOW2 header")))
        };
        let l1 = self.l1_range();
        let header = NewHeader {
            grid: self.grid,
            virtual_bytes: self.virtual_bytes,
            l1_entries: field(self.grid.l1_entries(self.virtual_bytes))?,
            // An empty table has the offset 0.
            l1_at: if l1.is_empty() { TargetOffset::ZERO } else { l1.start() },
            refcount_table_at: self.refcount_table_range().start(),
            refcount_table_clusters: field(self.refcount_table)?,
            compression,
        };
        let bytes = header.to_bytes();
        let rest = TargetRange::first(self.grid.cluster_bytes()).skip(bytes.len() as u64);
        Ok(vec![Write::Bytes(TargetOffset::ZERO, vec![bytes.into()]), Write::Zero(rest)])
    }

    /// Encodes all regions after the data. `units` are the mapped clusters. `entries` are their L2 entries, each with
    /// the rank of its cluster. `data_counts` are the reference counts of the data clusters, by their index in the
    /// image.
    ///
    /// # Errors
    /// `internal` if the units do not match the regions.
    pub(super) fn tables(
        &self,
        units: UnitMap,
        entries: impl Iterator<Item = u64> + Send + 'static,
        data_counts: impl Iterator<Item = EntryRun> + Send + 'static,
    ) -> Result<Writes> {
        let entries_of_table = entries_of_table(self.grid);
        let cluster = self.grid.cluster_bytes();
        let mut tables = UnitMap::new(1);
        for run in units.runs() {
            let first = run.start.checked_div(entries_of_table).unwrap_or_default();
            tables.add_units(first..run.end.div_ceil(entries_of_table))?;
        }
        if tables.count() != self.l2_tables {
            return Err(Error::internal(format!("{} L2 tables and not {}", tables.count(), self.l2_tables)));
        }
        let l2 =
            EntryTable::new(self.l2_range(), EntryWidth::Eight, l2_runs(units, entries_of_table, entries));
        let first_table = entry::to_one(self.l2_range().start());
        let l1 = follow_each_other(tables, first_table, cluster);
        let l1 = EntryTable::new(self.l1_range(), EntryWidth::Eight, l1);
        let blocks = self.refcount_blocks_range();
        let header = EntryRun { index: 0, count: 1, value: 1, step: 0 };
        let behind = self.data.saturating_add(1);
        let all = self.bytes().checked_div(cluster).unwrap_or_default();
        let metadata = EntryRun { index: behind, count: all.saturating_sub(behind), value: 1, step: 0 };
        let counts = std::iter::once(header).chain(data_counts).chain([metadata]);
        let counts = EntryTable::new(blocks, EntryWidth::Two, counts);
        let to_blocks =
            EntryRun { index: 0, count: self.refcount_blocks, value: blocks.start().get(), step: cluster };
        let to_blocks =
            EntryTable::new(self.refcount_table_range(), EntryWidth::Eight, std::iter::once(to_blocks));
        Ok(Box::new(l2.chain(l1).chain(counts).chain(to_blocks)))
    }
}

/// Number of clusters that a refcount block counts.
fn counted_by_block(grid: Grid) -> u64 {
    grid.cluster_bytes().checked_div(REFCOUNT_BYTES).unwrap_or_default().max(1)
}

/// Number of clusters that an L2 table maps.
pub(super) fn entries_of_table(grid: Grid) -> u64 {
    grid.cluster_bytes().checked_div(grid.l2_entry_bytes()).unwrap_or_default().max(1)
}

fn l1_bytes(grid: Grid, virtual_bytes: u64) -> u64 {
    grid.l1_entries(virtual_bytes).saturating_mul(Grid::L1_ENTRY_BYTES)
}

/// Runs of values that increase by `step` from each allocated number to the next.
fn follow_each_other(there: UnitMap, first: u64, step: u64) -> impl Iterator<Item = EntryRun> + Send {
    let mut value = first;
    there.into_runs().map(move |run| {
        let count = run.end.saturating_sub(run.start);
        let this = EntryRun { index: run.start, count, value, step };
        value = value.saturating_add(count.saturating_mul(step));
        this
    })
}

/// The entries of all allocated L2 tables, as one table.
fn l2_runs(
    units: UnitMap,
    entries_of_table: u64,
    entries: impl Iterator<Item = u64> + Send,
) -> impl Iterator<Item = EntryRun> + Send {
    let table_of = move |unit: u64| unit.checked_div(entries_of_table).unwrap_or_default();
    // Number of the last allocated table, and its rank.
    let mut last: Option<(u64, u64)> = None;
    let indices = units.into_runs().flat_map(move |run| {
        let table = table_of(run.start);
        let place = match last {
            Some((known, place)) if known == table => place,
            Some((_, place)) => place.saturating_add(1),
            None => 0,
        };
        let end = table_of(run.end.saturating_sub(1));
        last = Some((end, place.saturating_add(end.saturating_sub(table))));
        // Tables that one run spans are adjacent in the image too.
        let skip = run.start.saturating_sub(table.saturating_mul(entries_of_table));
        let first = place.saturating_mul(entries_of_table).saturating_add(skip);
        first..first.saturating_add(run.end.saturating_sub(run.start))
    });
    indices.zip(entries).map(|(index, value)| EntryRun { index, count: 1, value, step: 0 })
}

/// Checks that a disk of that size can be mapped.
///
/// # Errors
/// `destination_unsuitable` if the L1 table would be longer than readers accept.
pub(super) fn check_size(grid: Grid, virtual_bytes: u64) -> Result<()> {
    let bytes = l1_bytes(grid, virtual_bytes);
    if bytes <= MAX_L1_BYTES {
        return Ok(());
    }
    let error = Error::new(
        ErrorKind::DestinationUnsuitable,
        format!(
            "with clusters of {} bytes the L1 table of a disk of {virtual_bytes} bytes would have {bytes} bytes, and \
             readers of QCOW2 take {MAX_L1_BYTES} at most",
            grid.cluster_bytes()
        ),
    );
    let enough = Grid::CLUSTER_BITS
        .map(|bits| Grid::new(bits, false))
        .find(|grid| l1_bytes(*grid, virtual_bytes) <= MAX_L1_BYTES);
    Err(match enough {
        Some(enough) => error.hint(format!("use -o cluster_size={} or larger", enough.cluster_bytes())),
        None => error,
    })
}

/// Checks that the image may have this many data clusters, whatever else it contains.
///
/// # Errors
/// `destination_unsuitable` if the refcount table would be longer than readers accept.
pub(super) fn check_data(grid: Grid, clusters: u64) -> Result<()> {
    let blocks = MAX_REFCOUNT_TABLE_BYTES / REFCOUNT_TABLE_ENTRY;
    let most = blocks.saturating_mul(counted_by_block(grid));
    match clusters < most && clusters.saturating_mul(grid.cluster_bytes()) < MOST_BYTES {
        true => Ok(()),
        false => Err(too_much(grid)),
    }
}

fn too_much(grid: Grid) -> Error {
    let error = Error::new(
        ErrorKind::DestinationUnsuitable,
        format!(
            "with clusters of {} bytes the image becomes longer than a refcount table of {MAX_REFCOUNT_TABLE_BYTES} \
             bytes, the most that readers of QCOW2 take, can count",
            grid.cluster_bytes()
        ),
    );
    match grid.cluster_bits() < *Grid::CLUSTER_BITS.end() {
        true => error.hint("use larger clusters with -o cluster_size"),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_cover_every_cluster_and_no_block_is_unused() {
        for bits in [9, 10, 12, 16, 21] {
            let grid = Grid::new(bits, false);
            let per_block = counted_by_block(grid);
            for data in (0..3 * per_block.min(2000)).chain((1..2000).map(|n| n * n * 577)) {
                let regions = Regions::new(grid, 1 << 20, data, 1);
                let all = regions.bytes() / grid.cluster_bytes();
                assert!(regions.refcount_blocks * per_block >= all, "{regions:?}");
                assert!((regions.refcount_blocks - 1) * per_block < all, "{regions:?}");
                assert_eq!(regions.refcount_table, (regions.refcount_blocks * 8).div_ceil(1 << bits));
            }
        }
    }

    #[test]
    fn sizes_that_readers_do_not_support_are_refused_with_numbers() {
        let grid = Grid::new(9, false);
        check_size(grid, 128 << 30).unwrap();
        let error = check_size(grid, (128 << 30) + 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("cluster_size=1024 ")), "{error:?}");
        check_size(Grid::new(21, false), 1 << 61).unwrap();
        check_size(Grid::new(21, false), u64::MAX).unwrap_err();
        // On a full disk of that size, the tables have more clusters than its last refcount block has space for.
        let full = (128u64 << 30) / 512;
        let error = Regions::new(grid, 128 << 30, full, full / 64).check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
        Regions::new(grid, 128 << 30, full / 2, full / 128).check().unwrap();
        check_data(grid, full - 1).unwrap();
        check_data(grid, full).unwrap_err();
        check_data(Grid::new(21, false), 1 << 35).unwrap_err();
    }

    #[test]
    fn no_size_overflows() {
        for bits in Grid::CLUSTER_BITS {
            let grid = Grid::new(bits, false);
            for data in [0, 1, u64::MAX / 2, u64::MAX] {
                let regions = Regions::new(grid, u64::MAX, data, data);
                assert!(regions.check().is_err());
                let _ = regions.bytes();
            }
        }
    }
}

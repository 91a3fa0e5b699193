//! Detects whether a sparse extent in a file that ends in zeros has lost directories or tables.

use super::bytes::up_to;

/// The structures that the directories and tables of an extent name.
#[derive(Default)]
pub(super) struct Named {
    /// End of the last directory or table.
    pub(super) structures: u64,
    /// Start of the grains, or of grains and tables.
    pub(super) base: u64,
    /// End of the used part of the file.
    pub(super) end: u64,
    /// Byte addresses of the tables without duplicates, and the size of a table in bytes.
    pub(super) tables: Vec<u64>,
    pub(super) table_bytes: u64,
    /// Number of directory entries that name a table, and number of tables in the header.
    pub(super) named: u64,
    pub(super) allocated: Option<u64>,
    /// Byte addresses of the grains, and the size of a grain in bytes.
    pub(super) grains: Vec<u64>,
    pub(super) grain: u64,
    /// True if the copies of a directory or table differ.
    pub(super) copies_differ: bool,
    /// True if every table has a copy.
    pub(super) copied: bool,
    pub(super) compressed: bool,
}

/// Returns the start of the trailing zeros, if they fill at least the last sector of the file.
pub(super) fn zeros(file: &[u8]) -> Option<u64> {
    let len = file.len() as u64;
    let start = file.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
    let last = (len.checked_sub(1)?) % 512 + 1;
    (len - start >= last).then_some(start)
}

/// Returns whether the directories and tables of a file with trailing zeros from `start` are complete: non-zero data follows
/// them, or the structures that they name fill the file.
pub(super) fn came(file: &[u8], start: u64, named: &Named) -> bool {
    let structures = named.structures.next_multiple_of(512);
    if start > structures || up_to(file, structures, u64::MAX).iter().any(|byte| *byte != 0) {
        return true;
    }
    let end = named.end.min(file.len() as u64);
    if named.base.saturating_add(512) > end {
        // There is no space for a grain.
        return true;
    }
    let tables = named.tables.iter().filter(|at| **at >= named.base).count() as u64;
    let bytes = tables * named.table_bytes + named.grains.len() as u64 * named.grain;
    let filled = named.base.saturating_add(bytes).saturating_add(512) > end;
    let agreed = named.copied && !named.grains.is_empty();
    let empty = named.allocated == Some(0) && named.named == 0;
    let complete = !named.copies_differ && named.allocated.is_none_or(|tables| named.named >= tables);
    let zeros = start.next_multiple_of(512).min(structures);
    let lost_grain = named.compressed && named.grains.iter().any(|grain| *grain >= zeros);
    complete && (agreed || filled || empty) && !lost_grain
}

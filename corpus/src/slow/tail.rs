//! A sparse extent in a file that ends in zeros: whether its directories and tables came.

use super::bytes::up_to;

/// What the directories and tables of an extent name.
#[derive(Default)]
pub(super) struct Named {
    /// Where the last directory or table ends.
    pub(super) structures: u64,
    /// Where the grains begin, or grains and tables.
    pub(super) base: u64,
    /// Where the used part of the file ends.
    pub(super) end: u64,
    /// Byte addresses of the tables, each once, and the bytes of one.
    pub(super) tables: Vec<u64>,
    pub(super) table_bytes: u64,
    /// How many entries of the directory name a table, and how many tables the header says there are.
    pub(super) named: u64,
    pub(super) allocated: Option<u64>,
    /// Byte addresses of the grains, and the bytes of one.
    pub(super) grains: Vec<u64>,
    pub(super) grain: u64,
    /// Copies of a directory or a table name other entries.
    pub(super) copies_differ: bool,
    /// Every table has a copy.
    pub(super) copied: bool,
    pub(super) compressed: bool,
}

/// Where the zeros begin that fill the last sector of a file at least, if they do.
pub(super) fn zeros(file: &[u8]) -> Option<u64> {
    let len = file.len() as u64;
    let start = file.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
    let last = (len.checked_sub(1)?) % 512 + 1;
    (len - start >= last).then_some(start)
}

/// Whether the directories and tables came, of a file whose zeros begin at `start`: something else than zeros follows
/// them, or what they name fills the file.
pub(super) fn came(file: &[u8], start: u64, named: &Named) -> bool {
    let structures = named.structures.next_multiple_of(512);
    if start > structures || up_to(file, structures, u64::MAX).iter().any(|byte| *byte != 0) {
        return true;
    }
    let end = named.end.min(file.len() as u64);
    if named.base.saturating_add(512) > end {
        // There is no room for a grain.
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

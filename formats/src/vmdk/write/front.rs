//! The metadata before the grains of a monolithicSparse image: header, descriptor, and two copies of the directory with
//! all tables.
//!
//! ```text
//! header │ descriptor │ redundant directory │ its tables │ directory │ its tables │ zeros up to a grain │ grains
//! sector 0   1          21
//! ```
//!
//! Every table of the disk is written and has an entry in the directory, even if it names no grain. Readers would
//! accept an entry of 0 for an empty range of 32 MiB. But virtual machines write to the disk, and writers expect all
//! tables. VMware's tools create all of them, and qemu 10.0 overwrites the header when it writes to a range without a
//! table. The cost is zeros, 128 KiB per GiB of disk. In a file they are holes, and in an object about a hundredth of a
//! percent.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{Result, TargetOffset, TargetRange, UnitMap, Write, Writes};

use super::descriptor::{Kind, descriptor};
use super::disk::{
    DESCRIPTOR_AT, DESCRIPTOR_SECTORS, ENTRY, GRAIN, GRAIN_SECTORS, TABLE, TABLE_ENTRIES, TABLE_SECTORS,
};
use crate::vmdk::content_id::ContentId;
use crate::vmdk::header::{DirectoryAt, Grains, SECTOR, Sectors, SparseHeader};

/// The contents of the descriptor.
const KIND: Kind = Kind { create_type: "monolithicSparse", access: "RW", file: "disk.vmdk" };
/// First sector of the redundant directory.
const REDUNDANT_AT: u64 = DESCRIPTOR_AT + DESCRIPTOR_SECTORS;
/// Most tables in one write: 512 KiB.
const TABLES_AT_ONCE: u64 = 256;
/// Most entries of a directory in one write: 512 KiB.
const ENTRIES_AT_ONCE: u64 = 1 << 17;

/// The sizes of the metadata, for a disk whose size was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    capacity: Sectors,
    tables: u64,
    /// Sectors of a directory.
    directory: u64,
}

impl Front {
    /// The metadata of a disk of `capacity`.
    pub(super) fn new(capacity: Sectors) -> Self {
        let tables = capacity.0.div_ceil(GRAIN_SECTORS).div_ceil(TABLE_ENTRIES);
        Self { capacity, tables, directory: tables.saturating_mul(ENTRY).div_ceil(SECTOR) }
    }

    /// First sector of the directory, which is after its redundant copy.
    fn second(&self) -> u64 {
        REDUNDANT_AT.saturating_add(self.directory).saturating_add(self.tables.saturating_mul(TABLE_SECTORS))
    }

    /// Sector after the tables.
    fn used(&self) -> u64 {
        self.second().saturating_add(self.second().saturating_sub(REDUNDANT_AT))
    }

    /// Sector of the first grain: a multiple of the grain size.
    fn overhead(&self) -> u64 {
        self.used().checked_next_multiple_of(GRAIN_SECTORS).unwrap_or(u64::MAX)
    }

    /// Address of the first grain, in bytes.
    pub(super) fn grains_at(&self) -> u64 {
        self.overhead().saturating_mul(SECTOR)
    }

    /// All metadata in file order. `grains` are the allocated grains, which are stored consecutively.
    ///
    /// # Errors
    /// `internal`, see [`descriptor`].
    pub(super) fn writes(self, id: ContentId, grains: UnitMap) -> Result<Writes> {
        let header = SparseHeader {
            version: 1,
            capacity: self.capacity,
            grain: Sectors(GRAIN_SECTORS),
            descriptor: Some((Sectors(DESCRIPTOR_AT), Sectors(DESCRIPTOR_SECTORS))),
            table_entries: number(TABLE_ENTRIES),
            directory: DirectoryAt::Sector(Sectors(self.second())),
            redundant: Some(Sectors(REDUNDANT_AT)),
            overhead: Sectors(self.overhead()),
            zeroed_grains: false,
            grains: Grains::Plain,
            unclean: false,
        };
        let head =
            vec![Bytes::copy_from_slice(&header.to_bytes()), descriptor(&KIND, self.capacity, id)?.into()];
        let grains = Arc::new(grains);
        let (first, second) =
            (self.copy(REDUNDANT_AT, Arc::clone(&grains)), self.copy(self.second(), grains));
        let padding = TargetRange::between(at(self.used()), at(self.overhead()));
        let padding = (!padding.is_empty()).then_some(Write::Zero(padding));
        let head = std::iter::once(Write::Bytes(TargetOffset::ZERO, head));
        Ok(Box::new(head.chain(first).chain(second).chain(padding)))
    }

    /// A directory at `sector`, followed by its tables.
    fn copy(self, sector: u64, grains: Arc<UnitMap>) -> impl Iterator<Item = Write> + Send {
        let tables = sector.saturating_add(self.directory);
        let pieces = (0..self.tables).step_by(usize::try_from(ENTRIES_AT_ONCE).unwrap_or(usize::MAX));
        let directory = pieces.map(move |first| {
            let end = first.saturating_add(ENTRIES_AT_ONCE).min(self.tables);
            let entry = |table: u64| number(tables.saturating_add(table.saturating_mul(TABLE_SECTORS)));
            let mut bytes: Vec<u8> = (first..end).flat_map(|table| entry(table).to_le_bytes()).collect();
            bytes.resize(bytes.len().next_multiple_of(len(SECTOR)), 0);
            let at = sector.saturating_mul(SECTOR).saturating_add(first.saturating_mul(ENTRY));
            Write::Bytes(TargetOffset::new(at), vec![bytes.into()])
        });
        let grains_at = self.overhead();
        directory.chain(Tables { grains, grains_at, at: tables, next: 0, end: self.tables })
    }
}

/// The tables of a disk in order, generated lazily. Tables without a grain are zeros.
struct Tables {
    grains: Arc<UnitMap>,
    /// Sector of the first grain.
    grains_at: u64,
    /// Sector of the first table.
    at: u64,
    /// Index of the next table.
    next: u64,
    /// Index after the last table.
    end: u64,
}

impl Tables {
    /// The next table that names a grain.
    fn next_used(&self) -> u64 {
        let first = self.next.saturating_mul(TABLE_ENTRIES);
        let used = self.grains.runs_from(first).next().map(|(run, _)| run.start.max(first) / TABLE_ENTRIES);
        used.unwrap_or(self.end).min(self.end)
    }

    /// The bytes of the next tables, which all name grains.
    fn filled(&self) -> Vec<u8> {
        let first = self.next.saturating_mul(TABLE_ENTRIES);
        let most = self.next.saturating_add(TABLES_AT_ONCE).min(self.end).saturating_mul(TABLE_ENTRIES);
        let mut bytes = Vec::new();
        for (run, rank) in self.grains.runs_from(first) {
            let (start, end) = (run.start.max(first), run.end.min(most));
            let before = start.saturating_sub(first);
            // An empty table is next, or the write is full.
            if start >= end || (before / TABLE_ENTRIES).saturating_mul(TABLE) > bytes.len() as u64 {
                break;
            }
            bytes.resize(len(before.saturating_mul(ENTRY)), 0);
            for grain in start..end {
                let rank = rank.saturating_add(grain.saturating_sub(run.start));
                let sector = self.grains_at.saturating_add(rank.saturating_mul(GRAIN_SECTORS));
                bytes.extend(number(sector).to_le_bytes());
            }
            bytes.resize(bytes.len().next_multiple_of(len(TABLE)), 0);
        }
        bytes
    }
}

impl Iterator for Tables {
    type Item = Write;

    fn next(&mut self) -> Option<Write> {
        if self.next >= self.end {
            return None;
        }
        let place = |table: u64| at(self.at.saturating_add(table.saturating_mul(TABLE_SECTORS)));
        let (start, used) = (place(self.next), self.next_used());
        if used > self.next {
            let zeros = TargetRange::between(start, place(used));
            self.next = used;
            return Some(Write::Zero(zeros));
        }
        let bytes = self.filled();
        let tables = (bytes.len() as u64 / TABLE).max(1);
        self.next = self.next.saturating_add(tables);
        Some(Write::Bytes(start, vec![bytes.into()]))
    }
}

fn at(sector: u64) -> TargetOffset {
    TargetOffset::new(sector.saturating_mul(SECTOR))
}

/// The number of a sector as an entry. It always fits: larger disks were refused before.
fn number(sector: u64) -> u32 {
    u32::try_from(sector).unwrap_or(u32::MAX)
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

const _: () = assert!(GRAIN.is_multiple_of(SECTOR) && ENTRIES_AT_ONCE.is_multiple_of(SECTOR / ENTRY));

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The written sectors that are not zeros, by number. Every byte must be in exactly one write.
    fn written(front: Front, grains: &UnitMap) -> BTreeMap<u64, Vec<u8>> {
        let mut sectors = BTreeMap::new();
        let mut next = 0;
        for write in front.writes(ContentId([1; 16]), grains.clone()).unwrap() {
            match write {
                Write::Zero(range) => {
                    assert_eq!(range.start().get(), next);
                    next = range.end().get();
                }
                Write::Bytes(at, pieces) => {
                    assert_eq!(at.get(), next);
                    let bytes = pieces.concat();
                    assert!(bytes.len() <= 1 << 20, "{} bytes at once", bytes.len());
                    for (index, sector) in bytes.chunks(512).enumerate() {
                        assert_eq!(sector.len(), 512);
                        if sector.iter().any(|byte| *byte != 0) {
                            sectors.insert(next / SECTOR + index as u64, sector.to_vec());
                        }
                    }
                    next += bytes.len() as u64;
                }
            }
        }
        assert_eq!(next, front.grains_at());
        sectors
    }

    fn entry(sectors: &BTreeMap<u64, Vec<u8>>, sector: u64, index: u64) -> u64 {
        let Some(bytes) = sectors.get(&(sector + index / 128)) else { return 0 };
        let at = (index % 128) as usize * 4;
        u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
    }

    #[test]
    fn tables_name_exactly_the_allocated_grains() {
        // More tables than one write holds, tables shared by several runs, empty tables, and the last table.
        let capacity = 40_000 * 512 - 7;
        let runs = [
            0..1,
            3..9,
            500..512,
            600..601,
            2048..2050,
            9000..200_000,
            200_001..200_002,
            capacity - 1..capacity,
        ];
        let mut grains = UnitMap::new(GRAIN);
        runs.iter().cloned().for_each(|run| grains.add_units(run).unwrap());
        let front = Front::new(Sectors(capacity * GRAIN_SECTORS));
        let sectors = written(front, &grains);
        for copy in [REDUNDANT_AT, front.second()] {
            let mut found = 0;
            for table in 0..front.tables {
                let at = entry(&sectors, copy, table);
                assert_eq!(at, copy + front.directory + table * TABLE_SECTORS);
                // Empty tables, which are the majority, are not checked entry by entry.
                if (at..at + TABLE_SECTORS).all(|sector| !sectors.contains_key(&sector)) {
                    assert!(
                        !grains.runs().any(|run| run.start / 512 <= table && table <= (run.end - 1) / 512)
                    );
                    continue;
                }
                for slot in 0..TABLE_ENTRIES {
                    let rank = grains.rank(table * TABLE_ENTRIES + slot);
                    let expected = rank.map_or(0, |rank| front.grains_at() / SECTOR + rank * GRAIN_SECTORS);
                    assert_eq!(entry(&sectors, at, slot), expected, "table {table}, entry {slot}");
                    found += u64::from(expected > 0);
                }
            }
            assert_eq!(found, grains.count());
        }
    }

    #[test]
    fn a_directory_of_any_length_is_written_in_pieces() {
        // 5 TiB, with a grain in the last table.
        let count = 5u64 << 24;
        let front = Front::new(Sectors(count * GRAIN_SECTORS));
        let mut grains = UnitMap::new(GRAIN);
        grains.add_units(count - 1..count).unwrap();
        let sectors = written(front, &grains);
        assert!(front.tables > ENTRIES_AT_ONCE);
        for copy in [REDUNDANT_AT, front.second()] {
            let last = entry(&sectors, copy, front.tables - 1);
            assert_eq!(last, copy + front.directory + (front.tables - 1) * TABLE_SECTORS);
            assert_eq!(entry(&sectors, last, 511), front.grains_at() / SECTOR);
            assert_eq!(entry(&sectors, last, 510), 0);
        }
    }

    #[test]
    fn the_metadata_of_the_largest_disk_is_addressable() {
        let front = Front::new(Sectors(u64::from(u32::MAX) * GRAIN_SECTORS));
        assert!(front.overhead() < u64::from(u32::MAX));
    }
}

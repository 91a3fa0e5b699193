//! What stands in front of the grains of a monolithicSparse image: header, descriptor, and twice a directory with all its
//! tables.
//!
//! ```text
//! header │ descriptor │ redundant directory │ its tables │ directory │ its tables │ zeros up to a grain │ grains
//! sector 0   1          21
//! ```
//!
//! Every table of the disk has its room and its entry in the directory, whether it holds a grain or not. It could be left
//! out: readers take an entry of 0 for 32 MiB of nothing. But the disk is there to be written to, and writers expect its
//! tables: VMware's tools make all of them when they create a disk, and qemu, on writing where there is none,
//! writes to nowhere. What they cost are zeros, 128 KiB a GiB of disk: holes in a file, and in an object the
//! hundredth part of a percent.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::address::{TargetOffset, TargetRange};
use diskferry_core::error::Result;
use diskferry_core::target::{Write, Writes};
use diskferry_core::units::UnitMap;

use super::super::header::{DirectoryAt, Grains, SECTOR, Sectors, SparseHeader};
use super::descriptor::{Kind, descriptor};
use super::disk::{
    ContentId, DESCRIPTOR_AT, DESCRIPTOR_SECTORS, ENTRY, GRAIN, GRAIN_SECTORS, TABLE, TABLE_ENTRIES,
    TABLE_SECTORS,
};

/// What the descriptor says.
const KIND: Kind = Kind { create_type: "monolithicSparse", access: "RW", file: "disk.vmdk" };
/// Where the redundant directory begins, in sectors.
const REDUNDANT_AT: u64 = DESCRIPTOR_AT + DESCRIPTOR_SECTORS;
/// Most tables that one write holds: 512 KiB.
const TABLES_AT_ONCE: u64 = 256;
/// Most entries of a directory that one write holds: 512 KiB.
const ENTRIES_AT_ONCE: u64 = 1 << 17;

/// The measures of what stands in front, of a disk whose size was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    capacity: Sectors,
    tables: u64,
    /// Sectors of a directory.
    directory: u64,
}

impl Front {
    /// Of a disk of `capacity`.
    pub(super) fn new(capacity: Sectors) -> Self {
        let tables = capacity.0.div_ceil(GRAIN_SECTORS).div_ceil(TABLE_ENTRIES);
        Self { capacity, tables, directory: tables.saturating_mul(ENTRY).div_ceil(SECTOR) }
    }

    /// Sector of the directory, the second of the two.
    fn second(&self) -> u64 {
        REDUNDANT_AT.saturating_add(self.directory).saturating_add(self.tables.saturating_mul(TABLE_SECTORS))
    }

    /// Sector behind the tables.
    fn used(&self) -> u64 {
        self.second().saturating_add(self.second().saturating_sub(REDUNDANT_AT))
    }

    /// Sector of the first grain: a multiple of a grain's.
    fn overhead(&self) -> u64 {
        self.used().checked_next_multiple_of(GRAIN_SECTORS).unwrap_or(u64::MAX)
    }

    /// Address of the first grain, in bytes.
    pub(super) fn grains_at(&self) -> u64 {
        self.overhead().saturating_mul(SECTOR)
    }

    /// All that stands in front, in its order; `grains` are those that there are, which lie one behind the other.
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

    /// A directory at `sector`, and its tables behind it.
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

/// The tables of a disk in their order, made as they are taken; those without a grain are zeros.
struct Tables {
    grains: Arc<UnitMap>,
    /// Sector of the first grain.
    grains_at: u64,
    /// Sector of the first table.
    at: u64,
    /// Index of the next table.
    next: u64,
    /// Behind the last.
    end: u64,
}

impl Tables {
    /// The next table that holds a grain.
    fn next_used(&self) -> u64 {
        let first = self.next.saturating_mul(TABLE_ENTRIES);
        let used = self.grains.runs_from(first).next().map(|(run, _)| run.start.max(first) / TABLE_ENTRIES);
        used.unwrap_or(self.end).min(self.end)
    }

    /// The bytes of the next tables, which all hold grains.
    fn filled(&self) -> Vec<u8> {
        let first = self.next.saturating_mul(TABLE_ENTRIES);
        let most = self.next.saturating_add(TABLES_AT_ONCE).min(self.end).saturating_mul(TABLE_ENTRIES);
        let mut bytes = Vec::new();
        for (run, rank) in self.grains.runs_from(first) {
            let (start, end) = (run.start.max(first), run.end.min(most));
            let before = start.saturating_sub(first);
            // A table without grains lies between, or enough is there.
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

/// The number of a sector as an entry has it. All were checked to fit before: [`Layout`](super::plain::PlainLayout) refuses a
/// disk or a grain whose sector would not.
fn number(sector: u64) -> u32 {
    u32::try_from(sector).unwrap_or(u32::MAX)
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

const _: () = assert!(GRAIN.is_multiple_of(SECTOR) && ENTRIES_AT_ONCE.is_multiple_of(SECTOR / ENTRY));

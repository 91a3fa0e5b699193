//! The partition table of the master boot record, and its chain of extended boot records.
//!
//! ```text
//! LBA 0   MBR ── entry 1 ─────────▶ partition 1
//!             ── entry 2 (0x05) ──▶ EBR ── entry 1 ──▶ partition 5     starts are relative to this EBR
//!                                       ── entry 2 ──▶ EBR ── …       starts are relative to the first EBR
//! ```
//!
//! There is no standard. The layout dates from PC DOS 2.0. Extended boot records are parsed as in Linux
//! (`block/partitions/msdos.c`) and util-linux. All numbers are little-endian sectors of 32 bits.

use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U16, U32};

/// Length of the record in bytes, whatever the sector size.
pub(super) const RECORD_BYTES: u64 = 512;

/// The most logical partitions that are listed. Linux has device numbers for 256 partitions of a disk, and fdisk
/// creates at most 60. The limit also bounds the reads, because each record is only known from the one before.
pub(super) const MOST_LOGICAL: usize = 128;

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEntry {
    boot: u8,
    first_chs: [u8; 3],
    kind: u8,
    last_chs: [u8; 3],
    start: U32<LE>,
    sectors: U32<LE>,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRecord {
    code: [u8; 446],
    entries: [RawEntry; 4],
    signature: U16<LE>,
}

const _: () = assert!(size_of::<RawEntry>() == 16);
const _: () = assert!(size_of::<RawRecord>() as u64 == RECORD_BYTES);

/// One entry of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// The flag byte: 0x80 for the active partition, 0 for the others.
    pub(super) boot: u8,
    /// The type byte.
    pub(super) kind: u8,
    /// First sector. The caller knows what it is relative to.
    pub(super) start: u32,
    /// Number of sectors.
    pub(super) sectors: u32,
}

impl Entry {
    /// True if it describes no partition.
    pub(super) fn is_empty(self) -> bool {
        self.kind == 0 || self.sectors == 0
    }

    /// True for a container of logical partitions: DOS, Windows with LBA, Linux.
    pub(super) fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85) && self.sectors != 0
    }

    /// True for the protective entry of a GPT (UEFI 2.10, 5.2.3). Its size is ignored, because some tools write 0.
    pub(super) fn is_protective(self) -> bool {
        self.kind == 0xee
    }

    /// True for the active partition.
    pub(super) fn is_active(self) -> bool {
        self.boot == 0x80
    }
}

/// The four entries of an MBR or of an extended boot record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) entries: [Entry; 4],
}

impl Record {
    /// Parses a record from the first bytes of `sector`, or returns `None` if its signature is missing.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        let (raw, _) = RawRecord::ref_from_prefix(sector).ok()?;
        let entries = raw.entries.each_ref().map(|entry| Entry {
            boot: entry.boot,
            kind: entry.kind,
            start: entry.start.get(),
            sectors: entry.sectors.get(),
        });
        (raw.signature.get() == 0xaa55).then_some(Self { entries })
    }

    /// The first invalid flag byte, with the number of its entry. A sector with a signature and such a byte is boot
    /// code, not a table. Linux uses the same rule.
    pub(super) fn strange_flag(&self) -> Option<(usize, u8)> {
        let strange = |entry: &Entry| !matches!(entry.boot, 0 | 0x80);
        (1..).zip(&self.entries).find(|(_, entry)| strange(entry)).map(|(number, entry)| (number, entry.boot))
    }

    /// True if it has no partition at all.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| entry.is_empty() && !entry.is_protective())
    }

    /// True if the disk has a GPT.
    pub(super) fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_protective())
    }

    /// True if it is protective and also has other partitions.
    pub(super) fn is_hybrid(&self) -> bool {
        self.is_protective() && self.entries.iter().any(|entry| !entry.is_protective() && !entry.is_empty())
    }

    /// The logical partition of an extended boot record, relative to that record. Only the first two entries count;
    /// some systems leave stale data in the others.
    pub(super) fn logical(&self) -> Option<Entry> {
        self.entries.iter().take(2).copied().find(|entry| !entry.is_empty() && !entry.is_extended())
    }

    /// The link to the next extended boot record, relative to the first one.
    pub(super) fn link(&self) -> Option<Entry> {
        self.entries.iter().copied().find(|entry| entry.is_extended())
    }
}

/// The common use of a type byte: the usual subset of Andries Brouwer's list.
pub(super) fn kind_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x01 => "FAT12",
        0x04 | 0x06 | 0x0e => "FAT16",
        0x05 | 0x0f | 0x85 => "extended",
        0x07 => "NTFS/exFAT",
        0x0b | 0x0c => "FAT32",
        0x11 | 0x14 | 0x16 | 0x17 | 0x1b | 0x1c | 0x1e => "hidden",
        0x27 => "Windows recovery",
        0x42 => "Windows dynamic disk",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xa6 => "OpenBSD",
        0xa8 => "Darwin UFS",
        0xa9 => "NetBSD",
        0xaf => "HFS/HFS+",
        0x41 => "PReP boot",
        0xbe => "Solaris boot",
        0xbf => "Solaris",
        0xee => "GPT protective",
        0xef => "EFI system",
        0xfb => "VMware VMFS",
        0xfc => "VMware swap",
        0xfd => "Linux RAID",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(entries: &[[u8; 16]]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        for (index, entry) in entries.iter().enumerate() {
            sector[446 + 16 * index..462 + 16 * index].copy_from_slice(entry);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn a_record_without_signature_or_too_short_is_none() {
        assert_eq!(Record::parse(&[0; 512]), None);
        assert_eq!(Record::parse(&record(&[])[..511]), None);
        assert!(Record::parse(&record(&[])).unwrap().is_empty());
    }

    #[test]
    fn entries_are_read_little_endian() {
        let bytes = record(&[[0x80, 1, 2, 3, 0x83, 4, 5, 6, 0, 8, 0, 0, 1, 0, 0, 0x40]]);
        let record = Record::parse(&bytes).unwrap();
        let first = record.entries[0];
        assert_eq!(first, Entry { boot: 0x80, kind: 0x83, start: 2048, sectors: 0x4000_0001 });
        assert!(first.is_active() && !first.is_empty() && !record.is_protective());
        assert_eq!(record.strange_flag(), None);
    }

    #[test]
    fn boot_code_instead_of_a_table_is_detected() {
        let record = Record::parse(&record(&[[0; 16], [0x4e; 16]])).unwrap();
        assert_eq!(record.strange_flag(), Some((2, 0x4e)));
    }
}

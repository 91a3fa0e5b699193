//! The reported partitions and file systems of a disk.

use std::fmt;

use diskferry_core::Warning;

use super::gpt::{self, Guid};
use super::mbr;
use super::signature::FileSystem;

/// The result of [`inspect_disk`](crate::inspect_disk).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DiskContents {
    /// Which partition table the disk has; `None` if the disk cannot be read because it is refused.
    pub table: Option<PartitionTable>,
    /// Size in bytes of the sectors that the table counts: 512, or 4096 if the table is valid only with that. `None`
    /// without a table.
    pub sector_bytes: Option<u64>,
    /// The file system on the whole disk, if it has no partition table.
    pub filesystem: Option<FileSystem>,
    /// The partitions in the order of their index. Extended ones are listed too, before those that they contain.
    pub partitions: Vec<Partition>,
    /// The warnings, each code once: `partition_table_gpt`, `filesystem_unlisted`, `partition_beyond_end`,
    /// `partition_table_damaged`, `partition_table_hybrid`, `partition_table_none` and `partitions_overlap`.
    pub warnings: Vec<Warning>,
}

impl DiskContents {
    /// `mbr`, `gpt` or `none`; `None` if it is not known. This is `partition_table` in JSON.
    pub fn table_name(&self) -> Option<&'static str> {
        self.table.map(PartitionTable::name)
    }
}

/// A kind of partition table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PartitionTable {
    /// No known table.
    Absent,
    /// The table of the master boot record, with its extended partitions.
    Mbr,
    /// A GUID partition table. If the MBR says that there is a GPT and both copies are lost, the disk still counts as
    /// GPT: it then has no partitions, and `partition_table_damaged` says why.
    Gpt,
}

impl PartitionTable {
    /// The name in JSON: `none`, `mbr`, `gpt`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::Mbr => "mbr",
            Self::Gpt => "gpt",
        }
    }
}

impl fmt::Display for PartitionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A partition, as its table describes it. It may end beyond the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Partition {
    /// Its number as Linux counts: the entry of the table, from 1; logical partitions from 5, in the order of their
    /// chain.
    pub index: u32,
    /// Guest offset of its first byte; `u64::MAX` if the table has a larger one.
    pub start: u64,
    /// Its length in bytes; at most `u64::MAX`.
    pub bytes: u64,
    /// The type that the table gives.
    pub kind: PartitionType,
    /// The active flag of an MBR, or the attribute "legacy BIOS bootable" of a GPT.
    pub bootable: bool,
    /// Its file system; `None` if it is unknown, the partition is extended, or it starts beyond the disk.
    pub filesystem: Option<FileSystem>,
}

impl Partition {
    /// Guest offset after its last byte; at most `u64::MAX`.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// A partition type. It displays as its code and, for common types, a name: `0x83 Linux`,
/// `C12A7328-F81F-11D2-BA4B-00A0C93EC93B EFI system`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PartitionType {
    /// The type byte of an MBR.
    Mbr(u8),
    /// The type GUID of a GPT.
    Gpt(Guid),
}

impl PartitionType {
    /// The code alone: `0x83`, or the GUID in upper case.
    pub fn code(self) -> String {
        match self {
            Self::Mbr(kind) => format!("{kind:#04x}"),
            Self::Gpt(kind) => kind.to_string(),
        }
    }

    /// The name of a common type.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Mbr(kind) => mbr::kind_name(kind),
            Self::Gpt(kind) => gpt::kind_name(kind),
        }
    }

    /// True for the container of logical partitions.
    pub fn is_extended(self) -> bool {
        matches!(self, Self::Mbr(0x05 | 0x0f | 0x85))
    }

    /// True for the partition that UEFI boots from, which is FAT by its specification.
    pub fn is_efi_system(self) -> bool {
        self.name() == Some("EFI system")
    }

    /// True for types that have no file system by design.
    pub(super) fn holds_no_filesystem(self) -> bool {
        self.is_extended()
            || matches!(
                self.name(),
                Some("BIOS boot" | "PReP boot" | "Microsoft reserved" | "Linux reserved")
            )
    }
}

impl fmt::Display for PartitionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code())?;
        match self.name() {
            Some(name) => write!(f, " {name}"),
            None => Ok(()),
        }
    }
}

//! What a guest's disk holds, as far as its first sectors tell: the partition table and the file systems.
//!
//! `info`, `measure` and `convert` say it to the user, with a warning where the service that imports the disk would not
//! take it. Nothing of it decides about a single byte that is converted: a table that is damaged is a warning, and what
//! is not understood is left out.
//!
//! ```text
//! head of the disk (1 read) ──▶ mbr, gpt ──▶ partitions ──▶ start of each, and backup GPT (side by side) ──▶ signature
//!                                └─▶ extended boot records, one after the other
//! ```
//!
//! `mbr`, `gpt` and `signature` are pure; `walk` reads; `findings` are what becomes warnings.

mod findings;
mod gpt;
mod mbr;
mod signature;
#[cfg(test)]
mod tests;
mod walk;

use std::fmt;

use diskferry_core::{Disk, Result, Warning};

pub use gpt::Guid;
pub use signature::FileSystem;

/// What [`inspect`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Layout {
    /// Which partition table the disk has, or `None` where the disk cannot be read (it is refused).
    pub table: Option<Table>,
    /// Size of a sector in bytes as the table counts them: 512, or 4096 where only that makes sense of it. `None` without
    /// a table.
    pub sector_bytes: Option<u64>,
    /// What the disk holds as a whole, where it has no partition table.
    pub filesystem: Option<FileSystem>,
    /// The partitions in the order of their index; extended ones are listed too, before what they contain.
    pub partitions: Vec<Partition>,
    /// What is worth knowing, each code once: `partition_table_gpt`, `filesystem_unlisted`, `partition_beyond_end`,
    /// `partition_table_damaged`, `partition_table_hybrid`, `partition_table_none` and `partitions_overlap`.
    pub warnings: Vec<Warning>,
}

impl Layout {
    /// `mbr`, `gpt` or `none`, or `None` where it is not known: the `partition_table` of the JSON.
    pub fn table_name(&self) -> Option<&'static str> {
        self.table.map(Table::name)
    }
}

/// A kind of partition table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Table {
    /// None that is known.
    Absent,
    /// The table of the master boot record, with extended partitions where there are any.
    Mbr,
    /// A GUID partition table. A disk whose MBR says that a GPT is in charge counts as one also where both copies are
    /// gone: it has no partitions then, and `partition_table_damaged` says why.
    Gpt,
}

impl Table {
    /// The name as in JSON: `none`, `mbr`, `gpt`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::Mbr => "mbr",
            Self::Gpt => "gpt",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A partition, as its table states it: it may end beyond the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Partition {
    /// Its number as Linux counts: the entry of the table, from 1 on; logical partitions from 5 on, in the order of their
    /// chain.
    pub index: u32,
    /// Guest byte address of its first byte; `u64::MAX` where the table states more.
    pub start: u64,
    /// Its length in bytes; at most `u64::MAX`.
    pub bytes: u64,
    /// What the table says it is for.
    pub kind: PartitionType,
    /// The active flag of an MBR, or the attribute "legacy BIOS bootable" of a GPT.
    pub bootable: bool,
    /// What it holds, or `None` where nothing is recognised, it is extended, or its start lies beyond the disk.
    pub filesystem: Option<FileSystem>,
}

impl Partition {
    /// Guest byte address behind its last byte; at most `u64::MAX`.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// A partition type. Shown as its code and, where it is a common one, what that is for: `0x83 Linux`,
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

    /// What it is for, where it is a common one.
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

    /// True for those that hold no file system by design.
    fn holds_no_filesystem(self) -> bool {
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

/// Finds out which partition table and which file systems a disk has.
///
/// It reads the first 128 KiB, then the first 8 KiB of every partition (of the first 128) and the backup header of a GPT
/// side by side: two round trips. It takes one more for partitions that show nothing there, whose first 68 KiB are read
/// then, one for each extended boot record, and two where the primary GPT is damaged. Bytes that the image knows to be
/// zero cost nothing. A disk that is refused is not read: all is unknown then.
///
/// # Errors
/// Those of [`Disk::read`]: an image that contradicts its format where it is read, and the `source_*` codes. A
/// partition table that is damaged is no error but a warning.
pub async fn inspect(disk: &Disk) -> Result<Layout> {
    walk::inspect(disk).await
}

/// True where the first bytes of an object look like those of a disk: the boot signature, a GPT header, or a file system
/// at its usual place. 128 KiB are enough, fewer tell less.
pub fn looks_like_disk(head: &[u8]) -> bool {
    mbr::Record::parse(head).is_some() || gpt::has_primary(head) || signature::probe(head).is_some()
}

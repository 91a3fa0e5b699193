//! Collects the warnings about a disk.

use diskferry_core::Warning;

use super::contents::{DiskContents, Partition, PartitionTable};
use super::signature::FileSystem;

/// The most facts in one warning: a hostile table has thousands.
const MOST_NAMED: usize = 8;

/// Facts by code, in the order found. Each code becomes one warning with all its facts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Findings(Vec<(&'static str, Vec<String>)>);

impl Findings {
    /// A partition or a table ends beyond the disk.
    pub(super) fn beyond_end(&mut self, fact: impl Into<String>) {
        self.add("partition_beyond_end", fact);
    }

    /// A table contradicts itself.
    pub(super) fn damaged(&mut self, fact: impl Into<String>) {
        self.add("partition_table_damaged", fact);
    }

    /// Any other code.
    pub(super) fn add(&mut self, code: &'static str, fact: impl Into<String>) {
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, facts)) => facts.push(fact.into()),
            None => self.0.push((code, vec![fact.into()])),
        }
    }

    /// One warning per code.
    pub(super) fn into_warnings(self) -> Vec<Warning> {
        self.0.into_iter().map(|(code, facts)| Warning::new(code, sentence(code, &facts))).collect()
    }
}

fn sentence(code: &str, facts: &[String]) -> String {
    let named = facts.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = match facts.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let meaning = match code {
        "filesystem_unlisted" => ": the import service supports xfs, ext2, ext3, ext4 and NTFS",
        "partition_beyond_end" => ": the image is probably truncated",
        _ => "",
    };
    format!("{named}{more}{meaning}")
}

/// The content at the start of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// It was not read.
    Unread,
    /// Nothing but zeros: it was never formatted.
    Blank,
    /// Data that is not recognised.
    Strange,
    /// A known file system or other content.
    Known(FileSystem),
}

impl Content {
    pub(super) fn filesystem(self) -> Option<FileSystem> {
        match self {
            Self::Known(found) => Some(found),
            _ => None,
        }
    }
}

/// Adds the warnings about the layout. `contents` are the contents of its partitions, in order.
pub(super) fn check_contents(
    layout: &DiskContents,
    contents: &[Content],
    disk_bytes: u64,
    findings: &mut Findings,
) {
    match layout.table {
        Some(PartitionTable::Gpt) => {
            findings.add("partition_table_gpt", "the disk has a GPT and the import service requires an MBR");
        }
        Some(PartitionTable::Absent) => {
            if let Some(filesystem) = layout.filesystem {
                let fact = format!(
                    "the disk has no partition table but {} on the whole disk, and the import service requires an MBR",
                    filesystem.name()
                );
                findings.add("partition_table_none", fact);
                if unlisted(filesystem) {
                    findings.add("filesystem_unlisted", format!("the disk {}", holds(filesystem)));
                }
            }
        }
        Some(PartitionTable::Mbr) | None => {}
    }
    for (partition, content) in layout.partitions.iter().zip(contents) {
        if partition.end() > disk_bytes {
            findings.beyond_end(format!(
                "partition {} ends at byte {} and the disk at {disk_bytes}",
                partition.index,
                partition.end()
            ));
        }
        if let Some(fact) = unlisted_fact(partition, *content) {
            findings.add("filesystem_unlisted", fact);
        }
    }
    overlaps(&layout.partitions, findings);
}

/// Why a partition's content is not supported by the import service. There is no warning for swap, which is not a file
/// system; FAT on the EFI system partition, which must be FAT; partitions without a file system by design; unformatted
/// partitions; and partitions that were not read. Containers (LVM, LUKS, RAID) cause a warning.
fn unlisted_fact(partition: &Partition, content: Content) -> Option<String> {
    let index = partition.index;
    match content {
        Content::Unread | Content::Blank => None,
        Content::Strange if partition.kind.holds_no_filesystem() => None,
        Content::Strange => Some(format!("partition {index} has no known file system")),
        Content::Known(found) if found.is_fat() && partition.kind.is_efi_system() => None,
        Content::Known(found) => unlisted(found).then(|| format!("partition {index} {}", holds(found))),
    }
}

fn unlisted(filesystem: FileSystem) -> bool {
    !filesystem.is_listed() && filesystem != FileSystem::Swap
}

fn holds(filesystem: FileSystem) -> String {
    if filesystem.is_container() {
        format!("holds {}, whose content is not examined", filesystem.name())
    } else {
        format!("holds {}", filesystem.name())
    }
}

/// Partitions that share bytes, except a container and its contents.
fn overlaps(partitions: &[Partition], findings: &mut Findings) {
    let mut by_start: Vec<&Partition> =
        partitions.iter().filter(|partition| !partition.kind.is_extended() && partition.bytes != 0).collect();
    by_start.sort_by_key(|partition| (partition.start, partition.index));
    let mut furthest: Option<&Partition> = None;
    for partition in by_start {
        match furthest {
            Some(before) if before.end() > partition.start => {
                let fact = format!("partitions {} and {} overlap", before.index, partition.index);
                findings.add("partitions_overlap", fact);
                if partition.end() > before.end() {
                    furthest = Some(partition);
                }
            }
            _ => furthest = Some(partition),
        }
    }
}

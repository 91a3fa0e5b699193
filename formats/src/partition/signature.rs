//! Identifies the content of a volume by its signatures, each of which has its own offset.
//!
//! A volume may have stale signatures of an earlier content. So the order of the checks matters. Formats whose tools
//! clear the start of a volume come before formats that leave the start alone. Containers come before their contents,
//! and the weakest signature comes last. The content of a container (LVM, LUKS, RAID) is not examined.

use std::fmt;

use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U16, U32};

/// Bytes from the start of a volume that contain all signatures. The last is the superblock of btrfs at 64 KiB.
pub(super) const PROBE_BYTES: u64 = 68 << 10;

/// Bytes from the start of a volume that contain the most common signatures: those that the import service supports,
/// FAT, the usual swap, LVM, LUKS and RAID.
pub(super) const FIRST_BYTES: u64 = 8 << 10;

/// The content of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum FileSystem {
    /// ext2.
    Ext2,
    /// ext3: ext2 with a journal.
    Ext3,
    /// ext4: has a feature that ext3 does not have.
    Ext4,
    /// XFS.
    Xfs,
    /// NTFS.
    Ntfs,
    /// FAT with entries of 12 bits.
    Fat12,
    /// FAT with entries of 16 bits.
    Fat16,
    /// FAT with entries of 32 bits.
    Fat32,
    /// exFAT.
    ExFat,
    /// ReFS.
    Refs,
    /// BitLocker: an encrypted volume of Windows.
    BitLocker,
    /// btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// JFS.
    Jfs,
    /// ReiserFS.
    Reiserfs,
    /// A member of a ZFS pool.
    Zfs,
    /// SquashFS.
    Squashfs,
    /// ISO 9660.
    Iso9660,
    /// APFS.
    Apfs,
    /// HFS+.
    HfsPlus,
    /// Swap space of Linux.
    Swap,
    /// A physical volume of LVM2.
    Lvm2,
    /// A volume encrypted with LUKS.
    Luks,
    /// A member of a Linux software RAID.
    LinuxRaid,
}

impl FileSystem {
    /// Its stable name, as in the JSON of `info`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Ntfs => "ntfs",
            Self::Fat12 => "fat12",
            Self::Fat16 => "fat16",
            Self::Fat32 => "fat32",
            Self::ExFat => "exfat",
            Self::Refs => "refs",
            Self::BitLocker => "bitlocker",
            Self::Btrfs => "btrfs",
            Self::F2fs => "f2fs",
            Self::Jfs => "jfs",
            Self::Reiserfs => "reiserfs",
            Self::Zfs => "zfs",
            Self::Squashfs => "squashfs",
            Self::Iso9660 => "iso9660",
            Self::Apfs => "apfs",
            Self::HfsPlus => "hfsplus",
            Self::Swap => "swap",
            Self::Lvm2 => "lvm2",
            Self::Luks => "luks",
            Self::LinuxRaid => "linux_raid",
        }
    }

    /// True for those that the import service supports: xfs, ext2, ext3, ext4 and NTFS.
    pub const fn is_listed(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4 | Self::Xfs | Self::Ntfs)
    }

    /// True for FAT of any width.
    pub const fn is_fat(self) -> bool {
        matches!(self, Self::Fat12 | Self::Fat16 | Self::Fat32)
    }

    /// True if the first [`FIRST_BYTES`] are sufficient. A ZFS pool may leave an old boot sector of FAT.
    pub(super) const fn is_certain_early(self) -> bool {
        !self.is_fat()
    }

    /// True for containers, which hide their file systems.
    pub const fn is_container(self) -> bool {
        matches!(self, Self::Lvm2 | Self::Luks | Self::LinuxRaid | Self::BitLocker | Self::Zfs)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identifies the content of a volume from its first [`PROBE_BYTES`], or all bytes of a smaller one.
pub(super) fn probe(volume: &[u8]) -> Option<FileSystem> {
    strong(volume).or_else(|| boot_sector(volume)).or_else(|| weak(volume))
}

/// Identifies the DOS and Windows file systems from the boot sector, whose signature is the same as that of a partition
/// table. `None` for all others.
pub(super) fn boot_sector(volume: &[u8]) -> Option<FileSystem> {
    let named = |name: &[u8; 8]| has(volume, 3, name);
    if named(b"NTFS    ") {
        return Some(FileSystem::Ntfs);
    }
    if named(b"EXFAT   ") {
        return Some(FileSystem::ExFat);
    }
    if named(b"ReFS\0\0\0\0") {
        return Some(FileSystem::Refs);
    }
    if named(b"-FVE-FS-") {
        return Some(FileSystem::BitLocker);
    }
    fat(volume)
}

/// Signatures at the start of the volume, and containers.
fn strong(volume: &[u8]) -> Option<FileSystem> {
    if has(volume, 0, b"LUKS\xba\xbe") {
        return Some(FileSystem::Luks);
    }
    if has(volume, 0, b"XFSB") {
        return Some(FileSystem::Xfs);
    }
    if has(volume, 0, b"hsqs") {
        return Some(FileSystem::Squashfs);
    }
    // LVM2: the label is in one of the first four sectors, usually the second.
    if [0, 512, 1024, 1536]
        .iter()
        .any(|at| has(volume, *at, b"LABELONE") && has(volume, *at | 24, b"LVM2 001"))
    {
        return Some(FileSystem::Lvm2);
    }
    // Linux RAID, metadata 1.1 at the start and 1.2 at 4 KiB. Metadata 0.90 and 1.0 are at the end. Such a member of a
    // mirror is identified by the content of the mirror.
    if [0, 4096].iter().any(|at| has(volume, *at, b"\xfc\x4e\x2b\xa9\x01\0\0\0")) {
        return Some(FileSystem::LinuxRaid);
    }
    // ZFS: the configuration in the first label is an XDR name-value list that begins with the pair "version".
    if has(volume, 0x4000, b"\x01") && has(volume, 0x4014, b"\0\0\0\x07version") {
        return Some(FileSystem::Zfs);
    }
    None
}

/// Signatures that leave the boot sector unused.
fn weak(volume: &[u8]) -> Option<FileSystem> {
    if let Some(ext) = ext(volume) {
        return Some(ext);
    }
    let marks: [(usize, &[u8], FileSystem); 8] = [
        (32, b"NXSB", FileSystem::Apfs),
        (1024, b"\x10\x20\xf5\xf2", FileSystem::F2fs),
        (1024, b"H+\0\x04", FileSystem::HfsPlus),
        (1024, b"HX\0\x05", FileSystem::HfsPlus),
        (0x8000, b"JFS1", FileSystem::Jfs),
        (0x10034, b"ReIsEr", FileSystem::Reiserfs),
        (0x10040, b"_BHRfS_M", FileSystem::Btrfs),
        (0x8001, b"CD001", FileSystem::Iso9660),
    ];
    if let Some((.., found)) = marks.iter().find(|(at, mark, _)| has(volume, *at, mark)) {
        return Some(*found);
    }
    swap(volume).then_some(FileSystem::Swap)
}

/// Swap has its signature at the end of the first page. A page may be larger than 4 KiB. A hibernated system has
/// another signature there.
fn swap(volume: &[u8]) -> bool {
    let pages = [4096, 8192, 16384, 32768, 65536];
    let marks: [&[u8]; 6] =
        [b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
    pages
        .iter()
        .filter_map(|page: &usize| page.checked_sub(10))
        .any(|at| marks.iter().any(|mark| has(volume, at, mark)))
}

/// The part of the superblock that distinguishes ext2, ext3 and ext4. Source: Linux, `fs/ext4/ext4.h`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ExtSuperblock {
    inodes: U32<LE>,
    blocks: U32<LE>,
    before_block_size: [u8; 16],
    log_block_size: U32<LE>,
    before_magic: [u8; 28],
    magic: U16<LE>,
    before_features: [u8; 34],
    compatible: U32<LE>,
    incompatible: U32<LE>,
    read_only_compatible: U32<LE>,
}

const _: () = assert!(size_of::<ExtSuperblock>() == 0x68);

fn ext(volume: &[u8]) -> Option<FileSystem> {
    const HAS_JOURNAL: u32 = 0x4;
    const FILETYPE: u32 = 0x2;
    const RECOVER: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    const META_BG: u32 = 0x10;
    const SPARSE_LARGE_BTREE: u32 = 0x7;

    let (raw, _) = ExtSuperblock::ref_from_prefix(volume.get(1024..)?).ok()?;
    let incompatible = raw.incompatible.get();
    // A block has at most 64 KiB. A device with only a journal is not a file system.
    if raw.magic.get() != 0xef53
        || raw.inodes.get() == 0
        || raw.log_block_size.get() > 6
        || incompatible & JOURNAL_DEVICE != 0
    {
        return None;
    }
    let journal = raw.compatible.get() & HAS_JOURNAL != 0;
    let beyond_ext3 = incompatible & !(FILETYPE | RECOVER | META_BG) != 0
        || raw.read_only_compatible.get() & !SPARSE_LARGE_BTREE != 0;
    Some(match (beyond_ext3, journal) {
        (true, _) => FileSystem::Ext4,
        (false, true) => FileSystem::Ext3,
        (false, false) => FileSystem::Ext2,
    })
}

/// The boot sector of FAT. Source: Microsoft, "FAT32 File System Specification" 1.03, "Boot Sector and BPB".
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FatBootSector {
    jump: [u8; 3],
    oem_name: [u8; 8],
    sector_bytes: U16<LE>,
    cluster_sectors: u8,
    reserved_sectors: U16<LE>,
    fats: u8,
    root_entries: U16<LE>,
    sectors_16: U16<LE>,
    media: u8,
    fat_sectors_16: U16<LE>,
    geometry: [u8; 4],
    hidden_sectors: U32<LE>,
    sectors_32: U32<LE>,
    fat_sectors_32: U32<LE>,
}

const _: () = assert!(size_of::<FatBootSector>() == 40);

fn fat(volume: &[u8]) -> Option<FileSystem> {
    let (raw, _) = FatBootSector::ref_from_prefix(volume).ok()?;
    let sector_bytes = u64::from(raw.sector_bytes.get());
    let plausible = matches!(raw.jump, [0xeb, _, 0x90] | [0xe9, _, _])
        && matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
        && raw.cluster_sectors.is_power_of_two()
        && raw.reserved_sectors.get() != 0
        && matches!(raw.fats, 1 | 2)
        && (raw.media == 0xf0 || raw.media >= 0xf8);
    let either = |narrow: U16<LE>, wide: U32<LE>| match narrow.get() {
        0 => u64::from(wide.get()),
        narrow => u64::from(narrow),
    };
    let sectors = either(raw.sectors_16, raw.sectors_32);
    let fat_sectors = either(raw.fat_sectors_16, raw.fat_sectors_32);
    if !plausible || sectors == 0 || fat_sectors == 0 {
        return None;
    }
    if raw.fat_sectors_16.get() == 0 {
        return Some(FileSystem::Fat32);
    }
    let root_sectors = u64::from(raw.root_entries.get()).saturating_mul(32).div_ceil(sector_bytes);
    let tables = u64::from(raw.fats).saturating_mul(fat_sectors);
    let data = sectors.checked_sub(u64::from(raw.reserved_sectors.get()).saturating_add(tables))?;
    let clusters = data.checked_sub(root_sectors)?.checked_div(u64::from(raw.cluster_sectors))?;
    Some(if clusters < 4085 { FileSystem::Fat12 } else { FileSystem::Fat16 })
}

fn has(volume: &[u8], at: usize, mark: &[u8]) -> bool {
    volume.get(at..).is_some_and(|rest| rest.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset and bytes of a signature.
    type Mark<'a> = (usize, &'a [u8]);

    fn volume(marks: &[Mark<'_>]) -> Vec<u8> {
        let mut bytes = vec![0; PROBE_BYTES as usize];
        for (at, mark) in marks {
            bytes[*at..*at + mark.len()].copy_from_slice(mark);
        }
        bytes
    }

    /// Formats for which no tool is installed. The tests of `inspect` use the tools of the others.
    #[test]
    fn formats_without_a_tool_are_identified_by_their_bytes() {
        let cases: [(&[Mark<'_>], FileSystem); 8] = [
            (&[(3, b"ReFS\0\0\0\0")], FileSystem::Refs),
            (&[(3, b"-FVE-FS-")], FileSystem::BitLocker),
            (&[(0x4000, b"\x01\x01"), (0x4014, b"\0\0\0\x07version")], FileSystem::Zfs),
            (&[(32, b"NXSB")], FileSystem::Apfs),
            (&[(1024, b"H+\0\x04")], FileSystem::HfsPlus),
            (&[(0x8000, b"JFS1")], FileSystem::Jfs),
            (&[(0x10034, b"ReIsEr2Fs")], FileSystem::Reiserfs),
            (&[(65526, b"SWAPSPACE2")], FileSystem::Swap),
        ];
        for (marks, expected) in cases {
            assert_eq!(probe(&volume(marks)), Some(expected));
        }
    }

    #[test]
    fn a_short_or_empty_volume_has_no_content() {
        assert_eq!(probe(&[]), None);
        assert_eq!(probe(&[0; 100]), None);
        assert_eq!(probe(&volume(&[])), None);
        assert_eq!(probe(&volume(&[])[..1100]), None);
        assert_eq!(
            probe(&volume(&[(510, b"\x55\xaa")])),
            None,
            "a boot signature alone is not a file system"
        );
    }

    #[test]
    fn an_impossible_fat_is_not_identified() {
        let sector: &[u8] = b"\xeb\x3c\x90mkfs.fat\0\x02\x04\x04\0\x02\0\x02\0\x10\xf8\x01\0";
        assert_eq!(probe(&volume(&[(0, sector)])), Some(FileSystem::Fat12));
        assert_eq!(probe(&volume(&[(0, sector), (22, b"\xff\xff")])), None, "tables longer than the volume");
        assert_eq!(probe(&volume(&[(0, sector), (13, b"\0")])), None, "no sectors in a cluster");
        assert_eq!(probe(&volume(&[(0, sector), (16, b"\0")])), None, "no table");
    }

    #[test]
    fn the_newer_of_two_signatures_wins() {
        let sector: &[u8] = b"\xeb\x3c\x90mkfs.fat\0\x02\x04\x04\0\x02\0\x02\0\x10\xf8\x01\0";
        let ext: &[u8] = b"\x53\xef";
        let marks: [Mark<'_>; 3] = [(0, sector), (1024, b"\x01"), (1080, ext)];
        assert_eq!(
            probe(&volume(&marks)),
            Some(FileSystem::Fat12),
            "mke2fs would have cleared the boot sector"
        );
        assert_eq!(probe(&volume(&marks[1..])), Some(FileSystem::Ext2));
    }
}

//! Tables and file systems created by real tools, compared with the results of other tools.

use diskferry_core::internal::{Failing, Recording};
use diskferry_core::{ErrorKind, GuestOffset, GuestRange, ImageInfo, Refusal, Warnings};

use super::*;
use crate::partition::{FileSystem, PartitionTable, looks_like_disk, signature};

const MIB: u64 = 1 << 20;

/// blkid's name for the identified content.
fn blkid_name(filesystem: FileSystem) -> &'static str {
    match filesystem {
        FileSystem::Fat12 | FileSystem::Fat16 | FileSystem::Fat32 => "vfat",
        FileSystem::Luks => "crypto_LUKS",
        other => other.name(),
    }
}

#[test]
fn every_file_system_is_identified_as_by_blkid() {
    use FileSystem::*;
    let cases: [(FileSystem, u64, &str, &[&str]); 24] = [
        (Ext2, 8, "mkfs.ext2", &["-q", "-F", "FILE"]),
        (Ext3, 8, "mkfs.ext3", &["-q", "-F", "FILE"]),
        (Ext4, 8, "mkfs.ext4", &["-q", "-F", "FILE"]),
        (Ext4, 8, "mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "FILE"]),
        (Ext4, 72, "mkfs.ext4", &["-q", "-F", "-b", "4096", "-O", "64bit,metadata_csum", "FILE"]),
        (Xfs, 320, "mkfs.xfs", &["-q", "-f", "FILE"]),
        (Xfs, 320, "mkfs.xfs", &["-q", "-f", "-m", "crc=0", "FILE"]),
        (Ntfs, 8, "mkfs.ntfs", &["-q", "-F", "-f", "FILE"]),
        (Ntfs, 8, "mkfs.ntfs", &["-q", "-F", "-f", "-s", "4096", "-c", "4096", "FILE"]),
        (Fat12, 1, "mkfs.vfat", &["FILE"]),
        (Fat12, 8, "mkfs.vfat", &["-F", "12", "FILE"]),
        (Fat16, 32, "mkfs.vfat", &["-F", "16", "FILE"]),
        (Fat32, 40, "mkfs.vfat", &["-F", "32", "FILE"]),
        (Fat32, 320, "mkfs.vfat", &["-F", "32", "-S", "4096", "FILE"]),
        (ExFat, 8, "mkfs.exfat", &["FILE"]),
        (Btrfs, 128, "mkfs.btrfs", &["-q", "FILE"]),
        (F2fs, 64, "mkfs.f2fs", &["-q", "-f", "FILE"]),
        (Squashfs, 1, "mksquashfs", &["SEED", "FILE", "-noappend", "-quiet"]),
        (Iso9660, 1, "genisoimage", &["-quiet", "-o", "FILE", "SEED"]),
        (Swap, 8, "mkswap", &["-q", "FILE"]),
        (Swap, 8, "mkswap", &["-q", "-p", "16384", "FILE"]),
        (Swap, 8, "mkswap", &["-q", "-p", "65536", "FILE"]),
        (
            Luks,
            32,
            "cryptsetup",
            &["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "FILE", "SEED"],
        ),
        (
            Luks,
            32,
            "cryptsetup",
            &[
                "luksFormat",
                "-q",
                "--type",
                "luks2",
                "--pbkdf",
                "pbkdf2",
                "--pbkdf-force-iterations",
                "1000",
                "FILE",
                "SEED",
            ],
        ),
    ];
    for (expected, mib, tool, arguments) in cases {
        let image = format_image(mib, tool, arguments);
        let bytes = image.bytes();
        let found = signature::probe(&bytes[..bytes.len().min(signature::PROBE_BYTES as usize)]);
        assert_eq!(found, Some(expected), "{tool} {arguments:?}");
        let blkid = run("blkid", &["-p", "-o", "value", "-s", "TYPE", image.name()], "");
        assert_eq!(blkid.trim(), blkid_name(expected), "{tool} {arguments:?}");
        let layout = image.inspect_disk();
        assert_eq!((layout.table_name(), layout.filesystem), (Some("none"), Some(expected)), "{tool}");
        assert!(looks_like_disk(&bytes[..bytes.len().min(128 << 10)]), "{tool}");
        let expected_codes: &[&str] = match expected {
            listed if listed.is_listed() || listed == Swap => &["partition_table_none"],
            _ => &["partition_table_none", "filesystem_unlisted"],
        };
        assert_eq!(codes(&layout), expected_codes, "{tool}");
    }
}

/// The tools for these need a block device, so they are built by hand, with the checksum that blkid requires.
#[test]
fn members_of_lvm_and_raid_are_identified_as_by_blkid() {
    let mut label = [0; 512];
    label[..9].copy_from_slice(b"LABELONE\x01");
    label[20..32].copy_from_slice(b"\x20\0\0\0LVM2 001");
    label[32..64].fill(b'x');
    // LVM's CRC has its own initial value and is not inverted.
    let mut crc = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    crc.update(&label[20..]);
    label[16..20].copy_from_slice(&(!crc.finalize()).to_le_bytes());
    let mut superblock = [0; 256];
    superblock[..8].copy_from_slice(b"\xfc\x4e\x2b\xa9\x01\0\0\0");
    superblock[144] = 8;
    // The sum of all words except the checksum itself.
    let words =
        superblock.chunks_exact(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())));
    let sum: u64 = words.sum();
    superblock[216..220].copy_from_slice(&(((sum & 0xffff_ffff) + (sum >> 32)) as u32).to_le_bytes());
    let cases: [(u64, &[u8], FileSystem, &str); 2] = [
        (512, &label, FileSystem::Lvm2, "LVM2_member"),
        (4096, &superblock, FileSystem::LinuxRaid, "linux_raid_member"),
    ];
    for (at, bytes, expected, theirs) in cases {
        let image = Image::new(8 * MIB);
        image.write(at, bytes);
        let blkid = run("blkid", &["-p", "-o", "value", "-s", "TYPE", image.name()], "");
        assert_eq!((blkid.trim(), image.inspect_disk().filesystem), (theirs, Some(expected)));
    }
}

/// Four partitions of an MBR, one of them extended, with three logical ones.
fn dos() -> Image {
    let image = Image::new(512 * MIB);
    let script = "label: dos
start=2048, size=655360, type=83, bootable
start=657408, size=16384, type=82
start=673792, size=16384, type=7
start=690176, type=f
start=692224, size=16384, type=83
start=710656, size=16384, type=8e
start=729088, size=81920, type=c
";
    image.partition(512, script);
    image
}

#[test]
fn an_mbr_with_logical_partitions_matches_fdisk() {
    let image = dos();
    image.write(2048 * 512, &xfs());
    image.write(657_408 * 512, &swap());
    image.write(673_792 * 512, &formatted(8, "mkfs.ntfs", &["-q", "-F", "-f", "FILE"]));
    image.write(692_224 * 512, &ext4());
    let layout = image.inspect_disk();
    assert_eq!(
        (layout.table, layout.sector_bytes, layout.filesystem),
        (Some(PartitionTable::Mbr), Some(512), None)
    );
    let theirs = image.fdisk(512);
    assert_eq!(theirs.len(), 7);
    assert_eq!(as_fdisk(&layout), theirs);
    assert_eq!(filesystems(&layout), ["xfs", "swap", "ntfs", "-", "ext4", "-", "-"]);
    assert_eq!(layout.partitions[0].kind.to_string(), "0x83 Linux");
    assert_eq!(codes(&layout), [""; 0], "{:?}", layout.warnings);
}

#[test]
fn contents_that_the_service_does_not_support_cause_a_warning() {
    let image = dos();
    image.write(2048 * 512, &formatted(128, "mkfs.btrfs", &["-q", "FILE"]));
    image.write(673_792 * 512, b"something of its own");
    image.write(710_656 * 512 + 512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
    image.write(729_088 * 512, &fat());
    let layout = image.inspect_disk();
    assert_eq!(filesystems(&layout), ["btrfs", "-", "-", "-", "-", "lvm2", "fat32"]);
    assert_eq!(codes(&layout), ["filesystem_unlisted"]);
    assert_eq!(
        message(&layout, "filesystem_unlisted"),
        "partition 1 holds btrfs; partition 3 has no known file system; partition 6 holds lvm2, whose \
         content is not examined; partition 7 holds fat32: the import service supports xfs, ext2, ext3, ext4 and NTFS"
    );
}

/// A GPT with an EFI system partition, a BIOS boot partition, and a root.
fn gpt() -> Image {
    let image = Image::new(80 * MIB);
    let new = ["-n", "1:2048:83967", "-t", "1:ef00", "-n", "2:83968:86015", "-t", "2:ef02"];
    let root = ["-n", "5:86016:0", "-t", "5:8300", "-A", "5:set:2", image.name()];
    run("sgdisk", &[&new[..], &root[..]].concat(), "");
    image.write(2048 * 512, &fat());
    image.write(83_968 * 512, b"the second stage of a boot loader");
    image.write(86_016 * 512, &ext4());
    image
}

#[test]
fn a_gpt_matches_fdisk() {
    let image = gpt();
    let layout = image.inspect_disk();
    assert_eq!((layout.table, layout.sector_bytes), (Some(PartitionTable::Gpt), Some(512)));
    assert_eq!(as_fdisk(&layout), image.fdisk(512));
    assert_eq!(filesystems(&layout), ["fat32", "-", "ext4"]);
    assert_eq!(layout.partitions[2].index, 5);
    assert!(layout.partitions[2].bootable);
    assert_eq!(layout.partitions[0].kind.to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B EFI system");
    assert_eq!(codes(&layout), ["partition_table_gpt"]);
}

#[test]
fn sectors_of_4096_bytes_show_in_a_gpt() {
    let image = Image::new(64 * MIB);
    image.partition(4096, "label: gpt\nstart=256, size=2048\nstart=2304\n");
    image.write(256 * 4096, &ext4());
    let layout = image.inspect_disk();
    assert_eq!((layout.table, layout.sector_bytes), (Some(PartitionTable::Gpt), Some(4096)));
    assert_eq!(as_fdisk(&layout), image.fdisk(4096));
    assert_eq!(filesystems(&layout), ["ext4", "-"]);
    assert_eq!(codes(&layout), ["partition_table_gpt"]);
}

#[test]
fn sectors_of_4096_bytes_show_in_an_mbr_by_what_lies_there() {
    let image = Image::new(128 * MIB);
    let script =
        "label: dos\nstart=256, size=4096, type=83\nstart=8192, type=5\nstart=8448, size=2048, type=83\n";
    image.partition(4096, script);
    assert_eq!(image.inspect_disk().sector_bytes, Some(512), "no content shows the sector size yet");
    image.write(8448 * 4096, &ext4());
    let layout = image.inspect_disk();
    assert_eq!((layout.table, layout.sector_bytes), (Some(PartitionTable::Mbr), Some(4096)));
    assert_eq!(as_fdisk(&layout), image.fdisk(4096));
    assert_eq!(filesystems(&layout), ["-", "-", "ext4"]);
    assert_eq!(codes(&layout), [""; 0]);
}

#[test]
fn a_damaged_primary_gpt_is_replaced_by_its_backup() {
    let whole = gpt().inspect_disk();
    // Each is an offset in the primary: its signature, its header, its entries.
    for at in [512, 512 + 40, 1024 + 5] {
        let image = gpt();
        image.write(at, &[0xa5]);
        let layout = image.inspect_disk();
        assert_eq!(as_fdisk(&layout), as_fdisk(&whole), "byte {at}");
        assert_eq!(codes(&layout), ["partition_table_damaged", "partition_table_gpt"], "byte {at}");
        assert!(message(&layout, "partition_table_damaged").contains("its backup in sector 163839 is used"));
    }
}

#[test]
fn a_damaged_backup_gpt_is_a_warning() {
    let image = gpt();
    image.write(80 * MIB - 512 + 20, &[0xa5]);
    let layout = image.inspect_disk();
    assert_eq!(layout.partitions, gpt().inspect_disk().partitions);
    assert_eq!(codes(&layout), ["partition_table_damaged", "partition_table_gpt"]);
    image.write(80 * MIB - 512, &[0]);
    assert!(
        message(&image.inspect_disk(), "partition_table_damaged").contains("no backup GPT in sector 163839")
    );
}

#[test]
fn a_gpt_without_a_valid_copy_has_no_partitions() {
    let image = gpt();
    image.write(512, &[0; 512]);
    image.write(80 * MIB - 512, &[0; 512]);
    let layout = image.inspect_disk();
    assert_eq!((layout.table_name(), layout.partitions.len()), (Some("gpt"), 0));
    assert_eq!(codes(&layout), ["partition_table_damaged", "partition_table_gpt"]);
}

#[test]
fn a_gpt_without_protective_mbr_is_read_with_a_warning() {
    let image = gpt();
    image.write(0, &[0; 512]);
    let layout = image.inspect_disk();
    assert_eq!((layout.table_name(), layout.partitions.len()), (Some("gpt"), 3));
    assert!(message(&layout, "partition_table_damaged").contains("no protective MBR"));
}

#[test]
fn a_hybrid_mbr_does_not_replace_the_gpt() {
    let image = gpt();
    run("sgdisk", &["-h", "5", image.name()], "");
    let layout = image.inspect_disk();
    assert_eq!((layout.table_name(), layout.partitions.len()), (Some("gpt"), 3));
    assert_eq!(codes(&layout), ["partition_table_hybrid", "partition_table_gpt"]);
}

#[test]
fn an_mbr_over_a_stale_gpt_is_used() {
    let image = gpt();
    let sector = dos().bytes()[..512].to_vec();
    image.write(0, &sector);
    assert_eq!(image.inspect_disk().table_name(), Some("mbr"));
}

#[test]
fn a_truncated_disk_is_detected_by_its_table() {
    let image = dos();
    image.cut(340 * MIB);
    let layout = image.inspect_disk();
    assert_eq!(codes(&layout), ["partition_beyond_end"], "{:?}", layout.warnings);
    let expected = "partition 4 ends at byte 536870912 and the disk at 356515840";
    assert!(message(&layout, "partition_beyond_end").contains(expected), "{:?}", layout.warnings);
    let image = gpt();
    image.cut(60 * MIB);
    let layout = image.inspect_disk();
    assert_eq!(codes(&layout), ["partition_beyond_end", "partition_table_gpt"]);
    assert!(message(&layout, "partition_beyond_end").starts_with("the GPT ends at byte 83886080"));
    assert!(message(&layout, "partition_beyond_end").contains("partition 5 ends at byte"));
    let image = gpt();
    image.cut(80 * MIB - 512);
    assert!(codes(&image.inspect_disk()).contains(&"partition_beyond_end"), "one sector is enough");
}

#[test]
fn a_disk_larger_than_its_gpt_is_not_truncated() {
    let image = gpt();
    image.cut(200 * MIB);
    assert_eq!(codes(&image.inspect_disk()), ["partition_table_gpt"]);
}

#[test]
fn an_empty_disk_has_no_warnings() {
    for bytes in [0, 1, 511, 512, 1 << 20] {
        let layout = inspect_bytes(vec![0; bytes]);
        assert_eq!((layout.table_name(), layout.filesystem, layout.warnings.len()), (Some("none"), None, 0));
    }
    let image = Image::new(MIB);
    image.partition(512, "label: dos\n");
    let layout = image.inspect_disk();
    assert_eq!((layout.table_name(), layout.partitions.len(), layout.warnings.len()), (Some("mbr"), 0, 0));
    assert!(looks_like_disk(&image.bytes()));
    assert!(!looks_like_disk(&[0; 4096]));
}

#[test]
fn an_unused_extended_partition_is_not_damage() {
    let image = Image::new(8 * MIB);
    image.partition(512, "label: dos\nstart=2048, type=5\n");
    assert_eq!(codes(&image.inspect_disk()), [""; 0]);
    image.write(MIB, &[0; 512]);
    assert_eq!(codes(&image.inspect_disk()), [""; 0]);
}

#[test]
fn round_trips_are_few_and_a_cached_head_needs_none() {
    let image = dos();
    image.write(2048 * 512, &xfs());
    let recording = Arc::new(Recording::new(source(image.bytes())));
    let disk = raw(Arc::clone(&recording) as Arc<dyn Source>);
    let opened = recording.reads().len();
    let layout = block_on(inspect_disk(&disk)).unwrap();
    assert_eq!(filesystems(&layout)[0], "xfs");
    let reads = recording.reads().split_off(opened);
    let first = GuestRange::new(GuestOffset::new(MIB), signature::FIRST_BYTES).unwrap();
    let of_xfs = reads.iter().filter(|read| read.start().get() < first.end().get());
    assert_eq!(of_xfs.map(|read| (read.start().get(), read.len())).collect::<Vec<_>>(), [(MIB, 8192)]);
    assert_eq!(
        reads.len(),
        3 + 1 + 5 * 2,
        "three boot records, one round of first reads, and one of longer reads: {reads:?}"
    );
}

#[test]
fn boot_code_that_looks_like_a_protective_entry_is_not_a_gpt() {
    let image = format_image(40, "mkfs.vfat", &["-F", "32", "FILE"]);
    image.write(446 + 4, &[0xee]);
    image.write(510, &[0x55, 0xaa]);
    let layout = image.inspect_disk();
    assert_eq!((layout.table_name(), layout.filesystem), (Some("none"), Some(FileSystem::Fat32)));
}

#[test]
fn signatures_far_from_the_start_of_a_partition_are_found() {
    let image = dos();
    image.write(2048 * 512, &formatted(128, "mkfs.btrfs", &["-q", "FILE"]));
    image.write(657_408 * 512, &formatted(8, "mkswap", &["-q", "-p", "65536", "FILE"]));
    image.write(673_792 * 512, &formatted(1, "genisoimage", &["-quiet", "-o", "FILE", "SEED"]));
    assert_eq!(filesystems(&image.inspect_disk()), ["btrfs", "swap", "iso9660", "-", "-", "-", "-"]);
}

#[test]
fn a_refused_disk_is_not_read() {
    let recording = Arc::new(Recording::new(source(gpt().bytes())));
    let geometry = ImageInfo::default().virtual_bytes(80 * MIB);
    let refusals = vec![Refusal::new(ErrorKind::EncryptedRefused, "the image is encrypted")];
    let files: Vec<Arc<dyn Source>> = vec![Arc::clone(&recording) as _];
    let layout = block_on(inspect_disk(&Disk::refused(geometry, files, Warnings::new(), refusals))).unwrap();
    assert_eq!(layout, DiskContents::default());
    assert_eq!((layout.table_name(), recording.reads().len()), (None, 0));
}

#[test]
fn a_source_that_fails_is_an_error() {
    let failing = Failing::new(source(gpt().bytes()), |number, _| {
        let error = diskferry_core::Error::new(ErrorKind::SourceChanged, "it changed");
        (number >= 2).then_some(error)
    });
    let error = block_on(inspect_disk(&raw(Arc::new(failing)))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
}

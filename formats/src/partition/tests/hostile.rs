//! Tables that no tool creates: each must give a layout with a warning, after bounded work.

use std::fmt::Write as _;

use diskferry_core::internal::Recording;
use proptest::prelude::*;

use super::*;
use crate::partition::{PartitionTable, mbr, signature};

fn entry(kind: u8, start: u32, sectors: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    entry
}

fn put_record(disk: &mut [u8], sector: usize, entries: &[[u8; 16]]) {
    let record = &mut disk[512 * sector..512 * sector + 512];
    for (index, entry) in entries.iter().enumerate() {
        record[446 + 16 * index..462 + 16 * index].copy_from_slice(entry);
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
}

/// A disk of 1 MiB with a container from sector 100 to its end.
fn container() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    put_record(&mut disk, 0, &[entry(5, 100, 1948)]);
    disk
}

#[test]
fn a_chain_with_a_loop_ends() {
    for back in [0, 50] {
        let mut disk = container();
        put_record(&mut disk, 100, &[entry(0x83, 1, 10), entry(5, 50, 50)]);
        put_record(&mut disk, 150, &[entry(0x83, 1, 10), entry(0x0f, back, 50)]);
        let layout = inspect_bytes(disk);
        let indices: Vec<u32> = layout.partitions.iter().map(|partition| partition.index).collect();
        assert_eq!(indices, [1, 5, 6]);
        assert_eq!(codes(&layout), ["partition_table_damaged"]);
        assert!(message(&layout, "partition_table_damaged").contains("loops back to sector"));
    }
}

#[test]
fn an_endless_chain_is_abandoned_at_the_limit() {
    let mut disk = container();
    for step in 0..1000 {
        put_record(
            &mut disk,
            100 + step,
            &[entry(0x83, 1, 1), entry(0x85, u32::try_from(step).unwrap() + 1, 9)],
        );
    }
    let recording = Arc::new(Recording::new(source(disk)));
    let disk = raw(Arc::clone(&recording) as Arc<dyn Source>);
    let layout = block_on(inspect_disk(&disk)).unwrap();
    assert_eq!(layout.partitions.len(), 1 + mbr::MOST_LOGICAL);
    assert!(message(&layout, "partition_table_damaged").contains("more than 128 extended boot records"));
    assert!(recording.reads().len() < 300);
}

#[test]
fn four_containers_share_one_bound_and_one_chain() {
    let mut disk = vec![0; 1 << 20];
    put_record(&mut disk, 0, &[entry(5, 100, 9), entry(0x0f, 100, 9), entry(0x85, 100, 9), entry(5, 100, 9)]);
    put_record(&mut disk, 100, &[entry(0x83, 1, 1)]);
    let layout = inspect_bytes(disk);
    assert_eq!(layout.partitions.len(), 5);
    assert_eq!(codes(&layout), ["partition_table_damaged"]);
}

#[test]
fn a_link_beyond_the_disk_or_to_rubbish_ends_the_chain() {
    let mut disk = container();
    put_record(&mut disk, 100, &[entry(0x83, 1, 10), entry(5, u32::MAX, u32::MAX)]);
    let layout = inspect_bytes(disk);
    assert_eq!((layout.partitions.len(), codes(&layout)), (2, vec!["partition_beyond_end"]));
    let mut disk = container();
    put_record(&mut disk, 100, &[entry(0x83, 1, 10), entry(5, 77, 10)]);
    let layout = inspect_bytes(disk);
    assert_eq!((layout.partitions.len(), codes(&layout)), (2, vec!["partition_table_damaged"]));
    assert!(message(&layout, "partition_table_damaged").contains("sector 177 has no signature"));
}

#[test]
fn partitions_at_the_largest_sector_numbers_are_beyond_the_end() {
    let mut disk = vec![0; 1 << 20];
    let last = entry(0x83, u32::MAX, u32::MAX);
    put_record(&mut disk, 0, &[last, entry(5, u32::MAX, u32::MAX), last, last]);
    let layout = inspect_bytes(disk);
    assert_eq!(layout.partitions[0].start, u64::from(u32::MAX) * 512);
    assert_eq!(layout.partitions.len(), 4);
    assert_eq!(codes(&layout), ["partition_beyond_end", "partitions_overlap"]);
}

#[test]
fn overlapping_partitions_are_named() {
    let mut disk = vec![0; 1 << 20];
    put_record(
        &mut disk,
        0,
        &[entry(0x83, 1, 2000), entry(0x83, 10, 5), entry(0x83, 1000, 1000), entry(0x83, 2001, 1)],
    );
    let layout = inspect_bytes(disk);
    assert_eq!(codes(&layout), ["partitions_overlap"]);
    let expected = "partitions 1 and 2 overlap; partitions 1 and 3 overlap";
    assert_eq!(message(&layout, "partitions_overlap"), expected);
}

#[test]
fn boot_code_with_an_mbr_signature_is_not_a_table() {
    let mut disk = vec![0; 1 << 20];
    put_record(&mut disk, 0, &[[0x4e; 16]]);
    let layout = inspect_bytes(disk);
    assert_eq!(
        (layout.table, codes(&layout)),
        (Some(PartitionTable::Absent), vec!["partition_table_damaged"])
    );
}

/// Updates the checksums of the header in sector 1, and of its entries at their location in the disk.
fn seal(disk: &mut [u8]) {
    let number = |at: usize, disk: &[u8]| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap()) as usize;
    let bytes = number(512 + 80, disk).saturating_mul(number(512 + 84, disk));
    if let Some(entries) = disk.get(1024..1024usize.saturating_add(bytes)) {
        let crc = crc32fast::hash(entries);
        disk[512 + 88..512 + 92].copy_from_slice(&crc.to_le_bytes());
    }
    disk[512 + 16..512 + 20].fill(0);
    let crc = crc32fast::hash(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
}

/// A disk of 2 MiB with a GPT of `count` entries of 128 bytes, each the same partition; no backup.
fn gpt(count: u32, first: u64, last: u64) -> Vec<u8> {
    let mut disk = vec![0; 2 << 20];
    put_record(&mut disk, 0, &[entry(0xee, 1, u32::MAX)]);
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[524] = 92;
    disk[536] = 1;
    disk[544..552].copy_from_slice(&4095u64.to_le_bytes());
    disk[560..568].copy_from_slice(&4094u64.to_le_bytes());
    disk[584] = 2;
    disk[592..596].copy_from_slice(&count.to_le_bytes());
    disk[596] = 128;
    for index in 0..count.min(8192) as usize {
        let raw = &mut disk[1024 + 128 * index..1152 + 128 * index];
        raw[..16].fill(7);
        raw[32..40].copy_from_slice(&first.to_le_bytes());
        raw[40..48].copy_from_slice(&last.to_le_bytes());
    }
    seal(&mut disk);
    disk
}

#[test]
fn a_gpt_with_very_many_partitions_needs_few_reads() {
    let recording = Arc::new(Recording::new(source(gpt(8192, 3000, 3001))));
    let disk = raw(Arc::clone(&recording) as Arc<dyn Source>);
    let layout = block_on(inspect_disk(&disk)).unwrap();
    assert_eq!(layout.partitions.len(), 8192);
    assert!(recording.reads().len() <= 140, "{}", recording.reads().len());
    assert!(message(&layout, "partitions_overlap").ends_with("; and 8183 more"));
    assert!(layout.warnings.iter().all(|warning| warning.message.len() < 1024));
}

#[test]
fn a_gpt_with_more_entries_than_the_limit_is_damaged() {
    let layout = inspect_bytes(gpt(8193, 3000, 3001));
    assert_eq!(layout.partitions.len(), 0);
    assert!(message(&layout, "partition_table_damaged").contains("8193 entries of 128 bytes are more than"));
    let layout = inspect_bytes(gpt(u32::MAX, 3000, 3001));
    assert_eq!(layout.partitions.len(), 0);
}

#[test]
fn gpt_partitions_at_the_largest_sector_numbers_do_not_wrap() {
    let layout = inspect_bytes(gpt(1, 0, u64::MAX));
    assert_eq!((layout.partitions[0].start, layout.partitions[0].bytes), (0, u64::MAX));
    let layout = inspect_bytes(gpt(1, u64::MAX, u64::MAX));
    assert_eq!((layout.partitions[0].start, layout.partitions[0].bytes), (u64::MAX, 512));
    assert!(codes(&layout).contains(&"partition_beyond_end"));
    let layout = inspect_bytes(gpt(1, 10, 9));
    assert_eq!(layout.partitions.len(), 0);
    assert!(
        message(&layout, "partition_table_damaged").contains("ends in sector 9, before its first_lba 10")
    );
}

#[test]
fn gpt_addresses_beyond_the_disk_are_not_an_error() {
    // alternate_lba, last_usable_lba, partition_entry_lba
    for at in [544, 560, 584] {
        for value in [4096, u64::MAX / 512, u64::MAX] {
            let mut disk = gpt(1, 3000, 3001);
            disk[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            seal(&mut disk);
            let layout = inspect_bytes(disk);
            assert_eq!(layout.table_name(), Some("gpt"));
            assert!(layout.warnings.len() >= 2, "{at} {value}: {:?}", layout.warnings);
        }
    }
}

proptest! {
    /// Any bytes give a layout: no panic, no error, and a bounded list of warnings.
    #[test]
    fn any_bytes_result_in_a_layout(
        patches in prop::collection::vec((0usize..9000, prop::collection::vec(any::<u8>(), 1..40)), 0..12),
        base in 0usize..3,
        sealed in any::<bool>(),
        len in 0usize..(2 << 20),
    ) {
        let mut disk = match base {
            0 => container(),
            1 => gpt(4, 40, 4000),
            _ => vec![0; 1 << 20],
        };
        if base == 0 {
            put_record(&mut disk, 100, &[entry(0x83, 1, 10), entry(5, 50, 50)]);
        }
        for (at, bytes) in &patches {
            disk[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        if sealed {
            seal(&mut disk);
        }
        disk.truncate(len);
        let layout = inspect_bytes(disk.clone());
        let mut shown = String::new();
        for partition in &layout.partitions {
            write!(shown, "{} {}", partition.kind, partition.end()).unwrap();
        }
        prop_assert!(layout.warnings.len() <= 7);
        signature::probe(&disk);
    }
}

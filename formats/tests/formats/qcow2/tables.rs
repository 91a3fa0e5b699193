//! Requests of the reader: few requests, one for adjacent tables, and bounded memory whatever an image claims.

use std::sync::Arc;

use diskferry_core::internal::Recording;
use diskferry_core::{
    BATCH_EXTENTS, Disk, Extent, ExtentKind, GuestOffset, GuestRange, MemorySource, Source, StoredRange,
};

use crate::qcow2::images::*;

fn recorded(bytes: Vec<u8>) -> (Disk, Arc<Recording>) {
    let recording = Arc::new(Recording::new(Arc::new(MemorySource::new("image.qcow2", bytes))));
    let disk = open_source(Arc::clone(&recording) as Arc<dyn Source>).unwrap();
    (disk, recording)
}

fn bytes_of(reads: &[StoredRange]) -> u64 {
    reads.iter().map(|range| range.len()).sum()
}

#[test]
fn a_nearly_empty_image_of_16_tib_needs_few_requests() {
    let images = Images::new();
    let path = images.create("image", "16T", "");
    qemu_io(&path, &["write -P 1 0 64K", "write -P 2 5T 64K", "write -P 3 17179869168K 16K"]);
    let (disk, recording) = recorded(std::fs::read(&path).unwrap());
    assert!(recording.reads().len() <= 2, "head and tail open it: {:?}", recording.reads());
    let all = extents(&disk).unwrap();
    assert!(recording.reads().len() <= 6, "{:?}", recording.reads());
    let content: u64 =
        all.iter().filter(|extent| extent.is_allocated()).map(|extent| extent.guest.len()).sum();
    assert_eq!(content, 3 * 65_536);
    assert_eq!(all.len(), 5, "data at both ends and once between");
    let requests = recording.reads().len();
    extents(&disk).unwrap();
    assert_eq!(recording.reads().len(), requests, "the second walk reads nothing");
    let at = GuestRange::new(GuestOffset::new(5 << 40), 4096).unwrap();
    assert!(block_on(disk.read(at)).unwrap().iter().all(|byte| *byte == 2));
}

#[test]
fn adjacent_tables_are_read_in_one_request() {
    // 1024 consecutive L2 tables of 4 KiB that map zero clusters.
    let (tables, cluster) = (1024usize, 4096usize);
    let first = 16 * cluster;
    let len = first + tables * cluster + (1 << 20);
    let mut image = Built::new(12, (tables as u64) << 21, tables as u32, len);
    for table in 0..tables {
        let at = first + table * cluster;
        image.long(2 * cluster + 8 * table, at as u64);
        image.0[at..at + cluster].as_chunks_mut::<8>().0.fill(1u64.to_be_bytes());
    }
    // Avoids a zeroed tail.
    image.0[len - 1] = 1;
    let (disk, recording) = recorded(image.0);
    let opening = recording.reads().len();
    let all = extents(&disk).unwrap();
    assert_eq!(all.len(), 1, "one run of zeros");
    let reads = recording.reads();
    assert_eq!(reads.len() - opening, 1, "the L1 table is in the head: {:?}", &reads[opening..]);
    assert!(bytes_of(&reads[opening..]) <= (tables * cluster) as u64);
    // With windows, a table is not read again.
    walk(&disk, 300_000).unwrap();
    assert_eq!(recording.reads().len(), reads.len());
}

#[test]
fn a_window_loads_only_the_tables_that_it_needs() {
    let images = Images::new();
    // A table of 2 MiB maps 512 GiB.
    let path = images.create("image", "2T", "cluster_size=2M");
    qemu_io(&path, &["write -P 1 0 2M", "write -P 2 512G 2M", "write -P 3 1T 2M"]);
    let (disk, recording) = recorded(std::fs::read(&path).unwrap());
    let opening = recording.reads().len();
    let window = GuestRange::new(GuestOffset::new(512 << 30), 1 << 30).unwrap();
    let got = block_on(disk.extents(window)).unwrap();
    assert!(matches!(got[0].kind, ExtentKind::Data(_)));
    let reads = recording.reads();
    assert_eq!(reads.len() - opening, 2, "a page of the L1 table, a slice of one L2 table");
    assert!(bytes_of(&reads[opening..]) < 128 << 10, "{:?}", &reads[opening..]);
}

#[test]
fn a_table_is_read_up_to_the_end_of_the_disk() {
    let images = Images::new();
    let path = images.create("image", "20G", "cluster_size=2M");
    qemu_io(&path, &["write -P 1 0 2M", "write -P 2 19G 2M"]);
    let (disk, recording) = recorded(std::fs::read(&path).unwrap());
    let opening = recording.reads().len();
    extents(&disk).unwrap();
    let reads = recording.reads();
    assert!(bytes_of(&reads[opening..]) <= 10_240 * 8 + 8, "{:?}", &reads[opening..]);
    // In the second slice of the table.
    let fresh = open(&path);
    let at = GuestRange::new(GuestOffset::new((19 << 30) - 512), 1024).unwrap();
    assert_eq!(block_on(fresh.read(at)).unwrap(), [[0; 512], [2; 512]].concat());
}

#[test]
fn the_largest_l1_table_is_read_page_by_page() {
    // 4 Mi entries, 32 MiB: a disk of 128 GiB in clusters of 512 bytes, with one table, in the last entry.
    let entries = 4usize << 20;
    let (l1, cluster) = (1024usize, 512usize);
    let table = l1 + 8 * entries;
    let len = table + 2 * cluster;
    let mut image = Built::new(9, (entries as u64) << 15, entries as u32, len);
    image.long(l1 + 8 * (entries - 1), table as u64).long(table + 504, (table + cluster) as u64);
    image.0[table + cluster..].fill(7);
    let (disk, recording) = recorded(image.0);
    assert!(recording.reads().len() <= 2, "opening does not read it");
    let last = GuestRange::new(GuestOffset::new((128 << 30) - 512), 512).unwrap();
    assert_eq!(block_on(disk.read(last)).unwrap(), vec![7; 512]);
    assert!(recording.reads().len() <= 5, "{:?}", recording.reads());
    let all = extents(&disk).unwrap();
    assert!(all.iter().rev().skip(1).all(|extent| matches!(extent.kind, ExtentKind::Hole)));
    assert!(recording.reads().iter().all(|range| range.len() <= 1 << 20), "a page at a time");
    assert!(bytes_of(&recording.reads()) < 34 << 20);
}

#[test]
fn a_claim_of_64_tib_beyond_the_object_is_truncated_at_open() {
    let image = Built::new(16, 64 << 40, 131_072, 0x4_0000);
    let error = open_bytes(image.0).map(drop).unwrap_err();
    assert_eq!(said(&error), ("truncated", Some(40)));
}

#[test]
fn a_result_is_bounded_and_the_next_one_continues_it() {
    // Each cluster's data is before that of the previous one, so nothing joins. Every L1 entry names the same table.
    let (entries, cluster) = (1000usize, 4096usize);
    let table = 8 * cluster;
    let len = table + (513 * cluster);
    let mut image = Built::new(12, (entries as u64) << 21, entries as u32, len);
    for entry in 0..entries {
        image.long(2 * cluster + 8 * entry, table as u64);
    }
    for entry in 0..512 {
        image.long(table + 8 * entry, (table + (512 - entry) * cluster) as u64);
    }
    // Avoids a zeroed tail.
    image.0[len - 1] = 1;
    let (disk, recording) = recorded(image.0);
    let answer: Vec<Extent> = block_on(disk.extents(GuestRange::first(u64::MAX))).unwrap();
    assert!(answer.len() >= BATCH_EXTENTS && answer.len() < BATCH_EXTENTS + 64, "{}", answer.len());
    let all = extents(&disk).unwrap();
    assert_eq!(all.len(), 512_000, "two entries to one cluster are both content");
    assert!(recording.reads().len() <= 4, "{:?}", recording.reads());
}

#[test]
fn an_excessively_shared_table_is_malformed() {
    // 2 EiB of zeros: 4 Mi entries of the L1 table name one table of 256 Ki entries that read as zeros.
    let (entries, cluster) = (4usize << 20, 2usize << 20);
    let l1 = 2 * cluster;
    let table = l1 + 8 * entries;
    let mut image = Built::new(21, 1 << 61, entries as u32, table + cluster);
    image.0[l1..table].as_chunks_mut::<8>().0.fill((table as u64).to_be_bytes());
    image.0[table..].as_chunks_mut::<16>().0.fill(1u128.to_be_bytes());
    let error = extents(&open_bytes(image.0).unwrap()).map(drop).unwrap_err();
    assert_eq!(said(&error), ("malformed", Some(l1 as u64)));
}

#[test]
fn windows_inside_a_compressed_cluster_return_the_whole_cluster() {
    let images = Images::new();
    let raw = images.raw("raw", &pattern(300_000, 5));
    let path = images.path("image");
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)]);
    let disk = open(&path);
    let window = GuestRange::new(GuestOffset::new(70_000), 1000).unwrap();
    let got = block_on(disk.extents(window)).unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].guest, GuestRange::new(GuestOffset::new(65_536), 65_536).unwrap());
    let end = GuestRange::new(GuestOffset::new(disk.virtual_bytes() - 10), 10).unwrap();
    let got = block_on(disk.extents(end)).unwrap();
    assert_eq!(got[0].guest.end().get(), disk.virtual_bytes(), "clipped to the disk");
}

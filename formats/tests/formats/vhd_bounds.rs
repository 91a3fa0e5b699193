//! The cost of opening and walking a VHD, whatever it claims.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::sparse::Sparse;
use crate::support::vhd::*;
use crate::support::*;
use diskferry_core::{BATCH_EXTENTS, Disk, ErrorKind, Extent, Extents, GuestRange};
use diskferry_formats::{Declared, open};

const TIB: u64 = 1 << 40;

/// An object of `len` bytes with footer, header and a table that is unused except for `entries`.
fn sparse(vhd: &Vhd, len: u64, entries: &[(u64, u32)]) -> Arc<Sparse> {
    let table = 4 * vhd.size.div_ceil(u64::from(vhd.block_bytes)) as usize;
    let mut bat = vec![0xff; table];
    for (index, sector) in entries {
        bat[4 * *index as usize..][..4].copy_from_slice(&sector.to_be_bytes());
    }
    let start = [vhd.footer(), vhd.header(), bat].concat();
    Arc::new(Sparse::new(len, [(0, start), (len - 512, vhd.footer())]))
}

fn opened(source: &Arc<Sparse>) -> Disk {
    block_on(open(Arc::clone(source), Declared::Unknown)).unwrap()
}

/// All extents as one list, from results of bounded length.
fn walk_once(disk: &Disk) -> Vec<Extent> {
    let mut all = Extents::new();
    while all.end().map_or(0, |end| end.get()) < disk.virtual_bytes() {
        let rest = GuestRange::first(disk.virtual_bytes()).skip(all.end().map_or(0, |end| end.get()));
        let answer = block_on(disk.extents(rest)).unwrap();
        assert!(answer.len() <= BATCH_EXTENTS + 16);
        answer.into_iter().for_each(|extent| all.push(extent));
    }
    all.into_vec()
}

#[test]
fn a_nearly_empty_disk_of_16_tib_opens_in_two_requests_and_reads_its_table_once() {
    let vhd = Vhd::new(3, 16 * TIB);
    let table = 32 << 20;
    let first = (1536 + table) / 512;
    let stride = 4097;
    let source = sparse(
        &vhd,
        512 * u64::from(first + 4 * stride + 1),
        &[
            (0, first),
            (70_000, first + 2 * stride),
            (70_001, first + stride),
            (8_388_607, first + 3 * stride),
        ],
    );
    let disk = opened(&source);
    assert_eq!(source.requests.load(Ordering::Relaxed), 2, "the head and the tail");
    assert!(source.fetched.load(Ordering::Relaxed) < 256 << 10);
    let extents = walk_once(&disk);
    assert_eq!(extents.len(), 6, "four blocks, two of them neighbours, and two holes");
    assert_eq!(extents.iter().map(|extent| extent.guest.len()).sum::<u64>(), 16 * TIB);
    let fetched = source.fetched.load(Ordering::Relaxed);
    assert!(fetched < u64::from(table) + (1 << 20), "{fetched} bytes fetched for a table of {table}");
    let requests = source.requests.load(Ordering::Relaxed);
    assert!(requests <= 16, "{requests} requests for a table of 32 MiB");
}

#[test]
fn a_table_beyond_the_bound_is_refused_before_it_is_read() {
    let source = sparse(&Vhd::new(3, 16 * TIB), 1 << 30, &[]);
    let mut claim = Vhd::new(3, 64 * TIB);
    claim.entries = Some(32 << 20);
    let source = Arc::new(Sparse::new(
        1 << 30,
        [(0, claim.footer()), (512, claim.header()), (source.len - 512, claim.footer())],
    ));
    let error = block_on(open(Arc::clone(&source), Declared::Unknown)).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(512 + 28)));
    assert!(source.fetched.load(Ordering::Relaxed) < 256 << 10);
}

#[test]
fn overlaps_are_found_across_pages_and_in_any_order_of_windows() {
    let vhd = Vhd::new(3, TIB);
    let first = 100_000;
    // 70,000 and 300,000 are on different pages of the table, and a sector apart.
    let source = sparse(&vhd, 1 << 30, &[(70_000, first), (300_000, first + 4096)]);
    let block = u64::from(vhd.block_bytes);
    let ask = |disk: &Disk, index: u64| {
        let window = GuestRange::first((index + 1) * block).skip(index * block);
        block_on(disk.extents(window)).map(|_| ())
    };
    for (fine, wrong) in [(70_000, 300_000), (300_000, 70_000)] {
        let disk = opened(&source);
        ask(&disk, fine).unwrap();
        ask(&disk, fine).unwrap();
        let error = ask(&disk, wrong).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(1536 + 4 * wrong)));
    }
}

#[test]
fn a_block_of_2_gib_is_split_into_units() {
    let vhd = Vhd { block_bytes: 1 << 31, ..Vhd::new(3, 3 << 30) };
    let source = sparse(&vhd, 5 << 30, &[(0, 8), (1, 8 + (1 << 22) + 1024)]);
    let disk = opened(&source);
    let extents = walk_once(&disk);
    assert_eq!(extents.len(), 3 << 9);
    let tables = source.fetched.load(Ordering::Relaxed);
    assert!(tables < (1 << 20) + (256 << 10), "two bitmaps of 512 KiB and what opening took: {tables}");
}

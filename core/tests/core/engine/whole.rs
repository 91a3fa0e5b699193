//! Whatever the layout of the image, every guest byte arrives once and is right.

use std::sync::Arc;

use diskferry_core::internal::{DigestTree, Failing, hash_block};
use diskferry_core::{
    Budget, Conversion, Disk, Error, ErrorKind, Extent, ExtentKind, FileIndex, GuestOffset, GuestRange,
    ImageInfo, ImageLimit, Limits, MemorySink, MemorySource, Order, Source, Stored, StoredRange, Target,
    Warnings, compare,
};
use proptest::prelude::*;

use crate::engine::made::{Identity, ListMap, Made, Short, any_disk, block_on, digest_of, made, resources};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_guest_byte_arrives_once_and_right_in_both_orders(made in any_disk()) {
        for order in [Order::Any, Order::Guest] {
            let sink = MemorySink::new();
            let target = Target { layout: Box::new(Identity(order)), sink: Box::new(sink.clone()) };
            let report = block_on(Conversion::new(made.disk(), target).resources(resources()).run()).unwrap();
            prop_assert!(sink.published().unwrap() == made.guest, "{order:?}");
            prop_assert_eq!(report.digest, Some(digest_of(&made.guest)));
            let content: u64 = made.guest.chunks(4096).filter(|b| b.iter().any(|x| *x != 0)).map(|b| b.len() as u64).sum();
            prop_assert_eq!(report.sizes.content_bytes, Some(content));
            let allocated = made.extents.iter().filter(|e| e.is_allocated()).map(|e| e.guest.len()).sum::<u64>();
            prop_assert_eq!(report.sizes.allocated_bytes, Some(allocated));
            prop_assert!(report.stats.peak_budget_bytes <= Budget::SMALLEST);
        }
    }

    #[test]
    fn compare_finds_the_first_byte_that_differs(made in any_disk(), place in any::<u64>()) {
        let resources = resources();
        let (a, b) = (Arc::new(made.disk()), Arc::new(made.disk()));
        prop_assert!(block_on(compare(&a, &b, &resources)).unwrap().equal);
        let place = place as usize % made.guest.len();
        let mut other = made.guest.clone();
        other[place] ^= 0x55;
        let whole = Stored { file: FileIndex(0), range: StoredRange::first(other.len() as u64) };
        let extents = vec![Extent::new(GuestRange::first(other.len() as u64), ExtentKind::Data(whole))];
        let b = Arc::new(Made { guest: other.clone(), store: other, extents }.disk());
        let found = block_on(compare(&a, &b, &resources)).unwrap();
        prop_assert_eq!(found.first_difference, Some(place as u64));
    }
}

#[test]
fn a_failing_read_ends_the_run_and_leaves_no_target() {
    let made = made(65536, &[(16, 1, 0), (16, 2, 1), (300, 1, 2)], 0);
    let source = Arc::new(MemorySource::new("test", made.store.clone()));
    let failing = Failing::new(source, |number, range| {
        (number == 2).then(|| Error::new(ErrorKind::SourceUnavailable, "on purpose").at(range.start()))
    });
    let sink = MemorySink::new();
    let target = Target { layout: Box::new(Identity(Order::Any)), sink: Box::new(sink.clone()) };
    let run = Conversion::new(made.disk_over(Arc::new(failing)), target).resources(resources()).run();
    assert_eq!(block_on(run).unwrap_err().kind(), ErrorKind::SourceUnavailable);
    assert_eq!(sink.published(), None);
}

#[test]
fn content_that_reaches_the_limit_ends_the_run() {
    let made = made(65536, &[(160, 1, 0)], 0);
    let limits = Limits::default().image(ImageLimit::Exact(made.store.len() as u64 + 1)).capacity(None);
    assert!(block_on(Conversion::reading(made.disk()).limits(limits).run()).is_ok());
    // A thousand references to one unit: the object is small, the decoded data is not.
    let unit = made.extents[0].clip(GuestRange::first(65536)).unwrap();
    let extents: Vec<Extent> = (0..1000u64)
        .map(|n| Extent::new(GuestRange::new(GuestOffset::new(n * 65536), 65536).unwrap(), unit.kind.clone()))
        .collect();
    let bomb = Made { guest: vec![0; 65_536_000], extents, store: made.store };
    let error = block_on(Conversion::reading(bomb.disk()).limits(limits).run()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentTooLarge);
}

#[test]
fn a_broken_unit_is_reported_with_its_offset() {
    let mut made = made(65536, &[(1, 2, 0)], 0);
    if let ExtentKind::Coded(coded) = &mut made.extents[0].kind {
        coded.stored.range = coded.stored.range.split_at(100).0;
    }
    let error = block_on(Conversion::reading(made.disk()).run()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(77)));
}

#[test]
fn sixteen_tebibytes_of_holes_take_no_time() {
    let extents = vec![Extent::new(GuestRange::first(16 << 40), ExtentKind::Hole)];
    let geometry = ImageInfo::default().format("test").virtual_bytes(16 << 40);
    let source: Arc<dyn Source> = Arc::new(MemorySource::new("empty", Vec::new()));
    let disk = Disk::new(geometry, vec![source], Box::new(ListMap(extents)), Warnings::new(), Vec::new());
    let report = block_on(Conversion::reading(disk).run()).unwrap();
    assert_eq!(report.sizes.content_bytes, Some(0));
    assert!(report.digest.is_some());
}

#[test]
fn a_disk_up_to_the_end_of_the_address_space_has_its_last_short_block() {
    for size in [u64::MAX, u64::MAX - 4095, (1 << 63) + 1, 1 << 63] {
        let at = |offset: u64, len: u64| GuestRange::new(GuestOffset::new(offset), len).unwrap();
        let stored = |range| ExtentKind::Data(Stored { file: FileIndex(0), range });
        // The last block in fragments: data, zeros, data.
        let start = (size - 1) / 4096 * 4096;
        let mut extents = vec![Extent::new(at(0, start), ExtentKind::Hole)];
        let mut block = vec![7; (size - start) as usize];
        if block.len() > 2 {
            let third = block.len() as u64 / 3;
            let rest = block.len() as u64 - 2 * third;
            extents.push(Extent::new(at(start, third), stored(StoredRange::first(third))));
            extents.push(Extent::new(at(start + third, third), ExtentKind::Zero));
            extents.push(Extent::new(at(start + 2 * third, rest), stored(StoredRange::first(rest))));
            block[third as usize..2 * third as usize].fill(0);
        } else {
            extents.push(Extent::new(at(start, size - start), stored(StoredRange::first(size - start))));
        }
        let geometry = ImageInfo::default().format("test").virtual_bytes(size);
        let disk = || {
            let source: Arc<dyn Source> = Arc::new(MemorySource::new("sevens", vec![7u8; 4096]));
            let map = Box::new(ListMap(extents.clone()));
            Arc::new(Disk::new(geometry.clone(), vec![source], map, Warnings::new(), Vec::new()))
        };
        let report = block_on(Conversion::reading(disk()).resources(resources()).run()).unwrap();
        let mut tree = DigestTree::new();
        tree.add_zeros(0, start / 4096);
        tree.add(start / 4096, &[hash_block(&block)]);
        assert_eq!(report.digest, Some(tree.finish(size).unwrap()), "{size:#x}");
        assert_eq!(report.sizes.content_bytes, Some(size - start));
        assert_eq!(report.sizes.content_end, Some(size));
        assert!(block_on(compare(&disk(), &disk(), &resources())).unwrap().equal);
    }
}

#[test]
fn a_map_whose_lengths_disagree_is_internal_and_no_panic() {
    let mut made = made(65536, &[(1, 1, 0), (1, 1, 1)], 0);
    if let ExtentKind::Data(stored) = &mut made.extents[0].kind {
        stored.range = stored.range.split_at(100).0;
    }
    let error = block_on(Conversion::reading(made.disk()).run()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[test]
fn a_source_that_returns_too_little_is_internal_and_no_panic() {
    let made = made(65536, &[(1, 1, 0), (1, 2, 1)], 0);
    let error =
        block_on(Conversion::reading(made.disk_over(Arc::new(Short::new(&made.store)))).run()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[test]
fn a_run_can_be_moved_to_any_thread() {
    fn spawned(_: impl Future<Output: Send> + Send + 'static) {}
    let sink = Box::new(MemorySink::new());
    let target = Target { layout: Box::new(Identity(Order::Any)), sink };
    spawned(Conversion::new(made(4096, &[(0, 1, 0)], 0).disk(), target).run());
}

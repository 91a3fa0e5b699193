//! The engine over a map of the test's own: whatever lies where, every guest byte comes once and right.

use std::sync::Arc;

use diskferry_core::address::{FileIndex, GuestOffset, GuestRange, StoredOffset, StoredRange, TargetRange};
use diskferry_core::budget::Budget;
use diskferry_core::compare::compare;
use diskferry_core::conversion::{Conversion, Resources};
use diskferry_core::digest::{Tree, hash_block};
use diskferry_core::disk::{BlockMap, Disk, Geometry, Warnings};
use diskferry_core::error::{Error, ErrorKind, Result, Warning};
use diskferry_core::extent::{Codec, Coded, Extent, ExtentKind, Extents, Payload, Stored, Tally};
use diskferry_core::limits::{ImageLimit, Limits};
use diskferry_core::pool::CpuPool;
use diskferry_core::sink::memory::MemorySink;
use diskferry_core::source::memory::MemorySource;
use diskferry_core::source::wrap::Failing;
use diskferry_core::source::{BoxFuture, Source};
use diskferry_core::target::{Layout, Target, Write};
use diskferry_core::transfer::{Item, Order};
use proptest::prelude::*;

/// A unit is stored inverted.
#[derive(Debug)]
struct Inverted;

impl Codec for Inverted {
    fn payload(&self) -> Payload {
        Payload::Compressed
    }

    fn decode(&self, _: GuestRange, stored: &[u8], out: &mut [u8], tally: &mut Tally) -> Result<()> {
        if stored.len() != out.len() {
            return Err(Error::malformed("a unit of another length"));
        }
        for (out, stored) in out.iter_mut().zip(stored) {
            *out = !stored;
        }
        *tally = Tally::default();
        Ok(())
    }

    fn warning(&self, _: &Tally) -> Option<Warning> {
        None
    }
}

struct ListMap(Vec<Extent>);

impl BlockMap for ListMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let mut extents = Extents::new();
            // Small answers, so that walks are resumed.
            self.0
                .iter()
                .filter_map(|extent| extent.clip(window))
                .take(7)
                .for_each(|extent| extents.push(extent));
            Ok(extents.into_vec())
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

/// Places bytes at their guest address.
struct Identity(Order);

impl Layout for Identity {
    fn format(&self) -> &'static str {
        "raw"
    }

    fn variant(&self) -> String {
        "raw".to_owned()
    }

    fn order(&self) -> Order {
        self.0
    }

    fn place(&mut self, item: Item) -> Result<Vec<Write>> {
        let target = |range: GuestRange| {
            TargetRange::new(diskferry_core::address::TargetOffset::new(range.start().get()), range.len())
                .unwrap()
        };
        Ok(match item {
            Item::Zero(range) => vec![Write::Zero(target(range))],
            Item::Data(data) => vec![Write::Bytes(target(data.guest).start(), vec![data.bytes])],
        })
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Vec<Write>, u64)> {
        Ok((Vec::new(), virtual_bytes))
    }
}

#[derive(Clone, Debug)]
struct Made {
    guest: Vec<u8>,
    store: Vec<u8>,
    extents: Vec<Extent>,
}

impl Made {
    fn disk_over(&self, source: Arc<dyn Source>) -> Disk {
        let geometry =
            Geometry { format: "test", virtual_bytes: self.guest.len() as u64, ..Geometry::default() };
        let map = Box::new(ListMap(self.extents.clone()));
        Disk::new(geometry, vec![source], map, Warnings::new(), Vec::new())
    }

    fn disk(&self) -> Disk {
        self.disk_over(Arc::new(MemorySource::new("test", self.store.clone())))
    }
}

/// A disk of units of `unit` bytes, shuffled in the store: (length in units, what it is, its place in the store).
fn made(unit: u64, units: &[(u64, u8, u32)], tail: u64) -> Made {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|index| units[*index].2);
    let last = units.len() - 1;
    let len = |index: usize| {
        if index == last { (units[index].0 * unit - tail % unit).max(1) } else { units[index].0 * unit }
    };
    let mut starts = vec![0; units.len()];
    let mut at = 77;
    for index in order {
        starts[index] = at;
        at += len(index) + u64::from(units[index].2 % 3) * 1000;
    }
    let mut store = vec![0xAA; at as usize];
    let (mut guest, mut extents) = (Vec::new(), Vec::new());
    for (index, (_, kind, _)) in units.iter().enumerate() {
        let range = GuestRange::new(GuestOffset::new(guest.len() as u64), len(index)).unwrap();
        let start = starts[index];
        let file = FileIndex(0);
        let stored = Stored { file, range: StoredRange::new(StoredOffset::new(start), len(index)).unwrap() };
        let slot = &mut store[start as usize..(start + len(index)) as usize];
        let bytes: Vec<u8> = match kind % 5 {
            // Stored zeros are content only where they are not.
            0 => vec![0; slot.len()],
            _ => (0..slot.len()).map(|i| (i as u64 / 500 + index as u64) as u8).collect(),
        };
        let kind = match kind % 5 {
            3 => ExtentKind::Hole,
            4 => ExtentKind::Zero,
            2 => {
                slot.copy_from_slice(&bytes.iter().map(|byte| !byte).collect::<Vec<_>>());
                ExtentKind::Coded(Coded { stored, codec: Arc::new(Inverted) })
            }
            _ => {
                slot.copy_from_slice(&bytes);
                ExtentKind::Data(stored)
            }
        };
        if matches!(kind, ExtentKind::Hole | ExtentKind::Zero) {
            guest.resize(guest.len() + len(index) as usize, 0);
        } else {
            guest.extend(bytes);
        }
        extents.push(Extent::new(range, kind));
    }
    Made { guest, store, extents }
}

fn any_disk() -> impl Strategy<Value = Made> {
    let unit = prop_oneof![Just(1u64), Just(512), Just(1000), Just(4096), Just(65536)];
    let piece = (1u64..20, any::<u8>(), any::<u32>());
    (unit, proptest::collection::vec(piece, 1..80), any::<u64>())
        .prop_map(|(unit, units, tail)| made(unit, &units, tail))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn resources() -> Resources {
    Resources {
        budget: Some(Budget::new(Budget::SMALLEST)),
        pool: Some(Arc::new(CpuPool::new(2).unwrap())),
        connections: None,
    }
}

fn digest_of(guest: &[u8]) -> diskferry_core::digest::Digest {
    let mut tree = Tree::new();
    for (number, block) in guest.chunks(4096).enumerate() {
        tree.add(number as u64, &[hash_block(block)]);
    }
    tree.finish(guest.len() as u64).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_guest_byte_arrives_once_and_right_in_either_order(made in any_disk()) {
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
            prop_assert!(report.movement.peak_budget_bytes <= Budget::SMALLEST);
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
fn a_failing_read_ends_it_and_leaves_no_target() {
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
fn content_that_reaches_the_limit_ends_it() {
    let made = made(65536, &[(160, 1, 0)], 0);
    let limits = Limits { image: ImageLimit::Exact(made.store.len() as u64 + 1), capacity: None };
    assert!(block_on(Conversion::reading(made.disk()).limits(limits).run()).is_ok());
    // A thousand references to one unit: the object is small, what it unfolds to is not.
    let unit = made.extents[0].clip(GuestRange::first(65536)).unwrap();
    let extents: Vec<Extent> = (0..1000u64)
        .map(|n| Extent::new(GuestRange::new(GuestOffset::new(n * 65536), 65536).unwrap(), unit.kind.clone()))
        .collect();
    let bomb = Made { guest: vec![0; 65_536_000], extents, store: made.store };
    let error = block_on(Conversion::reading(bomb.disk()).limits(limits).run()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentTooLarge);
}

#[test]
fn a_broken_unit_is_named_by_its_place() {
    let mut made = made(65536, &[(1, 2, 0)], 0);
    if let ExtentKind::Coded(coded) = &mut made.extents[0].kind {
        coded.stored.range = coded.stored.range.split_at(100).0;
    }
    let error = block_on(Conversion::reading(made.disk()).run()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(77)));
}

#[test]
fn sixteen_tebibytes_of_nothing_take_no_time() {
    let extents = vec![Extent::new(GuestRange::first(16 << 40), ExtentKind::Hole)];
    let geometry = Geometry { format: "test", virtual_bytes: 16 << 40, ..Geometry::default() };
    let source: Arc<dyn Source> = Arc::new(MemorySource::new("empty", Vec::new()));
    let disk = Disk::new(geometry, vec![source], Box::new(ListMap(extents)), Warnings::new(), Vec::new());
    let report = block_on(Conversion::reading(disk).run()).unwrap();
    assert_eq!(report.sizes.content_bytes, Some(0));
    assert!(report.digest.is_some());
}

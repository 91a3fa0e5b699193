//! Generated disks with a block map of the tests.

use std::ops::Range;
use std::sync::Arc;

use diskferry_core::internal::{DigestTree, hash_block};
use diskferry_core::{
    BlockMap, Budget, Codec, Coded, CompressedStream, CpuPool, Disk, Error, Extent, ExtentKind, Extents,
    FileIndex, GuestOffset, GuestRange, ImageInfo, Payload, Resources, Result, Stored, StoredOffset,
    StoredRange, Tally, TargetRange, Warning, Warnings,
};

use diskferry_core::{
    BoxFuture, HeadTail, Layout, LayoutFacts, LayoutInput, MemorySource, Order, OutputSize, Part, Source,
    Write, Writes,
};
use proptest::prelude::*;

/// A codec that inverts all bytes.
#[derive(Debug)]
struct Inverted;

impl Codec for Inverted {
    fn payload(&self) -> Payload {
        Payload::Compressed
    }

    fn decode(
        &self,
        _: GuestRange,
        stored: &[u8],
        out: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Option<CompressedStream>> {
        if stored.len() != out.len() {
            return Err(Error::malformed("a unit of another length"));
        }
        for (out, stored) in out.iter_mut().zip(stored) {
            *out = !stored;
        }
        *tally = Tally::default();
        Ok(None)
    }

    fn verbatim_range(&self, _stored: &[u8], _len: usize) -> Option<Range<usize>> {
        None
    }

    fn warning(&self, _: &Tally) -> Option<Warning> {
        None
    }
}

pub(crate) struct ListMap(pub(crate) Vec<Extent>);

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
pub(crate) struct Identity(pub(crate) Order);

impl Layout for Identity {
    fn format(&self) -> &'static str {
        "raw"
    }

    fn variant(&self) -> String {
        "raw".to_owned()
    }

    fn options(&self) -> String {
        String::new()
    }

    fn input(&self) -> LayoutInput {
        LayoutInput::Bytes(self.0)
    }

    fn unit(&self) -> Option<u64> {
        None
    }

    fn needs_map(&self) -> bool {
        false
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        Ok(source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        Ok(facts.virtual_bytes.map(|bytes| OutputSize { bytes, exact: true }))
    }

    fn begin(&mut self, _: &LayoutFacts) -> Result<Writes> {
        Ok(Box::new(std::iter::empty()))
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        let target = |range: GuestRange| {
            TargetRange::new(diskferry_core::TargetOffset::new(range.start().get()), range.len()).unwrap()
        };
        Ok(match part {
            Part::Zero(range) => vec![Write::Zero(target(range))],
            Part::Bytes(data) => vec![Write::Bytes(target(data.guest).start(), vec![data.bytes])],
            Part::Unit(unit) => panic!("{unit:?} was not requested"),
        })
    }

    fn flush(&mut self) -> Vec<Write> {
        Vec::new()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        Ok((Box::new(std::iter::empty()), virtual_bytes))
    }

    fn recognise(&self, _: &HeadTail) -> Result<Vec<Warning>> {
        Ok(Vec::new())
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        Box::pin(async move {
            let guest = GuestRange::first(target.len());
            let range = StoredRange::first(target.len());
            let stored = Stored { file: FileIndex(0), range };
            let extents = if guest.is_empty() {
                Vec::new()
            } else {
                vec![Extent::new(guest, ExtentKind::Data(stored))]
            };
            let geometry = ImageInfo::default().format("test").virtual_bytes(target.len());
            Ok(Disk::new(geometry, vec![target], Box::new(ListMap(extents)), Warnings::new(), Vec::new()))
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) guest: Vec<u8>,
    pub(crate) store: Vec<u8>,
    pub(crate) extents: Vec<Extent>,
}

impl Made {
    pub(crate) fn disk_over(&self, source: Arc<dyn Source>) -> Disk {
        let geometry = ImageInfo::default().format("test").virtual_bytes(self.guest.len() as u64);
        let map = Box::new(ListMap(self.extents.clone()));
        Disk::new(geometry, vec![source], map, Warnings::new(), Vec::new())
    }

    pub(crate) fn disk(&self) -> Disk {
        self.disk_over(Arc::new(MemorySource::new("test", self.store.clone())))
    }
}

/// A disk of units of `unit` bytes, in shuffled stored order. Each entry: length in units, content, and position in
/// the store.
pub(crate) fn made(unit: u64, units: &[(u64, u8, u32)], tail: u64) -> Made {
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
            // Stored zeros count as content only in blocks that are not all zero.
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

pub(crate) fn any_disk() -> impl Strategy<Value = Made> {
    let unit = prop_oneof![Just(1u64), Just(512), Just(1000), Just(4096), Just(65536)];
    let piece = (1u64..20, any::<u8>(), any::<u32>());
    (unit, proptest::collection::vec(piece, 1..80), any::<u64>())
        .prop_map(|(unit, units, tail)| made(unit, &units, tail))
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

pub(crate) fn resources() -> Resources {
    Resources::default()
        .budget(Some(Budget::new(Budget::SMALLEST)))
        .pool(Some(Arc::new(CpuPool::new(2).unwrap())))
        .connections(None)
}

pub(crate) fn digest_of(guest: &[u8]) -> diskferry_core::Digest {
    let mut tree = DigestTree::new();
    for (number, block) in guest.chunks(4096).enumerate() {
        tree.add(number as u64, &[hash_block(block)]);
    }
    tree.finish(guest.len() as u64).unwrap()
}

/// A source that breaks its contract: the last byte of every answer is missing.
#[derive(Debug)]
pub(crate) struct Short(MemorySource);

impl Short {
    pub(crate) fn new(store: &[u8]) -> Self {
        Self(MemorySource::new("short", store.to_vec()))
    }
}

impl Source for Short {
    fn url(&self) -> &str {
        self.0.url()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn identity(&self) -> &diskferry_core::Identity {
        self.0.identity()
    }

    fn capabilities(&self) -> diskferry_core::Capabilities {
        self.0.capabilities()
    }

    fn traffic(&self) -> diskferry_core::Traffic {
        self.0.traffic()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<bytes::Bytes>> {
        self.0.read(range.split_at(range.len() - 1).0)
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<diskferry_core::Segment>>> {
        self.0.segments(range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        self.0.verify()
    }
}

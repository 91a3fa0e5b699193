//! The conformance suite for layouts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::address::{
    FileIndex, GuestOffset, GuestRange, StoredOffset, StoredRange, TargetOffset, TargetRange,
};
use crate::conformance::pattern;
use crate::conversion::{Conversion, Report, Resources};
use crate::digest::{Digest, DigestTree, hash_block};
use crate::disk::{BlockMap, Disk, Extent, ExtentKind, Extents, ImageInfo, Stored, Warnings};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Layout, Target};
use crate::local::CpuPool;
use crate::memory::Budget;
use crate::sink::{ReadBack, Receipt, Sink, SinkCapabilities, SinkHint, WriteOrder};
use crate::source::{BoxFuture, MemorySource, Source};

/// Creates layouts of one kind for a sink with that write order.
pub type MakeLayout<'a> = &'a (dyn Fn(WriteOrder) -> Result<Box<dyn Layout>> + Sync);

/// Checks that the layouts that `make` creates for `orders` fulfil the contract of the trait. The disks have sizes
/// around `unit`, the layout's allocation unit in bytes; the sizes are multiples of `multiple`.
///
/// Each disk is written twice, with different budgets and numbers of workers, to a sink that accepts only what its
/// order allows, and every byte once. Both targets must have the same bytes, must not exceed the predicted length,
/// and must read back through the layout's own reader as the same disk.
///
/// # Panics
/// If a check fails.
pub async fn check_layout(make: MakeLayout<'_>, orders: &[WriteOrder], unit: u64, multiple: u64) {
    for (name, disk) in disks(unit, multiple) {
        let expected = digest_of(&disk.guest);
        for order in orders {
            let place = format!("{name}, {order:?}");
            let first = write(make, *order, &disk, 1, Budget::SMALLEST).await;
            let (bytes, report, output) = first.unwrap_or_else(|error| panic!("{place}: {error:?}"));
            let again = write(make, *order, &disk, 3, 256 << 20).await;
            let (second, ..) = again.unwrap_or_else(|error| panic!("{place}: {error:?}"));
            // Not `assert_eq`: it would print all bytes.
            assert!(bytes == second, "{place}: two runs wrote different targets");
            let layout = make(*order).expect("a layout");
            let written_as = layout.virtual_bytes(disk.guest.len() as u64).expect("a size");
            assert!(written_as >= disk.guest.len() as u64, "{place}: the disk must not become shorter");
            if written_as == disk.guest.len() as u64 {
                assert_eq!(report.digest, Some(expected), "{place}: the digest of the source disk");
            }
            let (most, exact) = output.expect("the size of the disk is known");
            assert!(
                bytes.len() as u64 <= most,
                "{place}: {} bytes, at most {most} were predicted",
                bytes.len()
            );
            assert!(!exact || bytes.len() as u64 == most, "{place}: {} bytes, not {most}", bytes.len());
            let target: Arc<dyn Source> = Arc::new(MemorySource::new("target", bytes));
            let read = layout.open(target).await.unwrap_or_else(|error| panic!("{place}: {error:?}"));
            assert_eq!(read.virtual_bytes(), written_as, "{place}: the size of the disk");
            let back = Conversion::reading(read).limits(unlimited()).run().await;
            let back = back.unwrap_or_else(|error| panic!("{place}: {error:?}"));
            assert_eq!(back.digest, report.digest, "{place}: the disk read back");
        }
    }
}

fn unlimited() -> crate::limits::Limits {
    crate::limits::Limits { capacity: None, image: crate::limits::ImageLimit::None }
}

async fn write(
    make: MakeLayout<'_>,
    order: WriteOrder,
    disk: &Made,
    threads: usize,
    memory: u64,
) -> Result<(Vec<u8>, Report, Option<(u64, bool)>)> {
    let sink = StrictSink::new(order);
    let resources = Resources {
        budget: Some(Budget::new(memory)),
        pool: Some(Arc::new(CpuPool::new(threads)?)),
        connections: None,
    };
    let target = Target { layout: make(order)?, sink: Box::new(sink.clone()) };
    let conversion = Conversion::new(disk.disk(), target).limits(unlimited()).resources(resources);
    let report = conversion.run().await?;
    let (bytes, expected) = sink.published();
    Ok((bytes, report, expected.most_bytes.map(|most| (most, expected.exact))))
}

/// The digest of a raw disk.
pub fn digest_of(guest: &[u8]) -> Digest {
    let mut tree = DigestTree::new();
    let leaves: Vec<_> = guest.chunks(4096).map(hash_block).collect();
    tree.add(0, &leaves);
    tree.finish(guest.len() as u64).expect("every block was added")
}

/// A sink in memory that accepts only what its order allows, and every byte once. Clones share the target.
#[derive(Clone, Debug)]
pub struct StrictSink {
    order: WriteOrder,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    expected: Option<SinkHint>,
    /// The written bytes by address: the length, and a piece unless they are zeros.
    writes: BTreeMap<u64, (u64, Option<Bytes>)>,
    written: u64,
    /// The address at which the next write must begin.
    next: Option<u64>,
    /// The address at which the first write began: bytes before it may come last.
    first: u64,
    /// True after the first write before `first`.
    front: bool,
    published: Option<Vec<u8>>,
    aborted: bool,
}

impl StrictSink {
    /// An empty target.
    pub fn new(order: WriteOrder) -> Self {
        Self { order, state: Arc::default() }
    }

    /// The target, and the announced length.
    ///
    /// # Panics
    /// If it is not published.
    pub fn published(&self) -> (Vec<u8>, SinkHint) {
        let mut state = self.state();
        let bytes = state.published.take().expect("it is published");
        (bytes, state.expected.expect("it was prepared"))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, at: u64, len: u64, piece: Option<Bytes>) {
        let mut state = self.state();
        let state = &mut *state;
        assert!(state.expected.is_some(), "a write before the sink was prepared");
        assert!(state.published.is_none(), "a write after the target was published");
        if len == 0 {
            return;
        }
        let next = state.next;
        match (self.order, next) {
            (WriteOrder::Any, _) => {}
            (WriteOrder::Sequential, next) => {
                assert_eq!(at, next.unwrap_or(0), "a sequential sink accepts bytes in order only");
            }
            (WriteOrder::Ascending, None) => state.first = at,
            (WriteOrder::Ascending, Some(next)) if at == next => {}
            (WriteOrder::Ascending, Some(next)) => {
                assert!(!state.front && at == 0, "a write at {at}, the last one ended at {next}");
                state.front = true;
            }
        }
        let end = at.checked_add(len).expect("an address");
        if state.front {
            assert!(end <= state.first, "the part that was left out ends at {}, not {end}", state.first);
        }
        state.next = Some(end);
        let before = state.writes.range(..end).next_back();
        assert!(
            before.is_none_or(|(start, (len, _))| start + len <= at),
            "bytes {at}..{end} are written twice"
        );
        if piece.is_some() {
            state.written += len;
        }
        state.writes.insert(at, (len, piece));
    }
}

impl Sink for StrictSink {
    fn url(&self) -> &str {
        "memory:strict"
    }

    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            order: self.order,
            sparse: self.order == WriteOrder::Any,
            buffers: self.order == WriteOrder::Ascending,
            in_flight: if self.order == WriteOrder::Any { 3 } else { 1 },
            read_back: ReadBack::Never,
        }
    }

    fn written(&self) -> Option<u64> {
        Some(self.state().written)
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let before = self.state().expected.replace(expected);
            assert_eq!(before, None, "prepared twice");
            Ok(())
        })
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut at = at.get();
            for piece in pieces {
                let len = piece.len() as u64;
                // A copy, since the piece holds memory of the budget.
                self.put(at, len, Some(Bytes::copy_from_slice(&piece)));
                at += len;
            }
            Ok(())
        })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.put(range.start().get(), range.len(), None);
            Ok(())
        })
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            let mut state = self.state();
            if state.aborted {
                return Err(Error::new(ErrorKind::Cancelled, "the sink was aborted"));
            }
            let mut bytes = vec![0; usize::try_from(len).expect("a target of a test")];
            let mut at = 0;
            for (start, (len, piece)) in std::mem::take(&mut state.writes) {
                assert_eq!(start, at, "the bytes before {start} were neither written nor zeroed");
                at = start + len;
                assert!(at <= bytes.len() as u64, "a write ends at {at}, after the end");
                if let Some(piece) = piece {
                    bytes[start as usize..at as usize].copy_from_slice(&piece);
                }
            }
            assert_eq!(at, len, "the end of the target was neither written nor zeroed");
            state.published = Some(bytes);
            Ok(Receipt {
                url: self.url().to_owned(),
                bytes: len,
                written: state.written,
                etag: None,
                warnings: Vec::new(),
            })
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let mut state = self.state();
            state.aborted = true;
            state.published.is_none()
        })
    }
}

/// A disk in memory, with runs that its map reports as holes.
struct Made {
    guest: Vec<u8>,
    extents: Vec<Extent>,
}

impl Made {
    /// `runs` are adjacent, each with a length in bytes and its content.
    fn new(runs: &[(u64, Content)]) -> Self {
        let mut guest = Vec::new();
        let mut extents = Extents::new();
        for (index, (len, content)) in runs.iter().enumerate() {
            let start = guest.len() as u64;
            let range = GuestRange::new(GuestOffset::new(start), *len).expect("a disk of a test");
            let bytes = match content {
                Content::Noise => pattern(*len as usize, index as u64),
                Content::Text => (0..*len).map(|at| b"a disk of a test "[(at / 3 % 17) as usize]).collect(),
                Content::Zeros | Content::Hole => vec![0; *len as usize],
            };
            guest.extend(bytes);
            let stored = StoredRange::new(StoredOffset::new(start), *len).expect("likewise");
            let kind = match content {
                Content::Hole => ExtentKind::Hole,
                _ => ExtentKind::Data(Stored { file: FileIndex(0), range: stored }),
            };
            extents.push(Extent::new(range, kind));
        }
        Self { guest, extents: extents.into_vec() }
    }

    fn disk(&self) -> Disk {
        let geometry = ImageInfo {
            format: "test",
            virtual_bytes: self.guest.len() as u64,
            fingerprint: [7; 32],
            ..ImageInfo::default()
        };
        let source: Arc<dyn Source> = Arc::new(MemorySource::new("made", self.guest.clone()));
        Disk::new(geometry, vec![source], Box::new(List(self.extents.clone())), Warnings::new(), Vec::new())
    }
}

struct List(Vec<Extent>);

impl BlockMap for List {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(self.0.iter().filter_map(|extent| extent.clip(window)).collect()) })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

#[derive(Clone, Copy)]
enum Content {
    /// Hardly compressible.
    Noise,
    /// Compressible.
    Text,
    /// Zeros that the map reports as data.
    Zeros,
    /// Zeros that the map reports as a hole.
    Hole,
}

fn disks(unit: u64, multiple: u64) -> Vec<(String, Made)> {
    use Content::{Hole, Noise, Text, Zeros};
    let mut disks = Vec::new();
    let mut add = |name: &str, runs: &[(u64, Content)]| {
        // The last run is cut to a size that the format can represent.
        let total: u64 = runs.iter().map(|(len, _)| len).sum();
        let spare = total % multiple;
        let mut runs = runs.to_vec();
        if let Some(last) = runs.last_mut()
            && last.0 > spare
        {
            last.0 -= spare;
        }
        disks.push((format!("{name}, units of {unit}"), Made::new(&runs)));
    };
    add("the smallest", &[(multiple.max(512), Noise)]);
    add("all holes", &[(3 * unit + 512, Hole)]);
    add("all zeros", &[(3 * unit + 512, Zeros)]);
    add("one unit", &[(unit, Text)]);
    add("less than a unit", &[(unit - 512, Noise)]);
    add("more than a unit", &[(unit + 512, Noise)]);
    add("full", &[(4 * unit, Noise), (2 * unit + 1536, Text)]);
    add("only its end", &[(5 * unit, Hole), (unit, Zeros), (4096, Text)]);
    let mixed = [
        (unit / 2, Hole),
        (4096, Text),
        (unit, Zeros),
        (unit / 2, Noise),
        (2 * unit, Hole),
        (unit + 4096, Text),
        (unit - 4096, Zeros),
        (4096, Noise),
        (3 * unit - 4096, Zeros),
        (unit, Noise),
        (unit, Text),
        (unit, Hole),
        (unit / 2 + 1024, Text),
    ];
    add("mixed", &mixed);
    // A raw disk without holes, mostly zeros.
    let flat: Vec<_> =
        mixed.map(|(len, content)| (len, if matches!(content, Hole) { Zeros } else { content })).to_vec();
    add("mixed, without a map", &flat);
    // More entries than a table of small units has, on a disk of a few MiB.
    let many: Vec<_> = (0..700u64).flat_map(|n| [(4096, Text), (4096 * (1 + n % 3), Hole)]).collect();
    add("many runs", &many);
    disks
}

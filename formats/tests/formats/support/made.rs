//! Disks of any size, built from pieces with holes between, and targets written from disks.

use std::sync::Arc;

use diskferry_core::{
    BlockMap, BoxFuture, Budget, Conversion, CpuPool, Disk, Extent, ExtentKind, Extents, FileIndex,
    GuestOffset, GuestRange, ImageInfo, ImageLimit, Input, Layout, Limits, Report, Resources, Result, Sink,
    Source, Stored, StoredOffset, StoredRange, Target, Warnings, WriteOrder, conformance::StrictSink,
};
use diskferry_formats::{Format, TargetOptions, layout};

use super::sparse::Sparse;

/// A disk of `len` bytes with `pieces` at their guest addresses and holes elsewhere, which its map contains. The source
/// records its reads.
pub(crate) fn made(len: u64, pieces: impl IntoIterator<Item = (u64, Vec<u8>)>) -> (Disk, Arc<Sparse>) {
    let source = Arc::new(Sparse::new(len, pieces));
    let map = Pieces(source.pieces.iter().map(|(at, bytes)| (*at, bytes.len() as u64)).collect());
    let geometry = ImageInfo::default().format("test").virtual_bytes(len).fingerprint([3; 32]);
    let files: Vec<Arc<dyn Source>> = vec![Arc::clone(&source) as _];
    (Disk::new(geometry, files, Box::new(map), Warnings::new(), Vec::new()), source)
}

/// A disk of these bytes whose map does not show zeros.
pub(crate) fn flat(guest: &[u8]) -> Disk {
    let pieces = if guest.is_empty() { Vec::new() } else { vec![(0, guest.to_vec())] };
    made(guest.len() as u64, pieces).0
}

struct Pieces(Vec<(u64, u64)>);

impl BlockMap for Pieces {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        let mut extents = Extents::new();
        let mut at = window.start();
        let hole = |extents: &mut Extents, from: GuestOffset, to: GuestOffset| {
            if from < to {
                extents.push(Extent::new(GuestRange::between(from, to), ExtentKind::Hole));
            }
        };
        for (start, len) in &self.0 {
            let piece = GuestRange::new(GuestOffset::new(*start), *len).unwrap();
            let Some(both) = piece.intersection(window) else { continue };
            hole(&mut extents, at, both.start());
            let place = StoredOffset::new(both.start().get());
            let stored = Stored { file: FileIndex(0), range: StoredRange::new(place, both.len()).unwrap() };
            extents.push(Extent::new(both, ExtentKind::Data(stored)));
            at = both.end();
        }
        hole(&mut extents, at, window.end());
        Box::pin(async move { Ok(extents.into_vec()) })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

/// Runs a future to its end, with timers.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The layout of a target with options as text: `key=value`, separated by commas.
pub(crate) fn layout_with(format: Format, options: &str, order: WriteOrder) -> Result<Box<dyn Layout>> {
    layout(format, &TargetOptions::parse(format, options)?, order)
}

/// Writes `input` to `sink`, without a limit.
pub(crate) fn write_to(
    input: impl Into<Input>,
    format: Format,
    given: &str,
    sink: Box<dyn Sink>,
) -> Result<Report> {
    let layout = layout_with(format, given, sink.capabilities().order)?;
    let resources =
        Resources::default().budget(Some(Budget::new(64 << 20))).pool(Some(Arc::new(CpuPool::new(2)?)));
    let limits = Limits::default().image(ImageLimit::None);
    run(Conversion::new(input, Target { layout, sink }).limits(limits).resources(resources).run())
}

/// The target for `input`, on a sink that only accepts writes in `order`.
pub(crate) fn written_in(
    order: WriteOrder,
    input: impl Into<Input>,
    format: Format,
    given: &str,
) -> Result<(Vec<u8>, Report)> {
    let sink = StrictSink::new(order);
    let report = write_to(input, format, given, Box::new(sink.clone()))?;
    Ok((sink.published().0, report))
}

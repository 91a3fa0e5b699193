//! Small generated disks, and the targets that they are converted to.

use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use bytes::Bytes;
use diskferry_core::{BlockMap, BoxFuture, Budget, Conversion, CpuPool, Disk, Extent, ExtentKind, Extents, FileIndex, GuestRange, ImageInfo, ImageLimit, Limits, Report, Resources, Result, Stored, StoredOffset, StoredRange, Target, Warnings, WriteOrder, conformance::StrictSink, conformance::pattern};
use diskferry_formats::{Format, TargetOptions, layout};

use crate::source::Guarded;

/// A kind of target: format, options, and the granularity to which the disk size is rounded up.
pub type Kind = (Format, &'static str, u64);

/// Kinds of targets. The first one of each format is the simplest.
pub const KINDS: &[Kind] = &[
    (Format::Raw, "", 1),
    (Format::Vhd, "align=512", 512),
    (Format::Vhd, "subformat=fixed,align=512", 512),
    (Format::Qcow2, "", 1),
    (Format::Qcow2, "cluster_size=512", 1),
    (Format::Qcow2, "cluster_size=4K,compression=zlib", 1),
    (Format::Qcow2, "compression=zlib,level=1", 1),
    (Format::Qcow2, "cluster_size=4K,compression=zstd", 1),
    (Format::Vmdk, "align=512", 512),
    (Format::Vmdk, "subformat=streamOptimized,align=512", 512),
];

/// A run of consecutive bytes on a disk.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Run {
    /// Length, in the unit that `fine` selects.
    pub len: u8,
    /// True if the length is in bytes, false if in blocks of 4 KiB.
    pub fine: bool,
    /// The content.
    pub content: Content,
    /// The seed, for content that depends on one.
    pub seed: u8,
}

/// The content of a run.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Incompressible.
    Noise,
    /// Compressible.
    Text,
    /// Zeros that the map reports as data.
    Zeros,
    /// Zeros that the map reports as zeros.
    Hole,
}

/// Maximum size of a disk in bytes.
const MOST: usize = 512 << 10;

struct Map(Vec<Extent>);

impl BlockMap for Map {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(self.0.iter().filter_map(|extent| extent.clip(window)).collect()) })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

/// Builds a disk of these runs, truncated to the maximum size, and returns its bytes.
pub fn disk(runs: &[Run]) -> (Disk, Vec<u8>) {
    let mut guest: Vec<u8> = Vec::new();
    let mut extents = Extents::new();
    for run in runs {
        let len = usize::from(run.len) * if run.fine { 1 } else { 4096 };
        let len = len.min(MOST - guest.len());
        let start = StoredOffset::new(guest.len() as u64);
        let Some(stored) = StoredRange::new(start, len as u64).filter(|range| !range.is_empty()) else {
            continue;
        };
        match run.content {
            Content::Noise => guest.extend(pattern(len, u64::from(run.seed))),
            Content::Text => {
                guest.extend((0..len).map(|at| b"a disk to fuzz "[(at / 3 + usize::from(run.seed)) % 15]))
            }
            Content::Zeros | Content::Hole => guest.resize(guest.len() + len, 0),
        }
        let kind = match run.content {
            Content::Hole => ExtentKind::Hole,
            _ => ExtentKind::Data(Stored { file: FileIndex(0), range: stored }),
        };
        let range = GuestRange::first(guest.len() as u64).skip(start.get());
        extents.push(Extent::new(range, kind));
    }
    let virtual_bytes = guest.len() as u64;
    let geometry = ImageInfo::default().format("fuzz").virtual_bytes(virtual_bytes).fingerprint([9; 32]);
    let map = Box::new(Map(extents.into_vec()));
    let source = Guarded::new(Bytes::from(guest.clone()));
    (Disk::new(geometry, vec![source], map, Warnings::new(), Vec::new()), guest)
}

/// CPU workers and a runtime, created once.
static RESOURCES: LazyLock<(tokio::runtime::Runtime, Arc<CpuPool>)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    (runtime, Arc::new(CpuPool::new(1).expect("a worker")))
});

/// Converts a disk to a target.
///
/// # Errors
/// The errors of the conversion.
pub fn written(disk: Disk, (format, options, _): Kind, order: WriteOrder) -> Result<(Vec<u8>, Report)> {
    let (runtime, pool) = &*RESOURCES;
    let layout = layout(format, &TargetOptions::parse(format, options)?, order)?;
    let sink = StrictSink::new(order);
    let target = Target { layout, sink: Box::new(sink.clone()) };
    let budget = Some(Budget::new(Budget::SMALLEST));
    let resources = Resources::default().budget(budget).pool(Some(Arc::clone(pool)));
    let limits = Limits::default().image(ImageLimit::None);
    let conversion = Conversion::new(disk, target).limits(limits).resources(resources).stall_timeout(None);
    let report = runtime.block_on(conversion.run())?;
    Ok((sink.published().0, report))
}

//! Written QCOW2 images, checked with qemu-img.

mod carried;
mod disks;
mod images;
mod random;
mod refused;
mod sizes;

use std::path::Path;
use std::sync::Arc;

use diskferry_core::{
    Conversion, Disk, ImageLimit, Layout, Limits, Report, Result, Target, WriteOrder, conformance::StrictSink,
};
use diskferry_formats::{Format, TargetOptions, layout};

/// The layout for these options.
fn made(options: &[(&str, &str)], order: WriteOrder) -> Result<Box<dyn Layout>> {
    layout(Format::Qcow2, &TargetOptions::from_pairs(Format::Qcow2, options.iter().copied())?, order)
}

/// Converts a disk to a sink that only accepts writes in its order.
fn convert(
    disk: impl Into<Arc<Disk>>,
    options: &[(&str, &str)],
    order: WriteOrder,
) -> Result<(Vec<u8>, Report)> {
    let sink = StrictSink::new(order);
    let target = Target { layout: made(options, order)?, sink: Box::new(sink.clone()) };
    let limits = Limits::default().image(ImageLimit::None);
    let report = crate::support::block_on(
        Conversion::new(disk.into(), target).limits(limits).stall_timeout(None).run(),
    )?;
    Ok((sink.published().0, report))
}

/// Checks that `qemu-img check` reports no error, and that the disk has that size.
fn judge(path: &Path, virtual_bytes: u64) {
    use diskferry_corpus::oracle::{qemu_check, qemu_virtual_bytes};
    qemu_check(path, "qcow2");
    assert_eq!(qemu_virtual_bytes(path, "qcow2"), virtual_bytes / 512 * 512, "{}", path.display());
}

/// The digest of a disk's content.
fn digest(disk: Disk) -> Option<diskferry_core::Digest> {
    let limits = Limits::default().image(ImageLimit::None);
    crate::support::block_on(Conversion::reading(disk).limits(limits).stall_timeout(None).run())
        .unwrap()
        .digest
}

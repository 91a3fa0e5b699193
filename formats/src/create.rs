//! Creating a target: the layout of a format on a sink.

use diskferry_core::{Layout, Result, Sink, Target, WriteOrder};

use crate::detect::check_target;
use crate::open::open_target;
use crate::target_options::TargetOptions;
use crate::target_reader::TargetReader;
use crate::{qcow2, raw, vhd, vmdk};

/// How every layout reads its target back.
const READER: TargetReader = TargetReader { check: check_target, open: open_target };

/// Returns the layout of a target for a sink that accepts writes in `order`. Use it to predict the size of a target, or to
/// refuse options before a source is opened and a sink is created.
///
/// # Errors
/// - `usage` for options that contradict each other, and for values that they cannot have;
/// - `destination_unsuitable` for a target that cannot be written in that order; the hint names those that can.
pub fn layout(options: &TargetOptions, order: WriteOrder) -> Result<Box<dyn Layout>> {
    match options {
        TargetOptions::Raw(_) => Ok(Box::new(raw::RawLayout::new(order, READER))),
        TargetOptions::Vhd(options) => vhd::layout(options, order, READER),
        TargetOptions::Qcow2(options) => qcow2::layout(options, order, READER),
        TargetOptions::Vmdk(options) => vmdk::layout(options, order, READER),
    }
}

/// Creates a target on `sink`. `options` are those of the format, or a [`Format`](crate::Format) for its defaults.
///
/// ```
/// use diskferry_core::MemorySink;
/// use diskferry_formats::{Format, Qcow2Compression, Qcow2Options, create};
///
/// let target = create(Format::Vmdk, MemorySink::default())?;
/// assert_eq!(target.layout.variant(), "monolithicSparse");
///
/// let options = Qcow2Options::default().compression(Qcow2Compression::Zstd);
/// let target = create(options, MemorySink::default())?;
/// assert_eq!(target.layout.format(), "qcow2");
/// # Ok::<(), diskferry_core::Error>(())
/// ```
///
/// # Errors
/// Those of [`layout`].
pub fn create(options: impl Into<TargetOptions>, sink: impl Sink + 'static) -> Result<Target> {
    Ok(Target { layout: layout(&options.into(), sink.capabilities().order)?, sink: Box::new(sink) })
}

//! Creating a target: the layout of a format on a sink.

use diskferry_core::{Layout, Result, Sink, Target, WriteOrder};

use crate::detect::check_target;
use crate::format::Format;
use crate::open::open_target;
use crate::target_options::TargetOptions;
use crate::target_reader::TargetReader;
use crate::{qcow2, raw, vhd, vmdk};

/// How every layout reads its target back.
const READER: TargetReader = TargetReader { check: check_target, open: open_target };

/// Returns the layout of a target for a sink that accepts writes in `order`. Use it to predict the size of a target, or
/// to refuse options before a source is opened and a sink is created.
///
/// # Errors
/// - `usage` for options that contradict each other, are those of another format, or have values that they cannot have;
/// - `destination_unsuitable` for a target that cannot be written in that order; the hint names those that can.
pub fn layout(format: Format, options: &TargetOptions, order: WriteOrder) -> Result<Box<dyn Layout>> {
    match options.of_format(format)? {
        TargetOptions::Raw(_) | TargetOptions::Defaults => Ok(Box::new(raw::RawLayout::new(order, READER))),
        TargetOptions::Vhd(options) => vhd::layout(&options, order, READER),
        TargetOptions::Qcow2(options) => qcow2::layout(&options, order, READER),
        TargetOptions::Vmdk(options) => vmdk::layout(&options, order, READER),
    }
}

/// Creates a target of `format` on `sink`.
///
/// ```
/// use diskferry_core::MemorySink;
/// use diskferry_formats::{Format, Qcow2Compression, Qcow2Options, TargetOptions, create};
///
/// let target = create(Format::Vmdk, MemorySink::default(), &TargetOptions::default())?;
/// assert_eq!(target.layout.variant(), "monolithicSparse");
///
/// let options = Qcow2Options::default().compression(Qcow2Compression::Zstd);
/// let target = create(Format::Qcow2, MemorySink::default(), &options)?;
/// assert_eq!(target.layout.format(), "qcow2");
/// # Ok::<(), diskferry_core::Error>(())
/// ```
///
/// # Errors
/// Those of [`layout`].
pub fn create(
    format: Format,
    sink: impl Sink + 'static,
    options: &(impl Clone + Into<TargetOptions>),
) -> Result<Target> {
    let options: TargetOptions = options.clone().into();
    Ok(Target { layout: layout(format, &options, sink.capabilities().order)?, sink: Box::new(sink) })
}

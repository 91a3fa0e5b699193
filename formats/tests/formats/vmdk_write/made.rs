//! Writes a disk and examines the target.

use std::sync::Arc;

use diskferry_core::{
    Conversion, Disk, Input, Layout, MemorySource, Report, Result, SinkHint, Target, WriteOrder,
    conformance::StrictSink,
};
use diskferry_formats::{Format, TargetOptions, layout};

use crate::support::{block_on, open_source};

/// The option that selects a stream.
pub(crate) const STREAM: (&str, &str) = ("subformat", "streamOptimized");
/// Bytes of a grain.
pub(crate) const GRAIN: usize = 65_536;
/// Both kinds.
pub(crate) const KINDS: [&[(&str, &str)]; 2] = [&[], &[STREAM]];

/// The layout of a VMDK with these options.
pub(crate) fn layout_with(given: &[(&str, &str)], order: WriteOrder) -> Result<Box<dyn Layout>> {
    layout(Format::Vmdk, &TargetOptions::from_pairs(Format::Vmdk, given.iter().copied())?, order)
}

/// A raw disk, without holes.
pub(crate) fn raw(guest: &[u8]) -> Disk {
    let source = MemorySource::new("disk.raw", guest.to_vec());
    open_source(Arc::new(source), diskferry_formats::Declared::Format(Format::Raw)).unwrap()
}

/// The result of writing `input` as a VMDK in that order.
pub(crate) fn try_write(
    input: impl Into<Input>,
    given: &[(&str, &str)],
    order: WriteOrder,
) -> Result<(Vec<u8>, Report, SinkHint)> {
    let sink = StrictSink::new(order);
    let target = Target { layout: layout_with(given, order)?, sink: Box::new(sink.clone()) };
    let report = block_on(Conversion::new(input, target).stall_timeout(None).run())?;
    let (bytes, expected) = sink.published();
    Ok((bytes, report, expected))
}

/// The target of `input` with writes in any order.
pub(crate) fn write(input: impl Into<Input>, given: &[(&str, &str)]) -> Vec<u8> {
    try_write(input, given, WriteOrder::Any).unwrap().0
}

/// A disk of `len` bytes that is zero except for some pieces.
pub(crate) fn pieces(len: usize, pieces: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut guest = vec![0; len];
    for (at, piece) in pieces {
        guest[*at..*at + piece.len()].copy_from_slice(piece);
    }
    guest
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

//! The trait of target formats.

use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::layout::part::Part;
use crate::layout::types::{LayoutFacts, LayoutInput, OutputSize, Write, Writes};
use crate::source::{BoxFuture, HeadTail, Source};

/// Places a disk in a target: the writer for one format.
///
/// A layout gets every guest byte once, and returns writes. It never waits and never sees the sink. Every byte of the
/// target, from 0 to its length, is in exactly one [`Write`]; gaps are zeroed, not skipped. The order of the writes
/// depends on the sink ([`WriteOrder`](crate::WriteOrder)):
///
/// * *packed*: units are appended in guest order, zeros are left out, and metadata that precedes the units is
///   written last;
/// * *placed*, for a strictly sequential sink: all positions follow from the map ([`needs_map`](Self::needs_map)), and
///   everything is written front to back.
pub trait Layout: Send + Sync {
    /// Name of the format as the command line spells it.
    fn format(&self) -> &'static str;

    /// The variant of the format.
    fn variant(&self) -> String;

    /// The options that the target's bytes depend on, as text: an interrupted run is continued only if this text is the
    /// same.
    fn options(&self) -> String;

    /// The form in which the layout takes a disk.
    fn input(&self) -> LayoutInput;

    /// Size in bytes of the unit that the layout allocates, if it has one.
    fn unit(&self) -> Option<u64>;

    /// Whether [`begin`](Self::begin) requires [`LayoutFacts::map`].
    fn needs_map(&self) -> bool;

    /// The disk size in bytes that a disk of `source_bytes` is written with: the same, or larger if that was
    /// requested.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot represent that size exactly.
    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64>;

    /// Size of the target, if the size of the disk is known. Without a map, every unit is assumed to hold data.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold the disk.
    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>>;

    /// The first writes. Called once, before anything is placed.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold the disk.
    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes>;

    /// Places a part of the disk.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold the part.
    fn place(&mut self, part: Part) -> Result<Vec<Write>>;

    /// Writes buffered data. Afterwards, the layout's state depends only on the lengths of what was placed, so that a
    /// resumed run can rebuild it.
    fn flush(&mut self) -> Vec<Write>;

    /// The last writes of a disk that is written with `virtual_bytes`, and the length of the target in bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold a disk of that size.
    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)>;

    /// Checks the written target before it is published: it must be detected as this format and as no other, whatever
    /// the guest's disk contains.
    ///
    /// # Errors
    /// `destination_unsuitable` if other tools could take the target for another format.
    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>>;

    /// Opens the target with the reader of its format.
    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>>;
}

//! The trait of target formats.

use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::layout::part::Part;
use crate::layout::types::{LayoutFacts, LayoutInput, OutputSize, Write, Writes};
use crate::source::{BoxFuture, HeadTail, Source};

/// Places a disk in a target: the writer of one format.
///
/// It is given every guest byte once, and answers with writes; it never waits and never sees the sink. Every byte of the
/// target, from 0 to its length, is in exactly one [`Write`]; gaps are zeroed, not skipped. The order of the writes follows
/// from the sink ([`WriteOrder`](crate::WriteOrder)):
///
/// * *packed*: units are appended in guest order as they come, zeros are left out, and what must be stored before them is
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

    /// What it is given.
    fn input(&self) -> LayoutInput;

    /// Size in bytes of the unit that it allocates, if it has one.
    fn unit(&self) -> Option<u64>;

    /// Whether [`begin`](Self::begin) needs [`LayoutFacts::map`].
    fn needs_map(&self) -> bool;

    /// Size in bytes that a disk of `source_bytes` is written with: the same, or larger if that was asked for.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot keep that size exactly, or not at all.
    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64>;

    /// Size of the target, if the size of the disk is known. Without a map every unit counts.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold the disk.
    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>>;

    /// The first writes. Called once, before anything is placed.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold the disk.
    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes>;

    /// Takes a part of the disk.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold it.
    fn place(&mut self, part: Part) -> Result<Vec<Write>>;

    /// Writes what the layout gathers. After that its state depends only on the lengths of what was placed, so that a
    /// resumed run can rebuild it.
    fn flush(&mut self) -> Vec<Write>;

    /// The last writes of a disk that is written with `virtual_bytes`, and the length of the target in bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold a disk of that size.
    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)>;

    /// Checks the written target before it is published: it must be detected as this format and as no other, whatever the
    /// guest has on its disk.
    ///
    /// # Errors
    /// `destination_unsuitable` if others would take it for another format.
    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>>;

    /// Opens the target with the reader of its format.
    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>>;
}

//! What is written: a layout that knows a format, over a sink that knows a place.

use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::layout::part::Part;
use crate::layout::types::{LayoutFacts, LayoutInput, OutputSize, Write, Writes};
use crate::source::{BoxFuture, HeadTail, Source};

/// Places a disk in a target: the writer of one format.
///
/// It is told of every guest byte once, and answers with what is to be written; it never waits. Every byte of the target,
/// from 0 to its length, is in exactly one [`Write`]; gaps are zeroed, never just left. In which order they come depends on
/// the sink that it is made for, see [`crate::sink::WriteOrder`]:
///
/// * [packed](Self::needs_map), units are appended in guest order as they come, what turns out to be zeros is left out,
///   and what must stand before them is written last;
/// * placed, for a sink that is strictly sequential, all positions follow from the map, and all is written front to back.
pub trait Layout: Send + Sync {
    /// Name of the format as the command line spells it.
    fn format(&self) -> &'static str;

    /// Which kind of it.
    fn variant(&self) -> String;

    /// The options on which its bytes depend, as text that differs where they do: a run that was interrupted is continued
    /// only where it is the same.
    fn options(&self) -> String;

    /// What it is to be given.
    fn input(&self) -> LayoutInput;

    /// Size of the unit that it allocates, in bytes, where it has one.
    fn unit(&self) -> Option<u64>;

    /// Whether [`begin`](Self::begin) needs [`LayoutFacts::map`].
    fn needs_map(&self) -> bool;

    /// Size in bytes that a disk of `source_bytes` is written with: the same, or larger where that was asked for.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot keep it exactly, or not at all.
    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64>;

    /// What the target takes, where the size of the disk is known. Without a map every unit counts.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold it.
    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>>;

    /// The beginning, called once before anything is placed.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold the disk.
    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes>;

    /// Takes a part of the disk.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold it.
    fn place(&mut self, part: Part) -> Result<Vec<Write>>;

    /// What it gathers, to be written now: of all that was placed, nothing is left but what it can tell from how many bytes
    /// there were.
    fn flush(&mut self) -> Vec<Write>;

    /// The end of the disk, `virtual_bytes` as it is written: what remains to be written, and the length of the target in
    /// bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` if the format cannot hold a disk of that size.
    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)>;

    /// Looks at the target as it was written, before it is published: it must be of this format and of no other,
    /// whatever the guest has on its disk.
    ///
    /// # Errors
    /// `destination_unsuitable` if others would take it for another format.
    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>>;

    /// Opens the target with the reader of its format.
    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>>;
}

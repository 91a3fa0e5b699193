//! A fixed disk: a raw one with a footer behind it.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Disk, HeadTail, Layout, LayoutFacts, LayoutInput, OutputSize, Part, Result, Source,
    TargetOffset, Warning, Write, WriteOrder, Writes,
};

use super::super::footer::{Kind, LEN};
use super::super::has_marks;
use super::{check_most, footer_of, size_of, unsuitable};
use crate::options::WholeSectors;
use crate::raw::write::RawLayout;
use crate::{Declared, Format, detect};

/// The layout of a fixed VHD: its own map. The size of the disk may show at its end.
pub(super) struct FixedLayout {
    size: WholeSectors,
    id: Option<[u8; 16]>,
    raw: RawLayout,
    facts: LayoutFacts,
}

impl FixedLayout {
    pub(super) fn new(size: WholeSectors, id: Option<[u8; 16]>, order: WriteOrder) -> Self {
        Self { size, id, raw: RawLayout::new(order), facts: LayoutFacts::default() }
    }
}

impl Layout for FixedLayout {
    fn format(&self) -> &'static str {
        Format::Vhd.name()
    }

    fn variant(&self) -> String {
        Kind::Fixed.name().to_owned()
    }

    fn options(&self) -> String {
        format!("{:?} {:?}", self.size, self.id)
    }

    fn input(&self) -> LayoutInput {
        self.raw.input()
    }

    fn unit(&self) -> Option<u64> {
        self.raw.unit()
    }

    fn needs_map(&self) -> bool {
        self.raw.needs_map()
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        match size_of(self.size, source_bytes)? {
            0 => Err(unsuitable(
                "the disk has no bytes, and a fixed VHD of none is a mere footer, which others take for the beginning of a dynamic one",
            )
            .hint("convert to another format, or with -o subformat=dynamic")),
            bytes => Ok(bytes),
        }
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        let of = |bytes: u64| OutputSize { bytes: bytes.saturating_add(LEN as u64), exact: true };
        Ok(facts.virtual_bytes.map(of))
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        self.facts = facts.clone().map(None);
        self.raw.begin(facts)
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        match &part {
            Part::Zero(range) => check_most(range.end().get())?,
            Part::Bytes(scanned) => check_most(scanned.guest.end().get())?,
            Part::Unit(_) => {}
        }
        self.raw.place(part)
    }

    fn flush(&mut self) -> Vec<Write> {
        self.raw.flush()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        check_most(virtual_bytes)?;
        let (writes, at) = self.raw.finish(virtual_bytes)?;
        let footer = Bytes::from_owner(footer_of(Kind::Fixed, virtual_bytes, self.id, &self.facts));
        let end = at.saturating_add(footer.len() as u64);
        let last = Write::Bytes(TargetOffset::new(at), vec![footer]);
        Ok((Box::new(writes.chain([last])), end))
    }

    /// A guest whose first sector is the footer of a VHD is refused: many readers look there first, and see a dynamic disk.
    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        if has_marks(target.head()) {
            return Err(unsuitable(
                "the guest's first sector begins as a dynamic VHD does, and a fixed VHD begins with the guest's first sector: others would take it for that disk",
            )
            .hint("convert to another format, or with -o subformat=dynamic"));
        }
        detect::recognise(target, Format::Vhd)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        Box::pin(crate::open(target, Declared::Format(Format::Vhd)))
    }
}

//! A fixed disk: the bytes of a raw disk, then a footer.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Disk, HeadTail, Layout, LayoutFacts, LayoutInput, OutputSize, Part, Result, Source,
    TargetOffset, Warning, Write, WriteOrder, Writes,
};

use super::disk::{check_most, footer_of, size_of, unsuitable};
use crate::format::Format;
use crate::raw::RawLayout;
use crate::sector_size::SectorSize;
use crate::target_reader::TargetReader;
use crate::vhd::footer::{Kind, LEN};
use crate::vhd::probe::has_magic;

/// The layout of a fixed VHD. Guest addresses are target addresses. The size may become known only at the end.
pub(super) struct FixedLayout {
    size: SectorSize,
    id: Option<[u8; 16]>,
    raw: RawLayout,
    reader: TargetReader,
    facts: LayoutFacts,
}

impl FixedLayout {
    pub(super) fn new(
        size: SectorSize,
        id: Option<[u8; 16]>,
        order: WriteOrder,
        reader: TargetReader,
    ) -> Self {
        Self { size, id, raw: RawLayout::new(order, reader), reader, facts: LayoutFacts::default() }
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
                "the disk is empty: a fixed VHD of it is only a footer, which other readers take for the beginning of a dynamic VHD",
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

    /// Refuses a guest whose first sector is the footer of a VHD. Many readers look there first and detect a dynamic
    /// disk.
    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        if has_magic(target.head()) {
            return Err(unsuitable(
                "the guest's first sector begins like a dynamic VHD, and a fixed VHD begins with the guest's first sector: other readers would open it as a dynamic disk",
            )
            .hint("convert to another format, or with -o subformat=dynamic"));
        }
        (self.reader.check)(target, Format::Vhd)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        (self.reader.open)(target, Format::Vhd)
    }
}

//! Writing RAW: every guest byte at its own address, and zeros as holes if the sink has them.

use std::sync::Arc;

use diskferry_core::{
    BoxFuture, Disk, GuestRange, HeadTail, Layout, LayoutFacts, LayoutInput, Order, OutputSize, Part, Result,
    Source, TargetOffset, TargetRange, Warning, Write, WriteOrder, Writes,
};

use crate::format::Format;
use crate::target_reader::TargetReader;
use crate::unit_placement::{no_writes, order_for, unexpected_part};

/// The layout of a raw target. Guest addresses are target addresses.
pub(crate) struct RawLayout {
    order: Order,
    reader: TargetReader,
}

impl RawLayout {
    pub(crate) fn new(order: WriteOrder, reader: TargetReader) -> Self {
        Self { order: order_for(order), reader }
    }
}

impl Layout for RawLayout {
    fn format(&self) -> &'static str {
        Format::Raw.name()
    }

    fn variant(&self) -> String {
        "raw".to_owned()
    }

    fn options(&self) -> String {
        String::new()
    }

    fn input(&self) -> LayoutInput {
        LayoutInput::Bytes(self.order)
    }

    fn unit(&self) -> Option<u64> {
        None
    }

    fn needs_map(&self) -> bool {
        false
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        Ok(source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        Ok(facts.virtual_bytes.map(|bytes| OutputSize { bytes, exact: true }))
    }

    fn begin(&mut self, _facts: &LayoutFacts) -> Result<Writes> {
        Ok(no_writes())
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        match part {
            Part::Zero(range) => Ok(vec![Write::Zero(same(range))]),
            Part::Bytes(scanned) => Ok(scanned
                .ranges()
                .map(|(range, zero)| match zero {
                    true => Write::Zero(same(range)),
                    false => Write::Bytes(same(range).start(), vec![scanned.slice(range)]),
                })
                .collect()),
            Part::Unit(_) => Err(unexpected_part()),
        }
    }

    fn flush(&mut self) -> Vec<Write> {
        Vec::new()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        Ok((no_writes(), virtual_bytes))
    }

    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        (self.reader.check)(target, Format::Raw)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        (self.reader.open)(target, Format::Raw)
    }
}

/// The same addresses in the target.
fn same(range: GuestRange) -> TargetRange {
    let at = |offset: u64| TargetOffset::new(offset);
    TargetRange::between(at(range.start().get()), at(range.end().get()))
}

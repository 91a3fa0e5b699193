//! The layout of monolithicSparse: grains are stored consecutively in guest order, after all tables.
//!
//! Packed and placed layouts differ only in how grains are counted. A packed layout allocates a grain at its first
//! non-zero byte. A placed layout allocates the grains of the map, including those that turn out to be zeros.

use std::sync::Arc;

use diskferry_core::{
    BoxFuture, Disk, Error, HeadTail, Layout, LayoutFacts, LayoutInput, Order, OutputSize, Part, Result,
    Source, Warning, Write, WriteOrder, Writes,
};

use super::disk::{DiskOptions, GRAIN, MOST_BYTES, entry, sectors, unsuitable};
use super::front::Front;
use crate::format::Format;
use crate::target_reader::TargetReader;
use crate::unit_placement::{AppendWriter, UnitPlacement, no_writes, unexpected_part, zeros};
use crate::vhd::TAIL_LEN;
use crate::vmdk::header::SECTOR;

const VARIANT: &str = "monolithicSparse";

/// The layout of a monolithicSparse target.
pub(super) struct PlainLayout {
    disk: DiskOptions,
    reader: TargetReader,
    placed: bool,
    /// Size of the disk, once known.
    virtual_bytes: Option<u64>,
    begun: Option<Begun>,
}

/// State after the layout has begun.
struct Begun {
    virtual_bytes: u64,
    fingerprint: [u8; 32],
    front: Front,
    grains: AppendWriter,
}

impl PlainLayout {
    pub(super) fn new(disk: DiskOptions, order: WriteOrder, reader: TargetReader) -> Self {
        Self { disk, reader, placed: order == WriteOrder::Sequential, virtual_bytes: None, begun: None }
    }

    fn begun(&mut self) -> Result<&mut Begun> {
        self.begun.as_mut().ok_or_else(|| Error::internal("a layout was not begun"))
    }
}

impl Layout for PlainLayout {
    fn format(&self) -> &'static str {
        Format::Vmdk.name()
    }

    fn variant(&self) -> String {
        VARIANT.to_owned()
    }

    fn options(&self) -> String {
        format!("{:?}", self.disk)
    }

    fn input(&self) -> LayoutInput {
        LayoutInput::Bytes(Order::Guest)
    }

    fn unit(&self) -> Option<u64> {
        Some(GRAIN)
    }

    fn needs_map(&self) -> bool {
        self.placed
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        self.disk.virtual_bytes(source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        let Some(virtual_bytes) = facts.virtual_bytes else { return Ok(None) };
        let front = Front::new(sectors(virtual_bytes));
        let all = virtual_bytes.div_ceil(GRAIN);
        let count = facts.map.as_ref().map_or(all, |map| map.count());
        let bytes = end_of(front, count);
        if self.placed && facts.map.is_some() {
            entry(bytes.saturating_sub(SECTOR))?;
            return Ok(Some(OutputSize { bytes, exact: true }));
        }
        // More is refused during the write, because only then the number of zero grains is known.
        Ok(Some(OutputSize { bytes: bytes.min(MOST_BYTES), exact: false }))
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        let virtual_bytes = facts.virtual_bytes.ok_or_else(|| {
            unsuitable(format!(
                "a {VARIANT} vmdk has its tables before the data, and needs the size of the disk before the first byte"
            ))
            .hint("name the source by its path or URL, or write raw")
        })?;
        self.disk.virtual_bytes(virtual_bytes)?;
        let front = Front::new(sectors(virtual_bytes));
        let check = |end: u64| entry(end.saturating_sub(SECTOR)).map(drop);
        let mut grains = AppendWriter::found(front.grains_at(), b"", GRAIN, Box::new(check));
        let mut writes = no_writes();
        if self.placed {
            let map = facts.map.clone().ok_or_else(|| Error::internal("placed without a map"))?;
            check(end_of(front, map.count()))?;
            let id = self.disk.id(VARIANT, virtual_bytes, &facts.fingerprint);
            writes = front.writes(id, map.clone())?;
            grains = AppendWriter::known(UnitPlacement::new(front.grains_at(), b"", map));
        }
        let fingerprint = facts.fingerprint;
        self.virtual_bytes = Some(virtual_bytes);
        self.begun = Some(Begun { virtual_bytes, fingerprint, front, grains });
        Ok(writes)
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        let begun = self.begun()?;
        match part {
            Part::Zero(_) => Ok(Vec::new()),
            Part::Bytes(scanned) => begun.grains.place(&scanned),
            Part::Unit(_) => Err(unexpected_part()),
        }
    }

    fn flush(&mut self) -> Vec<Write> {
        Vec::new()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        let (placed, disk) = (self.placed, self.disk);
        let begun = self.begun.take().ok_or_else(|| Error::internal("a layout was not begun"))?;
        if begun.virtual_bytes != virtual_bytes {
            return Err(Error::internal(format!(
                "a disk of {} bytes turned out to have {virtual_bytes}",
                begun.virtual_bytes
            )));
        }
        let (rest, grains) = begun.grains.finish();
        let end = end_of(begun.front, grains.units().count());
        let rest = rest.into_iter().chain(zeros(grains.end(), end));
        if placed {
            return Ok((Box::new(rest), end));
        }
        let id = disk.id(VARIANT, virtual_bytes, &begun.fingerprint);
        Ok((Box::new(rest.chain(begun.front.writes(id, grains.into_units())?)), end))
    }

    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        let mut warnings = (self.reader.check)(target, Format::Vmdk)?;
        warnings.extend(self.virtual_bytes.and_then(DiskOptions::warning));
        Ok(warnings)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        (self.reader.open)(target, Format::Vmdk)
    }
}

/// Zeros after the last grain, which no table names. The grains are the end of the file, and a reader must not take
/// guest data for the footer of a VHD. No reader searches for one this far before the end.
const GUARD: u64 = TAIL_LEN.div_ceil(GRAIN).saturating_mul(GRAIN);

/// End of a target with this many grains.
fn end_of(front: Front, grains: u64) -> u64 {
    let guard = if grains > 0 { GUARD } else { 0 };
    front.grains_at().saturating_add(grains.saturating_mul(GRAIN)).saturating_add(guard)
}

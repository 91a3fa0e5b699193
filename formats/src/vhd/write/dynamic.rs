//! A dynamic disk: the blocks with data, and the table with the location of each.
//!
//! The table is stored before the blocks and has an entry for every block of the disk, so the size of the disk
//! determines its length. A packed layout reserves that space and writes the table last, when it is known which blocks
//! are not zeros. A placed layout writes the table first, from the map.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Disk, Error, HeadTail, Layout, LayoutFacts, LayoutInput, Order, OutputSize, Part, Result,
    Source, StoredOffset, TargetOffset, UnitMap, Warning, Write, WriteOrder, Writes,
};

use super::disk::{check_most, footer_of, size_of, unsuitable};
use crate::format::Format;
use crate::sector_size::SectorSize;
use crate::target_reader::TargetReader;
use crate::unit_placement::{AppendWriter, UnitPlacement, no_writes, unexpected_part};
use crate::vhd::footer::{self, Kind, SECTOR};
use crate::vhd::header;

/// Guest bytes of a block: what all writers use, and the only size that some readers support.
const BLOCK_BYTES: u32 = 2 << 20;
/// The same, as a `u64`.
const BLOCK: u64 = BLOCK_BYTES as u64;
/// The bitmap before each block, one bit per sector. All bits are set: every sector has its final contents.
const BITMAP: &[u8] = &[0xff; BLOCK_BYTES as usize / 512 / 8];
const _: () = assert!((BITMAP.len() as u64).is_multiple_of(SECTOR));
/// The entry of a block that is not stored.
const UNUSED: u32 = u32::MAX;

/// Offset of the header, after the copy of the footer.
const HEADER_AT: u64 = footer::LEN as u64;
/// Offset of the table, after the header.
const TABLE_AT: u64 = HEADER_AT + header::LEN;
/// Entries of the table that are generated at once: 1 MiB.
const PIECE_ENTRIES: u64 = 1 << 18;

/// The name of the kind.
const KIND: Kind = Kind::Dynamic(StoredOffset::new(HEADER_AT));

/// The layout of a dynamic VHD.
pub(super) struct DynamicLayout {
    size: SectorSize,
    id: Option<[u8; 16]>,
    /// True if the table is written first.
    placed: bool,
    reader: TargetReader,
    begun: Option<Begun>,
}

/// A disk being written.
struct Begun {
    virtual_bytes: u64,
    footer: [u8; footer::LEN],
    writer: AppendWriter,
}

impl DynamicLayout {
    pub(super) fn new(
        size: SectorSize,
        id: Option<[u8; 16]>,
        order: WriteOrder,
        reader: TargetReader,
    ) -> Self {
        Self { size, id, placed: order == WriteOrder::Sequential, reader, begun: None }
    }
}

impl Layout for DynamicLayout {
    fn format(&self) -> &'static str {
        Format::Vhd.name()
    }

    fn variant(&self) -> String {
        KIND.name().to_owned()
    }

    fn options(&self) -> String {
        format!("{:?} {:?}", self.size, self.id)
    }

    fn input(&self) -> LayoutInput {
        LayoutInput::Bytes(Order::Guest)
    }

    fn unit(&self) -> Option<u64> {
        Some(BLOCK)
    }

    fn needs_map(&self) -> bool {
        self.placed
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        size_of(self.size, source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        let Some(virtual_bytes) = facts.virtual_bytes else { return Ok(None) };
        let map = facts.map.clone().unwrap_or_else(|| UnitMap::full(BLOCK, virtual_bytes));
        let end = UnitPlacement::new(BatLayout::of(virtual_bytes)?.end(), BITMAP, map).end();
        let bytes = end.saturating_add(footer::LEN as u64);
        Ok(Some(OutputSize { bytes, exact: self.placed && facts.map.is_some() }))
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        let virtual_bytes = facts.virtual_bytes.ok_or_else(|| {
            unsuitable(
                "a dynamic VHD begins with a table whose length depends on the disk's size, and the size of a raw stream is only known at its end",
            )
            .hint("name the source by its path or URL, or write raw or a VHD with -o subformat=fixed")
        })?;
        let table = BatLayout::of(virtual_bytes)?;
        let footer = footer_of(KIND, virtual_bytes, self.id, facts);
        let (writer, writes) = if self.placed {
            let map = facts.map.clone().ok_or_else(|| Error::internal("a VHD is placed without a map"))?;
            let stored = UnitPlacement::new(table.end(), BITMAP, map);
            check_end(stored.end())?;
            (AppendWriter::known(stored.clone()), table.front(footer, stored))
        } else {
            (AppendWriter::found(table.end(), BITMAP, BLOCK, Box::new(check_end)), no_writes())
        };
        self.begun = Some(Begun { virtual_bytes, footer, writer });
        Ok(writes)
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        let begun = self.begun.as_mut().ok_or_else(not_begun)?;
        match part {
            Part::Zero(_) => Ok(Vec::new()),
            Part::Bytes(scanned) => begun.writer.place(&scanned),
            Part::Unit(_) => Err(unexpected_part()),
        }
    }

    fn flush(&mut self) -> Vec<Write> {
        Vec::new()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        let begun = self.begun.take().ok_or_else(not_begun)?;
        if begun.virtual_bytes != virtual_bytes {
            return Err(Error::internal(format!(
                "a VHD was begun for a disk of {} bytes, but the disk has {virtual_bytes}",
                begun.virtual_bytes
            )));
        }
        let (mut writes, stored) = begun.writer.finish();
        let at = TargetOffset::new(stored.end());
        writes.push(Write::Bytes(at, vec![Bytes::from_owner(begun.footer)]));
        let len = at.get().saturating_add(footer::LEN as u64);
        let front = match self.placed {
            true => no_writes(),
            false => BatLayout::of(virtual_bytes)?.front(begun.footer, stored),
        };
        Ok((Box::new(writes.into_iter().chain(front)), len))
    }

    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        (self.reader.check)(target, Format::Vhd)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        (self.reader.open)(target, Format::Vhd)
    }
}

/// The entry of block `index` in the table: the sector at which its bitmap begins.
fn entry(stored: &UnitPlacement, index: u64) -> u32 {
    let sector = stored.begin(index).map(|begin| begin / SECTOR);
    sector.and_then(|sector| u32::try_from(sector).ok()).unwrap_or(UNUSED)
}

/// Checks that the table can address a block that ends there.
fn check_end(end: u64) -> Result<()> {
    let begin = end.saturating_sub(BLOCK).saturating_sub(BITMAP.len() as u64);
    match begin / SECTOR < u64::from(UNUSED) {
        true => Ok(()),
        false => Err(unsuitable(format!(
            "a block would begin at {begin}, and the table of a VHD counts sectors in 32 bits"
        ))
        .hint("convert to qcow2, vmdk or raw")),
    }
}

fn not_begun() -> Error {
    Error::internal("a VHD was not begun")
}

/// The block allocation table of a disk.
#[derive(Clone, Copy, Debug)]
struct BatLayout {
    /// Number of entries: one for each block of the disk.
    entries: u32,
}

impl BatLayout {
    /// # Errors
    /// `destination_unsuitable` if the disk is too large.
    fn of(virtual_bytes: u64) -> Result<Self> {
        check_most(virtual_bytes)?;
        let entries = u32::try_from(virtual_bytes.div_ceil(BLOCK));
        Ok(Self { entries: entries.map_err(|_| Error::internal("a table of more entries than a VHD has"))? })
    }

    /// Number of entries, including the padding of the last sector.
    fn padded_entries(self) -> u64 {
        u64::from(self.entries).next_multiple_of(SECTOR / 4)
    }

    /// The end of the table, where the first block begins.
    fn end(self) -> u64 {
        self.padded_entries().saturating_mul(4).saturating_add(TABLE_AT)
    }

    /// The metadata before the blocks: the copy of the footer, the header and the table.
    fn front(self, footer: [u8; footer::LEN], stored: UnitPlacement) -> Writes {
        let header = Bytes::from_owner(header::to_bytes(TABLE_AT, self.entries, BLOCK_BYTES));
        let first = Write::Bytes(TargetOffset::ZERO, vec![Bytes::from_owner(footer), header]);
        let all = self.padded_entries();
        let mut next = 0u64;
        let pieces = std::iter::from_fn(move || {
            let from = next;
            next = from.saturating_add(PIECE_ENTRIES).min(all);
            let piece: Vec<u8> = (from..next).flat_map(|index| entry(&stored, index).to_be_bytes()).collect();
            let at = TargetOffset::new(from.saturating_mul(4).saturating_add(TABLE_AT));
            (from < next).then(|| Write::Bytes(at, vec![piece.into()]))
        });
        Box::new(std::iter::once(first).chain(pieces))
    }
}

#[cfg(test)]
mod tests {
    use diskferry_core::ErrorKind;

    use super::*;

    #[test]
    fn a_block_beyond_the_range_of_the_table_is_refused() {
        let last = (u64::from(UNUSED) - 1) * SECTOR + BITMAP.len() as u64 + BLOCK;
        check_end(last).unwrap();
        assert_eq!(check_end(last + SECTOR).unwrap_err().kind(), ErrorKind::DestinationUnsuitable);
    }
}

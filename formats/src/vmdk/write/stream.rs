//! The layout of streamOptimized, written sequentially.
//!
//! Source: VMware, *Virtual Disk Format 1.1* (and 5.0), "Stream-Optimized Compressed Sparse Extents".
//!
//! ```text
//! header │ descriptor │ zeros │ grain, …, grain │ table │ grain, … │ table │ directory │ footer │ end of stream
//! sector 0   1                  128
//! ```
//!
//! Each structure from sector 128 on follows a marker. Grains are ascending. A table follows the grains that it names,
//! and empty tables are omitted. The header says that the directory is at the end, and the footer has its address.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Coding, Disk, Encoded, Encoder, Error, HeadTail, Layout, LayoutFacts, LayoutInput, OutputSize,
    Part, Result, Source, TargetOffset, TargetRange, Warning, Write, WriteOrder, Writes,
};

use super::descriptor::{Kind, descriptor};
use super::disk::{
    DESCRIPTOR_AT, DESCRIPTOR_SECTORS, DiskOptions, ENTRY, GRAIN, GRAIN_SECTORS, MOST_BYTES, TABLE,
    TABLE_ENTRIES, TABLE_SECTORS, entry, sectors, unsuitable,
};
use super::encode::GrainEncoder;
use crate::format::Format;
use crate::target_reader::TargetReader;
use crate::unit_placement::{no_writes, unexpected_part};
use crate::vmdk::content_id::ContentId;
use crate::vmdk::header::{DirectoryAt, Grains, HEADER_LEN, Marker, SECTOR, Sectors, SparseHeader};

const VARIANT: &str = "streamOptimized";
/// The contents of the descriptor, as in vSphere's exports, which are not writable in place.
const KIND: Kind = Kind { create_type: VARIANT, access: "RDONLY", file: "generated-stream.vmdk" };
/// Sector of the first grain: a multiple of the grain size, as in VMware's tools.
const OVERHEAD: u64 = 128;
/// Most entries of the directory in one write: 512 KiB.
const ENTRIES_AT_ONCE: u64 = 1 << 17;

/// The layout of a streamOptimized target.
pub(super) struct StreamLayout {
    disk: DiskOptions,
    reader: TargetReader,
    encoder: Arc<GrainEncoder>,
    /// The header is written first, because earlier offsets cannot be written later.
    header_first: bool,
    virtual_bytes: Option<u64>,
    fingerprint: [u8; 32],
    /// End of the written data, from the first grain on.
    end: u64,
    /// The table of the grains that were written last.
    table: Option<Table>,
    /// The tables that were written: index and sector.
    directory: Vec<(u64, u32)>,
}

/// A grain table that is being filled.
struct Table {
    index: u64,
    entries: Vec<u32>,
}

impl StreamLayout {
    pub(super) fn new(
        disk: DiskOptions,
        encoder: GrainEncoder,
        order: WriteOrder,
        reader: TargetReader,
    ) -> Self {
        Self {
            disk,
            reader,
            encoder: Arc::new(encoder),
            header_first: order == WriteOrder::Sequential,
            virtual_bytes: None,
            fingerprint: [0; 32],
            end: OVERHEAD * SECTOR,
            table: None,
            directory: Vec::new(),
        }
    }

    /// The metadata before the grains.
    fn front(&self, virtual_bytes: u64) -> Result<Writes> {
        let capacity = sectors(virtual_bytes);
        let id: ContentId = self.disk.id(VARIANT, virtual_bytes, &self.fingerprint);
        let header = header(capacity, DirectoryAt::Footer).to_bytes();
        let pieces = vec![Bytes::copy_from_slice(&header), descriptor(&KIND, capacity, id)?.into()];
        let used = TargetOffset::new((DESCRIPTOR_AT + DESCRIPTOR_SECTORS) * SECTOR);
        let padding = TargetRange::between(used, TargetOffset::new(OVERHEAD * SECTOR));
        Ok(Box::new([Write::Bytes(TargetOffset::ZERO, pieces), Write::Zero(padding)].into_iter()))
    }

    /// Places a grain. If it belongs to another table, the table of the grains before it is placed first.
    fn grain(&mut self, grain: Encoded) -> Result<Vec<Write>> {
        let whole = grain.bytes.len() as u64;
        if grain.coding != Coding::Coded(grain.bytes.len()) || !whole.is_multiple_of(SECTOR) {
            return Err(Error::internal(format!(
                "grain {} has {whole} bytes, {:?}",
                grain.unit, grain.coding
            )));
        }
        let start = self.end;
        let index = grain.unit / TABLE_ENTRIES;
        let mut pieces = Vec::new();
        if self.table.as_ref().is_some_and(|table| table.index != index) {
            pieces.push(self.flush()?);
        }
        let at = entry(self.end)?;
        let table = self.table.get_or_insert_with(|| Table { index, entries: Vec::new() });
        let slot = usize::try_from(grain.unit % TABLE_ENTRIES).unwrap_or(usize::MAX);
        if table.index != index || slot < table.entries.len() {
            return Err(Error::internal(format!("grain {} is out of order", grain.unit)));
        }
        table.entries.resize(slot, 0);
        table.entries.push(at);
        self.end = self.end.saturating_add(whole);
        entry(self.end.saturating_sub(SECTOR))?;
        pieces.push(grain.bytes);
        Ok(vec![Write::Bytes(TargetOffset::new(start), pieces)])
    }

    /// The table of the grains that were written last, after its marker.
    fn flush(&mut self) -> Result<Bytes> {
        let Some(table) = self.table.take() else { return Ok(Bytes::new()) };
        let mut bytes = marker(Marker::Table(Sectors(TABLE_SECTORS)));
        let first = bytes.len() as u64;
        bytes.extend(table.entries.iter().flat_map(|entry| entry.to_le_bytes()));
        bytes.resize(usize::try_from(first.saturating_add(TABLE)).unwrap_or(usize::MAX), 0);
        self.directory.push((table.index, entry(self.end.saturating_add(first))?));
        self.end = self.end.saturating_add(bytes.len() as u64);
        Ok(bytes.into())
    }
}

impl Layout for StreamLayout {
    fn format(&self) -> &'static str {
        Format::Vmdk.name()
    }

    fn variant(&self) -> String {
        VARIANT.to_owned()
    }

    fn options(&self) -> String {
        format!("{:?} {:?}", self.disk, self.encoder)
    }

    fn input(&self) -> LayoutInput {
        let encoder: Arc<GrainEncoder> = Arc::clone(&self.encoder);
        LayoutInput::Units(encoder)
    }

    fn unit(&self) -> Option<u64> {
        Some(GRAIN)
    }

    fn needs_map(&self) -> bool {
        false
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        self.disk.virtual_bytes(source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        let Some(virtual_bytes) = facts.virtual_bytes else { return Ok(None) };
        let all = virtual_bytes.div_ceil(GRAIN);
        let (grains, tables) = match &facts.map {
            Some(map) => (map.count(), map.groups(TABLE_ENTRIES)),
            None => (all, all.div_ceil(TABLE_ENTRIES)),
        };
        let most = u64::try_from(self.encoder.most_bytes()).unwrap_or(u64::MAX);
        let bytes = (OVERHEAD * SECTOR)
            .saturating_add(grains.saturating_mul(most))
            .saturating_add(tables.saturating_mul(SECTOR + TABLE))
            .saturating_add(Tail::new(sectors(virtual_bytes), 0).len());
        // More is refused during the write, because only then the compressed size is known.
        Ok(Some(OutputSize { bytes: bytes.min(MOST_BYTES), exact: false }))
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        self.fingerprint = facts.fingerprint;
        self.virtual_bytes = facts.virtual_bytes;
        match facts.virtual_bytes {
            Some(virtual_bytes) => {
                self.disk.virtual_bytes(virtual_bytes)?;
                if self.header_first { self.front(virtual_bytes) } else { Ok(no_writes()) }
            }
            None if self.header_first => Err(unsuitable(format!(
                "a {VARIANT} vmdk that is written in one pass begins with the size of the disk, which the source does not know before its end"
            ))
            .hint("name the source by its path or URL, write to a file, or write raw")),
            None => Ok(no_writes()),
        }
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        match part {
            Part::Unit(grain) => self.grain(grain),
            Part::Zero(_) | Part::Bytes(_) => Err(unexpected_part()),
        }
    }

    fn flush(&mut self) -> Vec<Write> {
        Vec::new()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        if self.virtual_bytes.is_some_and(|known| known != virtual_bytes) {
            return Err(Error::internal(format!("the disk turned out to have {virtual_bytes} bytes")));
        }
        let start = TargetOffset::new(self.end);
        let table = self.flush()?;
        let table = (!table.is_empty()).then(|| Write::Bytes(start, vec![table]));
        let tail = Tail::new(sectors(virtual_bytes), self.end);
        let end = self.end.saturating_add(tail.len());
        entry(end.saturating_sub(SECTOR))?;
        let tail = tail.writes(std::mem::take(&mut self.directory));
        let front = if self.header_first { no_writes() } else { self.front(virtual_bytes)? };
        Ok((Box::new(table.into_iter().chain(tail).chain(front)), end))
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

fn header(capacity: Sectors, directory: DirectoryAt) -> SparseHeader {
    SparseHeader {
        version: 3,
        capacity,
        grain: Sectors(GRAIN_SECTORS),
        descriptor: Some((Sectors(DESCRIPTOR_AT), Sectors(DESCRIPTOR_SECTORS))),
        table_entries: u32::try_from(TABLE_ENTRIES).unwrap_or(u32::MAX),
        directory,
        redundant: None,
        overhead: Sectors(OVERHEAD),
        zeroed_grains: false,
        grains: Grains::Compressed { markers: true },
        unclean: false,
    }
}

/// A marker, padded to a sector.
fn marker(marker: Marker) -> Vec<u8> {
    let mut bytes = marker.to_bytes().to_vec();
    bytes.resize(HEADER_LEN, 0);
    bytes
}

/// The structures after the last table: directory, footer and end marker.
#[derive(Clone, Copy)]
struct Tail {
    capacity: Sectors,
    at: u64,
    /// Entries of the directory.
    tables: u64,
    /// Sectors of the directory.
    sectors: u64,
}

impl Tail {
    fn new(capacity: Sectors, at: u64) -> Self {
        let tables = capacity.0.div_ceil(GRAIN_SECTORS).div_ceil(TABLE_ENTRIES);
        Self { capacity, at, tables, sectors: tables.saturating_mul(ENTRY).div_ceil(SECTOR) }
    }

    /// Total size in bytes: two markers, the directory, the footer, and the end marker.
    fn len(&self) -> u64 {
        self.sectors.saturating_add(4).saturating_mul(SECTOR)
    }

    fn writes(self, directory: Vec<(u64, u32)>) -> impl Iterator<Item = Write> + Send {
        let first = self.at.saturating_add(SECTOR);
        let behind = first.saturating_add(self.sectors.saturating_mul(SECTOR));
        let mark = marker(Marker::Directory(Sectors(self.sectors)));
        let mark = Write::Bytes(TargetOffset::new(self.at), vec![mark.into()]);
        let pieces = (0..self.tables).step_by(usize::try_from(ENTRIES_AT_ONCE).unwrap_or(usize::MAX));
        let pieces = pieces.map(move |from| {
            let to = from.saturating_add(ENTRIES_AT_ONCE).min(self.tables);
            let at = TargetOffset::new(first.saturating_add(from.saturating_mul(ENTRY)));
            piece(&directory, from, to, at)
        });
        let footer = header(self.capacity, DirectoryAt::Sector(Sectors(first / SECTOR)));
        let mut end = marker(Marker::Footer(Sectors(1)));
        end.extend(footer.to_bytes());
        end.extend(marker(Marker::End));
        let end = Write::Bytes(TargetOffset::new(behind), vec![end.into()]);
        std::iter::once(mark).chain(pieces).chain(std::iter::once(end))
    }
}

/// Entries `from..to` of the directory, padded to a whole sector. A range without tables is zeros.
fn piece(directory: &[(u64, u32)], from: u64, to: u64, at: TargetOffset) -> Write {
    let len = to.saturating_sub(from).saturating_mul(ENTRY).div_ceil(SECTOR).saturating_mul(SECTOR);
    let first = directory.partition_point(|(index, _)| *index < from);
    let there = directory.iter().skip(first).take_while(|(index, _)| *index < to);
    let mut bytes: Vec<u8> = Vec::new();
    for (index, sector) in there {
        let place = index.saturating_sub(from).saturating_mul(ENTRY);
        bytes.resize(usize::try_from(place).unwrap_or(usize::MAX), 0);
        bytes.extend(sector.to_le_bytes());
    }
    if bytes.is_empty() {
        return Write::Zero(TargetRange::between(at, TargetOffset::new(at.get().saturating_add(len))));
    }
    bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    Write::Bytes(at, vec![bytes.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_any_length_is_written_in_pieces_and_names_every_table() {
        // Entries at the edges of writes; a write without any; the last of all.
        let last = (1 << 23) - 1;
        let directory = [(0, 7), (131_071, 8), (131_072, 9), (262_145, 10), (last, 11)];
        let tail = Tail::new(Sectors(u64::from(u32::MAX) * GRAIN_SECTORS), 65_536);
        let mut next = 65_536;
        let mut bytes = Vec::new();
        for write in tail.writes(directory.to_vec()) {
            match write {
                Write::Zero(range) => {
                    assert_eq!(range.start().get(), next);
                    bytes.resize(bytes.len() + range.len() as usize, 0);
                    next = range.end().get();
                }
                Write::Bytes(at, pieces) => {
                    assert_eq!(at.get(), next);
                    assert!(pieces.concat().len() <= 1 << 20);
                    bytes.extend(pieces.concat());
                    next = 65_536 + bytes.len() as u64;
                }
            }
        }
        assert_eq!(bytes.len() as u64, tail.len());
        let (entries, _) = bytes[512..bytes.len() - 1536].as_chunks::<4>();
        let entries: Vec<_> = entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
        let found = (0..).zip(entries).filter(|(_, entry)| *entry != 0).collect::<Vec<(u64, u32)>>();
        assert_eq!(found, directory);
    }
}

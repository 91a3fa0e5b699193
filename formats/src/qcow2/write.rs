//! Writing QCOW2: version 3 with reference counts of 16 bits. The only optional feature is zstd, if requested.

mod compressed;
mod encode;
mod plain;
mod regions;
mod table;

use std::sync::Arc;

use diskferry_core::{
    BoxFuture, Disk, Error, ErrorKind, HeadTail, Layout, LayoutFacts, LayoutInput, Order, OutputSize, Part,
    Result, Source, UnitMap, Warning, Write, WriteOrder, Writes,
};

use super::grid::Grid;
use super::header::Compression;
use super::options::{CompressionLevel, Qcow2Options};
use crate::format::Format;
use crate::target_reader::TargetReader;
use crate::unit_placement::{no_writes, unexpected_part};

use compressed::Compressed;
use encode::{ClusterEncoder, Compressor};
use plain::Plain;
use regions::{Regions, check_size, entries_of_table};

/// Size of a sector, the unit of disk sizes in QEMU.
const SECTOR: u64 = 512;

/// Creates the layout that `options` select, for a sink that accepts writes in `order`.
///
/// # Errors
/// `usage` for options that contradict each other, and for invalid values; `destination_unsuitable` for
/// compression if writes are strictly sequential.
pub(crate) fn layout(
    options: &Qcow2Options,
    order: WriteOrder,
    reader: TargetReader,
) -> Result<Box<dyn Layout>> {
    let grid = options.grid()?;
    let Some(how) = options.compression_level()? else {
        let placed = order == WriteOrder::Sequential;
        let data = Data::Plain(Plain::packed(grid));
        let header = Compression::Zlib;
        return Ok(Box::new(Qcow2Layout { grid, reader, placed, header, data, virtual_bytes: None }));
    };
    if order == WriteOrder::Sequential {
        return Err(Error::new(
            ErrorKind::DestinationUnsuitable,
            "a compressed qcow2 cannot be written in one pass: the location of its tables is only known when all data is compressed",
        )
        .hint(
            "write raw, qcow2 without compression, vhd, or vmdk there (monolithicSparse, or streamOptimized to have it \
             compressed), or write this one to a file or to S3",
        ));
    }
    let CompressionLevel { compression, level, passthrough } = how;
    let compressor = Compressor { grid, compression, level, passthrough };
    let data = Data::Compressed(Arc::new(ClusterEncoder::new(compressor)), Compressed::new(grid));
    Ok(Box::new(Qcow2Layout { grid, reader, placed: false, header: compression, data, virtual_bytes: None }))
}

/// The layout of a QCOW2 target.
struct Qcow2Layout {
    grid: Grid,
    reader: TargetReader,
    /// True if the map determines everything, so that the header is written first.
    placed: bool,
    /// The compression type of the header; zlib if there is no compression.
    header: Compression,
    data: Data,
    /// Size of the disk, once known.
    virtual_bytes: Option<u64>,
}

/// The part after the header.
enum Data {
    Plain(Plain),
    Compressed(Arc<ClusterEncoder>, Compressed),
}

impl Qcow2Layout {
    fn regions(&self, virtual_bytes: u64) -> Regions {
        match &self.data {
            Data::Plain(plain) => plain.regions(virtual_bytes),
            Data::Compressed(_, compressed) => compressed.regions(virtual_bytes),
        }
    }
}

impl Layout for Qcow2Layout {
    fn format(&self) -> &'static str {
        Format::Qcow2.name()
    }

    fn variant(&self) -> String {
        "v3".to_owned()
    }

    fn options(&self) -> String {
        match &self.data {
            Data::Plain(_) => format!("{:?}", self.grid),
            Data::Compressed(encoder, _) => format!("{:?}", encoder.compressor),
        }
    }

    fn input(&self) -> LayoutInput {
        match &self.data {
            Data::Plain(_) => LayoutInput::Bytes(Order::Guest),
            Data::Compressed(encoder, _) => LayoutInput::Units(Arc::<ClusterEncoder>::clone(encoder)),
        }
    }

    fn unit(&self) -> Option<u64> {
        Some(self.grid.cluster_bytes())
    }

    fn needs_map(&self) -> bool {
        self.placed
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        check_size(self.grid, source_bytes)?;
        Ok(source_bytes)
    }

    /// A unit never takes more than a cluster: streams between plain clusters are shorter than clusters.
    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        let Some(virtual_bytes) = facts.virtual_bytes else { return Ok(None) };
        let full;
        let units = match &facts.map {
            Some(map) => map,
            None => {
                full = UnitMap::full(self.grid.cluster_bytes(), virtual_bytes);
                &full
            }
        };
        let tables = units.groups(entries_of_table(self.grid));
        let regions = Regions::new(self.grid, virtual_bytes, units.count(), tables);
        let exact = self.placed && facts.map.is_some();
        match exact {
            true => regions.check()?,
            false => check_size(self.grid, virtual_bytes)?,
        }
        Ok(Some(OutputSize { bytes: regions.bytes(), exact }))
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        if let Some(virtual_bytes) = facts.virtual_bytes {
            check_size(self.grid, virtual_bytes)?;
        }
        if !self.placed {
            return Ok(no_writes());
        }
        let (Some(virtual_bytes), Some(map)) = (facts.virtual_bytes, &facts.map) else {
            return Err(Error::internal("a placed layout did not receive the map of the disk"));
        };
        self.data = Data::Plain(Plain::placed(self.grid, map.clone()));
        let regions = self.regions(virtual_bytes);
        regions.check()?;
        self.virtual_bytes = Some(virtual_bytes);
        Ok(Box::new(regions.header(self.header)?.into_iter()))
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        match (&mut self.data, part) {
            (Data::Plain(_), Part::Zero(_)) => Ok(Vec::new()),
            (Data::Plain(plain), Part::Bytes(scanned)) => plain.place(&scanned),
            (Data::Compressed(_, compressed), Part::Unit(encoded)) => compressed.place(encoded),
            _ => Err(unexpected_part()),
        }
    }

    fn flush(&mut self) -> Vec<Write> {
        match &mut self.data {
            Data::Plain(_) => Vec::new(),
            Data::Compressed(_, compressed) => compressed.flush().into_iter().collect(),
        }
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        if self.virtual_bytes.is_some_and(|begun| begun != virtual_bytes) {
            return Err(Error::internal("the disk does not have the size of its map"));
        }
        self.virtual_bytes = Some(virtual_bytes);
        let regions = self.regions(virtual_bytes);
        regions.check()?;
        let behind = match &mut self.data {
            Data::Plain(plain) => plain.finish(&regions)?,
            Data::Compressed(_, compressed) => compressed.finish(&regions)?,
        };
        let header = if self.placed { Vec::new() } else { regions.header(self.header)? };
        Ok((Box::new(behind.chain(header)), regions.bytes()))
    }

    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        let mut warnings = (self.reader.check)(target, Format::Qcow2)?;
        if let Some(bytes) = self.virtual_bytes.filter(|bytes| !bytes.is_multiple_of(SECTOR)) {
            warnings.push(Warning::new(
                "size_not_whole_sectors",
                format!(
                    "the disk has {bytes} bytes, which the target records; QEMU counts whole sectors of {SECTOR} bytes and \
                     will leave out the last {}",
                    bytes.checked_rem(SECTOR).unwrap_or_default()
                ),
            ));
        }
        if let Data::Compressed(encoder, _) = &self.data {
            warnings.extend(encoder.warning());
        }
        Ok(warnings)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        (self.reader.open)(target, Format::Qcow2)
    }
}

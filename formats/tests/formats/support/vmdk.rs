//! Builds images by hand, following the specification, for structures that qemu-img does not create.

use std::io::Write;

use diskferry_core::{Disk, Error, Result};
use diskferry_formats::Format;
use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::{SECTOR, content, error_as, open_as};

/// Opens an image of one file.
pub(crate) fn open_vmdk(bytes: impl Into<Vec<u8>>) -> Result<Disk> {
    open_as(Format::Vmdk, bytes.into())
}

/// The bytes of an image of one file.
pub(crate) fn content_of(bytes: impl Into<Vec<u8>>) -> Result<Vec<u8>> {
    content(&open_vmdk(bytes)?)
}

/// The error of reading an image of one file, from open or from a read.
pub(crate) fn error_of(bytes: impl Into<Vec<u8>>) -> Error {
    error_as(Format::Vmdk, bytes.into())
}

pub(crate) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The fields of a hosted sparse extent's header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) flags: u32,
    pub(crate) capacity: u64,
    pub(crate) grain: u64,
    pub(crate) descriptor: (u64, u64),
    pub(crate) entries: u32,
    pub(crate) rgd: u64,
    pub(crate) gd: u64,
    pub(crate) overhead: u64,
    pub(crate) compression: u16,
}

impl Header {
    /// Sectors before the grains, as in the header of an image.
    pub(crate) fn parsed_overhead(image: &[u8]) -> usize {
        u64::from_le_bytes(image[64..72].try_into().unwrap()) as usize
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"KDMV".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        for field in [self.capacity, self.grain, self.descriptor.0, self.descriptor.1] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.entries.to_le_bytes());
        for field in [self.rgd, self.gd, self.overhead] {
            out.extend(field.to_le_bytes());
        }
        out.extend([0, b'\n', b' ', b'\r', b'\n']);
        out.extend(self.compression.to_le_bytes());
        out.resize(SECTOR, 0);
        out
    }
}

pub(crate) fn descriptor(create_type: &str, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\n{extents}\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n"
    )
}

pub(crate) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

pub(crate) fn marker(value: u64, kind: u32) -> Vec<u8> {
    let mut out = value.to_le_bytes().to_vec();
    out.extend(0u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.resize(SECTOR, 0);
    out
}

fn sector(out: &[u8]) -> u32 {
    assert_eq!(out.len() % SECTOR, 0);
    (out.len() / SECTOR) as u32
}

/// The parameters of a stream.
pub(crate) struct Stream {
    pub(crate) grain: usize,
    pub(crate) entries: usize,
    /// Grain numbers in written order. `None` is ascending order, with each table after its grains.
    pub(crate) order: Option<Vec<usize>>,
    pub(crate) descriptor: Option<String>,
    /// The last grain is compressed with zeros up to its end.
    pub(crate) full_last: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self { grain: 128, entries: 512, order: None, descriptor: None, full_last: true }
    }
}

/// A stream and the offsets of its parts.
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    /// Byte address of each written grain's marker, with its number, in written order.
    pub(crate) grains: Vec<(usize, usize)>,
    /// Byte address of the directory's marker.
    pub(crate) directory: usize,
}

impl Stream {
    /// The stream of `truth`: grains, each table after its grains, directory, footer and end marker.
    pub(crate) fn build(&self, truth: &[u8]) -> Built {
        let grain_bytes = self.grain * SECTOR;
        let capacity = truth.len().div_ceil(SECTOR);
        let text = self.descriptor.clone().unwrap_or_else(|| {
            descriptor("streamOptimized", &format!("RDONLY {capacity} SPARSE \"call-me-stream.vmdk\""))
        });
        let mut header = Header {
            version: 3,
            flags: 0x3_0001,
            capacity: capacity as u64,
            grain: self.grain as u64,
            descriptor: (1, 20),
            entries: self.entries as u32,
            rgd: 0,
            gd: u64::MAX,
            overhead: 128,
            compression: 1,
        };
        let mut out = header.bytes();
        out.extend(text.as_bytes());
        out.resize(128 * SECTOR, 0);
        let chunks: Vec<&[u8]> = truth.chunks(grain_bytes).collect();
        let order = self.order.clone().unwrap_or_else(|| (0..chunks.len()).collect());
        let interleaved = self.order.is_none();
        let tables = chunks.len().div_ceil(self.entries);
        let mut entries = vec![0u32; tables * self.entries];
        let mut grains = Vec::new();
        let mut directory = vec![0u32; tables];
        let write_table = |out: &mut Vec<u8>, entries: &[u32]| {
            if entries.iter().all(|entry| *entry == 0) {
                return 0;
            }
            out.extend(marker((entries.len() * 4).div_ceil(SECTOR) as u64, 1));
            let at = sector(out);
            out.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
            pad(out);
            at
        };
        for (position, number) in order.iter().enumerate() {
            let chunk = chunks[*number];
            if chunk.iter().any(|byte| *byte != 0) {
                entries[*number] = sector(&out);
                grains.push((out.len(), *number));
                let mut full = chunk.to_vec();
                if self.full_last {
                    full.resize(grain_bytes, 0);
                }
                let data = zlib(&full);
                out.extend(((number * self.grain) as u64).to_le_bytes());
                out.extend((data.len() as u32).to_le_bytes());
                out.extend(data);
                pad(&mut out);
            }
            if interleaved && ((position + 1) % self.entries == 0 || position + 1 == order.len()) {
                let table = position / self.entries;
                let of_table = entries[table * self.entries..][..self.entries].to_vec();
                directory[table] = write_table(&mut out, &of_table);
            }
        }
        if !interleaved {
            for (table, of_table) in entries.chunks(self.entries).enumerate() {
                directory[table] = write_table(&mut out, of_table);
            }
        }
        let directory_marker = out.len();
        out.extend(marker((tables * 4).div_ceil(SECTOR) as u64, 2));
        header.gd = u64::from(sector(&out));
        out.extend(directory.iter().flat_map(|entry| entry.to_le_bytes()));
        pad(&mut out);
        out.extend(marker(1, 3));
        out.extend(header.bytes());
        out.extend(marker(0, 0));
        Built { bytes: out, grains, directory: directory_marker }
    }
}

/// A monolithicSparse image with tables written by hand.
pub(crate) struct Hosted {
    pub(crate) version: u32,
    pub(crate) flags: u32,
    pub(crate) grain: usize,
    pub(crate) entries: usize,
    pub(crate) redundant: bool,
    pub(crate) descriptor: Option<String>,
    /// Zlib streams without markers.
    pub(crate) compressed: bool,
}

impl Default for Hosted {
    fn default() -> Self {
        Self {
            version: 1,
            flags: 1,
            grain: 128,
            entries: 512,
            redundant: false,
            descriptor: None,
            compressed: false,
        }
    }
}

/// A sparse image and the offsets of its parts, in bytes.
pub(crate) struct BuiltHosted {
    pub(crate) bytes: Vec<u8>,
    pub(crate) directories: Vec<usize>,
    pub(crate) tables: Vec<usize>,
}

impl Hosted {
    pub(crate) fn build(&self, truth: &[u8]) -> BuiltHosted {
        let grain_bytes = self.grain * SECTOR;
        let capacity = truth.len().div_ceil(SECTOR);
        let kind = if self.compressed { "streamOptimized" } else { "monolithicSparse" };
        let text = self
            .descriptor
            .clone()
            .unwrap_or_else(|| descriptor(kind, &format!("RW {capacity} SPARSE \"disk.vmdk\"")));
        let chunks: Vec<&[u8]> = truth.chunks(grain_bytes).collect();
        let tables = chunks.len().div_ceil(self.entries);
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        let table_sectors = (self.entries * 4).div_ceil(SECTOR);
        let copies = if self.redundant { 2 } else { 1 };
        let copy_sectors = directory_sectors + tables * table_sectors;
        let overhead = (21 + copies * copy_sectors).next_multiple_of(self.grain.min(128));
        let first = |copy: usize| 21 + copy * copy_sectors;
        let header = Header {
            version: self.version,
            flags: self.flags
                | if self.redundant { 2 } else { 0 }
                | if self.compressed { 0x1_0000 } else { 0 },
            capacity: capacity as u64,
            grain: self.grain as u64,
            descriptor: (1, 20),
            entries: self.entries as u32,
            rgd: if self.redundant { first(1) as u64 } else { 0 },
            gd: first(0) as u64,
            overhead: overhead as u64,
            compression: u16::from(self.compressed),
        };
        let mut out = header.bytes();
        out.extend(text.as_bytes());
        out.resize(overhead * SECTOR, 0);
        let mut entries = vec![0u32; tables * self.entries];
        for (number, chunk) in chunks.iter().enumerate() {
            if chunk.iter().all(|byte| *byte == 0) {
                continue;
            }
            entries[number] = sector(&out);
            let mut full = chunk.to_vec();
            full.resize(grain_bytes, 0);
            out.extend(if self.compressed { zlib(&full) } else { full });
            pad(&mut out);
        }
        let mut directories = Vec::new();
        let mut first_tables = Vec::new();
        for copy in 0..copies {
            directories.push(first(copy) * SECTOR);
            first_tables.push((first(copy) + directory_sectors) * SECTOR);
            for table in 0..tables {
                let at = first(copy) + directory_sectors + table * table_sectors;
                let slot = first(copy) * SECTOR + table * 4;
                out[slot..slot + 4].copy_from_slice(&(at as u32).to_le_bytes());
                for index in 0..self.entries {
                    let slot = at * SECTOR + index * 4;
                    out[slot..slot + 4].copy_from_slice(&entries[table * self.entries + index].to_le_bytes());
                }
            }
        }
        BuiltHosted { bytes: out, directories, tables: first_tables }
    }
}

/// A COWD extent.
pub(crate) fn cowd(truth: &[u8], grain: usize) -> Vec<u8> {
    const ENTRIES: usize = 4096;
    let capacity = truth.len().div_ceil(SECTOR);
    let chunks: Vec<&[u8]> = truth.chunks(grain * SECTOR).collect();
    let tables = chunks.len().div_ceil(ENTRIES);
    let mut out = b"COWD".to_vec();
    for field in [1, 3, capacity as u32, grain as u32, 4, tables as u32, 0u32] {
        out.extend(field.to_le_bytes());
    }
    out.resize((4 + (tables * 4).div_ceil(SECTOR)) * SECTOR, 0);
    for table in 0..tables {
        let at = sector(&out);
        out[4 * SECTOR + table * 4..][..4].copy_from_slice(&at.to_le_bytes());
        let slot = out.len();
        out.resize(slot + ENTRIES * 4, 0);
        for (index, chunk) in chunks.iter().skip(table * ENTRIES).take(ENTRIES).enumerate() {
            if chunk.iter().all(|byte| *byte == 0) {
                continue;
            }
            let at = sector(&out);
            out[slot + index * 4..][..4].copy_from_slice(&at.to_le_bytes());
            let start = out.len();
            out.extend(*chunk);
            out.resize(start + grain * SECTOR, 0);
        }
    }
    let free = sector(&out);
    out[28..32].copy_from_slice(&free.to_le_bytes());
    out
}

/// A seSparse extent. `zeroed` grains are alternately marked as zeroed and as unmapped.
pub(crate) fn se_sparse(truth: &[u8], zeroed: bool) -> Vec<u8> {
    const ENTRIES: usize = 4096;
    let capacity = truth.len().div_ceil(SECTOR) as u64;
    let chunks: Vec<&[u8]> = truth.chunks(8 * SECTOR).collect();
    let tables = chunks.len().div_ceil(ENTRIES);
    let directory_sectors = (tables * 8).div_ceil(SECTOR) as u64;
    let (volatile, directory) = (1u64, 2u64);
    let first_table = directory + directory_sectors;
    let first_grain = first_table + tables as u64 * 64;
    let mut fields =
        vec![0xcafe_babe, 0x2_0000_0001, capacity, 8, 64, 0, 0, 0, 0, 0, volatile, 1, 0, 0, 0, 0];
    fields.extend([directory, directory_sectors, first_table, tables as u64 * 64, 0, 0, 0, 0, first_grain]);
    fields.push(chunks.len() as u64 * 8);
    let mut out: Vec<u8> = fields.iter().flat_map(|field: &u64| field.to_le_bytes()).collect();
    out.resize(SECTOR, 0);
    out.extend([0xcafe_cafe, tables as u64].iter().flat_map(|field| field.to_le_bytes()));
    out.resize(first_grain as usize * SECTOR, 0);
    let mut next = 0u64;
    for (number, chunk) in chunks.iter().enumerate() {
        let table = number / ENTRIES;
        let slot = directory as usize * SECTOR + table * 8;
        out[slot..slot + 8].copy_from_slice(&(0x1000_0000_0000_0000 | table as u64).to_le_bytes());
        let entry = if chunk.iter().any(|byte| *byte != 0) {
            let at = out.len();
            out.extend(*chunk);
            out.resize(at + 8 * SECTOR, 0);
            next += 1;
            let number = next - 1;
            0x3000_0000_0000_0000 | (number & 0xfff) << 48 | number >> 12
        } else if zeroed {
            0x1000_0000_0000_0000 << (number % 2)
        } else {
            0
        };
        let slot = (first_table as usize + table * 64) * SECTOR + number % ENTRIES * 8;
        out[slot..slot + 8].copy_from_slice(&entry.to_le_bytes());
    }
    out
}

//! The header of a hosted sparse extent (`KDMV`) and the markers of a stream.
//!
//! Pure: parses bytes into validated structs. Source: VMware, *Virtual Disk Format 5.0* (and 1.1), "Hosted Sparse
//! Extents" and "Stream-Optimized Compressed Sparse Extents". All numbers are little-endian, all addresses are in
//! sectors.

use diskferry_core::{Error, Result};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a sector: the unit of every address in a VMDK.
pub(crate) const SECTOR: u64 = 512;
/// The first bytes of a hosted sparse extent.
pub(crate) const MAGIC: [u8; 4] = *b"KDMV";
/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 512;

/// The directory's address if the header does not have it and the footer does.
const AT_END: u64 = u64::MAX;
/// Largest supported grain, 1 GiB, as in other readers. A larger value means a damaged header.
const MOST_GRAIN_SECTORS: u64 = 1 << 21;
/// Smallest grain that the specification allows.
const LEAST_GRAIN_SECTORS: u64 = 8;
/// Most entries of a grain table: 128 times the usual 512, so that a table stays 256 KiB.
const MOST_TABLE_ENTRIES: u32 = 1 << 16;

/// Offsets of header fields, for errors.
pub(crate) mod field {
    pub(crate) const FLAGS: u64 = 8;
    pub(crate) const CAPACITY: u64 = 12;
    pub(crate) const GRAIN_SIZE: u64 = 20;
    pub(crate) const DESCRIPTOR_OFFSET: u64 = 28;
    pub(crate) const DESCRIPTOR_SIZE: u64 = 36;
    pub(crate) const TABLE_ENTRIES: u64 = 44;
    pub(crate) const DIRECTORY: u64 = 56;
}

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZEROED: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const KNOWN_FLAGS: u32 = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED | FLAG_COMPRESSED | FLAG_MARKERS;

/// A count of sectors, or an address in sectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Sectors(pub(crate) u64);

impl Sectors {
    /// The value in bytes, or `None` if it exceeds 64 bits.
    pub(crate) const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    capacity: U64,
    grain_size: U64,
    descriptor_offset: U64,
    descriptor_size: U64,
    table_entries: U32,
    redundant_directory: U64,
    directory: U64,
    overhead: U64,
    unclean: u8,
    single_end_line: u8,
    non_end_line: u8,
    double_end_line: [u8; 2],
    compression: U16,
    pad: [u8; 433],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

/// How grains are stored in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grains {
    /// Uncompressed.
    Plain,
    /// As zlib streams.
    Compressed {
        /// True if each follows a marker with its sector address and length.
        markers: bool,
    },
}

/// The location of a grain directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DirectoryAt {
    /// At this sector.
    Sector(Sectors),
    /// In the footer.
    Footer,
}

/// The contents of a hosted sparse extent's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SparseHeader {
    /// 1, 2 or 3.
    pub(crate) version: u32,
    /// Length of the extent.
    pub(crate) capacity: Sectors,
    /// Length of a grain: a power of two, at least 8 sectors.
    pub(crate) grain: Sectors,
    /// Address and length of the embedded descriptor, if there is one.
    pub(crate) descriptor: Option<(Sectors, Sectors)>,
    /// Entries of a grain table.
    pub(crate) table_entries: u32,
    /// The grain directory.
    pub(crate) directory: DirectoryAt,
    /// The redundant grain directory, if the flag is set.
    pub(crate) redundant: Option<Sectors>,
    /// Where the grains begin.
    pub(crate) overhead: Sectors,
    /// A grain table entry of 1 means a grain of zeros.
    pub(crate) zeroed_grains: bool,
    /// How grains are stored.
    pub(crate) grains: Grains,
    /// The image was not closed.
    pub(crate) unclean: bool,
}

impl SparseHeader {
    /// Validates the first sector of an extent, or a footer.
    ///
    /// # Errors
    /// `malformed`, `truncated`, `unsupported_feature`; offsets are relative to `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| {
            Error::truncated(format!(
                "a sparse extent's header has {HEADER_LEN} bytes, the object {}",
                bytes.len()
            ))
            .at(bytes.len() as u64)
        })?;
        if raw.magic != MAGIC {
            return Err(Error::malformed("the magic of a sparse extent is missing").at(0u64));
        }
        let version = raw.version.get();
        let flags = raw.flags.get();
        let newlines = (raw.single_end_line, raw.non_end_line, raw.double_end_line);
        if flags & FLAG_NEWLINES != 0 && newlines != (b'\n', b' ', *b"\r\n") {
            return Err(Error::malformed(format!(
                "the newline bytes of the header are {:02x} {:02x} {:02x?}: a transfer in text mode has damaged the image",
                newlines.0, newlines.1, newlines.2
            ))
            .at(73u64)
            .hint("transfer it again, in binary mode"));
        }
        if !(1..=3).contains(&version) {
            return Err(
                Error::unsupported(format!("sparse extent version {version}; 1 to 3 are supported")).at(4u64)
            );
        }
        if flags & !KNOWN_FLAGS & 0xffff_0000 != 0 {
            return Err(Error::unsupported(format!("header flags {flags:#x} have unknown bits")).at(8u64));
        }
        let grain = raw.grain_size.get();
        if !grain.is_power_of_two() || grain < LEAST_GRAIN_SECTORS {
            return Err(Error::malformed(format!(
                "grainSize is {grain} sectors, not a power of two of at least {LEAST_GRAIN_SECTORS}"
            ))
            .at(20u64));
        }
        if grain > MOST_GRAIN_SECTORS {
            return Err(Error::unsupported(format!(
                "grainSize is {grain} sectors, more than {MOST_GRAIN_SECTORS}"
            ))
            .at(20u64));
        }
        let table_entries = raw.table_entries.get();
        if table_entries == 0 {
            return Err(Error::malformed("numGTEsPerGT is 0").at(44u64));
        }
        if table_entries > MOST_TABLE_ENTRIES {
            return Err(Error::unsupported(format!(
                "numGTEsPerGT is {table_entries}, more than {MOST_TABLE_ENTRIES}"
            ))
            .at(44u64));
        }
        let capacity = Sectors(raw.capacity.get());
        if capacity.bytes().is_none() {
            return Err(Error::malformed(format!("capacity is {} sectors", capacity.0)).at(12u64));
        }
        let descriptor = match (raw.descriptor_offset.get(), raw.descriptor_size.get()) {
            (0, _) | (_, 0) => None,
            (offset, size) => Some((Sectors(offset), Sectors(size))),
        };
        Ok(Self {
            version,
            capacity,
            grain: Sectors(grain),
            descriptor,
            table_entries,
            directory: match raw.directory.get() {
                AT_END => DirectoryAt::Footer,
                sector => DirectoryAt::Sector(Sectors(sector)),
            },
            redundant: match raw.redundant_directory.get() {
                0 | AT_END => None,
                sector => (flags & FLAG_REDUNDANT != 0).then_some(Sectors(sector)),
            },
            overhead: Sectors(raw.overhead.get()),
            zeroed_grains: flags & FLAG_ZEROED != 0,
            grains: grains(flags, raw.compression.get())?,
            unclean: raw.unclean != 0,
        })
    }

    /// Encodes the header as [`parse`](Self::parse) expects it.
    pub(crate) fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let (compressed, compression) = match self.grains {
            Grains::Plain => (0, 0),
            Grains::Compressed { markers: false } => (FLAG_COMPRESSED, 1),
            Grains::Compressed { markers: true } => (FLAG_COMPRESSED | FLAG_MARKERS, 1),
        };
        let redundant = if self.redundant.is_some() { FLAG_REDUNDANT } else { 0 };
        let zeroed = if self.zeroed_grains { FLAG_ZEROED } else { 0 };
        let (descriptor_offset, descriptor_size) = self.descriptor.unwrap_or((Sectors(0), Sectors(0)));
        let raw = RawHeader {
            magic: MAGIC,
            version: U32::new(self.version),
            flags: U32::new(FLAG_NEWLINES | redundant | zeroed | compressed),
            capacity: U64::new(self.capacity.0),
            grain_size: U64::new(self.grain.0),
            descriptor_offset: U64::new(descriptor_offset.0),
            descriptor_size: U64::new(descriptor_size.0),
            table_entries: U32::new(self.table_entries),
            redundant_directory: U64::new(self.redundant.unwrap_or(Sectors(0)).0),
            directory: U64::new(match self.directory {
                DirectoryAt::Sector(sector) => sector.0,
                DirectoryAt::Footer => AT_END,
            }),
            overhead: U64::new(self.overhead.0),
            unclean: u8::from(self.unclean),
            single_end_line: b'\n',
            non_end_line: b' ',
            double_end_line: *b"\r\n",
            compression: U16::new(compression),
            pad: [0; 433],
        };
        zerocopy::transmute!(raw)
    }

    /// Bytes of a grain.
    pub(crate) const fn grain_bytes(&self) -> u64 {
        // At most 1 GiB, as `parse` checks.
        self.grain.0.wrapping_mul(SECTOR)
    }
}

fn grains(flags: u32, compression: u16) -> Result<Grains> {
    let markers = flags & FLAG_MARKERS != 0;
    match (flags & FLAG_COMPRESSED != 0, compression) {
        (true, 1) => Ok(Grains::Compressed { markers }),
        (false, 0) if markers => Err(Error::unsupported("markers before uncompressed grains").at(8u64)),
        (false, 0) => Ok(Grains::Plain),
        (compressed, 0 | 1) => Err(Error::malformed(format!(
            "the flags say {}compressed grains and compressAlgorithm is {compression}",
            if compressed { "" } else { "un" }
        ))
        .at(77u64)),
        (_, other) => {
            Err(Error::unsupported(format!("compressAlgorithm {other}; only 1 (deflate) is supported"))
                .at(77u64))
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMarker {
    value: U64,
    size: U32,
    kind: U32,
}

const _: () = assert!(size_of::<RawMarker>() == 16);

/// Bytes of a grain's marker, which precedes its data.
pub(crate) const GRAIN_MARKER_LEN: usize = 12;

/// The structure that a marker of a stream announces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marker {
    /// A grain: `size` compressed bytes follow the marker's 12, then zeros up to a whole sector.
    Grain {
        /// Where the grain begins on the extent.
        lba: Sectors,
        /// Bytes of compressed data.
        size: u32,
    },
    /// A grain table of this many sectors, after the marker's sector.
    Table(Sectors),
    /// The grain directory.
    Directory(Sectors),
    /// The footer.
    Footer(Sectors),
    /// The end of the stream.
    End,
}

impl Marker {
    /// Parses the marker at the start of `bytes`, which needs 16 bytes.
    ///
    /// # Errors
    /// `malformed` for an unknown type, `truncated` if `bytes` is too short. No offset is set.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let (raw, _) = RawMarker::ref_from_prefix(bytes)
            .map_err(|_| Error::truncated("the image ends inside a marker"))?;
        let value = Sectors(raw.value.get());
        match (raw.size.get(), raw.kind.get()) {
            (0, 0) => Ok(Self::End),
            (0, 1) => Ok(Self::Table(value)),
            (0, 2) => Ok(Self::Directory(value)),
            (0, 3) => Ok(Self::Footer(value)),
            (0, kind) => Err(Error::malformed(format!("marker type {kind}; 0 to 3 are supported"))),
            (size, _) => Ok(Self::Grain { lba: value, size }),
        }
    }

    /// Encodes the marker. A grain's marker is the first [`GRAIN_MARKER_LEN`] bytes. Any other marker fills a sector,
    /// padded with zeros.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let (value, size, kind) = match self {
            Self::Grain { lba, size } => (lba, size, 0),
            Self::Table(sectors) => (sectors, 0, 1),
            Self::Directory(sectors) => (sectors, 0, 2),
            Self::Footer(sectors) => (sectors, 0, 3),
            Self::End => (Sectors(0), 0, 0),
        };
        zerocopy::transmute!(RawMarker {
            value: U64::new(value.0),
            size: U32::new(size),
            kind: U32::new(kind)
        })
    }
}

/// The largest size of a compressed grain. A deflate stream that stores incompressible data needs less. Other readers
/// have the same limit.
pub(crate) const fn most_compressed(grain_bytes: u64) -> u64 {
    grain_bytes.saturating_mul(2)
}

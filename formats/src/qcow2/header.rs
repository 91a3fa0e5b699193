//! The header, parsed and validated.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`, section "Header". All numbers are big-endian. Version 2 has 72 bytes;
//! version 3 adds feature bits, the width of reference counts and the header's own length, 104 bytes or more.

use diskferry_core::{Error, Result, StoredOffset, StoredRange, TargetOffset};
use zerocopy::byteorder::{BigEndian, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::extensions::{Extensions, FeatureNames, naming_incompatible};
use super::grid::Grid;

/// The first four bytes.
pub(super) const MAGIC: &[u8; 4] = b"QFI\xfb";

/// Length of the version 2 header, and the offset of its extensions.
const V2_BYTES: u64 = 72;
/// Length of the shortest version 3 header. The compression type is the byte after it.
const V3_BYTES: u64 = 104;
/// Most bytes of the active L1 table, the same as in QEMU.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// Most bytes of the refcount table, the same as in QEMU.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots, the same as in QEMU.
const MAX_SNAPSHOTS: u32 = 65_536;
/// Longest name of a backing file, set by the specification.
const MAX_BACKING_NAME: u64 = 1023;

/// `refcount_order` of version 2 and of written images: 16 bits.
const REFCOUNT_ORDER: u32 = 4;

/// Incompatible feature bits.
mod incompatible {
    pub(super) const DIRTY: u64 = 1 << 0;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2;
}
/// Compatible feature bit: reference counts may be out of date while the image is in use.
const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear feature bit: the bitmaps extension is up to date.
const AUTOCLEAR_BITMAPS: u64 = 1 << 0;

/// The part that both versions share.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawV2 {
    magic: [u8; 4],
    version: U32<BigEndian>,
    backing_file_offset: U64<BigEndian>,
    backing_file_size: U32<BigEndian>,
    cluster_bits: U32<BigEndian>,
    size: U64<BigEndian>,
    crypt_method: U32<BigEndian>,
    l1_size: U32<BigEndian>,
    l1_table_offset: U64<BigEndian>,
    refcount_table_offset: U64<BigEndian>,
    refcount_table_clusters: U32<BigEndian>,
    nb_snapshots: U32<BigEndian>,
    snapshots_offset: U64<BigEndian>,
}
const _: () = assert!(size_of::<RawV2>() as u64 == V2_BYTES);

/// The fields that version 3 adds.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawV3 {
    incompatible_features: U64<BigEndian>,
    compatible_features: U64<BigEndian>,
    autoclear_features: U64<BigEndian>,
    refcount_order: U32<BigEndian>,
    header_length: U32<BigEndian>,
}
const _: () = assert!(size_of::<RawV3>() as u64 == V3_BYTES - V2_BYTES);

/// The fields after it, if the header is long enough.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct RawAdded {
    compression_type: u8,
    padding: [u8; 7],
}
const _: () = assert!(size_of::<RawAdded>() == 8);

/// Offsets of header fields, for errors.
pub(super) mod field {
    pub(super) const VERSION: u64 = 4;
    pub(crate) const BACKING_FILE_OFFSET: u64 = 8;
    pub(super) const BACKING_FILE_SIZE: u64 = 16;
    pub(super) const CLUSTER_BITS: u64 = 20;
    pub(crate) const CRYPT_METHOD: u64 = 32;
    pub(super) const L1_SIZE: u64 = 36;
    pub(super) const L1_TABLE_OFFSET: u64 = 40;
    pub(super) const REFCOUNT_TABLE_OFFSET: u64 = 48;
    pub(super) const REFCOUNT_TABLE_CLUSTERS: u64 = 56;
    pub(super) const NB_SNAPSHOTS: u64 = 60;
    pub(super) const SNAPSHOTS_OFFSET: u64 = 64;
    pub(crate) const INCOMPATIBLE: u64 = 72;
    pub(super) const REFCOUNT_ORDER: u64 = 96;
    pub(super) const HEADER_LENGTH: u64 = 100;
    pub(super) const COMPRESSION_TYPE: u64 = 104;
}

/// Version of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Version {
    V2,
    V3,
}

/// The compression of clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compression {
    /// Raw deflate, despite the name.
    Zlib,
    Zstd,
}

/// The encryption of guest data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encryption {
    Aes,
    Luks,
}

/// Internal snapshots: their number, and the offset of their table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SnapshotTable {
    pub(super) count: u32,
    pub(super) at: StoredOffset,
}

/// A validated header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) grid: Grid,
    pub(super) virtual_bytes: u64,
    /// The L1 table with the length in the header, which is at least what the disk needs.
    pub(super) l1: StoredRange,
    pub(super) refcount_table: StoredRange,
    pub(super) refcount_bits: u32,
    pub(super) snapshots: Option<SnapshotTable>,
    pub(super) compression: Compression,
    pub(super) encryption: Option<Encryption>,
    pub(super) external_data: bool,
    pub(super) dirty: bool,
    pub(super) corrupt: bool,
    pub(super) lazy_refcounts: bool,
    pub(super) bitmaps_consistent: bool,
    /// Location of the backing file's name, if there is one.
    pub(super) backing_name: Option<StoredRange>,
    pub(super) extensions: Extensions,
}

impl Header {
    /// Reads the header from the first bytes of an object of `object_bytes` bytes.
    ///
    /// `head` has the buffered bytes of the object's first cluster: at least the first 4 KiB unless the object is
    /// shorter. Extensions after it are not parsed: [`Extensions::cut`] is then true.
    ///
    /// # Errors
    /// `malformed` and `truncated` with the offset of the field, `unsupported_feature` with the feature's name.
    pub(super) fn parse(head: &[u8], object_bytes: u64) -> Result<Self> {
        let short = || {
            Error::truncated(format!("the object has {object_bytes} bytes and ends within its QCOW2 header"))
                .at(object_bytes)
        };
        let (raw, rest) = RawV2::ref_from_prefix(head).map_err(|_| short())?;
        if &raw.magic != MAGIC {
            return Err(Error::malformed("the QCOW2 magic is missing").at(0u64));
        }
        let version = match raw.version.get() {
            2 => Version::V2,
            3 => Version::V3,
            other => {
                return Err(Error::unsupported(format!(
                    "QCOW version {other} is not supported, only 2 and 3 are"
                ))
                .at(field::VERSION));
            }
        };
        let v3 = match version {
            Version::V2 => None,
            Version::V3 => Some(RawV3::ref_from_prefix(rest).map_err(|_| short())?.0),
        };
        let incompatible = v3.map_or(0, |v3| v3.incompatible_features.get());
        let cluster_bits = raw.cluster_bits.get();
        if !Grid::CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Error::malformed(format!("cluster_bits is {cluster_bits} and must be 9 to 21"))
                .at(field::CLUSTER_BITS));
        }
        let cluster_bytes = Grid::new(cluster_bits, false).cluster_bytes();
        let header_bytes = header_bytes(v3, cluster_bytes)?;
        let backing_name = backing_name(raw, header_bytes, cluster_bytes, object_bytes)?;
        let extensions_end = backing_name.map_or(cluster_bytes, |name| name.start().get());
        let extensions =
            Extensions::parse(head, StoredRange::between(at(header_bytes), at(extensions_end)), object_bytes);
        let unknown = incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            // An unknown bit may change the meaning of everything else, so it is reported first.
            let names = extensions.map(|extensions| extensions.feature_names).unwrap_or_default();
            return Err(unknown_features(unknown, &names));
        }
        let extensions = extensions?;
        let extended_l2 = incompatible & incompatible::EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < Grid::MIN_EXTENDED_BITS {
            return Err(Error::malformed(format!(
                "extended L2 entries need clusters of 16 KiB or more, and cluster_bits is {cluster_bits}"
            ))
            .at(field::CLUSTER_BITS));
        }
        let grid = Grid::new(cluster_bits, extended_l2);
        let parser = Parser { raw, grid, object_bytes };
        let compression = compression(head, header_bytes, incompatible)?;
        let refcount_bits = refcount_bits(v3)?;
        let encryption = encryption(raw)?;
        let refcount_table = parser.refcount_table()?;
        let l1 = parser.l1(refcount_table)?;
        let snapshots = parser.snapshots()?;
        Ok(Self {
            version,
            grid,
            virtual_bytes: raw.size.get(),
            l1,
            refcount_table,
            refcount_bits,
            snapshots,
            compression,
            encryption,
            external_data: incompatible & incompatible::EXTERNAL_DATA != 0,
            dirty: incompatible & incompatible::DIRTY != 0,
            corrupt: incompatible & incompatible::CORRUPT != 0,
            lazy_refcounts: v3
                .is_some_and(|v3| v3.compatible_features.get() & COMPATIBLE_LAZY_REFCOUNTS != 0),
            bitmaps_consistent: v3.is_some_and(|v3| v3.autoclear_features.get() & AUTOCLEAR_BITMAPS != 0),
            backing_name,
            extensions,
        })
    }

    /// The ranges that no entry may point into: the header's cluster, the L1 table and the refcount table.
    pub(super) fn metadata(&self) -> [(StoredRange, &'static str); 3] {
        [
            (StoredRange::first(self.grid.cluster_bytes()), "the header"),
            (self.l1, "the L1 table"),
            (self.refcount_table, "the refcount table"),
        ]
    }
}

/// The header fields of a written image: version 3, reference counts of 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NewHeader {
    pub(super) grid: Grid,
    pub(super) virtual_bytes: u64,
    pub(super) l1_entries: u32,
    pub(super) l1_at: TargetOffset,
    pub(super) refcount_table_at: TargetOffset,
    pub(super) refcount_table_clusters: u32,
    pub(super) compression: Compression,
}

impl NewHeader {
    /// Encodes the header and its extensions. Zeros follow to the end of the cluster, and end the extensions.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let zstd = self.compression == Compression::Zstd;
        let added = RawAdded { compression_type: u8::from(zstd), padding: [0; 7] };
        let raw = RawV2 {
            magic: *MAGIC,
            version: U32::new(3),
            backing_file_offset: U64::ZERO,
            backing_file_size: U32::ZERO,
            cluster_bits: U32::new(self.grid.cluster_bits()),
            size: U64::new(self.virtual_bytes),
            crypt_method: U32::ZERO,
            l1_size: U32::new(self.l1_entries),
            l1_table_offset: U64::new(self.l1_at.get()),
            refcount_table_offset: U64::new(self.refcount_table_at.get()),
            refcount_table_clusters: U32::new(self.refcount_table_clusters),
            nb_snapshots: U32::ZERO,
            snapshots_offset: U64::ZERO,
        };
        let length =
            size_of::<RawV2>().saturating_add(size_of::<RawV3>()).saturating_add(added.as_bytes().len());
        let v3 = RawV3 {
            incompatible_features: U64::new(if zstd { incompatible::COMPRESSION } else { 0 }),
            compatible_features: U64::ZERO,
            autoclear_features: U64::ZERO,
            refcount_order: U32::new(REFCOUNT_ORDER),
            header_length: U32::new(u32::try_from(length).unwrap_or_default()),
        };
        let mut bytes = [raw.as_bytes(), v3.as_bytes(), added.as_bytes()].concat();
        if zstd {
            let bit = u8::try_from(incompatible::COMPRESSION.trailing_zeros()).unwrap_or_default();
            bytes.extend(naming_incompatible(bit, "compression type"));
        }
        bytes
    }
}

fn at(offset: u64) -> StoredOffset {
    StoredOffset::new(offset)
}

/// Length of the header without extensions, which is their offset.
fn header_bytes(v3: Option<&RawV3>, cluster_bytes: u64) -> Result<u64> {
    let Some(v3) = v3 else { return Ok(V2_BYTES) };
    let length = u64::from(v3.header_length.get());
    if length < V3_BYTES || length > cluster_bytes || !length.is_multiple_of(8) {
        return Err(Error::malformed(format!(
            "header_length is {length}; it must be a multiple of 8 from {V3_BYTES} to the cluster size, {cluster_bytes}"
        ))
        .at(field::HEADER_LENGTH));
    }
    Ok(length)
}

/// Location of the backing file's name.
fn backing_name(
    raw: &RawV2,
    header_bytes: u64,
    cluster_bytes: u64,
    object_bytes: u64,
) -> Result<Option<StoredRange>> {
    let offset = raw.backing_file_offset.get();
    let length = u64::from(raw.backing_file_size.get());
    if offset == 0 {
        return Ok(None);
    }
    if offset < header_bytes || offset >= cluster_bytes {
        return Err(Error::malformed(format!(
            "backing_file_offset is {offset} and must be after the header, in the first cluster: \
             {header_bytes} to {cluster_bytes}"
        ))
        .at(field::BACKING_FILE_OFFSET));
    }
    let name = StoredRange::new(at(offset), length)
        .filter(|name| length > 0 && length <= MAX_BACKING_NAME && name.end().get() <= cluster_bytes)
        .ok_or_else(|| {
            Error::malformed(format!(
                "backing_file_size is {length} at backing_file_offset {offset}; it must be 1 to {MAX_BACKING_NAME} \
                 and end in the first cluster"
            ))
            .at(field::BACKING_FILE_SIZE)
        })?;
    if name.end().get() > object_bytes {
        return Err(Error::truncated(format!(
            "the backing file's name is at {name} and the object ends at {object_bytes}"
        ))
        .at(field::BACKING_FILE_OFFSET));
    }
    Ok(Some(name))
}

/// The compression type: feature bit and byte must agree.
fn compression(head: &[u8], header_bytes: u64, incompatible: u64) -> Result<Compression> {
    let bit = incompatible & incompatible::COMPRESSION != 0;
    let byte = (header_bytes > V3_BYTES)
        .then(|| usize::try_from(field::COMPRESSION_TYPE).ok().and_then(|place| head.get(place)).copied())
        .flatten();
    match (bit, byte) {
        (false, None | Some(0)) => Ok(Compression::Zlib),
        (true, Some(1)) => Ok(Compression::Zstd),
        (true, None) => Err(Error::malformed(format!(
            "the compression feature bit is set and the header of {header_bytes} bytes has no compression_type"
        ))
        .at(field::INCOMPATIBLE)),
        (true, Some(0)) | (false, Some(1)) => Err(Error::malformed(format!(
            "compression_type is {} and the compression feature bit is {}",
            byte.unwrap_or_default(),
            if bit { "set" } else { "not set" }
        ))
        .at(field::COMPRESSION_TYPE)),
        (_, Some(other)) => {
            Err(Error::unsupported(format!("compression_type {other} is not supported, only zlib and zstd are"))
                .at(field::COMPRESSION_TYPE))
        }
    }
}

fn refcount_bits(v3: Option<&RawV3>) -> Result<u32> {
    let order = v3.map_or(REFCOUNT_ORDER, |v3| v3.refcount_order.get());
    if order > 6 {
        return Err(Error::malformed(format!("refcount_order is {order} and must be 0 to 6"))
            .at(field::REFCOUNT_ORDER));
    }
    Ok(1u32.checked_shl(order).unwrap_or_default())
}

fn encryption(raw: &RawV2) -> Result<Option<Encryption>> {
    match raw.crypt_method.get() {
        0 => Ok(None),
        1 => Ok(Some(Encryption::Aes)),
        2 => Ok(Some(Encryption::Luks)),
        other => Err(Error::unsupported(format!("crypt_method {other} is unknown")).at(field::CRYPT_METHOD)),
    }
}

/// The checks of table locations.
struct Parser<'a> {
    raw: &'a RawV2,
    grid: Grid,
    object_bytes: u64,
}

impl Parser<'_> {
    /// Checks the table of `bytes` bytes that the field `name` at `place` gives: it is aligned, after the header and
    /// inside the object. `length` is the field with its length.
    fn table(
        &self,
        (name, place, offset): (&str, u64, u64),
        (length, count): (&str, u64),
        bytes: u64,
    ) -> Result<StoredRange> {
        let cluster = self.grid.cluster_bytes();
        if !offset.is_multiple_of(cluster) || (bytes > 0 && offset == 0) {
            return Err(Error::malformed(format!(
                "{name} is {offset}, which is no cluster of {cluster} bytes after the header"
            ))
            .at(place));
        }
        let table = StoredRange::new(at(offset), bytes).ok_or_else(|| {
            Error::malformed(format!(
                "{name} is {offset} and {length} {count}: the table extends past the end of the address space"
            ))
            .at(place)
        })?;
        if bytes > 0 && table.end().get() > self.object_bytes {
            return Err(Error::truncated(format!(
                "{name} is {offset} and {length} {count}: the table takes bytes {table} and the object ends at {}",
                self.object_bytes
            ))
            .at(place));
        }
        Ok(table)
    }

    fn refcount_table(&self) -> Result<StoredRange> {
        let clusters = u64::from(self.raw.refcount_table_clusters.get());
        let bytes = clusters.saturating_mul(self.grid.cluster_bytes());
        if clusters == 0 || bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::malformed(format!(
                "refcount_table_clusters is {clusters}, which makes {bytes} bytes; it must make 1 to \
                 {MAX_REFCOUNT_TABLE_BYTES}"
            ))
            .at(field::REFCOUNT_TABLE_CLUSTERS));
        }
        let offset = self.raw.refcount_table_offset.get();
        let field = ("refcount_table_offset", field::REFCOUNT_TABLE_OFFSET, offset);
        self.table(field, ("refcount_table_clusters", clusters), bytes)
    }

    fn l1(&self, refcount_table: StoredRange) -> Result<StoredRange> {
        let entries = u64::from(self.raw.l1_size.get());
        let bytes = entries.saturating_mul(Grid::L1_ENTRY_BYTES);
        if bytes > MAX_L1_BYTES {
            return Err(Error::malformed(format!(
                "l1_size is {entries}, which makes a table of {bytes} bytes; at most {MAX_L1_BYTES} are supported"
            ))
            .at(field::L1_SIZE));
        }
        let needed = self.grid.l1_entries(self.raw.size.get());
        if entries < needed {
            return Err(Error::malformed(format!(
                "l1_size is {entries} and a disk of {} bytes needs {needed}",
                self.raw.size.get()
            ))
            .at(field::L1_SIZE));
        }
        let offset = self.raw.l1_table_offset.get();
        let field = ("l1_table_offset", field::L1_TABLE_OFFSET, offset);
        let table = self.table(field, ("l1_size", entries), bytes)?;
        if table.intersection(refcount_table).is_some() {
            return Err(Error::malformed(format!(
                "l1_table_offset is {offset}: the L1 table at {table} and the refcount table at {refcount_table} overlap"
            ))
            .at(field::L1_TABLE_OFFSET));
        }
        Ok(table)
    }

    fn snapshots(&self) -> Result<Option<SnapshotTable>> {
        let count = self.raw.nb_snapshots.get();
        if count == 0 {
            return Ok(None);
        }
        if count > MAX_SNAPSHOTS {
            return Err(Error::malformed(format!(
                "nb_snapshots is {count}; at most {MAX_SNAPSHOTS} are supported"
            ))
            .at(field::NB_SNAPSHOTS));
        }
        let least = u64::from(count).saturating_mul(super::snapshots::MIN_ENTRY_BYTES);
        let offset = self.raw.snapshots_offset.get();
        let field = ("snapshots_offset", field::SNAPSHOTS_OFFSET, offset);
        let table = self.table(field, ("nb_snapshots", u64::from(count)), least)?;
        Ok(Some(SnapshotTable { count, at: table.start() }))
    }
}

fn unknown_features(bits: u64, names: &FeatureNames) -> Error {
    let all: Vec<String> = (0..64u8)
        .filter(|bit| bits.checked_shr(u32::from(*bit)).is_some_and(|shifted| shifted & 1 != 0))
        .map(|bit| match names.incompatible(bit) {
            Some(name) => format!("{name:?} (incompatible bit {bit})"),
            None => format!("incompatible bit {bit}"),
        })
        .collect();
    Error::unsupported(format!(
        "incompatible_features has features that are not supported: {}",
        all.join(", ")
    ))
    .at(field::INCOMPATIBLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_header_parses_to_the_same_values() {
        for (compression, bytes) in [(Compression::Zlib, 112), (Compression::Zstd, 168)] {
            let grid = Grid::new(9, false);
            let new = NewHeader {
                grid,
                virtual_bytes: 70_001,
                l1_entries: 3,
                l1_at: TargetOffset::new(1024),
                refcount_table_at: TargetOffset::new(512),
                refcount_table_clusters: 1,
                compression,
            };
            let mut image = new.to_bytes();
            assert_eq!(image.len(), bytes);
            image.resize(2048, 0);
            let header = Header::parse(&image, 2048).unwrap();
            assert_eq!((header.version, header.grid, header.virtual_bytes), (Version::V3, grid, 70_001));
            assert_eq!(header.l1, StoredRange::new(at(1024), 24).unwrap());
            assert_eq!(header.refcount_table, StoredRange::new(at(512), 512).unwrap());
            assert_eq!((header.refcount_bits, header.compression), (16, compression));
            let name = header.extensions.feature_names.incompatible(3);
            assert_eq!(name.is_some(), compression == Compression::Zstd, "{name:?}");
        }
    }
}

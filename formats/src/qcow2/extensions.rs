//! Header extensions, which are stored between the header and the backing file's name, in the first cluster.
//!
//! Source: `docs/interop/qcow2.rst`, "Header extensions". Each has a type, a length and data padded to 8 bytes; type 0
//! ends them. Unknown ones are skipped.

use diskferry_core::{Error, Result, StoredOffset, StoredRange};
use zerocopy::byteorder::{BigEndian, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const DATA_FILE: u32 = 0x4441_5441;

/// Length of an extension's own header. Data is padded to a multiple of it.
const PREFIX_BYTES: u64 = 8;
/// The type of incompatible bits in the feature name table.
const INCOMPATIBLE: u8 = 0;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPrefix {
    kind: U32<BigEndian>,
    length: U32<BigEndian>,
}
const _: () = assert!(size_of::<RawPrefix>() as u64 == PREFIX_BYTES);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFeature {
    kind: u8,
    bit: u8,
    name: [u8; 46],
}
const _: () = assert!(size_of::<RawFeature>() == 48);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBitmaps {
    count: U32<BigEndian>,
    reserved: U32<BigEndian>,
    directory_bytes: U64<BigEndian>,
    directory_offset: U64<BigEndian>,
}
const _: () = assert!(size_of::<RawBitmaps>() == 24);

/// An extension that names one incompatible bit, for readers that do not know it. At most 45 bytes of `name` are
/// stored.
pub(super) fn naming_incompatible(bit: u8, name: &str) -> Vec<u8> {
    let mut feature = RawFeature { kind: INCOMPATIBLE, bit, name: [0; 46] };
    for (to, from) in feature.name.iter_mut().zip(name.bytes().take(45)) {
        *to = from;
    }
    let length = u32::try_from(size_of::<RawFeature>()).unwrap_or_default();
    let prefix = RawPrefix { kind: U32::new(FEATURE_NAMES), length: U32::new(length) };
    [prefix.as_bytes(), feature.as_bytes()].concat()
}

/// The parsed extensions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Extensions {
    pub(super) feature_names: FeatureNames,
    /// Format of the backing file.
    pub(super) backing_format: Option<String>,
    /// Name of the external data file.
    pub(super) data_file: Option<String>,
    /// Number of persistent bitmaps.
    pub(super) bitmaps: u32,
    /// Where the directory of the bitmaps is, if there are any.
    pub(super) bitmap_directory: Option<StoredRange>,
    /// True if there are extensions after the buffered bytes.
    pub(super) cut: bool,
}

/// Names of feature bits, from the image's own table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct FeatureNames(Vec<(u8, String)>);

impl FeatureNames {
    /// The image's name of an incompatible bit.
    pub(super) fn incompatible(&self, bit: u8) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == bit).map(|(_, name)| name.as_str())
    }

    fn parse(data: &[u8]) -> Self {
        Self(
            data.chunks_exact(size_of::<RawFeature>())
                .filter_map(|bytes| RawFeature::ref_from_bytes(bytes).ok())
                .filter(|feature| feature.kind == INCOMPATIBLE && feature.bit < 64)
                .map(|feature| (feature.bit, text(&feature.name)))
                .collect(),
        )
    }
}

impl Extensions {
    /// Parses the extensions in `area`. The part inside `head` is buffered.
    ///
    /// # Errors
    /// `malformed` if one extends past the area's end or is shorter than its type requires; `truncated` if one extends
    /// past the object's end.
    pub(super) fn parse(head: &[u8], area: StoredRange, object_bytes: u64) -> Result<Self> {
        let mut found = Self::default();
        let mut rest = area;
        while rest.len() >= PREFIX_BYTES {
            let place = rest.start();
            let (prefix, after) = rest.split_at(PREFIX_BYTES);
            if prefix.end().get() > object_bytes {
                // The only cluster of a small image may be incomplete.
                break;
            }
            let Some(raw) = within(head, prefix).and_then(|bytes| RawPrefix::read_from_bytes(bytes).ok())
            else {
                found.cut = true;
                break;
            };
            let (kind, length) = (raw.kind.get(), u64::from(raw.length.get()));
            if kind == END {
                break;
            }
            if length > after.len() {
                return Err(Error::malformed(format!(
                    "header extension {kind:#010x} of {length} bytes extends past the end of the extensions at {}",
                    area.end()
                ))
                .at(place));
            }
            let data = after.split_at(length).0;
            if data.end().get() > object_bytes {
                return Err(Error::truncated(format!(
                    "header extension {kind:#010x} is at {data} and the object ends at {object_bytes}"
                ))
                .at(place));
            }
            match within(head, data) {
                Some(bytes) => found.take(kind, bytes, place)?,
                None => {
                    found.cut = true;
                    break;
                }
            }
            rest = after.skip(length.next_multiple_of(PREFIX_BYTES));
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &[u8], place: StoredOffset) -> Result<()> {
        match kind {
            FEATURE_NAMES => self.feature_names = FeatureNames::parse(data),
            BACKING_FORMAT => self.backing_format = Some(text(data)),
            DATA_FILE => self.data_file = Some(text(data)),
            BITMAPS => {
                let raw = RawBitmaps::ref_from_bytes(data).map_err(|_| {
                    Error::malformed(format!(
                        "the bitmaps extension has {} bytes but must have 24",
                        data.len()
                    ))
                    .at(place)
                })?;
                self.bitmaps = raw.count.get();
                let at = StoredOffset::new(raw.directory_offset.get());
                self.bitmap_directory = StoredRange::new(at, raw.directory_bytes.get());
            }
            _ => {}
        }
        Ok(())
    }
}

/// The fixed part of a bitmap directory entry.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBitmap {
    table_offset: U64<BigEndian>,
    table_entries: U32<BigEndian>,
    flags: U32<BigEndian>,
    kind: u8,
    granularity_bits: u8,
    name_bytes: U16<BigEndian>,
    extra_bytes: U32<BigEndian>,
}
const _: () = assert!(size_of::<RawBitmap>() == 24);

/// The tables of the first bitmaps of a directory, at most `count`, within the bytes in `directory`.
pub(super) fn bitmap_tables(directory: &[u8], count: u32) -> Vec<StoredRange> {
    let mut found = Vec::new();
    let mut rest = directory;
    for _ in 0..count {
        let Ok((raw, _)) = RawBitmap::ref_from_prefix(rest) else { break };
        let bytes = u64::from(raw.table_entries.get()).saturating_mul(8);
        found.extend(StoredRange::new(StoredOffset::new(raw.table_offset.get()), bytes));
        let variable = u64::from(raw.extra_bytes.get()).saturating_add(u64::from(raw.name_bytes.get()));
        let len =
            variable.saturating_add(size_of::<RawBitmap>() as u64).checked_next_multiple_of(PREFIX_BYTES);
        let after = len.and_then(|len| usize::try_from(len).ok()).and_then(|len| rest.get(len..));
        rest = after.unwrap_or_default();
    }
    found
}

/// The bytes of `range`, if `head` has all of them.
fn within(head: &[u8], range: StoredRange) -> Option<&[u8]> {
    let start = usize::try_from(range.start().get()).ok()?;
    let end = usize::try_from(range.end().get()).ok()?;
    head.get(start..end)
}

/// Text up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

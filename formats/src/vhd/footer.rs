//! The footer and its locations. Pure: parses bytes into a validated struct.
//!
//! Specification, section "Hard Disk Footer Format".

use diskferry_core::{Error, Result, StoredOffset, Warning};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The unit of the format, in bytes.
pub(super) const SECTOR: u64 = 512;
/// The first bytes of a footer.
const COOKIE: &[u8; 8] = b"conectix";
/// Length of a footer in bytes.
pub(crate) const LEN: usize = 512;
/// Length of the footer that versions before Virtual PC 2004 wrote: its last byte, always zero, is missing.
const SHORT_LEN: usize = 511;
/// Most zeros that may follow the footer, in bytes. Copies made in whole blocks add such padding.
const MOST_PADDING: u64 = 64 << 10;
/// Bytes at the end of an object that are searched for a footer.
pub(crate) const TAIL_LEN: u64 = MOST_PADDING + LEN as u64;
/// The largest geometry that the fields can express, in sectors. For a disk of this size or larger, `current_size` is
/// the size.
const CHS_CEILING: u64 = 65_535 * 16 * 255;
/// The feature bit that is always set.
const FEATURES_RESERVED: u32 = 2;
/// The version of the format that is written, 1.0.
pub(super) const VERSION: u32 = 0x0001_0000;
/// The creator of written disks: Windows, for which every reader uses `current_size`. For some other names, readers
/// compute a smaller size from the geometry. Readers would not know a name of our own.
const CREATOR: &[u8; 4] = b"win ";
/// The version of that creator: Windows 7, the first version that creates VHDs itself.
const CREATOR_VERSION: u32 = 0x0006_0001;
/// The creator's operating system: Windows, as opposed to Macintosh.
const CREATOR_HOST: &[u8; 4] = b"Wi2k";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFooter {
    cookie: [u8; 8],
    features: U32,
    version: U32,
    data_offset: U64,
    timestamp: U32,
    creator: [u8; 4],
    creator_version: U32,
    creator_host: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    disk_type: U32,
    checksum: U32,
    id: [u8; 16],
    saved_state: u8,
    reserved: [u8; 427],
}

const _: () = assert!(size_of::<RawFooter>() == LEN);

/// Offsets of fields in a footer, for errors.
pub(super) mod field {
    pub(super) const VERSION: u64 = 12;
    pub(crate) const DATA_OFFSET: u64 = 16;
    pub(crate) const CURRENT_SIZE: u64 = 48;
    pub(crate) const GEOMETRY: u64 = 56;
    pub(crate) const DISK_TYPE: u64 = 60;
    pub(super) const CHECKSUM: u64 = 64;
}

/// The kind of disk, and the location of its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The guest's bytes, followed by a footer.
    Fixed,
    /// Blocks with an allocation table.
    Dynamic(StoredOffset),
    /// Blocks over those of a parent disk.
    Differencing(StoredOffset),
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic(_) => "dynamic",
            Self::Differencing(_) => "differencing",
        }
    }
}

/// The source of the disk's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SizeFrom {
    /// The CHS geometry: cylinders, heads and sectors per track.
    Chs(u16, u8, u8),
    /// The field `current_size`.
    CurrentSize,
}

/// A footer with a valid checksum and valid fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    /// Size of the guest's disk in bytes.
    pub(super) virtual_bytes: u64,
    pub(super) size_from: SizeFrom,
    /// The field `current_size`, in bytes.
    pub(super) current_size: u64,
    /// The program that wrote it.
    pub(super) creator: String,
    pub(super) temporary: bool,
    pub(super) saved_state: bool,
}

/// The geometry of a disk of that size, by the specification's appendix "CHS Calculation": cylinders, heads and sectors
/// per track. It covers the disk only approximately, and at most the ceiling.
fn geometry(virtual_bytes: u64) -> (u16, u8, u8) {
    const LARGE: u64 = 65_535 * 16 * 63;
    let total = (virtual_bytes / SECTOR).min(CHS_CEILING);
    let fewest = (total / 17).div_ceil(1024).max(4);
    let (heads, sectors): (u8, u8) = match u8::try_from(fewest) {
        _ if total >= LARGE => (16, 255),
        Ok(heads @ ..=16) if total / 17 < u64::from(heads).saturating_mul(1024) => (heads, 17),
        _ if total / 31 < 16 * 1024 => (16, 31),
        _ => (16, 63),
    };
    let track = u64::from(heads).saturating_mul(u64::from(sectors));
    let cylinders = total.checked_div(track).unwrap_or_default();
    (u16::try_from(cylinders).unwrap_or(u16::MAX), heads, sectors)
}

/// Encodes a footer of a disk of `virtual_bytes`, with its unique ID. The output depends only on the arguments: the
/// timestamp is the epoch of the format, 2000-01-01.
pub(super) fn to_bytes(kind: Kind, virtual_bytes: u64, id: [u8; 16]) -> [u8; LEN] {
    let (disk_type, data_offset) = match kind {
        Kind::Fixed => (2, u64::MAX),
        Kind::Dynamic(header) => (3, header.get()),
        Kind::Differencing(header) => (4, header.get()),
    };
    let (cylinders, heads, sectors) = geometry(virtual_bytes);
    let mut raw = RawFooter {
        cookie: *COOKIE,
        features: U32::new(FEATURES_RESERVED),
        version: U32::new(VERSION),
        data_offset: U64::new(data_offset),
        timestamp: U32::ZERO,
        creator: *CREATOR,
        creator_version: U32::new(CREATOR_VERSION),
        creator_host: *CREATOR_HOST,
        original_size: U64::new(virtual_bytes),
        current_size: U64::new(virtual_bytes),
        cylinders: U16::new(cylinders),
        heads,
        sectors,
        disk_type: U32::new(disk_type),
        checksum: U32::ZERO,
        id,
        saved_state: 0,
        reserved: [0; 427],
    };
    raw.checksum = U32::new(checksum(raw.as_bytes(), raw.checksum));
    zerocopy::transmute!(raw)
}

/// True if `bytes` begins like a footer.
pub(super) fn has_cookie(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE)
}

/// True if `tail`, the last bytes of an object, end with an intact footer.
pub(crate) fn ends_with_footer(tail: &[u8]) -> bool {
    Candidate::at_tail(tail, StoredOffset::ZERO).is_some_and(|candidate| candidate.is_intact())
}

/// The checksum of footer and header: the one's complement of the sum of all bytes except those of the field itself.
pub(super) fn checksum(bytes: &[u8], field: U32) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !sum(bytes).wrapping_sub(sum(&field.to_bytes()))
}

/// The size of the disk. Virtual PC and old versions of QEMU use the geometry, whose product may be less than
/// `current_size`. All others use `current_size`.
fn size(creator: &[u8; 4], raw: &RawFooter) -> (u64, SizeFrom) {
    let (cylinders, heads, sectors) = (raw.cylinders.get(), raw.heads, raw.sectors);
    let product = u64::from(cylinders).saturating_mul(u64::from(heads)).saturating_mul(u64::from(sectors));
    let by_geometry = matches!(creator, b"vpc " | b"qemu") && (1..CHS_CEILING).contains(&product);
    if by_geometry {
        (product.saturating_mul(SECTOR), SizeFrom::Chs(cylinders, heads, sectors))
    } else {
        (raw.current_size.get(), SizeFrom::CurrentSize)
    }
}

impl Footer {
    /// Validates a footer at `at`.
    ///
    /// # Errors
    /// `malformed` if the checksum is wrong or a field contradicts the format; `unsupported_feature` for another
    /// version.
    fn parse(bytes: &[u8; LEN], at: StoredOffset) -> Result<Self> {
        let raw =
            RawFooter::ref_from_bytes(bytes).map_err(|_| Error::internal("a footer of another length"))?;
        let place = |offset: u64| at.checked_add(offset).unwrap_or(at);
        let expected = checksum(bytes, raw.checksum);
        if raw.checksum.get() != expected {
            return Err(Error::malformed(format!(
                "the footer's checksum is {:#010x} and should be {expected:#010x}",
                raw.checksum
            ))
            .at(place(field::CHECKSUM)));
        }
        let version = raw.version.get();
        if version >> 16 != 1 {
            return Err(Error::unsupported(format!(
                "the footer's file_format_version is {}.{}; versions 1.x are supported",
                version >> 16,
                version & 0xffff
            ))
            .at(place(field::VERSION)));
        }
        let header = StoredOffset::new(raw.data_offset.get());
        let kind = match raw.disk_type.get() {
            2 => Kind::Fixed,
            3 => Kind::Dynamic(header),
            4 => Kind::Differencing(header),
            other => {
                return Err(Error::malformed(format!(
                    "the footer's disk_type is {other}; it is 2 (fixed), 3 (dynamic) or 4 (differencing)"
                ))
                .at(place(field::DISK_TYPE)));
            }
        };
        let (virtual_bytes, size_from) = size(&raw.creator, raw);
        let creator = String::from_utf8_lossy(&raw.creator);
        Ok(Self {
            kind,
            virtual_bytes,
            size_from,
            current_size: raw.current_size.get(),
            creator: creator.trim_end_matches(['\0', ' ']).to_owned(),
            temporary: raw.features.get() & 1 != 0,
            saved_state: raw.saved_state != 0,
        })
    }
}

/// A possible location of a footer.
#[derive(Debug)]
pub(super) struct Candidate {
    bytes: Box<[u8; LEN]>,
    at: StoredOffset,
    /// True if the last byte is missing.
    short: bool,
    /// Number of zeros that follow it.
    padding: u64,
}

impl Candidate {
    fn new(found: &[u8], at: StoredOffset, padding: u64) -> Option<Self> {
        if !has_cookie(found) {
            return None;
        }
        let mut bytes = Box::new([0; LEN]);
        bytes.get_mut(..found.len())?.copy_from_slice(found);
        Some(Self { bytes, at, short: found.len() < LEN, padding })
    }

    pub(super) fn is_intact(&self) -> bool {
        RawFooter::ref_from_bytes(&*self.bytes)
            .is_ok_and(|raw| raw.checksum.get() == checksum(&*self.bytes, raw.checksum))
    }

    /// The copy at the start of the object, in `head`.
    pub(super) fn at_head(head: &[u8]) -> Option<Self> {
        Self::new(head.get(..LEN)?, StoredOffset::ZERO, 0)
    }

    /// Searches the footer in `tail`, the last bytes of an object, which begin at `start`. It is the last [`LEN`]
    /// bytes, the last [`SHORT_LEN`] bytes, or earlier with zeros after it. If zeros follow, or the cookie might be
    /// text in the guest's last sector, only an intact footer counts.
    pub(super) fn at_tail(tail: &[u8], start: StoredOffset) -> Option<Self> {
        let used = tail.iter().rposition(|byte| *byte != 0)?.saturating_add(1);
        let first = used.saturating_sub(LEN);
        let candidates = (first..used).rev().filter_map(|position| {
            let rest = tail.get(position..)?;
            let (found, padding) = match rest.len() {
                SHORT_LEN => (rest, 0),
                _ => rest.split_at_checked(LEN).map(|(found, padding)| (found, padding.len()))?,
            };
            Self::new(found, start.checked_add(position as u64)?, padding as u64)
        });
        let mut damaged = None;
        for candidate in candidates {
            if candidate.is_intact() {
                return Some(candidate);
            }
            if candidate.padding == 0 {
                damaged = Some(candidate);
            }
        }
        damaged
    }
}

/// The names of all fields of a footer, with the end of each field.
const FIELDS: [(&str, usize); 18] = [
    ("cookie", 8),
    ("features", 12),
    ("file_format_version", 16),
    ("data_offset", 24),
    ("time_stamp", 28),
    ("creator_application", 32),
    ("creator_version", 36),
    ("creator_host_os", 40),
    ("original_size", 48),
    ("current_size", 56),
    ("cylinders", 58),
    ("heads", 59),
    ("sectors_per_track", 60),
    ("disk_type", 64),
    ("checksum", 68),
    ("unique_id", 84),
    ("saved_state", 85),
    ("reserved", LEN),
];

/// The fields in which two footers differ. Their checksums then differ too and are named only if nothing else does.
fn differing_fields(a: &[u8; LEN], b: &[u8; LEN]) -> Vec<&'static str> {
    let mut start = 0;
    let mut names = Vec::new();
    for (name, end) in FIELDS {
        if a.get(start..end) != b.get(start..end) {
            names.push(name);
        }
        start = end;
    }
    if names.len() > 1 {
        names.retain(|name| *name != "checksum");
    }
    names
}

/// The footer that is used, and how it was found.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) footer: Footer,
    /// Where the footer at the end of the object begins, if it is intact.
    pub(super) tail_at: Option<StoredOffset>,
    /// Whether there is a copy at the start, even a damaged one.
    pub(super) head_marked: bool,
    pub(super) warnings: Vec<Warning>,
}

/// Chooses between the footer at the end and its copy at the start. `None` if neither has the cookie.
///
/// # Errors
/// `malformed` if no copy has a valid checksum; the errors of the footer that is used.
pub(super) fn locate(head: Option<Candidate>, tail: Option<Candidate>) -> Result<Option<Located>> {
    // An object that consists only of a footer has one footer, not two.
    let head = head.filter(|head| tail.as_ref().is_none_or(|tail| tail.at != head.at));
    let head_marked = head.is_some();
    let head_intact = head.as_ref().filter(|head| head.is_intact());
    let tail_intact = tail.as_ref().filter(|tail| tail.is_intact());
    let mut warnings = Vec::new();
    let (footer, tail_at) = match (head_intact, tail_intact) {
        (copy, Some(tail)) => {
            let footer = Footer::parse(&tail.bytes, tail.at)?;
            match copy {
                Some(copy) if copy.bytes != tail.bytes => warnings.push(Warning::new(
                    "footer_copies_differ",
                    format!(
                        "the footer at {} and its copy at 0 differ in {}: the footer is used",
                        tail.at,
                        differing_fields(&tail.bytes, &copy.bytes).join(", ")
                    ),
                )),
                None if footer.kind != Kind::Fixed => warnings.push(Warning::new(
                    "footer_recovered",
                    format!("the copy of the footer at 0 is damaged: the footer at {} is used", tail.at),
                )),
                _ => {}
            }
            if tail.short {
                warnings.push(Warning::new(
                    "footer_short",
                    format!("the footer has {SHORT_LEN} bytes, as versions before Virtual PC 2004 wrote it"),
                ));
            }
            if tail.padding > 0 {
                warnings.push(Warning::new(
                    "footer_padded",
                    format!("{} zero bytes follow the footer", tail.padding),
                ));
            }
            (footer, Some(tail.at))
        }
        (Some(copy), None) => {
            let footer = Footer::parse(&copy.bytes, copy.at)?;
            if footer.kind == Kind::Fixed {
                return Err(Error::malformed(
                    "the footer at the start says that the disk is fixed (disk_type), and there is none at the end",
                )
                .at(copy.at.checked_add(field::DISK_TYPE).unwrap_or(copy.at)));
            }
            let state = if tail.is_some() { "damaged" } else { "missing" };
            warnings.push(Warning::new(
                "footer_recovered",
                format!("the footer at the end is {state}: its copy at 0 is used"),
            ));
            (footer, None)
        }
        (None, None) => match tail.or(head) {
            Some(damaged) => {
                return Err(Footer::parse(&damaged.bytes, damaged.at)
                    .err()
                    .unwrap_or_else(|| Error::internal("a damaged footer was read")));
            }
            None => return Ok(None),
        },
    };
    Ok(Some(Located { footer, tail_at, head_marked, warnings }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_follows_the_specification() {
        // Both sides of each branch, computed by hand from the appendix.
        for (sectors, expected) in [
            (0, (0, 4, 17)),
            (1, (0, 4, 17)),
            (1020, (15, 4, 17)),
            (4096 * 17 - 1, (1023, 4, 17)),
            (4096 * 17, (140, 16, 31)),
            (4097 * 17, (819, 5, 17)),
            (16_383 * 17 + 16, (1023, 16, 17)),
            (16_384 * 17, (561, 16, 31)),
            (16_384 * 31 - 1, (1023, 16, 31)),
            (16_384 * 31, (503, 16, 63)),
            (65_535 * 16 * 63 - 1, (65_534, 16, 63)),
            (65_535 * 16 * 63, (16_191, 16, 255)),
            (83_886_080, (20_560, 16, 255)),
            (65_535 * 16 * 255, (65_535, 16, 255)),
            (0xff00_0000, (65_535, 16, 255)),
        ] {
            assert_eq!(geometry(sectors * SECTOR), expected, "{sectors} sectors");
        }
    }

    #[test]
    fn written_bytes_parse_to_the_same_values() {
        let header = StoredOffset::new(512);
        for kind in [Kind::Fixed, Kind::Dynamic(header), Kind::Differencing(header)] {
            let bytes = to_bytes(kind, 77 * SECTOR, [9; 16]);
            let footer = Footer::parse(&bytes, StoredOffset::ZERO).unwrap();
            let expected = Footer {
                kind,
                virtual_bytes: 77 * SECTOR,
                size_from: SizeFrom::CurrentSize,
                current_size: 77 * SECTOR,
                creator: "win".to_owned(),
                temporary: false,
                saved_state: false,
            };
            assert_eq!(footer, expected);
        }
    }
}

//! The GUID partition table.
//!
//! ```text
//! LBA 0    protective MBR
//! LBA 1    primary header ──▶ entries (usually LBA 2, 128 of 128 bytes)
//!          …
//!          backup entries
//! last LBA backup header
//! ```
//!
//! Source: UEFI Specification 2.10, section 5.3 (header: table 5.5, entry: table 5.6). Numbers are little-endian; both
//! header and entries carry a CRC-32.

use std::fmt;

use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U32, U64};

/// The most bytes of entries that are read. The usual table has 16 KiB. Tools can enlarge it, but real tables are much
/// smaller than this limit.
const MOST_ENTRY_BYTES: u64 = 1 << 20;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_BYTES: usize = 92;
/// Offset of the CRC in the header. It is computed with zeros in its place.
const CRC_AT: usize = 16;

/// The sector sizes that a disk may have, the usual one first.
pub(super) const SECTOR_SIZES: [u64; 2] = [512, 4096];

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32<LE>,
    header_size: U32<LE>,
    header_crc: U32<LE>,
    reserved: U32<LE>,
    my_lba: U64<LE>,
    alternate_lba: U64<LE>,
    first_usable_lba: U64<LE>,
    last_usable_lba: U64<LE>,
    disk_guid: [u8; 16],
    entries_lba: U64<LE>,
    entry_count: U32<LE>,
    entry_size: U32<LE>,
    entries_crc: U32<LE>,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEntry {
    kind: [u8; 16],
    unique: [u8; 16],
    first_lba: U64<LE>,
    last_lba: U64<LE>,
    attributes: U64<LE>,
    name: [u8; 72],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(size_of::<RawEntry>() == 128);

/// A partition type's identifier, in stored byte order: the first three groups little-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

impl fmt::Display for Guid {
    /// In upper case, as UEFI and sfdisk write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f0, g, h, rest @ ..] = self.0;
        write!(
            f,
            "{:08X}-{:04X}-{:04X}-",
            u32::from_le_bytes([a, b, c, d]),
            u16::from_le_bytes([e, f0]),
            u16::from_le_bytes([g, h])
        )?;
        for (index, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The result of parsing a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// No header.
    Nothing,
    /// An invalid header, and the reason: one clause without a full stop.
    Damaged(String),
    /// A header with a valid checksum and valid fields.
    Sound(Header),
}

/// A validated header. Addresses are in sectors and are only checked where documented.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Size of a sector in bytes: 512 or 4096.
    pub(super) sector: u64,
    /// Sector of the other header.
    pub(super) alternate_lba: u64,
    /// The last sector that partitions may use.
    pub(super) last_usable_lba: u64,
    /// Byte address of the entries; their end fits 64 bits.
    pub(super) entries_at: u64,
    /// Bytes of all entries, at most 1 MiB.
    pub(super) entries_bytes: u64,
    entry_size: usize,
    entries_crc: u32,
}

impl Header {
    /// Parses the header at the start of `bytes`, in sector `lba` of `sector` bytes.
    pub(super) fn parse(bytes: &[u8], lba: u64, sector: u64) -> Found {
        let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else { return Found::Nothing };
        if raw.signature != *SIGNATURE {
            return Found::Nothing;
        }
        match Self::validate(raw, bytes, lba, sector) {
            Ok(header) => Found::Sound(header),
            Err(why) => Found::Damaged(why),
        }
    }

    fn validate(raw: &RawHeader, bytes: &[u8], lba: u64, sector: u64) -> Result<Self, String> {
        let size = raw.header_size.get();
        let covered = usize::try_from(size)
            .ok()
            .filter(|size| *size >= HEADER_BYTES && u64::from(raw.header_size.get()) <= sector)
            .and_then(|size| bytes.get(..size))
            .ok_or_else(|| format!("its header_size is {size}, outside {HEADER_BYTES}..={sector}"))?;
        let computed = header_crc(covered);
        let stated = raw.header_crc.get();
        if computed != stated {
            return Err(format!(
                "the checksum of its header is {computed:#010x}, header_crc32 says {stated:#010x}"
            ));
        }
        if raw.my_lba.get() != lba {
            return Err(format!("its my_lba is {} and it is in sector {lba}", raw.my_lba.get()));
        }
        let entry_size = raw.entry_size.get();
        if !(128..=4096).contains(&entry_size) || !entry_size.is_power_of_two() {
            return Err(format!("its size_of_partition_entry is {entry_size}, not 128, 256, … 4096"));
        }
        let count = raw.entry_count.get();
        let entries_bytes = u64::from(count).saturating_mul(u64::from(entry_size));
        if entries_bytes > MOST_ENTRY_BYTES {
            return Err(format!(
                "its {count} entries of {entry_size} bytes are more than {MOST_ENTRY_BYTES} bytes"
            ));
        }
        let entries_lba = raw.entries_lba.get();
        let entries_at = entries_lba
            .checked_mul(sector)
            .filter(|at| at.checked_add(entries_bytes).is_some())
            .ok_or_else(|| format!("its partition_entry_lba is {entries_lba}, which no disk has"))?;
        Ok(Self {
            sector,
            alternate_lba: raw.alternate_lba.get(),
            last_usable_lba: raw.last_usable_lba.get(),
            entries_at,
            entries_bytes,
            entry_size: usize::try_from(entry_size).map_err(|_| "its entries are too long".to_owned())?,
            entries_crc: raw.entries_crc.get(),
        })
    }

    /// Parses the used entries in the bytes that the header points to.
    ///
    /// # Errors
    /// If their checksum differs from the header's: one clause without a full stop.
    pub(super) fn entries(&self, bytes: &[u8]) -> Result<Vec<Entry>, String> {
        let computed = crc32fast::hash(bytes);
        if bytes.len() as u64 != self.entries_bytes || computed != self.entries_crc {
            return Err(format!(
                "the checksum of its entries is {computed:#010x}, partition_entry_array_crc32 says {:#010x}",
                self.entries_crc
            ));
        }
        let raws = (1u32..).zip(bytes.chunks_exact(self.entry_size));
        Ok(raws.filter_map(|(index, raw)| Entry::parse(index, raw)).collect())
    }
}

/// The primary header in the first bytes of a disk: after the first sector, of either size. A valid one has priority
/// over a damaged one.
pub(super) fn primary(head: &[u8]) -> Found {
    let mut found = Found::Nothing;
    for sector in SECTOR_SIZES {
        let at = usize::try_from(sector).unwrap_or(usize::MAX);
        match Header::parse(head.get(at..).unwrap_or_default(), 1, sector) {
            Found::Nothing => {}
            Found::Damaged(why) if found == Found::Nothing => found = Found::Damaged(why),
            Found::Damaged(_) => {}
            sound @ Found::Sound(_) => return sound,
        }
    }
    found
}

/// True if there is a primary header, even a damaged one.
pub(super) fn has_primary(head: &[u8]) -> bool {
    primary(head) != Found::Nothing
}

/// The checksum of a header, with zeros in the checksum's own place.
fn header_crc(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let (before, rest) = header.split_at_checked(CRC_AT).unwrap_or((header, &[]));
    hasher.update(before);
    hasher.update(&[0; 4]);
    hasher.update(rest.get(4..).unwrap_or_default());
    hasher.finalize()
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Number of the entry, from 1 on.
    pub(super) index: u32,
    /// The partition type.
    pub(super) kind: Guid,
    /// First sector.
    pub(super) first_lba: u64,
    /// Last sector, inclusive. In a damaged table it may be before the first.
    pub(super) last_lba: u64,
    /// Attribute bit 2: a BIOS may boot it.
    pub(super) bootable: bool,
}

impl Entry {
    fn parse(index: u32, bytes: &[u8]) -> Option<Self> {
        let (raw, _) = RawEntry::ref_from_prefix(bytes).ok()?;
        (raw.kind != [0; 16]).then(|| Self {
            index,
            kind: Guid(raw.kind),
            first_lba: raw.first_lba.get(),
            last_lba: raw.last_lba.get(),
            bootable: raw.attributes.get() & 4 != 0,
        })
    }
}

/// The purpose of a common partition type. Names as in util-linux.
pub(super) fn kind_name(kind: Guid) -> Option<&'static str> {
    Some(match kind.to_string().as_str() {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "EFI system",
        "024DEE41-33E7-11D3-9D69-0008C781F39F" => "MBR partition scheme",
        "21686148-6449-6E6F-744E-656564454649" => "BIOS boot",
        "9E1A2D38-C612-4316-AA26-8B49521E5A8B" => "PReP boot",
        "E3C9E316-0B5C-4DB8-817D-F92DF00215AE" => "Microsoft reserved",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" => "Microsoft basic data",
        "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3" => "Microsoft LDM metadata",
        "AF9B60A0-1431-4F62-BC68-3311714A69AD" => "Microsoft LDM data",
        "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D" => "Microsoft Storage Spaces",
        "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" => "Windows recovery",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "Linux filesystem",
        "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" => "Linux swap",
        "E6D6D379-F507-44C2-A23C-238F2A3DF928" => "Linux LVM",
        "A19D880F-05FC-4D3B-A006-743F0F84911E" => "Linux RAID",
        "CA7D7CCB-63ED-4C53-861C-1742536059CC" => "Linux LUKS",
        "BC13C2FF-59E6-4262-A352-B275FD6F7172" => "Linux extended boot",
        "933AC7E1-2EB4-4F13-B844-0E14E2AEF915" => "Linux home",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" => "Linux root (x86-64)",
        "44479540-F297-41B2-9AF7-D131D5F0458A" => "Linux root (x86)",
        "B921B045-1DF0-41C3-AF44-4C6F280D3FAE" => "Linux root (ARM-64)",
        "8DA63339-0007-60C0-C436-083AC8230908" => "Linux reserved",
        "516E7CB4-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD data",
        "83BD6B9D-7F41-11DC-BE0B-001560B84F0F" => "FreeBSD boot",
        "516E7CB5-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD swap",
        "516E7CB6-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD UFS",
        "516E7CBA-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD ZFS",
        "48465300-0000-11AA-AA11-00306543ECAC" => "Apple HFS/HFS+",
        "7C3457EF-0000-11AA-AA11-00306543ECAC" => "Apple APFS",
        "6A898CC3-1DD2-11B2-99A6-080020736631" => "Solaris /usr and Apple ZFS",
        "6A945A3B-1DD2-11B2-99A6-080020736631" => "Solaris reserved",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header in sector 1 of 512 bytes, over `entries` in sector 2.
    fn header(entries: &[u8], count: u32, size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(SIGNATURE);
        bytes[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        bytes[24] = 1;
        bytes[32] = 99;
        bytes[40] = 34;
        bytes[48] = 66;
        bytes[72] = 2;
        bytes[80..84].copy_from_slice(&count.to_le_bytes());
        bytes[84..88].copy_from_slice(&size.to_le_bytes());
        bytes[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    fn seal(header: &mut [u8]) {
        header[16..20].fill(0);
        let crc = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
    }

    fn why(bytes: &[u8]) -> String {
        match Header::parse(bytes, 1, 512) {
            Found::Damaged(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_valid_header_returns_its_entries() {
        let mut entries = vec![0; 4 * 128];
        entries[256..272].copy_from_slice(&[7; 16]);
        entries[288] = 40;
        entries[296] = 60;
        entries[304] = 4;
        let Found::Sound(header) = Header::parse(&header(&entries, 4, 128), 1, 512) else { panic!() };
        assert_eq!((header.alternate_lba, header.entries_at, header.entries_bytes), (99, 1024, 512));
        let found = header.entries(&entries).unwrap();
        let one = Entry { index: 3, kind: Guid([7; 16]), first_lba: 40, last_lba: 60, bootable: true };
        assert_eq!(found, [one]);
        entries[0] = 1;
        assert!(header.entries(&entries).unwrap_err().contains("partition_entry_array_crc32"));
        assert!(header.entries(&entries[..128]).is_err());
    }

    #[test]
    fn a_missing_signature_or_short_input_is_not_a_header() {
        assert_eq!(Header::parse(&[0; 512], 1, 512), Found::Nothing);
        assert_eq!(Header::parse(b"EFI PART", 1, 512), Found::Nothing);
    }

    #[test]
    fn every_invalid_field_is_named() {
        let good = header(&[], 0, 128);
        let broken = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            seal(&mut bytes);
            why(&bytes)
        };
        assert!(broken(12, &[91]).contains("header_size"));
        assert!(broken(12, &[0xff; 4]).contains("header_size"));
        assert!(broken(24, &[2]).contains("my_lba"));
        assert!(broken(72, &[0xff; 8]).contains("partition_entry_lba"));
        assert!(broken(80, &[0xff; 4]).contains("more than 1048576 bytes"));
        assert!(broken(84, &[64]).contains("size_of_partition_entry"));
        assert!(broken(84, &[0xff; 4]).contains("size_of_partition_entry"));
        let mut bytes = good.clone();
        bytes[57] ^= 1;
        assert!(why(&bytes).contains("header_crc32"));
    }

    #[test]
    fn a_guid_is_shown_as_uefi_writes_it() {
        let efi =
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(Guid(efi).to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!(kind_name(Guid(efi)), Some("EFI system"));
    }
}

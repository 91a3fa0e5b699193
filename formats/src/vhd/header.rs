//! The header of a dynamic or differencing disk. Pure: parses bytes into a validated struct.
//!
//! Specification, section "Dynamic Disk Header Format".

use diskferry_core::{Error, Result, StoredOffset, StoredRange};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::footer::SECTOR;
use super::footer::{VERSION, checksum};

/// The cookie of a header.
const COOKIE: &[u8; 8] = b"cxsparse";
/// Length of the header in bytes.
pub(super) const LEN: u64 = 1024;
/// Longest supported block allocation table, in bytes. The largest disk of the format, 2,040 GiB in the usual blocks of
/// 2 MiB, has one of 4 MiB.
const MOST_TABLE_BYTES: u64 = 64 << 20;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    cookie: [u8; 8],
    data_offset: U64,
    table_offset: U64,
    version: U32,
    max_table_entries: U32,
    block_size: U32,
    checksum: U32,
    parent_id: [u8; 16],
    parent_timestamp: U32,
    reserved1: U32,
    parent_name: [U16; 256],
    parent_locators: [[u8; 24]; 8],
    reserved2: [u8; 256],
}

const _: () = assert!(size_of::<RawHeader>() as u64 == LEN);

/// A header with a valid checksum and valid fields, for a disk of a given size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Where the block allocation table is, all its entries.
    pub(super) table: StoredRange,
    /// Guest bytes of a block: a power of two from 512 to 2 GiB.
    pub(super) block_bytes: u32,
    /// Name of the parent, of a differencing disk.
    pub(super) parent_name: String,
}

/// True if `bytes` begins like a header.
pub(super) fn has_cookie(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE)
}

/// Encodes the header of a disk without a parent: `entries` blocks of `block_bytes`, with their table at `table_at`.
pub(super) fn to_bytes(table_at: u64, entries: u32, block_bytes: u32) -> [u8; size_of::<RawHeader>()] {
    let mut raw = RawHeader {
        cookie: *COOKIE,
        data_offset: U64::new(u64::MAX),
        table_offset: U64::new(table_at),
        version: U32::new(VERSION),
        max_table_entries: U32::new(entries),
        block_size: U32::new(block_bytes),
        ..RawHeader::new_zeroed()
    };
    raw.checksum = U32::new(checksum(raw.as_bytes(), raw.checksum));
    zerocopy::transmute!(raw)
}

impl Header {
    /// Validates the header at `at`, of a disk of `virtual_bytes`.
    ///
    /// # Errors
    /// `malformed` with the offset of the invalid field; `unsupported_feature` for another version.
    pub(super) fn parse(bytes: &[u8], at: StoredOffset, virtual_bytes: u64) -> Result<Self> {
        let raw =
            RawHeader::ref_from_bytes(bytes).map_err(|_| Error::internal("a header of another length"))?;
        let field = |offset: u64| at.checked_add(offset).unwrap_or(at);
        if &raw.cookie != COOKIE {
            return Err(Error::malformed("the dynamic disk header does not begin with \"cxsparse\"").at(at));
        }
        let expected = checksum(bytes, raw.checksum);
        if raw.checksum.get() != expected {
            return Err(Error::malformed(format!(
                "the dynamic disk header's checksum is {:#010x} and should be {expected:#010x}",
                raw.checksum
            ))
            .at(field(36)));
        }
        let version = raw.version.get();
        if version >> 16 != 1 {
            return Err(Error::unsupported(format!(
                "the dynamic disk header's header_version is {}.{}; versions 1.x are supported",
                version >> 16,
                version & 0xffff
            ))
            .at(field(24)));
        }
        let block_bytes = raw.block_size.get();
        if !block_bytes.is_power_of_two() || u64::from(block_bytes) < SECTOR {
            return Err(Error::malformed(format!(
                "block_size is {block_bytes}; it must be a power of two of at least {SECTOR}"
            ))
            .at(field(32)));
        }
        let entries = u64::from(raw.max_table_entries.get());
        let table_bytes = entries.saturating_mul(4);
        if table_bytes > MOST_TABLE_BYTES {
            return Err(Error::malformed(format!(
                "max_table_entries is {entries}: a table of {table_bytes} bytes, and at most {MOST_TABLE_BYTES} are supported"
            ))
            .at(field(28)));
        }
        let mapped = entries.saturating_mul(u64::from(block_bytes));
        if mapped < virtual_bytes {
            return Err(Error::malformed(format!(
                "max_table_entries is {entries} in blocks of {block_bytes} bytes: they map {mapped} bytes of a disk of {virtual_bytes}"
            ))
            .at(field(28)));
        }
        let table =
            StoredRange::new(StoredOffset::new(raw.table_offset.get()), table_bytes).ok_or_else(|| {
                Error::malformed(format!("table_offset is {}, past the address space", raw.table_offset))
                    .at(field(16))
            })?;
        let name: Vec<u16> =
            raw.parent_name.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0).collect();
        Ok(Self { table, block_bytes, parent_name: String::from_utf16_lossy(&name) })
    }

    /// Guest bytes that the table maps.
    pub(super) fn mapped_bytes(&self) -> u64 {
        (self.table.len() / 4).saturating_mul(u64::from(self.block_bytes))
    }

    /// Length of the sector bitmap before each block, in bytes: one bit per sector, rounded up to whole sectors.
    pub(super) fn bitmap_bytes(&self) -> u64 {
        (u64::from(self.block_bytes) / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_parse_to_the_same_values() {
        let header = Header::parse(&to_bytes(1536, 3, 2 << 20), StoredOffset::new(512), 5 << 20).unwrap();
        let table = StoredRange::new(StoredOffset::new(1536), 12).unwrap();
        assert_eq!(header, Header { table, block_bytes: 2 << 20, parent_name: String::new() });
    }
}

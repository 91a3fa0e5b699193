//! The headers of the sparse extents of ESX: COWD (`vmfsSparse`) and seSparse.
//!
//! Pure. Sources: VMware, *Virtual Disk Format 5.0*, "ESX Server Sparse Extents", for COWD. VMware does not document
//! seSparse. Only the layout on which other readers agree is accepted.

use diskferry_core::{Error, ErrorKind, Refusal, Result, StoredOffset, StoredRange};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::directory::{DirectoryLayout, Entries};
use super::header::{SECTOR, Sectors};
use super::tail_check::{Arrangement, StorageUse};

/// The first bytes of a COWD extent.
pub(crate) const COWD_MAGIC: [u8; 4] = *b"COWD";
/// The first bytes of a seSparse extent.
pub(crate) const SE_MAGIC: [u8; 8] = 0xcafe_babe_u64.to_le_bytes();
/// Entries of a grain table of COWD.
const COWD_TABLE_ENTRIES: u64 = 4096;
/// Largest supported grain of COWD, 1 GiB.
const MOST_GRAIN_SECTORS: u32 = 1 << 21;
const COWD_ROOT: u32 = 1;
/// Bytes of a COWD header, names and descriptions included.
const COWD_HEADER_BYTES: u64 = 4 * SECTOR;
/// The field that names a grain directory.
const DIRECTORY: &str = "grain directory";
/// Offset of the flags in a COWD header.
pub(crate) const COWD_FLAGS: u64 = 8;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCowd {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    sectors: U32,
    grain_size: U32,
    directory: U32,
    directory_entries: U32,
    free_sector: U32,
}

const _: () = assert!(size_of::<RawCowd>() == 32);

/// The field that names the volatile header of a seSparse extent, and its offset.
const VOLATILE: &str = "volatile header";
pub(crate) const VOLATILE_AT: u64 = 80;

/// A sparse extent of ESX.
#[derive(Clone, Debug)]
pub(crate) struct EsxExtent {
    /// Its length.
    pub(crate) capacity: Sectors,
    /// Offset of the length in the header.
    pub(crate) capacity_at: u64,
    /// The layout of its directory.
    pub(crate) layout: DirectoryLayout,
    /// True for a difference to another disk.
    pub(crate) child: bool,
    /// The part of the object that is in use.
    pub(crate) used: StorageUse,
}

/// Parses a COWD header.
///
/// # Errors
/// `malformed`, `truncated`, `unsupported_feature`.
pub(crate) fn parse_cowd(bytes: &[u8]) -> Result<EsxExtent> {
    let (raw, _) = RawCowd::ref_from_prefix(bytes).map_err(|_| {
        Error::truncated(format!("a COWD header is longer than the object's {} bytes", bytes.len()))
            .at(bytes.len() as u64)
    })?;
    if raw.magic != COWD_MAGIC {
        return Err(Error::malformed("the magic of a COWD extent is missing").at(0u64));
    }
    if raw.version.get() != 1 {
        return Err(
            Error::unsupported(format!("COWD version {}; only 1 is supported", raw.version.get())).at(4u64)
        );
    }
    let grain = raw.grain_size.get();
    if !grain.is_power_of_two() || grain > MOST_GRAIN_SECTORS {
        return Err(Error::malformed(format!(
            "the grain size of a COWD extent is {grain} sectors, not a power of two up to {MOST_GRAIN_SECTORS}"
        ))
        .at(16u64));
    }
    let capacity = Sectors(u64::from(raw.sectors.get()));
    let layout = DirectoryLayout {
        directory: u64::from(raw.directory.get()).saturating_mul(SECTOR),
        redundant: None,
        grain_bytes: u64::from(grain).saturating_mul(SECTOR),
        table_entries: COWD_TABLE_ENTRIES,
        entries: Entries::Sectors { zeroed: false },
        field: (DIRECTORY, 20),
        taken: vec![(StoredRange::first(COWD_HEADER_BYTES), "the header")],
        markers: None,
    };
    let entries = u64::from(raw.directory_entries.get());
    enough(&layout, capacity, entries, 24)?;
    let directory_end = layout.directory.saturating_add(entries.saturating_mul(layout.entries.width()));
    let used = StorageUse {
        arrangement: Arrangement::Mixed(directory_end.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX)),
        // ESX allocates space after it in steps of several MiB. That space is zeros.
        end: match raw.free_sector.get() {
            0 => u64::MAX,
            sector => u64::from(sector).saturating_mul(SECTOR),
        },
        tables: None,
        compressed: false,
    };
    Ok(EsxExtent { capacity, capacity_at: 12, layout, child: raw.flags.get() & COWD_ROOT == 0, used })
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSe {
    magic: U64,
    version: U64,
    capacity: U64,
    grain_size: U64,
    table_size: U64,
    flags: U64,
    reserved: [U64; 4],
    volatile_header: [U64; 2],
    journal_header: [U64; 2],
    journal: [U64; 2],
    directory: [U64; 2],
    tables: [U64; 2],
    free_bitmap: [U64; 2],
    back_map: [U64; 2],
    grains: [U64; 2],
    pad: [u8; 304],
}

const _: () = assert!(size_of::<RawSe>() == 512);

/// Parses the constant header of a seSparse extent. Also returns the byte address of the volatile header.
///
/// # Errors
/// `malformed`, `truncated`; `unsupported_feature` for any layout except the one supported.
pub(crate) fn parse_se(bytes: &[u8]) -> Result<(EsxExtent, u64)> {
    const VERSION: u64 = 0x0000_0002_0000_0001;
    const GRAIN_SECTORS: u64 = 8;
    const TABLE_SECTORS: u64 = 64;
    let (raw, _) = RawSe::ref_from_prefix(bytes).map_err(|_| {
        Error::truncated(format!("a seSparse header has 512 bytes, the object {}", bytes.len()))
            .at(bytes.len() as u64)
    })?;
    if raw.magic.get().to_le_bytes() != SE_MAGIC {
        return Err(Error::malformed("the magic of a seSparse extent is missing").at(0u64));
    }
    let known = [
        ("version", raw.version.get(), VERSION, 8u64),
        ("grain size", raw.grain_size.get(), GRAIN_SECTORS, 24),
        ("grain table size", raw.table_size.get(), TABLE_SECTORS, 32),
        ("flags", raw.flags.get(), 0, 40),
    ];
    for (name, value, known, place) in known {
        if value != known {
            return Err(Error::unsupported(format!(
                "seSparse {name} {value:#x}; only {known:#x} is supported"
            ))
            .at(place));
        }
    }
    if raw.reserved.iter().any(|field| field.get() != 0) || raw.pad.iter().any(|byte| *byte != 0) {
        return Err(Error::unsupported("reserved fields of the seSparse header are in use").at(48u64));
    }
    let place = |field: &[U64; 2], name: &str, at: u64| {
        let [offset, size] = field;
        let offset = Sectors(offset.get()).bytes();
        let end = Sectors(size.get()).bytes().and_then(|size| offset?.checked_add(size));
        match (offset, end) {
            (Some(offset), Some(_)) => Ok(offset),
            _ => Err(Error::malformed(format!(
                "{name}: an address of the seSparse extent is beyond the address space"
            ))
            .at(at)),
        }
    };
    let capacity = Sectors(raw.capacity.get());
    if capacity.bytes().is_none() {
        return Err(Error::malformed(format!("capacity is {} sectors", capacity.0)).at(16u64));
    }
    let volatile = place(&raw.volatile_header, VOLATILE, VOLATILE_AT)?;
    let volatile_range =
        StoredRange::new(StoredOffset::new(volatile), SECTOR).unwrap_or(StoredRange::first(0));
    let layout = DirectoryLayout {
        directory: place(&raw.directory, DIRECTORY, 128)?,
        redundant: None,
        grain_bytes: GRAIN_SECTORS.saturating_mul(SECTOR),
        table_entries: TABLE_SECTORS.saturating_mul(SECTOR).checked_div(8).unwrap_or_default(),
        entries: Entries::Typed {
            tables: place(&raw.tables, "grain tables", 144)?,
            grains: place(&raw.grains, "grains", 192)?,
        },
        field: (DIRECTORY, 128),
        taken: vec![(StoredRange::first(SECTOR), "the header"), (volatile_range, "the volatile header")],
        markers: None,
    };
    let entries = raw.directory.last().map_or(0, |size| size.get()).saturating_mul(64);
    enough(&layout, capacity, entries, 136)?;
    let grains = place(&raw.grains, "grains", 192)?;
    let room = raw.grains.last().map_or(0, |size| size.get()).saturating_mul(SECTOR);
    let used = StorageUse {
        arrangement: Arrangement::GrainsAt(grains),
        end: if room == 0 { u64::MAX } else { grains.saturating_add(room) },
        // Set from the volatile header.
        tables: None,
        compressed: false,
    };
    Ok((EsxExtent { capacity, capacity_at: 16, layout, child: false, used }, volatile))
}

/// Checks the volatile header of a seSparse extent at byte address `at`. Returns the number of allocated grain tables.
///
/// # Errors
/// `malformed` without its magic, `unsupported_feature` if there is a journal to replay.
pub(crate) fn check_se_volatile(bytes: &[u8], at: u64) -> Result<u64> {
    #[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
    #[repr(C)]
    struct Raw {
        magic: U64,
        free_table: U64,
        next_transaction: U64,
        replay_journal: U64,
    }
    let (raw, _) = Raw::ref_from_prefix(bytes)
        .map_err(|_| Error::truncated("the volatile header of a seSparse extent is incomplete"))?;
    if raw.magic.get() != 0xcafe_cafe {
        return Err(Error::malformed("the magic of a seSparse extent's volatile header is missing").at(at));
    }
    if raw.replay_journal.get() != 0 {
        return Err(Error::unsupported("a seSparse extent was not closed: its journal must be replayed")
            .hint("open it once on its original host, which replays the journal")
            .at(at.saturating_add(24)));
    }
    Ok(raw.free_table.get())
}

fn enough(layout: &DirectoryLayout, capacity: Sectors, entries: u64, place: u64) -> Result<()> {
    let needed = capacity.bytes().unwrap_or(u64::MAX).div_ceil(layout.span().max(1));
    if entries < needed {
        return Err(Error::malformed(format!(
            "the grain directory has {entries} entries and a disk of {} sectors needs {needed}",
            capacity.0
        ))
        .at(place));
    }
    Ok(())
}

/// The refusal of a COWD extent whose flags say that it is a difference to another disk.
pub(crate) fn cowd_child() -> Refusal {
    Refusal::new(
        ErrorKind::ParentDiskRefused,
        "the flags of a COWD extent say that it is a difference to another disk",
    )
    .at(COWD_FLAGS)
}

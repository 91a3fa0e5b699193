//! L1 and L2 entries: 64 bits each, for one table or one cluster.
//!
//! Source: `docs/interop/qcow2.rst`, "Cluster mapping". Bit 63 of an entry only says that its reference count is one,
//! so readers ignore it. All other reserved bits must be zero.

use diskferry_core::{Error, Result, StoredOffset, StoredRange, TargetOffset};

use super::grid::Grid;
use super::header::Version;

/// The offset of a table or a cluster: bits 9 to 55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry that must be zero.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of a standard L2 entry that must be zero.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// A standard entry's cluster reads as zeros; version 3 without extended L2 only.
const ZERO: u64 = 1;
/// The table or the cluster has a reference count of one: it may be written in place.
const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The bits of a compressed entry after its two flags.
const COMPRESSED_FIELDS: u64 = COMPRESSED - 1;
/// Offsets have 56 bits, even if a compressed entry has space for more.
pub(super) const OFFSET_LIMIT: u64 = 1 << 56;
/// The unit in which a compressed entry counts its length.
const SECTOR: u64 = 512;

/// The meaning of an L2 entry. Offsets are aligned, and not yet checked against the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mapping {
    /// Not mapped.
    Hole,
    /// Reads as zeros, whether or not a cluster is allocated for it.
    Zero,
    /// A cluster of data.
    Data(StoredOffset),
    /// Compressed bytes, `len` of them at most.
    Compressed { at: StoredOffset, len: u64 },
    /// Sub-clusters of more than one kind: the lowest bit is the first. No sub-cluster has both bits.
    Mixed { at: StoredOffset, data: u32, zero: u32 },
}

/// The offset of an L2 table, or `None` if an L1 entry maps nothing.
///
/// # Errors
/// `malformed`: reserved bits, an unaligned table.
pub(super) fn l1_entry(grid: Grid, entry: u64) -> Result<Option<StoredOffset>> {
    if entry & L1_RESERVED != 0 {
        return Err(Error::malformed(format!(
            "L1 entry {entry:#018x} has reserved bits {:#x}",
            entry & L1_RESERVED
        )));
    }
    match entry & OFFSET {
        0 => Ok(None),
        offset => aligned(grid, offset, "L1", entry).map(Some),
    }
}

/// Parses a standard L2 entry.
///
/// # Errors
/// `malformed`: reserved bits, an unaligned cluster, the zero flag in version 2.
pub(super) fn standard(grid: Grid, version: Version, entry: u64) -> Result<Mapping> {
    if entry & COMPRESSED != 0 {
        return compressed(grid, entry);
    }
    reserved(entry)?;
    let zero = entry & ZERO != 0;
    if zero && version == Version::V2 {
        return Err(Error::malformed(format!(
            "L2 entry {entry:#018x} has the zero flag, which version 2 does not have"
        )));
    }
    let offset = aligned_or_none(grid, entry)?;
    Ok(match offset {
        _ if zero => Mapping::Zero,
        Some(at) => Mapping::Data(at),
        None => Mapping::Hole,
    })
}

/// Parses an extended L2 entry and its bitmap. Bit x is set if sub-cluster x is allocated, bit 32 + x if it reads as
/// zeros.
///
/// # Errors
/// `malformed`: as [`standard`], a zero flag, a bitmap on a compressed entry, a sub-cluster with both bits, or an
/// allocated sub-cluster without a cluster.
pub(super) fn extended(grid: Grid, entry: u64, bitmap: u64) -> Result<Mapping> {
    if entry & COMPRESSED != 0 {
        if bitmap != 0 {
            return Err(Error::malformed(format!(
                "compressed L2 entry {entry:#018x} has sub-cluster bits {bitmap:#018x}"
            )));
        }
        return compressed(grid, entry);
    }
    reserved(entry)?;
    if entry & ZERO != 0 {
        return Err(Error::malformed(format!(
            "extended L2 entry {entry:#018x} has the zero flag, which only its sub-clusters may have"
        )));
    }
    let [a, b, c, d, e, f, g, h] = bitmap.to_be_bytes();
    let (zero, data) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    if zero & data != 0 {
        return Err(Error::malformed(format!(
            "L2 entry {entry:#018x} has sub-clusters that are allocated and zero at once: {bitmap:#018x}"
        )));
    }
    let at = aligned_or_none(grid, entry)?;
    match at {
        None if data != 0 => Err(Error::malformed(format!(
            "L2 entry {entry:#018x} has no cluster and sub-clusters that are allocated: {bitmap:#018x}"
        ))),
        _ if data == 0 && zero == 0 => Ok(Mapping::Hole),
        _ if zero == u32::MAX => Ok(Mapping::Zero),
        Some(at) if data == u32::MAX => Ok(Mapping::Data(at)),
        at => Ok(Mapping::Mixed { at: at.unwrap_or(StoredOffset::ZERO), data, zero }),
    }
}

/// The clusters that an L2 entry references, regardless of its meaning for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reference {
    None,
    /// The cluster that begins here.
    Cluster(StoredOffset),
    /// All clusters that hold a part of these bytes.
    Compressed(StoredRange),
}

/// The reference of an L2 entry's first word. A malformed entry references nothing.
pub(super) fn reference(grid: Grid, entry: u64) -> Reference {
    if entry & COMPRESSED == 0 {
        return match entry & OFFSET {
            0 => Reference::None,
            offset => Reference::Cluster(StoredOffset::new(offset)),
        };
    }
    match compressed(grid, entry) {
        Ok(Mapping::Compressed { at, len }) => {
            StoredRange::new(at, len).map_or(Reference::None, Reference::Compressed)
        }
        _ => Reference::None,
    }
}

/// True for a standard entry whose cluster reads as zeros. The cluster that it references may be missing.
pub(super) fn is_zero_cluster(entry: u64) -> bool {
    entry & (COMPRESSED | ZERO) == ZERO
}

/// The offset of the refcount block, or of the cluster of a bitmap, that a table entry names.
pub(super) fn refcount_block(entry: u64) -> Option<StoredOffset> {
    match entry & OFFSET {
        0 => None,
        offset => Some(StoredOffset::new(offset)),
    }
}

/// The descriptor of compressed bytes: from the top, two flags, the number of sectors after the first one, and the
/// offset, which has fewer bits if clusters are larger.
fn compressed(grid: Grid, entry: u64) -> Result<Mapping> {
    let fields = entry & COMPRESSED_FIELDS;
    let offset_bits = compressed_offset_bits(grid);
    let mask = 1u64.checked_shl(offset_bits).unwrap_or_default().wrapping_sub(1);
    let (offset, more) = (fields & mask, fields.checked_shr(offset_bits).unwrap_or_default());
    if offset >= OFFSET_LIMIT {
        return Err(Error::malformed(format!(
            "compressed L2 entry {entry:#018x} has an offset beyond 56 bits: {offset:#x}"
        )));
    }
    let len = more.saturating_add(1).saturating_mul(SECTOR).saturating_sub(offset % SECTOR);
    Ok(Mapping::Compressed { at: StoredOffset::new(offset), len })
}

fn compressed_offset_bits(grid: Grid) -> u32 {
    62u32.saturating_sub(grid.cluster_bits().saturating_sub(8))
}

/// The L1 entry of a table at `at`, or the L2 entry of a cluster there, with a reference count of one.
pub(super) fn to_one(at: TargetOffset) -> u64 {
    COPIED | at.get()
}

/// The L2 entry of a stream of `len` bytes at `at`. Compressed clusters never have bit 63. `None` if the entry has no
/// space for the address: from 2⁴⁹ for clusters of 2 MiB, or beyond 56 bits.
pub(super) fn to_stream(grid: Grid, at: TargetOffset, len: u64) -> Option<u64> {
    let offset_bits = compressed_offset_bits(grid);
    let last = at.get().checked_add(len.max(1))?.saturating_sub(1);
    if at.get() >= OFFSET_LIMIT.min(1u64.checked_shl(offset_bits)?) {
        return None;
    }
    let more = (last / SECTOR).saturating_sub(at.get() / SECTOR);
    let fields = more.checked_shl(offset_bits)? | at.get();
    // More sectors than a cluster has do not fit.
    (more.leading_zeros() >= offset_bits.saturating_add(2)).then_some(COMPRESSED | fields)
}

fn reserved(entry: u64) -> Result<()> {
    match entry & L2_RESERVED {
        0 => Ok(()),
        bits => Err(Error::malformed(format!("L2 entry {entry:#018x} has reserved bits {bits:#x}"))),
    }
}

fn aligned_or_none(grid: Grid, entry: u64) -> Result<Option<StoredOffset>> {
    match entry & OFFSET {
        0 => Ok(None),
        offset => aligned(grid, offset, "L2", entry).map(Some),
    }
}

fn aligned(grid: Grid, offset: u64, level: &str, entry: u64) -> Result<StoredOffset> {
    if !offset.is_multiple_of(grid.cluster_bytes()) {
        return Err(Error::malformed(format!(
            "{level} entry {entry:#018x} points to {offset}, which is no multiple of the cluster size {}",
            grid.cluster_bytes()
        )));
    }
    Ok(StoredOffset::new(offset))
}

#[cfg(test)]
mod tests {
    use diskferry_core::ErrorKind;

    use super::*;

    const AT: StoredOffset = StoredOffset::new(0x5_0000);

    fn grid() -> Grid {
        Grid::new(16, false)
    }

    fn v3(entry: u64) -> Result<Mapping> {
        standard(grid(), Version::V3, entry)
    }

    fn malformed<T: std::fmt::Debug>(result: Result<T>) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn standard_entries_follow_the_specification() {
        assert_eq!(v3(0).unwrap(), Mapping::Hole);
        assert_eq!(v3(1).unwrap(), Mapping::Zero);
        assert_eq!(v3(0x5_0001).unwrap(), Mapping::Zero, "preallocated");
        assert_eq!(v3(0x8000_0000_0005_0000).unwrap(), Mapping::Data(AT));
        assert_eq!(v3(0x0000_0000_0005_0000).unwrap(), Mapping::Data(AT), "shared with a snapshot");
        malformed(standard(grid(), Version::V2, 1));
    }

    #[test]
    fn each_reserved_bit_is_malformed() {
        for bit in (1..9).chain(56..62) {
            malformed(v3(0x5_0000 | 1 << bit));
        }
        for bit in (0..9).chain(56..63) {
            malformed(l1_entry(grid(), 0x5_0000 | 1 << bit));
        }
        assert_eq!(l1_entry(grid(), 0x8000_0000_0005_0000).unwrap(), Some(AT));
        assert_eq!(l1_entry(grid(), 1 << 63).unwrap(), None);
    }

    #[test]
    fn unaligned_offsets_are_malformed() {
        malformed(v3(0x5_0200));
        malformed(v3(0x5_0201));
        malformed(l1_entry(grid(), 0x5_8000));
    }

    #[test]
    fn compressed_lengths_count_from_the_sector_of_the_offset() {
        let entry = COMPRESSED | 3 << 54 | 0x5_0105;
        assert_eq!(
            v3(entry).unwrap(),
            Mapping::Compressed { at: StoredOffset::new(0x5_0105), len: 2048 - 0x105 }
        );
        let small = Grid::new(9, false);
        let entry = COMPRESSED | 1 << 61 | 7;
        assert_eq!(
            standard(small, Version::V2, entry).unwrap(),
            Mapping::Compressed { at: StoredOffset::new(7), len: 1017 }
        );
        malformed(standard(small, Version::V3, COMPRESSED | 1 << 56));
        let large = Grid::new(21, false);
        let entry = COMPRESSED | 0x1fff << 49 | 0x1_ffff_ffff_fe00;
        assert_eq!(
            standard(large, Version::V3, entry).unwrap(),
            Mapping::Compressed { at: StoredOffset::new(0x1_ffff_ffff_fe00), len: 0x2000 * 512 }
        );
    }

    #[test]
    fn written_entries_parse_to_the_same_values() {
        assert_eq!(v3(to_one(TargetOffset::new(0x5_0000))).unwrap(), Mapping::Data(AT));
        for bits in Grid::CLUSTER_BITS {
            let grid = Grid::new(bits, false);
            let (cluster, most) = (grid.cluster_bytes(), OFFSET_LIMIT.min(1 << compressed_offset_bits(grid)));
            for at in [cluster, cluster + 1, 5 * cluster - 1, 1 << 40, most - 513, most - 1] {
                for len in [1, 2, 511, cluster / 2, cluster - 1] {
                    let entry = to_stream(grid, TargetOffset::new(at), len).unwrap();
                    let mapping = standard(grid, Version::V3, entry).unwrap();
                    let Mapping::Compressed { at: start, len: room } = mapping else { panic!("{mapping:?}") };
                    assert_eq!(start.get(), at, "{bits} bits");
                    assert!(room >= len && room < len + SECTOR && (at + room).is_multiple_of(SECTOR));
                }
            }
            assert_eq!(to_stream(grid, TargetOffset::new(most), 1), None);
            assert_eq!(to_stream(grid, TargetOffset::new(cluster), 3 * cluster), None);
        }
    }

    #[test]
    fn extended_entries_follow_their_bitmap() {
        let grid = Grid::new(16, true);
        let (all, alloc) = (u64::from(u32::MAX), 0x8000_0000_0005_0000);
        assert_eq!(extended(grid, 0, 0).unwrap(), Mapping::Hole);
        assert_eq!(extended(grid, alloc, 0).unwrap(), Mapping::Hole);
        assert_eq!(extended(grid, 0, all << 32).unwrap(), Mapping::Zero);
        assert_eq!(extended(grid, alloc, all).unwrap(), Mapping::Data(AT));
        assert_eq!(extended(grid, alloc, 1 << 33 | 1).unwrap(), Mapping::Mixed { at: AT, data: 1, zero: 2 });
        assert_eq!(
            extended(grid, 0, 1 << 33).unwrap(),
            Mapping::Mixed { at: StoredOffset::ZERO, data: 0, zero: 2 }
        );
        malformed(extended(grid, alloc, 1 << 32 | 1));
        malformed(extended(grid, 0, 1));
        malformed(extended(grid, alloc | 1, 0));
        malformed(extended(grid, COMPRESSED | 0x5_0000, 1));
        assert!(matches!(extended(grid, COMPRESSED | 0x5_0000, 0).unwrap(), Mapping::Compressed { .. }));
    }
}

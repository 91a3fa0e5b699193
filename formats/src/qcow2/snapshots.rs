//! The snapshot table: the internal snapshots. They are not part of the active disk, so only their names and whether
//! they contain a machine state are read.
//!
//! Source: `docs/interop/qcow2.rst`, "Snapshots".

use diskferry_core::{StoredOffset, StoredRange};
use zerocopy::byteorder::{BigEndian, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::grid::Grid;
use super::header::MAX_L1_BYTES;

/// Length of the fixed part of an entry.
pub(super) const MIN_ENTRY_BYTES: u64 = 40;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSnapshot {
    l1_table_offset: U64<BigEndian>,
    l1_size: U32<BigEndian>,
    id_bytes: U16<BigEndian>,
    name_bytes: U16<BigEndian>,
    date_seconds: U32<BigEndian>,
    date_nanoseconds: U32<BigEndian>,
    vm_clock_nanoseconds: U64<BigEndian>,
    vm_state_bytes: U32<BigEndian>,
    extra_bytes: U32<BigEndian>,
}
const _: () = assert!(size_of::<RawSnapshot>() as u64 == MIN_ENTRY_BYTES);

/// The description of one snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Snapshot {
    pub(super) name: String,
    /// Its L1 table, if valid.
    l1: Option<StoredRange>,
    /// Bytes of a machine's saved state.
    pub(super) vm_state_bytes: u64,
}

/// The first snapshots of a table, at most `count`, within the bytes in `table`.
pub(super) fn parse(table: &[u8], count: u32) -> Vec<Snapshot> {
    let mut found = Vec::new();
    let mut rest = table;
    for _ in 0..count {
        let Some((snapshot, after)) = one(rest) else { break };
        found.push(snapshot);
        rest = after;
    }
    found
}

/// The L1 tables of the first snapshots of a table, at most `count`, within the bytes in `table`, and the length of
/// their entries.
pub(super) fn tables(table: &[u8], count: u32) -> (Vec<StoredRange>, u64) {
    let mut found = Vec::new();
    let mut rest = table;
    for _ in 0..count {
        let Some((snapshot, after)) = one(rest) else { break };
        found.extend(snapshot.l1);
        rest = after;
    }
    (found, table.len().saturating_sub(rest.len()) as u64)
}

/// One entry, and the bytes after it. Entries are padded to 8 bytes.
fn one(table: &[u8]) -> Option<(Snapshot, &[u8])> {
    let (raw, variable) = RawSnapshot::ref_from_prefix(table).ok()?;
    let (extra, rest) = variable.split_at_checked(usize::try_from(raw.extra_bytes.get()).ok()?)?;
    let (id, rest) = rest.split_at_checked(usize::from(raw.id_bytes.get()))?;
    let (name, _) = rest.split_at_checked(usize::from(raw.name_bytes.get()))?;
    // The first field of the extra data is the size in 64 bits, for states of 4 GiB and more.
    let large = extra.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let vm_state_bytes = large.filter(|bytes| *bytes != 0).unwrap_or(u64::from(raw.vm_state_bytes.get()));
    let name = if name.is_empty() { id } else { name };
    let l1_bytes = u64::from(raw.l1_size.get()).saturating_mul(Grid::L1_ENTRY_BYTES);
    let l1 = StoredRange::new(StoredOffset::new(raw.l1_table_offset.get()), l1_bytes);
    let l1 = l1.filter(|l1| l1.len() <= MAX_L1_BYTES);
    let snapshot = Snapshot { name: String::from_utf8_lossy(name).into_owned(), l1, vm_state_bytes };
    let entry = table.len().checked_sub(rest.len())?.checked_add(usize::from(raw.name_bytes.get()))?;
    Some((snapshot, table.get(entry.checked_next_multiple_of(8)?..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, state: u32, extra: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[12..14].copy_from_slice(&1u16.to_be_bytes());
        bytes[14..16].copy_from_slice(&(name.len() as u16).to_be_bytes());
        bytes[32..36].copy_from_slice(&state.to_be_bytes());
        bytes[36..40].copy_from_slice(&(extra.len() as u32).to_be_bytes());
        bytes.extend(extra);
        bytes.extend(b"1");
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn entries_are_consecutive_and_padded_to_eight_bytes() {
        let extra = (5u64 << 32).to_be_bytes();
        let table = [entry("before", 7, &[]), entry("", 0, &extra), entry("x", 0, &[0; 24])].concat();
        let names: Vec<_> = parse(&table, 3).into_iter().map(|s| (s.name, s.vm_state_bytes)).collect();
        assert_eq!(names, [("before".into(), 7), ("1".into(), 5 << 32), ("x".into(), 0)]);
    }

    #[test]
    fn a_truncated_table_returns_its_complete_entries() {
        let table = [entry("before", 7, &[]), entry("after", 0, &[])].concat();
        for cut in 0..table.len() {
            assert!(parse(&table[..cut], 2).len() <= 2);
        }
        assert_eq!(parse(&table[..60], 2).len(), 1);
    }
}

//! Makes a fragmented QCOW2: its clusters are stored in random order, as in an image that was written randomly.
//!
//! The data clusters are permuted. Each one is still used exactly once, so refcounts stay valid; only the L2 entries are
//! rewritten.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::failure::{Failure, Result};

/// Bits 9 to 55 of an entry: the offset of the cluster or table.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry: the cluster is compressed, and the offset is encoded differently.
const COMPRESSED: u64 = 1 << 62;

/// An L2 entry that maps a data cluster.
struct Entry {
    at: u64,
    value: u64,
}

/// Copies the uncompressed QCOW2 at `from` to `to` with shuffled clusters. Deterministic.
///
/// # Errors
/// If `from` is not a QCOW2, has compressed clusters or cannot be read, or if `to` cannot be written.
pub(crate) fn shuffle(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(Failure::at("copying", from))?;
    let source = File::open(from).map_err(Failure::at("opening", from))?;
    let target = File::options().write(true).open(to).map_err(Failure::at("opening", to))?;
    let read = |at: u64, len: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        source.read_exact_at(&mut bytes, at).map_err(Failure::at("reading", from))?;
        Ok(bytes)
    };
    let write = |at: u64, bytes: &[u8]| target.write_all_at(bytes, at).map_err(Failure::at("writing", to));

    // QEMU's docs/interop/qcow2.rst, "Header".
    let header = read(0, 104)?;
    let (magic, bits) = (number(&header, 0, 4), number(&header, 20, 4));
    let (l1_entries, l1_at) = (number(&header, 36, 4), number(&header, 40, 8));
    if magic != 0x5146_49fb || !(9..=21).contains(&bits) || l1_entries > 1 << 20 {
        return Err(Failure::Odd(format!("{} is not a QCOW2 that can be shuffled", from.display())));
    }
    let cluster = 1usize << bits;
    let mut entries = Vec::new();
    for l1 in read(l1_at, l1_entries as usize * 8)?.chunks_exact(8) {
        let table_at = number(l1, 0, 8) & OFFSET;
        if table_at == 0 {
            continue;
        }
        let table = read(table_at, cluster)?;
        for (index, entry) in table.chunks_exact(8).enumerate() {
            let value = number(entry, 0, 8);
            if value & COMPRESSED != 0 {
                return Err(Failure::Odd(format!("{} has compressed clusters", from.display())));
            }
            if value & OFFSET != 0 {
                entries.push(Entry { at: table_at + index as u64 * 8, value });
            }
        }
    }
    for (entry, other) in entries.iter().zip(permutation(entries.len())) {
        let (old, new) = (entry.value & OFFSET, entries[other].value & OFFSET);
        write(new, &read(old, cluster)?)?;
        write(entry.at, &(entry.value & !OFFSET | new).to_be_bytes())?;
    }
    Ok(())
}

/// Reads a big-endian number of `len` bytes; missing bytes count as zeros.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.iter().skip(at).take(len).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The numbers below `len`, shuffled (Fisher and Yates).
fn permutation(len: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..len).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for last in (1..len).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(last, (state % (last as u64 + 1)) as usize);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutation_has_every_number_once_and_few_fixed_points() {
        let mut numbers = permutation(1000);
        assert!(numbers.iter().enumerate().filter(|(at, number)| at == *number).count() < 20);
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert_eq!(permutation(1), [0]);
        assert!(permutation(0).is_empty());
    }

    #[test]
    fn numbers_are_big_endian() {
        assert_eq!(number(&[0, 1, 2, 3], 1, 2), 0x0102);
        assert_eq!(number(&[1], 0, 2), 1);
    }
}

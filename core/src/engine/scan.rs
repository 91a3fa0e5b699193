//! Scans guest bytes in one pass: finds the 4 KiB blocks that are zero, and hashes the others.
//!
//! The blocks of the zero scan are the leaves of the digest. Both come from the same pass, on a CPU worker.

use bytes::Bytes;

use crate::address::{GuestOffset, GuestRange};
use crate::digest::{BLOCK, Hash, hash_block};
use crate::layout::{BlockRun, Scanned};

const BLOCK_BYTES: usize = BLOCK as usize;

/// True if every byte is zero. Runs at memory speed: it checks 256 bytes between two branches.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<256>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

impl Scanned {
    /// Scans `bytes`, which begin at `start`. Hashes the blocks if `zero_leaf`, the hash of a zero block, is given.
    pub fn new(start: GuestOffset, bytes: Bytes, zero_leaf: Option<Hash>) -> Self {
        let blocks = bytes.len().div_ceil(BLOCK_BYTES);
        let mut runs: Vec<BlockRun> = Vec::new();
        let mut leaves = Vec::with_capacity(if zero_leaf.is_some() { blocks } else { 0 });
        for block in bytes.chunks(BLOCK_BYTES) {
            let zero = is_zero(block);
            match runs.last_mut() {
                Some(last) if last.zero == zero => last.bytes += block.len() as u64,
                _ => runs.push(BlockRun { bytes: block.len() as u64, zero }),
            }
            leaves.extend(zero_leaf.map(|leaf| if zero { leaf } else { hash_block(block) }));
        }
        debug_assert!(start.checked_add(bytes.len() as u64).is_some(), "bytes after the last address");
        let guest = GuestRange::between(start, GuestOffset::new(start.get() + bytes.len() as u64));
        Self { guest, bytes, runs, leaves, streams: Vec::new() }
    }

    /// The runs with their guest ranges; true for zeros.
    pub fn ranges(&self) -> impl Iterator<Item = (GuestRange, bool)> + '_ {
        let mut rest = self.guest;
        self.runs.iter().map(move |run| {
            let (range, later) = rest.split_at(run.bytes);
            rest = later;
            (range, run.zero)
        })
    }

    /// The part within `range`. The range begins at the start of a block, and ends at the end of a block or of these
    /// bytes. Streams of units that are not wholly in it are left out.
    pub(crate) fn part(&self, range: GuestRange) -> Self {
        debug_assert!(self.guest.contains(range), "the range must be within the scanned bytes");
        let skip = range.start().get() - self.guest.start().get();
        let runs = self.ranges().filter_map(|(run, zero)| {
            let bytes = run.intersection(range)?.len();
            (bytes > 0).then_some(BlockRun { bytes, zero })
        });
        let first = (skip / BLOCK) as usize;
        let count = range.len().div_ceil(BLOCK) as usize;
        let within = |unit: &GuestRange| unit.start() >= range.start() && unit.end() <= range.end();
        Self {
            guest: range,
            bytes: self.slice(range),
            runs: runs.collect(),
            // None if the blocks were not hashed.
            leaves: self.leaves.get(first..first + count).unwrap_or_default().to_vec(),
            streams: self.streams.iter().filter(|(unit, _)| within(unit)).cloned().collect(),
        }
    }

    /// The bytes of `range`, which must be within `guest`.
    pub fn slice(&self, range: GuestRange) -> Bytes {
        debug_assert!(self.guest.contains(range), "the range must be within the scanned bytes");
        let skip = (range.start().get() - self.guest.start().get()) as usize;
        self.bytes.slice(skip..skip + range.len() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_anywhere_is_found() {
        let mut bytes = vec![0; 4096 + 77];
        assert!(is_zero(&bytes));
        for place in [0, 255, 256, 4095, 4096, 4096 + 76] {
            bytes[place] = 1;
            assert!(!is_zero(&bytes), "{place}");
            bytes[place] = 0;
        }
    }

    #[test]
    fn a_part_equals_a_scan_of_it_alone() {
        let mut bytes = vec![0; 4096 * 7 + 100];
        [5000, 4096 * 2, 4096 * 5 + 7, 4096 * 7 + 99].into_iter().for_each(|at: usize| bytes[at] = 1);
        let bytes = Bytes::from(bytes);
        let scanned = Scanned::new(GuestOffset::new(8192), bytes.clone(), Some([9; 32]));
        for (from, to) in [(0, 8), (1, 3), (0, 1), (4, 8), (7, 8), (2, 2)] {
            let (start, end) = (from * 4096, (to * 4096).min(bytes.len()));
            let at = |offset: usize| GuestOffset::new(8192 + offset as u64);
            let part = scanned.part(GuestRange::between(at(start), at(end)));
            let alone = Scanned::new(at(start), bytes.slice(start..end), Some([9; 32]));
            assert_eq!(
                (part.guest, part.runs, part.leaves),
                (alone.guest, alone.runs, alone.leaves),
                "{from} {to}"
            );
            assert_eq!(part.bytes, alone.bytes);
        }
    }

    #[test]
    fn runs_follow_blocks_and_the_last_one_is_clipped() {
        let mut bytes = vec![0; 4096 * 4 + 100];
        bytes[4096 * 2 + 5] = 1;
        let scanned = Scanned::new(GuestOffset::new(8192), Bytes::from(bytes), Some([9; 32]));
        let runs: Vec<_> = scanned.runs.iter().map(|run| (run.bytes, run.zero)).collect();
        assert_eq!(runs, [(8192, true), (4096, false), (4196, true)]);
        assert_eq!(scanned.leaves.iter().filter(|leaf| **leaf == [9; 32]).count(), 4);
        assert_eq!(scanned.ranges().map(|(range, _)| range.len()).sum::<u64>(), scanned.guest.len());
    }
}

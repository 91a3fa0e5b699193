//! The fs-verity digest of a guest disk, computed from subtrees in any order.
//!
//! fs-verity (Linux, `Documentation/filesystems/fsverity.rst`, "Merkle tree" and "fs-verity descriptor") hashes 4 KiB
//! blocks, then 4 KiB blocks of 128 hashes each, up to one root. Nodes do not contain their position. Subtrees can
//! therefore be computed in any order, and a run of zeros of any length is one table look-up per level:
//!
//! ```text
//!  level 2                    ●                      one block: 128 hashes, 64 MiB of disk
//!  level 1        ● ● ● … ●       zero[1] zero[1]    one block: 128 hashes, 512 KiB of disk
//!  level 0   ▪▪▪▪ ▪▪▪▪ ▪▪▪▪                          one hash per 4 KiB block of the disk
//! ```
//!
//! A block of hashes is stored until all 128 have arrived; then only its own hash is stored. In guest order the tree
//! holds one block per level; out of order, one for each 512 KiB range that has begun. A zero hash is stored as one
//! bit. The waiting blocks therefore take at most 32 bytes for each 4 KiB of data received, however it is scattered
//! among zeros.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Bytes per block of the tree, and per block of the zero scan.
pub const BLOCK: u64 = 4096;
/// Hashes per block.
const FAN: u64 = 128;
/// Levels that 2⁶⁴ bytes need: 52 bits of block numbers, 7 bits per level.
const LEVELS: usize = 9;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The digest of a guest disk: what `fsverity digest` prints for the raw disk (SHA-256, 4 KiB blocks, no salt).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest(pub Hash);

impl Digest {
    /// Name of the algorithm, as in the JSON.
    pub const ALGORITHM: &'static str = "fsverity-sha256";
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// SHA-256 over the concatenated `parts`.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// The hash of one block. A shorter block is padded with zeros, as fs-verity pads the end of a file.
pub fn hash_block(block: &[u8]) -> Hash {
    const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    let mut hasher = Sha256::new();
    hasher.update(block);
    if let Some(padding) = ZEROS.get(block.len()..) {
        hasher.update(padding);
    }
    hasher.finalize().into()
}

/// A block of hashes that is not full yet.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Node {
    /// One bit for each hash that has arrived, zeros included.
    present: u128,
    /// One bit for each hash of a zero subtree.
    zeros: u128,
    /// The other hashes, in order.
    hashes: Vec<Hash>,
}

impl Node {
    /// Stores a hash; `None` is that of zeros. Returns false if the slot is already set.
    fn set(&mut self, slot: u64, hash: Option<Hash>) -> bool {
        let bit = 1 << slot;
        if self.present & bit != 0 {
            return false;
        }
        match hash {
            None => self.zeros |= bit,
            Some(hash) => {
                let before = self.present & !self.zeros & (bit - 1);
                self.hashes.insert(before.count_ones() as usize, hash);
            }
        }
        self.present |= bit;
        true
    }

    /// The content of the block, with `zero` for zero subtrees: all hashes up to the first missing one.
    fn block(&self, zero: &Hash) -> Vec<u8> {
        let mut hashes = self.hashes.iter();
        let mut block = Vec::with_capacity(BLOCK as usize);
        for slot in 0..self.present.trailing_ones() {
            let hash = if self.zeros >> slot & 1 == 1 { zero } else { hashes.next().unwrap_or(zero) };
            block.extend_from_slice(hash);
        }
        block
    }
}

/// A digest tree under construction.
///
/// Every block of the disk must be added once, as a hash or as zeros, in any order. Then the tree is finished with
/// the disk's size.
pub struct DigestTree {
    levels: [BTreeMap<u64, Node>; LEVELS],
    /// The hash of a full zero subtree at each level.
    zero: [Hash; LEVELS],
    /// The number of a block that was added twice.
    twice: Option<u64>,
}

/// The state of a tree under construction, as a journal stores it: the blocks of hashes that are not full.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OpenTree(Vec<BTreeMap<u64, Node>>);

impl Default for DigestTree {
    fn default() -> Self {
        Self::new()
    }
}

impl DigestTree {
    /// An empty tree.
    pub fn new() -> Self {
        let mut zero = [[0; 32]; LEVELS];
        let mut block = vec![0; BLOCK as usize];
        for hash in &mut zero {
            *hash = hash_block(&block);
            block = hash.repeat(FAN as usize);
        }
        Self { levels: Default::default(), zero, twice: None }
    }

    /// The state of the tree, to continue from later.
    pub(crate) fn open(&self) -> OpenTree {
        OpenTree(self.levels.to_vec())
    }

    /// Continues from the state `open`; `None` if it is not a valid state.
    pub(crate) fn reopen(open: OpenTree) -> Option<Self> {
        let sound = |node: &Node| {
            let hashes = (node.present & !node.zeros).count_ones() as usize;
            node.present != u128::MAX && node.zeros & !node.present == 0 && node.hashes.len() == hashes
        };
        let levels: [_; LEVELS] = open.0.try_into().ok()?;
        levels.iter().flat_map(BTreeMap::values).all(sound).then(|| Self { levels, ..Self::new() })
    }

    /// The hash of a block of zeros.
    pub fn zero_block(&self) -> Hash {
        self.zero[0]
    }

    /// Adds the hashes of consecutive blocks; the first one has number `first`.
    pub fn add(&mut self, first: u64, hashes: &[Hash]) {
        for (number, hash) in (first..).zip(hashes) {
            self.set(0, number, Some(*hash).filter(|hash| *hash != self.zero[0]));
        }
    }

    /// Adds `count` zero blocks from number `first` on. The cost does not depend on `count`.
    pub fn add_zeros(&mut self, first: u64, count: u64) {
        // Block numbers of a 64-bit address space need 52 bits, so the sum fits.
        debug_assert!(first.checked_add(count).is_some(), "blocks after the end of the address space");
        let (mut start, mut end) = (first, first + count);
        for level in 0..LEVELS {
            let (full_start, full_end) = (start.div_ceil(FAN), end / FAN);
            if level + 1 == LEVELS || full_start >= full_end {
                (start..end).for_each(|number| self.set(level, number, None));
                return;
            }
            (start..full_start * FAN).for_each(|number| self.set(level, number, None));
            (full_end * FAN..end).for_each(|number| self.set(level, number, None));
            (start, end) = (full_start, full_end);
        }
    }

    fn set(&mut self, level: usize, mut number: u64, mut hash: Option<Hash>) {
        let mut levels = self.levels.iter_mut().zip(&self.zero).skip(level).peekable();
        while let Some((nodes, zero)) = levels.next() {
            let (index, slot) = (number / FAN, number % FAN);
            let node = nodes.entry(index).or_default();
            if !node.set(slot, hash) {
                self.twice.get_or_insert(number);
            }
            if node.present != u128::MAX || levels.peek().is_none() {
                return;
            }
            hash = (node.zeros != u128::MAX).then(|| hash_block(&node.block(zero)));
            nodes.remove(&index);
            number = index;
        }
    }

    /// The digest of a disk of `size` bytes, after every block was added.
    ///
    /// # Errors
    /// `internal` if a block was added twice, or not at all.
    pub fn finish(mut self, size: u64) -> Result<Digest> {
        if let Some(number) = self.twice {
            return Err(Error::internal(format!("block {number} of the disk was added to the digest twice")));
        }
        let mut count = size.div_ceil(BLOCK);
        let mut root = [0; 32];
        for (level, zero) in self.zero.into_iter().enumerate() {
            let Some(nodes) = self.levels.get_mut(level).map(std::mem::take).filter(|_| count > 0) else {
                break;
            };
            let last = (count - 1) / FAN;
            let in_last = count - last * FAN;
            let filled = if in_last == FAN { u128::MAX } else { (1 << in_last) - 1 };
            // Full blocks were folded when they became full. Only the last block of the level may be left, if it is
            // not full.
            if let Some((index, _)) =
                nodes.iter().find(|(index, node)| **index != last || node.present != filled)
            {
                let first = index * FAN;
                return Err(Error::internal(format!("the digest has a gap in level {level} at {first}")));
            }
            match nodes.get(&last) {
                Some(node) if count == 1 => {
                    root = node.hashes.first().copied().unwrap_or(zero);
                    count = 0;
                }
                Some(node) => {
                    let hash = hash_block(&node.block(&zero));
                    self.set(level + 1, last, Some(hash));
                }
                None if in_last == FAN => {}
                None => return Err(Error::internal(format!("the digest has no end of level {level}"))),
            }
            count = if count == 0 { 0 } else { count.div_ceil(FAN) };
        }
        Ok(Digest(seal(size, root)))
    }
}

/// The hash of the fs-verity descriptor: 256 bytes, see `struct fsverity_descriptor`.
fn seal(size: u64, root: Hash) -> Hash {
    let mut descriptor = [0; 256];
    descriptor[0] = 1; // version
    descriptor[1] = 1; // SHA-256
    descriptor[2] = 12; // log2 of the block size
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..48].copy_from_slice(&root);
    Sha256::digest(descriptor).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slow reference: whole levels, one after the other.
    fn by_the_book(disk: &[u8]) -> Digest {
        let mut level: Vec<Hash> = disk.chunks(BLOCK as usize).map(hash_block).collect();
        while level.len() > 1 {
            level = level.as_flattened().chunks(BLOCK as usize).map(hash_block).collect();
        }
        Digest(seal(disk.len() as u64, level.first().copied().unwrap_or([0; 32])))
    }

    fn in_order(disk: &[u8]) -> Digest {
        let mut tree = DigestTree::new();
        let hashes: Vec<Hash> = disk.chunks(BLOCK as usize).map(hash_block).collect();
        tree.add(0, &hashes);
        tree.finish(disk.len() as u64).unwrap()
    }

    #[test]
    fn the_tree_agrees_with_whole_levels_at_every_edge() {
        for blocks in [0, 1, 2, 127, 128, 129, 255, 256, 128 * 128 - 1, 128 * 128, 128 * 128 + 1] {
            for tail in [0, 1, 4095] {
                let disk: Vec<u8> = (0..blocks * 4096 + tail).map(|i: u64| (i / 977) as u8).collect();
                assert_eq!(in_order(&disk), by_the_book(&disk), "{blocks} blocks and {tail} bytes");
            }
        }
    }

    #[test]
    fn zeros_of_any_length_hash_like_their_blocks() {
        for (first, count, total) in
            [(0, 1, 1), (0, 128, 128), (3, 300, 400), (0, 20000, 20000), (1, 16384, 16500)]
        {
            let mut tree = DigestTree::new();
            let data = hash_block(&[7; 4096]);
            (0..first).chain(first + count..total).for_each(|number| tree.add(number, &[data]));
            tree.add_zeros(first, count);
            let mut disk = vec![7; total as usize * 4096];
            disk[first as usize * 4096..(first + count) as usize * 4096].fill(0);
            assert_eq!(tree.finish(total * BLOCK).unwrap(), by_the_book(&disk), "{first} {count} {total}");
        }
    }

    #[test]
    fn the_largest_disk_of_zeros_takes_constant_time_and_memory() {
        let mut tree = DigestTree::new();
        tree.add_zeros(0, (64u64 << 40) / BLOCK);
        assert!(tree.finish(64 << 40).is_ok());
        let mut tree = DigestTree::new();
        tree.add_zeros(0, u64::MAX.div_ceil(BLOCK));
        assert!(tree.finish(u64::MAX).is_ok());
    }

    #[test]
    fn zeros_around_pending_data_take_no_memory() {
        const SCATTERED: u64 = 10_000;
        let mut tree = DigestTree::new();
        (0..SCATTERED).for_each(|leaf| tree.add_zeros(leaf * FAN + 1, FAN - 1));
        assert_eq!(tree.levels[0].len(), 10_000);
        assert!(tree.levels[0].values().all(|node| node.hashes.capacity() == 0));
        (0..SCATTERED).rev().for_each(|leaf| tree.add(leaf * FAN, &[[9; 32]]));
        assert!(tree.levels[0].is_empty());
        assert!(tree.finish(SCATTERED * FAN * BLOCK).is_ok());
    }

    #[test]
    fn a_saved_tree_continues_with_the_same_result() {
        let disk: Vec<u8> =
            (0..700 * 4096u64 + 77).map(|i| if i % 90_000 < 50_000 { 0 } else { (i / 977) as u8 }).collect();
        let hashes: Vec<Hash> = disk.chunks(BLOCK as usize).map(hash_block).collect();
        for cut in [0, 1, 127, 128, 300, 512, 700] {
            let mut tree = DigestTree::new();
            tree.add(0, &hashes[..cut]);
            tree.add(600, &hashes[600..600 + usize::from(cut < 600)]);
            let kept = postcard::to_stdvec(&tree.open()).unwrap();
            let mut tree = DigestTree::reopen(postcard::from_bytes(&kept).unwrap()).unwrap();
            for number in cut..hashes.len() {
                if number != 600 || cut >= 600 {
                    tree.add(number as u64, &hashes[number..=number]);
                }
            }
            assert_eq!(tree.finish(disk.len() as u64).unwrap(), by_the_book(&disk), "{cut}");
        }
        let mut broken = DigestTree::new();
        broken.add(0, &[[1; 32]]);
        let mut broken = broken.open();
        broken.0[0].get_mut(&0).unwrap().hashes.clear();
        assert!(DigestTree::reopen(broken).is_none());
    }

    #[test]
    fn a_block_that_is_missing_or_added_twice_is_an_error() {
        let mut tree = DigestTree::new();
        tree.add_zeros(0, 1000);
        assert!(tree.finish(1001 * BLOCK).is_err());
        let mut tree = DigestTree::new();
        tree.add_zeros(0, 1000);
        tree.add_zeros(999, 1);
        assert!(tree.finish(1000 * BLOCK).is_err());
        let mut tree = DigestTree::new();
        tree.add_zeros(0, 1000);
        assert!(tree.finish(999 * BLOCK).is_err());
    }

    proptest! {
        #[test]
        fn the_order_of_the_parts_does_not_matter(
            cuts in proptest::collection::vec((1u64..400, any::<bool>()), 1..20),
            seed in any::<u64>(),
        ) {
            let mut parts = Vec::new();
            let mut disk = Vec::new();
            for (index, (blocks, zero)) in cuts.iter().enumerate() {
                let first = disk.len() as u64 / BLOCK;
                let byte = if *zero { 0 } else { index as u8 + 1 };
                disk.resize(disk.len() + (*blocks * BLOCK) as usize, byte);
                parts.push((first, *blocks, byte));
            }
            let turn = seed as usize % parts.len();
            parts.rotate_left(turn);
            if seed % 2 == 0 { parts.reverse(); }
            let mut tree = DigestTree::new();
            for (first, blocks, byte) in parts {
                if byte == 0 {
                    tree.add_zeros(first, blocks);
                } else {
                    tree.add(first, &vec![hash_block(&[byte; 4096]); blocks as usize]);
                }
            }
            prop_assert_eq!(tree.finish(disk.len() as u64).unwrap(), by_the_book(&disk));
        }
    }
}

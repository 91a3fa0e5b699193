//! Compares the grains that the tables of a stream name with the grains that were read.
//!
//! A reader in one pass uses the markers, and a random-access reader uses the tables. An image can be crafted so that
//! both are valid and describe different disks. Its tables can point to a grain hidden in padding, or its footer to a
//! directory that no marker announces. So a stream is accepted only if its tables name exactly the grains that were
//! read, each at its address.
//!
//! A direct comparison would store both lists. Instead, two random hash functions give each address a value, and sums
//! of these values are compared: the plain sum, and the sum of each value times the grain's number. Different lists
//! have equal sums with a probability of about 2⁻⁶⁰, and the author of an image does not know the hash functions. The
//! second sum is linear in the number, so a table can be summed before its index is known: its directory follows it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use diskferry_core::Result;

use super::footer::{Footer, in_reach, usable};
use super::header::{HEADER_LEN, SECTOR, SparseHeader};

/// The hash functions for addresses.
#[derive(Debug)]
pub(super) struct GrainHasher(RandomState, RandomState);

impl GrainHasher {
    pub(super) fn new() -> Self {
        Self(RandomState::new(), RandomState::new())
    }
}

/// A digest of grains with their addresses, in a few bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct GrainDigest {
    /// Number of grains.
    pub(super) count: u64,
    places: u64,
    numbers: u64,
}

impl GrainDigest {
    /// Adds grain `number` at a sector.
    pub(super) fn add(&mut self, hasher: &GrainHasher, number: u64, sector: u64) {
        let weight = hasher.1.hash_one(sector);
        self.count = self.count.saturating_add(1);
        self.places = self.places.wrapping_add(hasher.0.hash_one(sector));
        self.numbers = self.numbers.wrapping_add(weight.wrapping_mul(number));
    }

    /// Adds the grains of a table whose first entry has the number `first`.
    pub(super) fn add_table(&mut self, table: &TableDigest, first: u64) {
        let numbers = table.named.numbers.wrapping_add(table.weight.wrapping_mul(first));
        self.count = self.count.saturating_add(table.named.count);
        self.places = self.places.wrapping_add(table.named.places);
        self.numbers = self.numbers.wrapping_add(numbers);
    }
}

/// The digest of one table. Its index is supplied later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TableDigest {
    /// Number of entries.
    pub(super) entries: u64,
    /// Its grains, numbered within the table.
    named: GrainDigest,
    /// The sum of the hash values of all addresses.
    weight: u64,
}

impl TableDigest {
    /// Adds the next entries.
    pub(super) fn read(&mut self, hasher: &GrainHasher, bytes: &[u8], zeroed: bool) {
        let (entries, _) = bytes.as_chunks::<4>();
        for entry in entries {
            let sector = u64::from(u32::from_le_bytes(*entry));
            if is_grain(sector, zeroed) {
                self.named.add(hasher, self.entries, sector);
                self.weight = self.weight.wrapping_add(hasher.1.hash_one(sector));
            }
            self.entries = self.entries.saturating_add(1);
        }
    }
}

/// True for an entry that points to a grain.
pub(super) fn is_grain(entry: u64, zeroed: bool) -> bool {
    entry != 0 && !(zeroed && entry == 1)
}

const SECTOR_LEN: usize = HEADER_LEN;
type Sector = [u8; SECTOR_LEN];

/// The last non-blank sector so far, and the sector before it. The footer is searched there.
#[derive(Debug)]
pub(super) struct LastSectors {
    /// The beginning of an incomplete sector.
    partial: Vec<u8>,
    /// Whole sectors so far.
    count: u64,
    previous: Sector,
    /// Number of the last non-blank sector, the sector before it, and that sector.
    last: Option<(u64, Sector, Sector)>,
}

impl LastSectors {
    pub(super) fn new() -> Self {
        Self { partial: Vec::new(), count: 0, previous: [0; SECTOR_LEN], last: None }
    }

    /// Processes the next bytes.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let missing =
            SECTOR_LEN.saturating_sub(self.partial.len()).checked_rem(SECTOR_LEN).unwrap_or_default();
        let (first, rest) = bytes.split_at(missing.min(bytes.len()));
        self.partial.extend_from_slice(first);
        if self.partial.len() == SECTOR_LEN {
            let partial = std::mem::take(&mut self.partial);
            self.sectors(partial.as_chunks().0);
        }
        if self.partial.is_empty() {
            let (sectors, rest) = rest.as_chunks();
            self.sectors(sectors);
            self.partial.extend_from_slice(rest);
        }
    }

    fn sectors(&mut self, sectors: &[Sector]) {
        if let Some(index) = sectors.iter().rposition(|sector| sector.iter().any(|byte| *byte != 0)) {
            let before = index.checked_sub(1).and_then(|before| sectors.get(before));
            let before = *before.unwrap_or(&self.previous);
            let number = self.count.saturating_add(index as u64);
            self.last = sectors.get(index).map(|last| (number, before, *last));
        }
        if let Some(last) = sectors.last() {
            self.previous = *last;
        }
        self.count = self.count.saturating_add(sectors.len() as u64);
    }

    /// Returns the footer that random access would use; `bytes` is the length of the extent.
    ///
    /// # Errors
    /// See [`usable`].
    pub(super) fn footer(&self, header: &SparseHeader, bytes: u64) -> Result<Option<Footer>> {
        let Some((number, before, last)) = &self.last else { return Ok(None) };
        let len = self.count.saturating_mul(SECTOR).saturating_add(self.partial.len() as u64);
        match number.checked_sub(1) {
            Some(marker) if in_reach(marker, len) && in_reach(*number, len) => {
                usable(before, last, *number, header, bytes, len)
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_grains_have_equal_digests_in_any_order() {
        let hasher = GrainHasher::new();
        let named = |grains: &[(u64, u64)]| {
            let mut all = GrainDigest::default();
            grains.iter().for_each(|(number, sector)| all.add(&hasher, *number, *sector));
            all
        };
        let one = named(&[(0, 100), (1, 200), (17, 300)]);
        assert_eq!(one, named(&[(17, 300), (0, 100), (1, 200)]));
        for other in [
            &[(0, 100), (1, 200)][..],
            &[(0, 200), (1, 100), (17, 300)],
            &[(0, 100), (2, 200), (17, 300)],
            &[(0, 100), (1, 200), (17, 301)],
            &[(0, 100), (1, 200), (1, 200)],
        ] {
            assert_ne!(one, named(other), "{other:?}");
        }
        let mut table = TableDigest::default();
        table.read(&hasher, &[[0, 0, 0, 0], [100, 0, 0, 0]].concat(), false);
        table.read(&hasher, &[[1, 0, 0, 0], [200, 0, 0, 0]].concat(), true);
        let mut by_table = GrainDigest::default();
        by_table.add_table(&table, 512);
        assert_eq!(by_table, named(&[(513, 100), (515, 200)]));
    }

    #[test]
    fn the_last_sectors_are_found_with_pieces_of_any_length() {
        let mut bytes = vec![0; 20 * SECTOR_LEN + 100];
        bytes[7 * SECTOR_LEN..8 * SECTOR_LEN].fill(7);
        bytes[8 * SECTOR_LEN + 9] = 8;
        bytes[20 * SECTOR_LEN..].fill(9);
        for piece in [1, 511, 512, 513, 700, 4096, 4608, 1 << 20] {
            let mut tail = LastSectors::new();
            bytes.chunks(piece).for_each(|bytes| tail.pass(bytes));
            let (number, before, last) = tail.last.unwrap();
            assert_eq!((number, before, last[9]), (8, [7; SECTOR_LEN], 8), "{piece}");
        }
    }
}

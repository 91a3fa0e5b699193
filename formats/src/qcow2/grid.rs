//! The arithmetic of clusters and tables.
//!
//! ```text
//! guest offset:  | L1 index | L2 index | offset in cluster |
//!                                        cluster_bits bits
//!                            cluster size / entry size entries a table
//! ```

use std::ops::RangeInclusive;

use diskferry_core::GuestOffset;

/// The division of guest offsets into clusters and the tables that map them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grid {
    cluster_bits: u32,
    extended_l2: bool,
}

impl Grid {
    /// The valid sizes of clusters: 512 bytes to 2 MiB.
    pub(super) const CLUSTER_BITS: RangeInclusive<u32> = 9..=21;
    /// Extended L2 entries have 32 sub-clusters of at least one sector.
    pub(super) const MIN_EXTENDED_BITS: u32 = 14;
    /// Length of an L1 entry.
    pub(super) const L1_ENTRY_BYTES: u64 = 8;

    /// A grid of clusters of `1 << cluster_bits` bytes. Bits out of range are clamped to the valid range.
    pub(super) fn new(cluster_bits: u32, extended_l2: bool) -> Self {
        let cluster_bits = cluster_bits.clamp(*Self::CLUSTER_BITS.start(), *Self::CLUSTER_BITS.end());
        Self { cluster_bits, extended_l2 }
    }

    pub(super) fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    pub(super) fn extended_l2(self) -> bool {
        self.extended_l2
    }

    /// Length of a cluster in bytes: 512 to 2 MiB.
    pub(super) fn cluster_bytes(self) -> u64 {
        1u64.checked_shl(self.cluster_bits).unwrap_or_default()
    }

    /// Length in bytes of a sub-cluster. A cluster with an extended L2 entry has 32.
    pub(super) fn subcluster_bytes(self) -> u64 {
        self.cluster_bytes() / 32
    }

    /// Length of an L2 entry: 8 bytes, 16 with sub-clusters.
    pub(super) fn l2_entry_bytes(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Guest bytes that `bytes` bytes of L2 entries map, for up to one table: at most 2³⁹.
    pub(super) fn mapped_by(self, bytes: u64) -> u64 {
        let entries = bytes.checked_div(self.l2_entry_bytes()).unwrap_or_default();
        entries.saturating_mul(self.cluster_bytes())
    }

    /// Guest bytes that an L1 entry maps: 32 KiB to 512 GiB.
    pub(super) fn l1_entry_maps(self) -> u64 {
        self.mapped_by(self.cluster_bytes())
    }

    /// Index of the L1 entry that maps a guest address.
    pub(super) fn l1_index(self, at: GuestOffset) -> u64 {
        at.get().checked_div(self.l1_entry_maps()).unwrap_or_default()
    }

    /// Number of L1 entries for a disk of that size.
    pub(super) fn l1_entries(self, virtual_bytes: u64) -> u64 {
        virtual_bytes.div_ceil(self.l1_entry_maps().max(1))
    }

    /// Bytes of L2 entries that map this many guest bytes. A partial last cluster counts as a whole one.
    pub(super) fn l2_bytes(self, guest_bytes: u64) -> u64 {
        guest_bytes.div_ceil(self.cluster_bytes()).saturating_mul(self.l2_entry_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_map_the_ranges_of_the_specification() {
        assert_eq!(Grid::new(16, false).l1_entry_maps(), 512 << 20);
        assert_eq!(Grid::new(9, false).l1_entry_maps(), 32 << 10);
        assert_eq!(Grid::new(21, false).l1_entry_maps(), 512 << 30);
        assert_eq!(Grid::new(16, true).l1_entry_maps(), 256 << 20);
        assert_eq!(Grid::new(16, false).l1_entries((512 << 20) + 1), 2);
        assert_eq!(Grid::new(16, false).l1_entries(0), 0);
        assert_eq!(Grid::new(16, false).l2_bytes(65_537), 16);
        assert_eq!(Grid::new(21, false).l1_entries(u64::MAX), 1 << 25);
    }
}

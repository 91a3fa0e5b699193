//! Images built by hand, for structures that no tool writes.

/// Image parts built by hand: big-endian words at cluster-aligned offsets.
pub(crate) struct Built(pub(crate) Vec<u8>);

impl Built {
    /// A version 3 header: clusters of `1 << bits` bytes, a refcount table in cluster 1, the L1 table from cluster 2
    /// on.
    pub(crate) fn new(bits: u32, size: u64, l1_entries: u32, len: usize) -> Self {
        let cluster = 1u64 << bits;
        let mut built = Self(vec![0; len]);
        built.0[..4].copy_from_slice(b"QFI\xfb");
        built.int(4, 3).int(20, bits).long(24, size).int(36, l1_entries).long(40, 2 * cluster);
        built.long(48, cluster).int(56, 1).int(96, 4).int(100, 104);
        built
    }

    pub(crate) fn int(&mut self, at: usize, number: u32) -> &mut Self {
        self.0[at..at + 4].copy_from_slice(&number.to_be_bytes());
        self
    }

    pub(crate) fn long(&mut self, at: usize, number: u64) -> &mut Self {
        self.0[at..at + 8].copy_from_slice(&number.to_be_bytes());
        self
    }
}

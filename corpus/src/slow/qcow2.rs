//! QCOW2, from QEMU's `docs/interop/qcow2.rst`.

use super::bytes::{be32, be64, slice, up_to};
use super::codec;

/// The offset of a table or a cluster: bits 9 to 55 of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

/// Supported incompatible features: dirty, corrupt, compression type, extended L2. An external data file (bit 2) is not.
const READABLE: u64 = 0b11011;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

pub(super) struct Image<'a> {
    image: &'a [u8],
    version: u64,
    cluster_bits: u64,
    pub(super) size: u64,
    l1_entries: u64,
    l1_at: u64,
    zstd: bool,
    extended: bool,
}

pub(super) fn open(image: &[u8]) -> Option<Image<'_>> {
    let version = be32(image, 4)?;
    let features = if version == 3 { be64(image, 72)? } else { 0 };
    let zstd = features & COMPRESSION_TYPE != 0;
    let opened = Image {
        image,
        version,
        cluster_bits: be32(image, 20)?,
        size: be64(image, 24)?,
        l1_entries: be32(image, 36)?,
        l1_at: be64(image, 40)?,
        zstd,
        extended: features & EXTENDED_L2 != 0,
    };
    let good = image.starts_with(b"QFI\xfb")
        && (version == 2 || version == 3)
        && (9..=21).contains(&opened.cluster_bits)
        && features & !READABLE == 0;
    let backing_file = be64(image, 8)? != 0;
    let encrypted = be32(image, 32)? != 0;
    let unknown_compression = zstd && up_to(image, 104, 1) != [1];
    (good && !backing_file && !encrypted && !unknown_compression).then_some(opened)
}

impl Image<'_> {
    /// Returns the cluster that contains the guest byte `at`, and its start.
    pub(super) fn cluster(&self, at: u64) -> Option<(u64, Vec<u8>)> {
        let cluster = 1u64 << self.cluster_bits;
        let start = at - at % cluster;
        let len = cluster.min(self.size.checked_sub(start)?);
        Some((start, self.numbered(start / cluster, cluster, len)?))
    }

    /// Returns the first `len` bytes of that cluster.
    fn numbered(&self, number: u64, cluster: u64, len: u64) -> Option<Vec<u8>> {
        let zeros = || Some(vec![0; usize::try_from(len).ok()?]);
        let entry_bytes = if self.extended { 16 } else { 8 };
        let entries = cluster / entry_bytes;
        if number / entries >= self.l1_entries {
            return None;
        }
        let l1_entry = be64(self.image, self.l1_at.checked_add((number / entries).checked_mul(8)?)?)?;
        let table = l1_entry & OFFSET;
        if table == 0 {
            return zeros();
        }
        let place = table.checked_add((number % entries) * entry_bytes)?;
        let entry = be64(self.image, place)?;
        if entry & COMPRESSED != 0 {
            let mut whole = self.compressed(entry, usize::try_from(cluster).ok()?)?;
            whole.truncate(usize::try_from(len).ok()?);
            return Some(whole);
        }
        let data = entry & OFFSET;
        if self.extended {
            return self.subclusters(data, be64(self.image, place.checked_add(8)?)?, cluster / 32, len);
        }
        let zero = self.version == 3 && entry & 1 != 0;
        if zero || data == 0 { zeros() } else { Some(slice(self.image, data, len)?.to_vec()) }
    }

    /// 32 sub-clusters, each with an "allocated" bit and a "reads as zeros" bit.
    fn subclusters(&self, data: u64, bitmap: u64, unit: u64, len: u64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for index in 0..32 {
            let at = unit * index;
            let part = unit.min(len.saturating_sub(at));
            if part == 0 {
                // The disk ends before these sub-clusters, so the image may end there too.
                break;
            }
            let allocated = bitmap >> index & 1 != 0;
            let zero = bitmap >> (32 + index) & 1 != 0;
            match (allocated, zero) {
                (true, true) => return None,
                (true, false) if data == 0 => return None,
                (true, false) => out.extend_from_slice(slice(self.image, data.checked_add(at)?, part)?),
                (false, _) => out.resize(out.len().checked_add(usize::try_from(part).ok()?)?, 0),
            }
        }
        Some(out)
    }

    /// Reads a compressed cluster. Its length counts sectors, starting with the sector of its first byte. The last sector may
    /// extend past the end of the image.
    fn compressed(&self, entry: u64, cluster: usize) -> Option<Vec<u8>> {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << offset_bits) - 1);
        let more_sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        let stored = up_to(self.image, at, (more_sectors + 1) * 512 - at % 512);
        if self.zstd { codec::unzstd(stored, cluster) } else { codec::inflate_raw(stored, cluster) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzz target `differential`.
    #[test]
    fn sub_clusters_after_the_end_of_the_disk_may_be_missing() {
        let mut image = vec![0; 0x10000];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        image[23] = 14;
        image[24..32].copy_from_slice(&33_468u64.to_be_bytes());
        image[39] = 1;
        image[40..48].copy_from_slice(&0x8000u64.to_be_bytes());
        image[72..80].copy_from_slice(&EXTENDED_L2.to_be_bytes());
        image[0x8000..0x8008].copy_from_slice(&0xc000u64.to_be_bytes());
        let entry = 0xc000 + 2 * 16;
        image[entry..entry + 8].copy_from_slice(&0x100_0000u64.to_be_bytes());
        image[entry + 8..entry + 16].copy_from_slice(&0x00ff_0000_ff00_0f00u64.to_be_bytes());
        assert_eq!(open(&image).unwrap().cluster(32_768), Some((32_768, vec![0; 700])));
    }
}

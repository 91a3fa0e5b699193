//! The sparse extents of ESX: COWD, from VMware's "Virtual Disk Format" 5.0, and seSparse, as other readers have it.

use super::bytes::{le32, le64, slice};

pub(super) struct Extent<'a> {
    file: &'a [u8],
    /// Guest bytes.
    len: u64,
    /// Bytes of a grain.
    grain: u64,
    directory: u64,
    /// Byte addresses of the first grain table and of the first grain, of a seSparse extent.
    typed: Option<(u64, u64)>,
}

/// Entries of a grain table.
const ENTRIES: u64 = 4096;

pub(super) fn is_cowd(file: &[u8]) -> bool {
    file.starts_with(b"COWD")
}

/// A COWD extent of `len` guest bytes, or of all that its header says.
pub(super) fn cowd(file: &[u8], len: Option<u64>) -> Option<Extent<'_>> {
    let grain = le32(file, 16)?;
    let complete = le32(file, 8)? & 1 != 0;
    let good =
        is_cowd(file) && le32(file, 4)? == 1 && complete && grain.is_power_of_two() && grain <= 1 << 21;
    let len = len.unwrap_or(le32(file, 12)? * 512);
    let directory = le32(file, 20)? * 512;
    good.then_some(Extent { file, len, grain: grain * 512, directory, typed: None })
}

/// A seSparse extent of `len` guest bytes.
pub(super) fn se_sparse(file: &[u8], len: u64) -> Option<Extent<'_>> {
    let field = |number: u64| le64(file, number * 8);
    let place = |number: u64| field(number)?.checked_mul(512);
    let known = field(0)? == 0xcafe_babe
        && field(1)? == 0x2_0000_0001
        && field(3)? == 8
        && field(4)? == 64
        && field(5)? == 0;
    let volatile = place(10)?;
    let closed = le64(file, volatile)? == 0xcafe_cafe && le64(file, volatile.checked_add(24)?)? == 0;
    let typed = Some((place(18)?, place(24)?));
    let extent = Extent { file, len, grain: 4096, directory: place(16)?, typed };
    (known && closed).then_some(extent)
}

impl Extent<'_> {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The sector that holds byte `at` of the extent, and where it begins.
    pub(super) fn unit(&self, at: u64) -> Option<(u64, Vec<u8>)> {
        let start = at - at % 512;
        let len = 512.min(self.len.checked_sub(start)?);
        let number = start / self.grain;
        let sector = match self.grain(number)? {
            None => vec![0; usize::try_from(len).ok()?],
            Some(place) => slice(self.file, place.checked_add(start % self.grain)?, len)?.to_vec(),
        };
        Some((start, sector))
    }

    /// Byte address of a grain; none where it is zeros.
    fn grain(&self, number: u64) -> Option<Option<u64>> {
        let (table, slot) = (number / ENTRIES, number % ENTRIES);
        match self.typed {
            None => {
                let table = le32(self.file, self.directory.checked_add(table * 4)?)? * 512;
                let entry = if table == 0 { 0 } else { le32(self.file, table + slot * 4)? };
                match entry {
                    0 => Some(None),
                    1 => None,
                    sector => Some(Some(sector * 512)),
                }
            }
            Some((tables, grains)) => {
                let entry = le64(self.file, self.directory.checked_add(table.checked_mul(8)?)?)?;
                if entry == 0 {
                    return Some(None);
                }
                let table = tables.checked_add((entry & 0xffff_ffff) * ENTRIES * 8)?;
                let entry = le64(self.file, table.checked_add(slot * 8)?)?;
                match (entry >> 60, entry) {
                    (0, 0) | (1 | 2, _) => Some(None),
                    (3, _) => {
                        let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
                        Some(Some(grains.checked_add(number.checked_mul(self.grain)?)?))
                    }
                    _ => None,
                }
            }
        }
    }
}

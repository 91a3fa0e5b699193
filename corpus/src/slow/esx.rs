//! ESX sparse extents: COWD, from VMware's "Virtual Disk Format" 5.0, and seSparse, from other readers' sources.

use super::bytes::{le32, le64, slice};
use super::tail;

pub(super) struct Extent<'a> {
    file: &'a [u8],
    /// Guest bytes.
    len: u64,
    /// Bytes per grain.
    grain: u64,
    directory: u64,
    /// Byte addresses of the first grain table and the first grain of a seSparse extent.
    typed: Option<(u64, u64)>,
    /// End of the used part of the file, and the number of tables, if the header has them.
    used: (u64, Option<u64>),
    /// Start of the tables, or of the grains.
    base: u64,
    /// Ranges that no table may overlap.
    taken: Vec<(u64, u64)>,
    /// True if the tables are complete, as far as can be determined.
    came: bool,
}

/// Entries per grain table.
const ENTRIES: u64 = 4096;

pub(super) fn is_cowd(file: &[u8]) -> bool {
    file.starts_with(b"COWD")
}

/// Opens a COWD extent of `len` guest bytes, or of the size in its header.
pub(super) fn cowd(file: &[u8], len: Option<u64>) -> Option<Extent<'_>> {
    let grain = le32(file, 16)?;
    let complete = le32(file, 8)? & 1 != 0;
    let good =
        is_cowd(file) && le32(file, 4)? == 1 && complete && grain.is_power_of_two() && grain <= 1 << 21;
    let len = len.unwrap_or(le32(file, 12)? * 512);
    let directory = le32(file, 20)? * 512;
    let free = le32(file, 28)? * 512;
    let end = if free == 0 { u64::MAX } else { free };
    let base = (directory + le32(file, 24)? * 4).next_multiple_of(512);
    let (used, taken) = ((end, None), vec![(0, 2048)]);
    let extent =
        Extent { file, len, grain: grain * 512, directory, typed: None, used, base, taken, came: true };
    good.then(|| extent.checked())
}

/// Opens a seSparse extent of `len` guest bytes.
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
    let (grains, room) = (place(24)?, place(25)?);
    let end = if room == 0 { u64::MAX } else { grains.checked_add(room)? };
    let used = (end, Some(le64(file, volatile.checked_add(8)?)?));
    let taken = vec![(0, 512), (volatile, 512)];
    let directory = place(16)?;
    let extent = Extent { file, len, grain: 4096, directory, typed, used, base: grains, taken, came: true };
    (known && closed).then(|| extent.checked())
}

impl Extent<'_> {
    fn checked(mut self) -> Self {
        self.came = self.tables_came().unwrap_or(true);
        self
    }

    /// Returns whether the tables of a file that ends in zeros are complete.
    fn tables_came(&self) -> Option<bool> {
        let Some(zeros) = tail::zeros(self.file) else { return Some(true) };
        let width = if self.typed.is_some() { 8 } else { 4 };
        let grains = self.len.div_ceil(self.grain);
        let size = grains.div_ceil(ENTRIES).checked_mul(width)?;
        slice(self.file, self.directory, size).filter(|_| size > 0)?;
        let mut taken = self.taken.clone();
        taken.push((self.directory, size));
        let end = (self.directory + size).next_multiple_of(512);
        let base = if self.base <= self.file.len() as u64 { self.base } else { 0 };
        let mut named = tail::Named {
            structures: self.directory + size,
            base: if self.typed.is_some() { self.base } else { base.max(end) },
            end: self.used.0,
            allocated: self.used.1,
            table_bytes: ENTRIES * width,
            grain: self.grain,
            ..tail::Named::default()
        };
        for index in 0..size / width {
            let used = (grains - index * ENTRIES).min(ENTRIES);
            let Some(table) = self.table(index)? else { continue };
            let apart = |(at, len): &(u64, u64)| table >= at + len || table + used * width <= *at;
            // An address that cannot be a table is not counted as present or missing.
            if slice(self.file, table, used * width).is_none() || !taken.iter().all(apart) {
                return None;
            }
            named.named += 1;
            named.structures = named.structures.max(table + used * width);
            if !named.tables.contains(&table) {
                named.tables.push(table);
                let places = (0..used).filter_map(|slot| self.grain(index * ENTRIES + slot).flatten());
                named.grains.extend(places);
            }
        }
        Some(tail::came(self.file, zeros, &named))
    }

    /// Returns the byte address of a table; none if its directory entry is empty.
    fn table(&self, number: u64) -> Option<Option<u64>> {
        let Some((tables, _)) = self.typed else {
            let table = le32(self.file, self.directory.checked_add(number * 4)?)? * 512;
            return Some((table != 0).then_some(table));
        };
        let entry = le64(self.file, self.directory.checked_add(number.checked_mul(8)?)?)?;
        if entry == 0 {
            return Some(None);
        }
        tables
            .checked_add((entry & 0xffff_ffff) * ENTRIES * 8)
            .filter(|_| entry >> 32 == 0x1000_0000)
            .map(Some)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the sector that contains byte `at` of the extent, and its start.
    pub(super) fn unit(&self, at: u64) -> Option<(u64, Vec<u8>)> {
        if !self.came {
            return None;
        }
        let start = at - at % 512;
        let len = 512.min(self.len.checked_sub(start)?);
        let number = start / self.grain;
        let sector = match self.grain(number)? {
            None => vec![0; usize::try_from(len).ok()?],
            Some(place) => slice(self.file, place.checked_add(start % self.grain)?, len)?.to_vec(),
        };
        Some((start, sector))
    }

    /// Returns the byte address of a grain; none if it is zeros.
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

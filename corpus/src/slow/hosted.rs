//! The hosted sparse extent of a VMDK, from VMware's "Virtual Disk Format" 5.0 and 1.1.

use std::collections::BTreeMap;

use super::bytes::{le16, le32, le64, slice, up_to};
use super::codec::{self, MOST_UNIT};
use super::tail;

const AT_THE_END: u64 = u64::MAX;
/// Number of directory entries that are examined at once.
const PAGE: u64 = 64 << 10;
const MARKER: u64 = 12;
/// How far the head and the tail of an object are searched for a footer. A longer object has a part between them that is not
/// searched.
const HEAD: u64 = 128 << 10;
const TAIL: u64 = (64 << 10) + 1024;

/// The parsed header.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Size of the extent in sectors.
    pub(super) capacity: u64,
    /// Bytes per grain.
    grain: u64,
    /// Entries per table.
    entries: u64,
    zeroed: bool,
    pub(super) compressed: bool,
    markers: bool,
    /// Byte addresses of the directory and its copy.
    directory: u64,
    redundant: Option<u64>,
    /// Offset and length of the embedded descriptor, in bytes.
    pub(super) text: Option<(u64, u64)>,
    /// Byte address of the first byte after the leading metadata.
    overhead: u64,
    /// The same, verbatim from the header.
    front: u64,
}

impl Header {
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        slice(header, 0, 512)?;
        let flags = le32(header, 8)?;
        let newlines = flags & 1 == 0 || slice(header, 73, 4)? == b"\n \r\n";
        let known = header.starts_with(b"KDMV")
            && (1..=3).contains(&le32(header, 4)?)
            && flags & 0xffff_0000 & !0x3_0000 == 0
            && newlines;
        let (grain, entries) = (le64(header, 20)?, le32(header, 44)?);
        let sane =
            grain.is_power_of_two() && (8..=1 << 21).contains(&grain) && (1..=1 << 16).contains(&entries);
        let compressed = flags & 1 << 16 != 0;
        let markers = flags & 1 << 17 != 0;
        let algorithm = le16(header, 77)? == u64::from(compressed) && (compressed || !markers);
        let capacity = le64(header, 12)?;
        capacity.checked_mul(512)?;
        // An address that overflows is outside every file.
        let bytes = |sectors: u64| sectors.checked_mul(512).unwrap_or(AT_THE_END - 1);
        let directory = le64(header, 56)?;
        let (text_at, text_len) = (le64(header, 28)?, le64(header, 36)?);
        let redundant = le64(header, 48)?;
        let has_redundant = flags & 2 != 0 && redundant != 0 && redundant != AT_THE_END;
        let overhead = le64(header, 64)?.max(1);
        let text = (text_at != 0 && text_len != 0).then_some((text_at, text_len));
        let front = text.map_or(overhead, |(at, len)| overhead.max(at.saturating_add(len)));
        if !(known && sane && algorithm) {
            return None;
        }
        Some(Self {
            capacity,
            grain: grain * 512,
            entries,
            zeroed: flags & 4 != 0,
            compressed,
            markers,
            directory: if directory == AT_THE_END { AT_THE_END } else { bytes(directory) },
            redundant: has_redundant.then(|| bytes(redundant)),
            text: text.map(|(at, len)| (bytes(at), bytes(len))),
            overhead: bytes(front),
            front: bytes(le64(header, 64)?),
        })
    }
}

/// How grains are located.
enum Found {
    Tables {
        directory: u64,
        redundant: Option<u64>,
    },
    /// By markers: the byte address of each grain, by grain number.
    Markers(BTreeMap<u64, u64>),
}

pub(super) struct Extent<'a> {
    file: &'a [u8],
    header: Header,
    /// Guest bytes.
    len: u64,
    found: Found,
    /// True if the tables are complete, as far as can be determined.
    came: bool,
}

/// Reserved ranges, as byte addresses and lengths; then the bytes of the directory and its copy that the file contains.
type Directories = (Vec<(u64, u64)>, Option<u64>, Option<u64>);

/// The meaning of a grain table entry.
enum Grain {
    Zeros,
    At(u64),
}

impl<'a> Extent<'a> {
    /// Opens the extent of `len` guest bytes in `file`.
    pub(super) fn open(file: &'a [u8], header: Header, len: u64) -> Option<Self> {
        if header.compressed && header.grain > MOST_UNIT {
            return None;
        }
        let found = if header.directory == AT_THE_END {
            match footer(file, &header, len)? {
                Some(footer) => Found::Tables { directory: footer.directory, redundant: footer.redundant },
                // An empty disk needs no grains.
                None if header.markers && len == 0 => Found::Markers(BTreeMap::new()),
                None if header.markers => Found::Markers(scan(file, &header, len)?),
                None => return None,
            }
        } else {
            Found::Tables { directory: header.directory, redundant: header.redundant }
        };
        let mut extent = Self { file, header, len, found, came: true };
        extent.came = extent.tables_came();
        Some(extent)
    }

    /// Returns the reserved ranges, and the used bytes of the directory and its copy.
    fn directories(&self, directory: u64, redundant: Option<u64>) -> Option<Directories> {
        let size = self.directory_bytes();
        let mut taken = vec![(0, 512)];
        taken.extend(self.header.text);
        let there = |at: &u64| {
            let whole = at.checked_add(size).is_some_and(|end| end <= self.file.len() as u64);
            *at != 0 && whole && apart(&taken, *at, size)
        };
        let redundant = redundant.filter(there);
        let primary = Some(directory).filter(there);
        taken.push((primary.or(redundant)?, size));
        Some((taken, primary, redundant))
    }

    fn directory_bytes(&self) -> u64 {
        self.len.div_ceil(self.header.grain * self.header.entries) * 4
    }

    /// Returns whether the tables of a file that ends in zeros are complete, if no marker proves it.
    fn tables_came(&self) -> bool {
        let Found::Tables { directory, redundant } = self.found else { return true };
        if self.header.directory == AT_THE_END || self.marked(directory) || self.len == 0 {
            return true;
        }
        let Some(zeros) = tail::zeros(self.file) else { return true };
        let Some((taken, primary, redundant)) = self.directories(directory, redundant) else { return true };
        let Some(used) = primary.or(redundant) else { return true };
        let copy = redundant.filter(|copy| primary.is_some() && *copy != used);
        let entries = self.header.entries;
        let mut named = tail::Named {
            structures: used.max(copy.unwrap_or_default()) + self.directory_bytes(),
            end: u64::MAX,
            grain: self.header.grain,
            compressed: self.header.compressed,
            copied: copy.is_some(),
            ..tail::Named::default()
        };
        for index in 0..self.directory_bytes() / 4 {
            let number = index * entries;
            let rest = self.len.div_ceil(self.header.grain) - number;
            let of = |directory| self.table(&taken, directory, number);
            let (first, second) = (of(used), copy.and_then(of).flatten());
            // An address that cannot be a table is not counted as present or missing.
            let first = match (first, second) {
                (None, None) => return true,
                (first, _) => first.flatten(),
            };
            let word = |directory: u64| le32(self.file, directory + index * 4) == Some(0);
            named.copies_differ |= copy.is_some_and(|copy| word(copy) != word(used));
            let Some(table) = first.or(second) else { continue };
            named.copied &= first.is_some() && second.is_some();
            let second = second.unwrap_or(table);
            let len = rest.min(entries) * 4;
            named.structures = named.structures.max(table.max(second) + len);
            for slot in 0..rest.min(entries) {
                let entry = |table: u64| le32(self.file, table + slot * 4).unwrap_or_default();
                named.copies_differ |= (entry(table) == 0) != (entry(second) == 0);
                if entry(table) > 1 {
                    named.grains.push(entry(table) * 512);
                }
            }
        }
        let front = if self.header.front <= self.file.len() as u64 { self.header.front } else { 0 };
        named.base = front.max(named.structures.next_multiple_of(512));
        tail::came(self.file, zeros, &named)
    }

    /// Returns the unit that contains byte `at` of the extent, and its start: a grain if compressed, else a sector.
    pub(super) fn unit(&self, at: u64) -> Option<(u64, Vec<u8>)> {
        if !self.came {
            return None;
        }
        let number = at / self.header.grain;
        let grain_start = number * self.header.grain;
        let grain_len = self.header.grain.min(self.len.checked_sub(grain_start)?);
        let (start, len) = if self.header.compressed {
            (grain_start, grain_len)
        } else {
            (at - at % 512, 512.min(self.len - (at - at % 512)))
        };
        let unit = match self.grain(number, grain_len)? {
            Grain::Zeros => vec![0; usize::try_from(len).ok()?],
            Grain::At(place) if self.header.compressed => self.compressed(place, number, len)?,
            Grain::At(place) => slice(self.file, place.checked_add(start - grain_start)?, len)?.to_vec(),
        };
        Some((start, unit))
    }

    fn grain(&self, number: u64, len: u64) -> Option<Grain> {
        match &self.found {
            Found::Markers(grains) => {
                Some(grains.get(&number).map_or(Grain::Zeros, |place| Grain::At(*place)))
            }
            Found::Tables { directory, redundant } => self.by_tables(*directory, *redundant, number, len),
        }
    }

    /// Looks up a grain in the directory. If it, its table or the entry is damaged, uses the redundant directory. An address
    /// inside the header, the descriptor or the directory counts as damaged.
    fn by_tables(&self, directory: u64, redundant: Option<u64>, number: u64, len: u64) -> Option<Grain> {
        let size = self.directory_bytes();
        if number / self.header.entries < PAGE && !self.directory_came(directory, redundant, size)? {
            return None;
        }
        let (taken, primary, redundant) = self.directories(directory, redundant)?;
        let used = primary.or(redundant)?;
        let Some(directory) = primary else {
            return self.judged(&taken, self.table(&taken, used, number)?, number, len);
        };
        let copy = redundant.and_then(|copy| self.table(&taken, copy, number)).filter(Option::is_some);
        match (self.table(&taken, directory, number), copy) {
            (Some(Some(table)), copy) => self
                .judged(&taken, Some(table), number, len)
                .or_else(|| copy.and_then(|copy| self.judged(&taken, copy, number, len))),
            (Some(None) | None, Some(copy)) => self.judged(&taken, copy, number, len),
            (Some(None), None) => Some(Grain::Zeros),
            (None, None) => None,
        }
    }

    /// Returns the byte address of the table for a grain: `Some(None)` if the directory entry is empty, `None` if it is invalid.
    fn table(&self, taken: &[(u64, u64)], directory: u64, number: u64) -> Option<Option<u64>> {
        let index = number / self.header.entries;
        let table = le32(self.file, directory.checked_add(index * 4)?)? * 512;
        if table == 0 {
            return Some(None);
        }
        // Of the last table, only the entries for grains of the disk must be present.
        let grains = self.len.div_ceil(self.header.grain) - index * self.header.entries;
        let size = grains.min(self.header.entries) * 4;
        slice(self.file, table, size).filter(|_| apart(taken, table, size))?;
        Some(Some(table))
    }

    /// Returns whether a marker precedes a directory or table: it does after the leading metadata.
    fn marked(&self, at: u64) -> bool {
        self.header.markers && at > self.header.overhead
    }

    /// Returns whether the directory is certainly complete: neither its marker nor any of its sectors is all zeros, unless it
    /// names the table directly before it.
    fn directory_came(&self, directory: u64, redundant: Option<u64>, size: u64) -> Option<bool> {
        if !self.marked(directory) || slice(self.file, directory, size).is_none() || size == 0 {
            return Some(true);
        }
        let marker = slice(self.file, directory - 512, 512)?;
        let named = self.header.directory != directory || (le32(marker, 8)? == 0 && le32(marker, 12)? == 2);
        let blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if blank(marker) || !named {
            return Some(false);
        }
        let before = directory - 512;
        let bytes = slice(self.file, directory, size)?;
        if size > PAGE * 4 || before <= self.header.overhead || !bytes.chunks(512).any(blank) {
            return Some(true);
        }
        let table = self.header.entries * 4;
        let reaches = |end: u64| end <= directory && end.saturating_add(table.max(512)) >= before;
        let tables = |at: u64| {
            entries(self.file, at, size)
                .into_iter()
                .any(|(_, place)| reaches(place + table) || reaches(place))
        };
        let copy = redundant.is_some_and(|copy| reaches(copy.saturating_add(size)) || tables(copy));
        Some(copy || tables(directory))
    }

    fn judged(&self, taken: &[(u64, u64)], table: Option<u64>, number: u64, len: u64) -> Option<Grain> {
        let Some(table) = table else { return Some(Grain::Zeros) };
        let grains =
            self.len.div_ceil(self.header.grain) - number / self.header.entries * self.header.entries;
        let of_table = (table, grains.min(self.header.entries) * 4);
        if self.marked(table) {
            let blank =
                |at, len| slice(self.file, at, len).is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0));
            // If tables have markers, each table describes the grains before it.
            if blank(table - 512, 512) || blank(table, of_table.1) {
                return None;
            }
        }
        let entry = le32(self.file, table.checked_add(number % self.header.entries * 4)?)?;
        match entry {
            0 => Some(Grain::Zeros),
            1 if self.header.zeroed => Some(Grain::Zeros),
            1 => None,
            sector => {
                let needed = match (self.header.compressed, self.header.markers) {
                    (true, true) => MARKER,
                    (true, false) => 1,
                    (false, _) => len,
                };
                slice(self.file, sector * 512, needed)
                    .filter(|_| {
                        apart(taken, sector * 512, needed) && apart(&[of_table], sector * 512, needed)
                    })
                    .map(|_| Grain::At(sector * 512))
            }
        }
    }

    fn compressed(&self, place: u64, number: u64, len: u64) -> Option<Vec<u8>> {
        let stream = if self.header.markers {
            let lba = le64(self.file, place)?;
            let size = le32(self.file, place.checked_add(8)?)?;
            let right = lba.checked_mul(512)? == number * self.header.grain && size != 0;
            slice(self.file, place.checked_add(MARKER)?, size).filter(|_| right)?
        } else {
            up_to(self.file, place, u64::MAX)
        };
        // The disk ends within its last grain: some writers pad the grain, others store only the disk's part.
        let whole = codec::inflate_zlib(stream, usize::try_from(self.header.grain).ok()?);
        let mut grain = whole.or_else(|| codec::inflate_zlib(stream, usize::try_from(len).ok()?))?;
        grain.truncate(usize::try_from(len).ok()?);
        Some(grain)
    }
}

/// Returns whether the `len` bytes at `at` overlap none of these ranges.
fn apart(taken: &[(u64, u64)], at: u64, len: u64) -> bool {
    let end = at.saturating_add(len);
    !taken.iter().any(|(start, bytes)| at.max(*start) < end.min(start.saturating_add(*bytes)))
}

/// Finds the footer: the last non-zero sector, if a footer marker precedes it; `Some(None)` if there is none. A valid
/// footer that contradicts the header makes the image unreadable.
fn footer(file: &[u8], header: &Header, len: u64) -> Option<Option<Header>> {
    let Some((marker_at, at)) = last_sectors(file) else { return Some(None) };
    let file_len = file.len() as u64;
    let seen = file_len <= HEAD + TAIL || marker_at >= file_len - TAIL;
    let marked = le32(file, marker_at + 8)? == 0 && le32(file, marker_at + 12)? == 3;
    let Some(footer) = Header::parse(slice(file, at, 512)?).filter(|_| seen && marked) else {
        return Some(None);
    };
    if footer.directory == AT_THE_END {
        return Some(None);
    }
    let measures = |header: &Header| {
        let Header { capacity, grain, entries, compressed, markers, zeroed, .. } = header.clone();
        (capacity, grain, entries, compressed, markers, zeroed)
    };
    if measures(&footer) != measures(header) {
        return None;
    }
    let size = len.div_ceil(header.grain * header.entries) * 4;
    let before = footer.directory.checked_add(size).is_some_and(|end| end <= marker_at);
    Some((before && (footer.directory != 0 || size == 0)).then_some(footer))
}

/// Returns the byte addresses of the last non-zero sector and the one before it.
fn last_sectors(file: &[u8]) -> Option<(u64, u64)> {
    let mut at = (file.len() as u64 / 512).checked_sub(1)? * 512;
    while slice(file, at, 512)?.iter().all(|byte| *byte == 0) {
        at = at.checked_sub(512)?;
    }
    Some((at.checked_sub(512)?, at))
}

/// A non-zero entry of a directory or table: grain or table number, and byte address.
type Entries = Vec<(u64, u64)>;

/// Returns the non-zero entries of a table of `len` bytes.
fn entries(file: &[u8], at: u64, len: u64) -> Entries {
    let words = up_to(file, at, len).as_chunks::<4>().0.iter();
    let sectors = words.map(|word| u64::from(u32::from_le_bytes(*word)));
    (0..)
        .zip(sectors)
        .filter(|(_, sector)| *sector != 0)
        .map(|(index, sector)| (index, sector * 512))
        .collect()
}

/// Finds all grains by scanning the markers in file order. The stream is complete if every directory names exactly these
/// grains, through complete tables.
fn scan(file: &[u8], header: &Header, len: u64) -> Option<BTreeMap<u64, u64>> {
    let mut grains = BTreeMap::new();
    let mut tables: BTreeMap<u64, (u64, Entries)> = BTreeMap::new();
    let mut named: Vec<BTreeMap<u64, u64>> = Vec::new();
    let mut at = header.overhead;
    while at < file.len() as u64 {
        let (value, size, kind) = (le64(file, at)?, le32(file, at + 8)?, le32(file, at + 12)?);
        let blank = up_to(file, at, 512).iter().all(|byte| *byte == 0);
        let room = || value.checked_mul(512);
        let len = match (size, kind) {
            (0, 0) if !named.is_empty() => {
                up_to(file, at + 512, u64::MAX).iter().all(|byte| *byte == 0).then_some(())?;
                break;
            }
            // Padding between the metadata and the first grain.
            (0, 0) if blank && grains.is_empty() => 512,
            (0, 1) => {
                let len = room()?.min(header.entries * 4);
                let there = up_to(file, at + 512, len).len() as u64 / 4;
                tables.insert(at + 512, (there, entries(file, at + 512, len)));
                room()?.checked_add(512)?
            }
            (0, 2) => {
                named.push(named_by(file, header, len, &tables, at + 512, room()?)?);
                room()?.checked_add(512)?
            }
            (0, 3) => room()?.checked_add(512)?,
            (0, _) => return None,
            (size, _) => {
                let on_grain = value < header.capacity && value * 512 % header.grain == 0;
                slice(file, at + MARKER, size).filter(|_| on_grain)?;
                // One of the two grains was replaced, and only a table says which.
                if grains.insert(value * 512 / header.grain, at).is_some() {
                    return None;
                }
                MARKER + size
            }
        };
        at = at.checked_add(len)?.checked_next_multiple_of(512)?;
    }
    let complete = !named.is_empty() && named.iter().all(|named| *named == grains);
    complete.then_some(grains)
}

/// Returns the grains that the directory at `at` names.
fn named_by(
    file: &[u8],
    header: &Header,
    len: u64,
    tables: &BTreeMap<u64, (u64, Entries)>,
    at: u64,
    room: u64,
) -> Option<BTreeMap<u64, u64>> {
    let count = len.div_ceil(header.grain * header.entries);
    slice(file, at, (count * 4).min(room)).filter(|_| count * 4 <= room)?;
    let mut named = BTreeMap::new();
    for (index, table) in entries(file, at, count * 4) {
        let first = index * header.entries;
        let (there, table) = tables.get(&table)?;
        let used = len.div_ceil(header.grain).saturating_sub(first).min(header.entries);
        if *there < used {
            return None;
        }
        let grain = |(_, place): &&(u64, u64)| !(header.zeroed && *place == 512);
        for (slot, place) in table.iter().filter(grain) {
            // An index past the end of a table belongs to the next table.
            if named.insert(first + slot, *place).is_some() {
                return None;
            }
        }
    }
    Some(named)
}

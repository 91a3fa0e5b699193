//! Grain directories: the locations of an extent's grain tables.
//!
//! ```text
//! directory ─▶ entry 0 ─▶ grain table ─▶ grain, grain, …
//!              entry 1 ─▶ 0: no table, nothing there
//! redundant ─▶ the same again, its tables too
//! ```
//!
//! A directory is read in pages, so that a directory of any size needs bounded memory and a run of empty entries is
//! cheap. If there is a redundant directory, both are read together and compared. An entry that only one of them has
//! was lost by the other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diskferry_core::internal::is_zero;
use diskferry_core::{Error, Result, Source, StoredOffset, StoredRange, Warning, Warnings};

use super::header::{Marker, SECTOR};
use crate::table_cache::{Tables, shared_free};

/// Bytes of a page of a directory.
const PAGE_BYTES: u64 = 256 << 10;

/// The formats of directory and table entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entries {
    /// Sector addresses of 32 bits: hosted sparse extents and COWD.
    Sectors {
        /// 1 means a grain of zeros.
        zeroed: bool,
    },
    /// Numbers of 64 bits with a type in the top bits: seSparse.
    Typed {
        /// Byte address of the first grain table.
        tables: u64,
        /// Byte address of the first grain.
        grains: u64,
    },
}

/// The meaning of a grain table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grain {
    /// Not allocated.
    Hole,
    /// Zeros.
    Zero,
    /// At this byte address.
    At(u64),
}

impl Entries {
    /// Bytes of an entry.
    pub(crate) const fn width(self) -> u64 {
        match self {
            Self::Sectors { .. } => 4,
            Self::Typed { .. } => 8,
        }
    }

    /// The entry with that index, or `None` past the end.
    pub(crate) fn get(self, table: &[u8], index: u64) -> Option<u64> {
        let index = usize::try_from(index).ok()?;
        match self {
            Self::Sectors { .. } => {
                let (entries, _) = table.as_chunks::<4>();
                entries.get(index).map(|bytes| u64::from(u32::from_le_bytes(*bytes)))
            }
            Self::Typed { .. } => {
                let (entries, _) = table.as_chunks::<8>();
                entries.get(index).map(|bytes| u64::from_le_bytes(*bytes))
            }
        }
    }

    /// Byte address of the table that a directory entry names; `None` if there is no table.
    ///
    /// # Errors
    /// `malformed`; the caller adds the entry's index.
    fn table(self, entry: u64, table_bytes: u64) -> Result<Option<u64>> {
        let beyond = || Error::malformed(format!("{entry:#x} is beyond the address space"));
        match self {
            _ if entry == 0 => Ok(None),
            Self::Sectors { .. } => entry.checked_mul(SECTOR).map(Some).ok_or_else(beyond),
            Self::Typed { tables, .. } => {
                if entry >> 32 != 0x1000_0000 {
                    return Err(Error::malformed(format!(
                        "{entry:#x} does not have the type of an allocated table"
                    )));
                }
                let number = entry & 0xffff_ffff;
                let offset = number.checked_mul(table_bytes).and_then(|bytes| bytes.checked_add(tables));
                offset.map(Some).ok_or_else(beyond)
            }
        }
    }

    /// The meaning of a grain table entry.
    ///
    /// # Errors
    /// `malformed`; the caller adds the entry's index.
    pub(crate) fn grain(self, entry: u64, grain_bytes: u64) -> Result<Grain> {
        match self {
            _ if entry == 0 => Ok(Grain::Hole),
            Self::Sectors { zeroed: true } if entry == 1 => Ok(Grain::Zero),
            Self::Sectors { zeroed: false } if entry == 1 => Err(Error::malformed(
                "it is 1, a grain of zeros, but the header does not declare zeroed grains",
            )),
            Self::Sectors { .. } => Ok(Grain::At(entry.saturating_mul(SECTOR))),
            Self::Typed { grains, .. } => match entry >> 60 {
                // Unmapped by the guest, and zeroed.
                1 | 2 => Ok(Grain::Zero),
                3 => {
                    let number =
                        ((entry & 0x0fff_0000_0000_0000) >> 48) | ((entry & 0x0000_ffff_ffff_ffff) << 12);
                    let offset = number.checked_mul(grain_bytes).and_then(|bytes| bytes.checked_add(grains));
                    offset
                        .map(Grain::At)
                        .ok_or_else(|| Error::malformed(format!("{entry:#x} is beyond the address space")))
                }
                _ => Err(Error::malformed(format!("{entry:#x} has an unknown type"))),
            },
        }
    }
}

/// Which directories and tables of an extent have a marker in the sector before them. Without it, a lost part of the
/// image that reads as zeros would be an empty directory or table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Markers {
    /// Those that begin after this byte address, the first possible marker. Tables before it have none.
    pub(crate) after: u64,
    /// The header names the directory, and there is no footer to show that the object has its end.
    pub(crate) by_header: bool,
}

/// Checks the sector before the directory or table `name` at byte address `at`. A marker is never zeros. Other contents
/// are not compared, because some writers omit markers.
///
/// # Errors
/// `truncated`, with the offset of the marker.
pub(crate) fn check_marker(marker: &[u8], name: &str, at: u64) -> Result<()> {
    if !is_zero(marker) {
        return Ok(());
    }
    Err(Error::truncated(format!(
        "the marker of the {name} at {at} reads as zeros: a part of the image is missing"
    ))
    .at(at.saturating_sub(SECTOR)))
}

/// The locations and sizes of an extent's directories.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryLayout {
    /// Byte address of the directory.
    pub(crate) directory: u64,
    /// Byte address of the redundant one.
    pub(crate) redundant: Option<u64>,
    /// Bytes of a grain, a power of two.
    pub(crate) grain_bytes: u64,
    /// Entries of a table.
    pub(crate) table_entries: u64,
    /// The format of entries.
    pub(crate) entries: Entries,
    /// The header field that names the directory, and its offset.
    pub(crate) field: (&'static str, u64),
    /// Ranges that directories, tables and grains must not overlap, with their names.
    pub(crate) taken: Vec<(StoredRange, &'static str)>,
    /// Which directories and tables have markers, if any have.
    pub(crate) markers: Option<Markers>,
}

impl DirectoryLayout {
    /// True if the directory has a marker, which shows that the object has its end.
    pub(crate) fn directory_is_marked(&self) -> bool {
        self.marker(self.directory).is_some()
    }

    /// The marker of the directory or table that begins at this byte address, if it has one.
    fn marker(&self, start: u64) -> Option<StoredRange> {
        self.markers.filter(|markers| start > markers.after)?;
        StoredRange::new(StoredOffset::new(start.checked_sub(SECTOR)?), SECTOR)
    }

    /// Bytes of a grain table.
    pub(crate) const fn table_bytes(&self) -> u64 {
        self.table_entries.saturating_mul(self.entries.width())
    }

    /// Guest bytes that a grain table covers.
    pub(crate) const fn span(&self) -> u64 {
        self.grain_bytes.saturating_mul(self.table_entries)
    }

    /// Checks that `range` does not overlap a range that is in use.
    ///
    /// # Errors
    /// `malformed`; the caller adds the name and offset of `range`.
    pub(crate) fn check_apart(&self, range: StoredRange) -> Result<()> {
        match self.taken.iter().find(|(taken, _)| taken.intersection(range).is_some()) {
            Some((taken, name)) => {
                Err(Error::malformed(format!("it points to {range}, inside {name} at {taken}")))
            }
            None => Ok(()),
        }
    }
}

/// The directory of an extent.
pub(crate) struct Directory {
    source: Arc<dyn Source>,
    layout: DirectoryLayout,
    /// Guest bytes of the extent.
    bytes: u64,
    /// Entries in use.
    len: u64,
    warnings: Warnings,
    named: Mutex<Named>,
}

/// Number of tables that the pages read so far name.
#[derive(Debug, Default)]
struct Named {
    pages: BTreeSet<u64>,
    tables: u64,
}

/// The location of a grain table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TableAt {
    /// The table.
    pub(crate) range: StoredRange,
    /// Its redundant copy.
    pub(crate) redundant: Option<StoredRange>,
    /// Its marker, if it has one: the sector before it.
    pub(crate) marker: Option<StoredRange>,
}

impl TableAt {
    /// The table with its marker.
    pub(crate) fn stored(&self) -> StoredRange {
        let start = self.marker.map_or(self.range.start(), |marker| marker.start());
        StoredRange::between(start, self.range.end())
    }
}

/// Some entries of a directory, and of its redundant copy.
pub(crate) struct Page {
    /// Index of the first.
    pub(crate) first: u64,
    /// Index after the last.
    pub(crate) end: u64,
    start: u64,
    primary: Bytes,
    redundant: Option<Bytes>,
}

impl Directory {
    /// Opens the directory of an extent of `bytes` guest bytes. If only one of the two directories is inside the
    /// object, that one is used.
    ///
    /// # Errors
    /// `truncated` if no directory is in the object, `malformed` if it has no address or overlaps other metadata.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        mut layout: DirectoryLayout,
        bytes: u64,
        warnings: Warnings,
    ) -> Result<Self> {
        let len = bytes.div_ceil(layout.span().max(1));
        let size = len.saturating_mul(layout.entries.width());
        let (field, place) = layout.field;
        let check = |start: u64| {
            let range = StoredRange::new(StoredOffset::new(start), size);
            let range = range.filter(|range| range.end().get() <= source.len()).ok_or_else(|| {
                Error::truncated(format!(
                    "{field}: the grain directory has {size} bytes at {start}, and the object ends at {}",
                    source.len()
                ))
                .at(place)
            })?;
            if start == 0 {
                return Err(Error::malformed(format!("{field} is 0: there is no grain directory")).at(place));
            }
            layout.check_apart(range).map(|()| range).map_err(|error| error.context(field).at(place))
        };
        let mut taken = Vec::new();
        if len != 0 {
            let redundant = layout.redundant.and_then(|start| check(start).ok());
            taken = match (check(layout.directory), redundant) {
                (Ok(range), redundant) => {
                    let redundant = redundant.filter(|redundant| redundant.start() != range.start());
                    std::iter::once(range).chain(redundant).collect()
                }
                (Err(_), Some(redundant)) => {
                    warnings.add(redundant_used(format!(
                        "the grain directory at {} is outside the object or overlaps other metadata: the redundant \
                         one is used",
                        layout.directory
                    )));
                    vec![redundant]
                }
                (Err(error), None) => return Err(error),
            };
        }
        let starts = |index: usize| taken.get(index).map(|range: &StoredRange| range.start().get());
        layout.directory = starts(0).unwrap_or(layout.directory);
        layout.redundant = starts(1);
        // The redundant directory is a fallback, so its location does not restrict what the first one names.
        layout.taken.extend(taken.first().map(|range| (*range, "the grain directory")));
        Ok(Self { source, layout, bytes, len, warnings, named: Mutex::default() })
    }

    /// Number of its entries in use.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Its end, or the end of the redundant copy, whichever is later.
    pub(crate) fn end(&self) -> u64 {
        let start = self.layout.redundant.map_or(self.layout.directory, |at| at.max(self.layout.directory));
        start.saturating_add(self.len.saturating_mul(self.layout.entries.width()))
    }

    /// True if entry `index` is 0 in exactly one of the two copies.
    pub(crate) fn copies_differ(&self, page: &Page, index: u64) -> bool {
        let relative = index.saturating_sub(page.first);
        let empty = |bytes: &Bytes| self.layout.entries.get(bytes, relative).unwrap_or_default() == 0;
        page.redundant.as_ref().is_some_and(|redundant| empty(redundant) != empty(&page.primary))
    }

    /// Its layout.
    pub(crate) fn layout(&self) -> &DirectoryLayout {
        &self.layout
    }

    /// Loads the page with entry `index`, and `ahead` more pages after it, into `tables`.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn page(&self, tables: &Tables, index: u64, ahead: u64) -> Result<Page> {
        let width = self.layout.entries.width();
        let per_page = PAGE_BYTES.checked_div(width).unwrap_or(1).max(1);
        let number = index.checked_div(per_page).unwrap_or_default();
        let mut ranges = Vec::new();
        let mut bounds = None;
        for number in number..=number.saturating_add(ahead) {
            let first = number.saturating_mul(per_page);
            let end = first.saturating_add(per_page).min(self.len);
            if first >= end {
                break;
            }
            bounds.get_or_insert((first, end));
            for start in std::iter::once(self.layout.directory).chain(self.layout.redundant) {
                let from = start.saturating_add(first.saturating_mul(width));
                let to = start.saturating_add(end.saturating_mul(width));
                ranges.push(StoredRange::between(StoredOffset::new(from), StoredOffset::new(to)));
            }
        }
        let marker = self.layout.marker(self.layout.directory).filter(|_| number == 0 && self.len > 0);
        ranges.extend(marker);
        let mut loaded = tables.load(&ranges).await?;
        let marker = marker.and_then(|_| loaded.pop());
        let mut loaded = loaded.into_iter();
        let missing = || Error::internal(format!("page {number} of a grain directory was not loaded"));
        let (first, end) = bounds.ok_or_else(missing)?;
        let page = Page {
            first,
            end,
            start: ranges.first().map_or(0, |range| range.start().get()),
            primary: loaded.next().ok_or_else(missing)?,
            redundant: match self.layout.redundant {
                Some(_) => Some(loaded.next().ok_or_else(missing)?),
                None => None,
            },
        };
        self.check_sharing(number, &page)?;
        if let Some(marker) = marker {
            self.check_directory(&marker, &page)?;
        }
        Ok(page)
    }

    /// Checks the marker of the directory, and that no sector of the directory is missing.
    fn check_directory(&self, marker: &[u8], page: &Page) -> Result<()> {
        let start = self.layout.directory;
        check_marker(marker, "grain directory", start)?;
        // Only this marker shows that the object has its end.
        if self.layout.markers.is_some_and(|markers| markers.by_header)
            && !matches!(Marker::parse(marker), Ok(Marker::Directory(_)))
        {
            return Err(Error::truncated(format!(
                "the header names a grain directory at {start}, and the sector before it is not its marker"
            ))
            .at(start.saturating_sub(SECTOR)));
        }
        // Writers store the last table directly before the directory. So a sector of zeros in the directory was lost,
        // unless that table is absent or the directory names it.
        let sector = usize::try_from(SECTOR).unwrap_or(usize::MAX);
        let first = self.layout.markers.map_or(0, |markers| markers.after);
        let before = start.saturating_sub(SECTOR);
        if page.end < self.len || before <= first || !page.primary.chunks(sector).any(is_zero) {
            return Ok(());
        }
        let tables = (page.first..page.end).filter_map(|index| self.table(page, index).ok().flatten());
        let ends = tables.flat_map(|at| std::iter::once(at.range).chain(at.redundant));
        let redundant = self
            .layout
            .redundant
            .map(|start| start.saturating_add(self.len.saturating_mul(self.layout.entries.width())));
        let mut ends = ends.map(|range| range.end().get()).chain(redundant);
        // The last table may be shorter.
        let table = self.layout.table_bytes().max(SECTOR);
        if ends.any(|end| end <= start && end.saturating_add(table) >= before) {
            return Ok(());
        }
        Err(Error::truncated(format!(
            "the grain directory at {start} has a sector of zeros and does not name the table before it: a part of the \
             image is missing"
        ))
        .at(start))
    }

    /// Checks that the pages read so far do not name many more tables than the object can hold.
    ///
    /// Entries may share a table: its grains are then content once per entry. But a small object whose entries all
    /// share one table would take days to walk. Without sharing, all tables fit in the object.
    fn check_sharing(&self, number: u64, page: &Page) -> Result<()> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.pages.insert(number) {
            let tables = (page.first..page.end).filter(|index| !self.is_empty(page, *index)).count();
            named.tables = named.tables.saturating_add(u64::try_from(tables).unwrap_or_default());
        }
        // The last table may be shorter.
        let bytes = named.tables.saturating_sub(1).saturating_mul(self.layout.table_bytes());
        let free = shared_free(self.layout.entries.width(), self.layout.grain_bytes);
        if bytes > free.max(self.source.len()) {
            return Err(Error::malformed(format!(
                "{} entries of the grain directory name tables, more than an object of {} bytes can hold: many share one",
                named.tables,
                self.source.len()
            ))
            .at(page.start));
        }
        Ok(())
    }

    fn is_empty(&self, page: &Page, index: u64) -> bool {
        let relative = index.saturating_sub(page.first);
        let entry = |bytes: &Bytes| self.layout.entries.get(bytes, relative).unwrap_or_default();
        entry(&page.primary) == 0 && page.redundant.as_ref().is_none_or(|bytes| entry(bytes) == 0)
    }

    /// Number of empty entries from `index` on, within the page.
    pub(crate) fn empty_run(&self, page: &Page, index: u64) -> u64 {
        let run = (index..page.end).take_while(|index| self.is_empty(page, *index)).count();
        u64::try_from(run).unwrap_or_default()
    }

    /// The location of the table of entry `index`, or `None` if there is none.
    ///
    /// # Errors
    /// `malformed`, `truncated` with the offset of the entry.
    pub(crate) fn table(&self, page: &Page, index: u64) -> Result<Option<TableAt>> {
        let relative = index.saturating_sub(page.first);
        let place = page.start.saturating_add(relative.saturating_mul(self.layout.entries.width()));
        let find = |bytes: &Bytes| self.locate(bytes, relative, index);
        let primary = find(&page.primary);
        let redundant = page.redundant.as_ref().map(find).and_then(Result::ok).flatten();
        match (primary, redundant) {
            (Ok(Some(range)), redundant) => {
                Ok(Some(TableAt { range, redundant, marker: self.layout.marker(range.start().get()) }))
            }
            (Ok(None), None) => Ok(None),
            (Err(error), None) => Err(error.at(place)),
            (Ok(None) | Err(_), Some(range)) => {
                self.warnings.add(redundant_used(format!(
                    "entry {index} of the grain directory, at {place}, is damaged: the redundant one is used"
                )));
                let marker = self.layout.marker(range.start().get());
                Ok(Some(TableAt { range, redundant: None, marker }))
            }
        }
    }

    /// Warns that the redundant copy of a table is used.
    pub(crate) fn table_replaced(&self, table: TableAt) {
        self.warnings.add(redundant_used(format!(
            "the grain table at {} is damaged: the redundant one is used",
            table.range.start()
        )));
    }

    fn locate(&self, bytes: &Bytes, relative: u64, index: u64) -> Result<Option<StoredRange>> {
        let entry = self.layout.entries.get(bytes, relative).unwrap_or_default();
        let named = |error: Error| error.context(format_args!("grain directory entry {index}"));
        let Some(start) = self.layout.entries.table(entry, self.layout.table_bytes()).map_err(named)? else {
            return Ok(None);
        };
        // The last table only needs the entries for grains of the disk.
        let rest = self.bytes.saturating_sub(index.saturating_mul(self.layout.span()));
        let used = rest.div_ceil(self.layout.grain_bytes.max(1)).min(self.layout.table_entries);
        let range =
            StoredRange::new(StoredOffset::new(start), used.saturating_mul(self.layout.entries.width()));
        match range {
            Some(range) if range.end().get() <= self.source.len() => {
                self.layout.check_apart(range).map(|()| Some(range)).map_err(named)
            }
            _ => Err(Error::truncated(format!(
                "grain directory entry {index} names a table at {start}, and the object ends at {}",
                self.source.len()
            ))),
        }
    }
}

fn redundant_used(message: String) -> Warning {
    Warning::new("redundant_directory", message)
}

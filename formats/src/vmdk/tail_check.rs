//! Checks that the tables of a sparse extent are complete if the object ends in zeros.
//!
//! A download that stopped early leaves zeros from some byte to the end of the object. If that byte is after all
//! directories and tables, only data is lost, which nothing in the format shows. If it is in or before them, entries
//! are lost, and lost entries read as holes:
//!
//! ```text
//! header │ directory │ tables │ grain │ grain │ …
//!                     ▲ zeros from here on: the grains whose entries were stored here would be holes
//! ```
//!
//! So an object whose last sector is zeros is checked once, before its map is first used. If data follows the tables,
//! they are complete. If not, one of these must hold:
//!
//! * both copies of the tables name the same grains, and at least one;
//! * the grains that the tables name fill the object, as writers leave it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use bytes::Bytes;
use diskferry_core::{Error, HeadTail, Result, Source, StoredOffset, StoredRange, Warnings};
use futures_util::lock::Mutex;

use super::directory::{Directory, Grain, TableAt};
use super::header::SECTOR;
use crate::table_cache::Tables;
use crate::zero_tail::{SearchSteps, ZeroTail, data_end, has_data, warn_zero_tail};

/// Bytes that are searched first for data after the tables: the first grain.
const FIRST_SEARCHED: u64 = 64 << 10;
/// Most bytes after the tables that are searched if the first grain is zeros.
const MOST_SEARCHED: u64 = 8 << 20;
/// Requests of one length for both.
const ONE_LENGTH: SearchSteps = SearchSteps { first: 4 << 20, longest: 4 << 20 };
/// Most bytes before the end of the tables that are searched for the start of the zeros.
const SEARCHED: u64 = 1 << 20;
/// Bytes of tables that are loaded at once, and the same number of bytes of their copies.
const TABLES_AT_ONCE: u64 = 2 << 20;
/// Bytes at the end of the used part of the object that must all be mapped data and zeros to cause a warning.
const WARNED: u64 = 64 << 10;
/// Sectors of them: the bits of a number.
const WARNED_SECTORS: u64 = WARNED / SECTOR;

const _: () = assert!(WARNED_SECTORS == u128::BITS as u64);

/// Locations of the tables and grains of an extent. Addresses from a header are used if they are inside the object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrangement {
    /// Grains follow all tables, from this byte address on or later.
    TablesFirst(u64),
    /// Grains and tables are mixed, from this byte address on, where the directory ends.
    Mixed(u64),
    /// Grains begin at this byte address.
    GrainsAt(u64),
}

/// The header's information about which parts of the object are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StorageUse {
    /// Where tables and grains are.
    pub(crate) arrangement: Arrangement,
    /// End of the used part of the object. By default, this is the end of the object.
    pub(crate) end: u64,
    /// Number of allocated tables, if the header has it.
    pub(crate) tables: Option<u64>,
    /// Grains are compressed, so none of them is zeros.
    pub(crate) compressed: bool,
}

/// An extent in an object whose last sector is zeros.
pub(crate) struct TailCheck {
    source: Arc<dyn Source>,
    zeros: ZeroTail,
    used: StorageUse,
    warnings: Warnings,
    checked: Mutex<bool>,
    /// Which of the last sectors of the used part are mapped as data.
    mapped: SyncMutex<u128>,
}

impl TailCheck {
    /// The extent in `file`, or `None` if the object does not end in zeros.
    pub(crate) fn suspect(
        file: &HeadTail,
        source: Arc<dyn Source>,
        used: StorageUse,
        warnings: Warnings,
    ) -> Option<Self> {
        let zeros = ZeroTail::of(file);
        let used = StorageUse { end: used.end.min(source.len()), ..used };
        let (checked, mapped) = (Mutex::new(false), SyncMutex::new(0));
        zeros.has_a_sector().then_some(Self { source, zeros, used, warnings, checked, mapped })
    }

    /// Records that this range is mapped as data. Warns once the end of the used part is known to be mapped and zeros.
    pub(crate) fn note_data(&self, range: StoredRange) {
        let Some(start) = self.used.end.checked_sub(WARNED) else { return };
        if start < self.zeros.start || range.end().get() <= start {
            return;
        }
        let sector = |at: u64| at.saturating_sub(start).checked_div(SECTOR).unwrap_or_default();
        let first = sector(range.start().get());
        let last = sector(range.end().get().saturating_sub(1)).min(WARNED_SECTORS.saturating_sub(1));
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        for sector in first..=last {
            *mapped |=
                u32::try_from(sector).ok().and_then(|sector| 1u128.checked_shl(sector)).unwrap_or_default();
        }
        if *mapped == u128::MAX {
            warn_zero_tail(&self.warnings, self.zeros.len);
        }
    }

    /// Searches for evidence that the directories and tables are complete. Once found, nothing more is read.
    ///
    /// # Errors
    /// `truncated`, with the offset where the zeros begin; the `source_*` codes.
    pub(crate) async fn check(&self, directory: &Directory, tables: &Tables) -> Result<()> {
        let mut checked = self.checked.lock().await;
        if !*checked && directory.len() > 0 {
            // An invalid entry is reported when it is mapped.
            if let Some(structures) = structures_end(directory, tables).await?
                && !self.data_after(structures).await?
            {
                self.check_all(directory, tables, structures).await?;
            }
        }
        *checked = true;
        Ok(())
    }

    /// Whether non-zero data follows `structures`, within the range that is searched.
    async fn data_after(&self, structures: u64) -> Result<bool> {
        let from = structures.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        if self.zeros.start > from && self.zeros.start_known {
            return Ok(true);
        }
        let end = self.zeros.start;
        let first = match self.used.arrangement {
            Arrangement::TablesFirst(at) | Arrangement::GrainsAt(at) if at < end => at.max(from),
            _ => from,
        };
        let range = |from: u64, to: u64| StoredRange::between(StoredOffset::new(from), StoredOffset::new(to));
        let first_grain = range(first.min(end), end.min(first.saturating_add(FIRST_SEARCHED)));
        if has_data(&*self.source, first_grain, ONE_LENGTH).await? {
            return Ok(true);
        }
        let end = end.min(from.saturating_add(MOST_SEARCHED));
        has_data(&*self.source, range(from.min(end), end), ONE_LENGTH).await
    }

    /// The sector where the zeros begin that extend to the end of the structures at `end`, or past it.
    async fn zeros_begin(&self, end: u64) -> Result<u64> {
        let end = end.min(self.source.len());
        let from = end.saturating_sub(SEARCHED);
        let range = StoredRange::between(StoredOffset::new(from), StoredOffset::new(end));
        let last = data_end(&*self.source, range).await?.unwrap_or(range.start());
        Ok(last.get().checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX))
    }

    /// Checks that all copies of the tables name the same grains, and enough of them to fill the object.
    async fn check_all(&self, directory: &Directory, tables: &Tables, structures: u64) -> Result<()> {
        let up = |at: u64| at.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        let inside = |at: u64| if at <= self.source.len() { at } else { 0 };
        let base = match self.used.arrangement {
            Arrangement::TablesFirst(at) => inside(at).max(up(structures)),
            Arrangement::Mixed(at) => inside(at).max(up(directory.end())),
            Arrangement::GrainsAt(at) => at,
        };
        if base.saturating_add(SECTOR) > self.used.end {
            // There is no space for a grain: the image is empty.
            return Ok(());
        }
        let zeros = self.zeros_begin(structures).await?;
        let mut sum = TableTotals { base, zeros, copied: true, ..TableTotals::default() };
        let at_once = TABLES_AT_ONCE.checked_div(directory.layout().table_bytes()).unwrap_or(1).max(1);
        let at_once = usize::try_from(at_once).unwrap_or(1);
        let mut index = 0;
        while index < directory.len() {
            let page = directory.page(tables, index, 0).await?;
            // Entries that share a table are read once per page.
            let mut seen = HashSet::new();
            let mut named = Vec::new();
            for index in index..page.end {
                sum.copies_differ |= directory.copies_differ(&page, index);
                let Some(at) = directory.table(&page, index).ok().flatten() else { continue };
                sum.tables = sum.tables.saturating_add(1);
                if seen.insert(at.range.start()) {
                    named.push(at);
                }
            }
            for at in named.chunks(at_once) {
                sum.add(directory, tables, at).await?;
            }
            index = page.end;
        }
        // Zeros would have destroyed entries of one copy only.
        let agreed = sum.grains > 0 && sum.copied && directory.layout().redundant.is_some();
        let filled = base.saturating_add(sum.bytes).saturating_add(SECTOR) > self.used.end;
        let complete = !sum.copies_differ && self.used.tables.is_none_or(|allocated| sum.tables >= allocated);
        // An extent without tables according to its header is empty, however large the object is.
        let empty = self.used.tables == Some(0) && sum.tables == 0;
        let lost_grain = self.used.compressed && sum.grain_in_zeros;
        if complete && (agreed || filled || empty) && !lost_grain {
            if sum.grains > 0 {
                warn_zero_tail(&self.warnings, self.used.end.saturating_sub(structures).min(self.zeros.len));
            }
            return Ok(());
        }
        Err(Error::truncated(format!(
            "the object reads as zeros from {} on, and its grain tables name {} grains, which do not fill it up to {}: \
             entries of them are missing",
            sum.zeros, sum.grains, self.used.end
        ))
        .at(sum.zeros))
    }
}

/// Where the last directory or table ends; `None` if an entry of the directory cannot be right.
async fn structures_end(directory: &Directory, tables: &Tables) -> Result<Option<u64>> {
    let mut last = directory.end();
    let mut index = 0;
    while index < directory.len() {
        let page = directory.page(tables, index, 0).await?;
        for index in index..page.end {
            match directory.table(&page, index) {
                Ok(Some(at)) => {
                    let redundant = at.redundant.map_or(0, |range| range.end().get());
                    last = last.max(at.range.end().get()).max(redundant);
                }
                Ok(None) => {}
                Err(_) => return Ok(None),
            }
        }
        index = page.end;
    }
    Ok(Some(last))
}

/// The grains that all tables name.
#[derive(Default)]
struct TableTotals {
    base: u64,
    /// Where the zeros begin.
    zeros: u64,
    /// Bytes that are named after the base.
    bytes: u64,
    tables: u64,
    grains: u64,
    grain_in_zeros: bool,
    /// Every table has a copy.
    copied: bool,
    /// An entry is 0 in one copy and not in the other.
    copies_differ: bool,
}

impl TableTotals {
    async fn add(&mut self, directory: &Directory, tables: &Tables, named: &[TableAt]) -> Result<()> {
        let layout = directory.layout();
        let copies = named.iter().map(|at| at.redundant.unwrap_or(at.range));
        let ranges: Vec<_> = named.iter().map(|at| at.range).chain(copies).collect();
        let mut primary = tables.load(&ranges).await?;
        let redundant = primary.split_off(named.len().min(primary.len()));
        for ((at, primary), redundant) in named.iter().zip(primary).zip(redundant) {
            self.copied &= at.redundant.is_some();
            if at.range.start().get() >= self.base {
                self.bytes = self.bytes.saturating_add(layout.table_bytes());
            }
            for index in 0..layout.table_entries {
                let entry = |bytes: &Bytes| layout.entries.get(bytes, index);
                let Some(first) = entry(&primary) else { break };
                self.copies_differ |= (first == 0) != (entry(&redundant) == Some(0));
                if let Ok(Grain::At(start)) = layout.entries.grain(first, layout.grain_bytes) {
                    self.grains = self.grains.saturating_add(1);
                    self.bytes = self.bytes.saturating_add(layout.grain_bytes);
                    self.grain_in_zeros |= start >= self.zeros;
                }
            }
        }
        Ok(())
    }
}

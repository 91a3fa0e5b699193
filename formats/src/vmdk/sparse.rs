//! The block map of one sparse extent: grain tables walked in guest order.
//!
//! A grain table stores the address of a compressed grain but not its length. The map bounds the length without reading
//! data. A grain ends no later than the start of the next structure in use: a grain, a table, the directory, the
//! footer, or the end of the object. In an image written sequentially this is the exact end, rounded up to a sector. If
//! the next structure is not known, the bound is the maximum size of a grain. The engine may then fetch more than
//! needed but never less, because two structures in use cannot overlap.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::internal::is_zero;
use diskferry_core::{
    BATCH_EXTENTS, Codec, Coded, Error, Extent, ExtentKind, Extents, FileIndex, GuestOffset, GuestRange,
    Result, Source, Stored, StoredOffset, StoredRange, Warnings,
};
use futures_util::lock::Mutex;

use super::directory::{Directory, DirectoryLayout, Grain, Page, TableAt, check_marker};
use super::grain::{Bound, GrainCodec};
use super::header::{GRAIN_MARKER_LEN, SECTOR, most_compressed};
use super::tail_check::TailCheck;
use crate::table_cache::{TableCache, TableSequence, Tables};

/// Bytes of grain tables that are loaded at once.
const TABLES_AT_ONCE: u64 = 4 << 20;
/// Adjacent tables are read with one request, up to this many. With tables of the usual size that is 64 KiB.
const TABLES_IN_ONE: u64 = 32;
/// Number of tables that are searched first for the end of the last known grain.
const FEW_TABLES: u64 = 32;
/// Most directory pages that are loaded ahead while the directory is empty.
const PAGES_AHEAD: u64 = 15;

/// The data that mapping compressed grains needs.
pub(crate) struct Compressed {
    used: Arc<dyn Codec>,
    object: Arc<dyn Codec>,
    markers: bool,
    /// Byte address of the footer, if there is one.
    footer: Option<u64>,
    /// The end of every grain in the extent, if the map had to search for it.
    all: Mutex<Option<Arc<[u64]>>>,
}

impl Compressed {
    /// Returns the state for grains of `grain_bytes` in an extent that starts at guest address `base`.
    pub(crate) fn new(base: u64, grain_bytes: u64, markers: bool, footer: Option<u64>) -> Self {
        let codec = |bound| Arc::new(GrainCodec { base, grain_bytes, markers, bound });
        Self {
            used: codec(Bound::Used),
            object: codec(Bound::Object),
            markers,
            footer,
            all: Mutex::new(None),
        }
    }
}

/// State that all extents of a disk share.
#[derive(Clone, Default)]
pub(crate) struct Shared {
    /// Warnings about the extents.
    pub(crate) warnings: Warnings,
    /// The cache of their tables.
    pub(crate) table_cache: TableCache,
}

/// The map of one sparse extent.
pub(crate) struct SparseMap {
    file: FileIndex,
    object_bytes: u64,
    tables: Tables,
    directory: Directory,
    /// Guest address of its first byte.
    base: u64,
    /// Guest bytes.
    bytes: u64,
    compressed: Option<Compressed>,
    /// The object ends in zeros.
    tail: Option<TailCheck>,
}

/// A loaded grain table.
struct GrainTable {
    index: u64,
    at: TableAt,
    bytes: Bytes,
    /// Its marker, if it has one.
    marker: Option<Bytes>,
}

/// Returns the tables of a part of the directory, in directory order.
struct TableReader<'a> {
    named: std::vec::IntoIter<(u64, TableAt)>,
    sequence: TableSequence<'a>,
    runs: std::vec::IntoIter<StoredRange>,
    run: Option<(StoredRange, Bytes)>,
}

impl TableReader<'_> {
    async fn next(&mut self) -> Result<Option<GrainTable>> {
        let Some((index, at)) = self.named.next() else { return Ok(None) };
        loop {
            if let Some((run, bytes)) = &self.run
                && run.contains(at.stored())
            {
                let cut = |range: StoredRange| {
                    let skip = range.start().get().saturating_sub(run.start().get());
                    let bounds = usize::try_from(skip).ok().zip(usize::try_from(range.len()).ok());
                    let bounds = bounds.and_then(|(skip, len)| Some(skip..skip.checked_add(len)?));
                    let bounds = bounds.filter(|bounds| bounds.end <= bytes.len());
                    let bounds =
                        bounds.ok_or_else(|| Error::internal("fewer tables were returned than requested"))?;
                    Ok::<_, Error>(bytes.slice(bounds))
                };
                let marker = at.marker.map(cut).transpose()?;
                return Ok(Some(GrainTable { index, at, bytes: cut(at.range)?, marker }));
            }
            let range = self.runs.next().ok_or_else(|| Error::internal("a table is in no run"))?;
            self.run = Some((range, self.sequence.next().await?));
        }
    }
}

/// Sorted byte addresses that no grain extends past. Most lookups are in ascending order.
struct Ends<'a> {
    all: &'a [u64],
    /// Index after the last result.
    next: usize,
}

impl Ends<'_> {
    /// Returns the first address above `start`.
    fn above(&mut self, start: u64) -> Option<u64> {
        const NEAR: usize = 4;
        let before = self.next.checked_sub(1).and_then(|index| self.all.get(index));
        let near = self.all.get(self.next..).unwrap_or_default();
        let near = near.iter().take(NEAR).position(|end| *end > start);
        let index = match near {
            Some(steps) if before.is_none_or(|end| *end <= start) => self.next.saturating_add(steps),
            _ => self.all.partition_point(|end| *end <= start),
        };
        self.next = index;
        self.all.get(index).copied()
    }
}

impl SparseMap {
    /// Creates the map of the extent `guest` in `file`.
    ///
    /// # Errors
    /// See [`Directory::new`].
    pub(crate) fn new(
        file: FileIndex,
        source: Arc<dyn Source>,
        guest: GuestRange,
        layout: DirectoryLayout,
        compressed: Option<Compressed>,
        tail: Option<TailCheck>,
        shared: Shared,
    ) -> Result<Self> {
        let Shared { warnings, table_cache } = shared;
        Ok(Self {
            file,
            tables: Tables::with_cache(table_cache, file, Arc::clone(&source)),
            object_bytes: source.len(),
            directory: Directory::new(source, layout, guest.len(), warnings)?,
            base: guest.start().get(),
            bytes: guest.len(),
            compressed,
            tail,
        })
    }

    /// Appends extents that cover `window`, a part of the disk inside this extent, in order from its start.
    ///
    /// # Errors
    /// `malformed`, `truncated` with the offset of the entry; the `source_*` codes.
    pub(crate) async fn extents(&self, window: GuestRange, out: &mut Extents) -> Result<()> {
        if let Some(tail) = &self.tail {
            tail.check(&self.directory, &self.tables).await?;
        }
        let span = self.directory.layout().span().max(1);
        let end = window.end().get().saturating_sub(self.base);
        let mut at = window.start().get().saturating_sub(self.base);
        // While the directory is empty, the number of pages loaded at once grows.
        let mut ahead = 0;
        let mut loaded = 0;
        while at < end && out.len() < BATCH_EXTENTS {
            let first = at.checked_div(span).unwrap_or_default();
            let page =
                self.directory.page(&self.tables, first, if first < loaded { 0 } else { ahead }).await?;
            if first >= loaded {
                loaded = page.end.saturating_add(ahead.saturating_mul(page.end.saturating_sub(page.first)));
                ahead = ahead.saturating_mul(2).saturating_add(1).min(PAGES_AHEAD);
            }
            let empty = self.directory.empty_run(&page, first);
            if empty > 0 {
                let to = first.saturating_add(empty).saturating_mul(span).min(end);
                out.push(Extent::new(self.guest(at, to), ExtentKind::Hole));
                at = to;
                continue;
            }
            let last = end.div_ceil(span).min(page.end).min(self.group_end(first));
            at = self.group(&page, first, last, at, end, out).await?;
        }
        Ok(())
    }

    /// Loads the tables that mapping `window`, a part of the disk inside this extent, needs first.
    ///
    /// # Errors
    /// See [`extents`](Self::extents), which returns the same errors.
    pub(crate) async fn prepare(&self, window: GuestRange) -> Result<()> {
        let span = self.directory.layout().span().max(1);
        let local = |at: GuestOffset| at.get().saturating_sub(self.base);
        let first = local(window.start()).checked_div(span).unwrap_or_default();
        let page = self.directory.page(&self.tables, first, 0).await?;
        let last = local(window.end()).div_ceil(span).min(page.end).min(self.group_end(first));
        self.reader(&page, first, last)?.next().await.map(drop)
    }

    /// Bytes of all tables of the extent, if every table is allocated.
    pub(crate) fn tables_bytes(&self) -> u64 {
        self.directory.len().saturating_mul(self.directory.layout().table_bytes())
    }

    /// Index after the last table that is loaded together with table `index`. Groups are aligned, so a caller that maps
    /// a range in several steps requests the same, cached tables again.
    fn group_end(&self, index: u64) -> u64 {
        let table = self.directory.layout().table_bytes().max(1);
        let tables = TABLES_AT_ONCE.checked_div(table).unwrap_or(1).max(1);
        let group = index.checked_div(tables).unwrap_or_default();
        group.saturating_add(1).saturating_mul(tables)
    }

    fn guest(&self, from: u64, to: u64) -> GuestRange {
        let at = |local: u64| GuestOffset::new(self.base.saturating_add(local));
        GuestRange::between(at(from), at(to))
    }

    /// Maps the part of `at..end` that tables `first..last` cover. Returns the address where it stopped.
    async fn group(
        &self,
        page: &Page,
        first: u64,
        last: u64,
        mut at: u64,
        end: u64,
        out: &mut Extents,
    ) -> Result<u64> {
        let span = self.directory.layout().span();
        let mut last = last;
        let mut tables = self.reader(page, first, last)?;
        let mut in_hand = Vec::new();
        let mut ends = Arc::default();
        if let Some(compressed) = &self.compressed {
            // Stops when this result is full. The other tables are loaded too, and mapped by a later call.
            let mut starts = Vec::new();
            while let Some(table) = tables.next().await? {
                self.starts(&table.bytes, &mut starts);
                let index = table.index;
                in_hand.push(table);
                if starts.len() > BATCH_EXTENTS {
                    last = index.saturating_add(1);
                    break;
                }
            }
            ends = self.ends(compressed, page, &in_hand, starts, last).await?;
        }
        let mut ends = Ends { all: &ends, next: 0 };
        let mut in_hand = in_hand.into_iter();
        while at < end && out.len() < BATCH_EXTENTS {
            let next = match &self.compressed {
                Some(_) => in_hand.next(),
                None => tables.next().await?,
            };
            let from = next.as_ref().map_or(last, |table| table.index).saturating_mul(span).min(end);
            if at < from {
                out.push(Extent::new(self.guest(at, from), ExtentKind::Hole));
                at = from;
            }
            let Some(table) = next else { break };
            let to = table.index.saturating_add(1).saturating_mul(span).min(end);
            self.table(table, &mut ends, at, to, out).await?;
            at = to;
        }
        Ok(at)
    }

    /// Returns the tables of entries `first..last`. Adjacent tables are read with them, always in the same groups, so
    /// that the cache has them for later calls.
    fn reader(&self, page: &Page, first: u64, last: u64) -> Result<TableReader<'_>> {
        let begin = first.saturating_sub(first % TABLES_IN_ONE).max(page.first);
        let end = last.checked_next_multiple_of(TABLES_IN_ONE).unwrap_or(last).min(page.end);
        let mut named = Vec::new();
        let mut runs: Vec<StoredRange> = Vec::new();
        // The start of the last run, and whether it has a table that the caller needs.
        let (mut group, mut wanted) = (None, true);
        for index in begin..end {
            let is_wanted = (first..last).contains(&index);
            let at = match self.directory.table(page, index) {
                Ok(at) => at,
                Err(error) if is_wanted => return Err(error),
                // Errors in the other tables are reported when those tables are mapped.
                Err(_) => None,
            };
            let Some(at) = at else { continue };
            let joined = runs
                .last_mut()
                .filter(|run| group == Some(index / TABLES_IN_ONE) && run.end() == at.stored().start());
            match joined {
                Some(run) => *run = StoredRange::between(run.start(), at.range.end()),
                None => {
                    if !wanted {
                        runs.pop();
                    }
                    runs.push(at.stored());
                    (group, wanted) = (Some(index / TABLES_IN_ONE), false);
                }
            }
            if is_wanted {
                wanted = true;
                named.push((index, at));
            }
        }
        if !wanted {
            runs.pop();
        }
        let sequence = self.tables.sequence(runs.clone());
        Ok(TableReader { named: named.into_iter(), sequence, runs: runs.into_iter(), run: None })
    }

    /// Maps the part of `at..to` that one table covers. If an entry is invalid, the entry of the redundant copy is
    /// used. The choice is made for each entry, so that a grain does not depend on the range that the caller maps.
    async fn table(
        &self,
        table: GrainTable,
        ends: &mut Ends<'_>,
        at: u64,
        to: u64,
        out: &mut Extents,
    ) -> Result<()> {
        if let Some(marker) = &table.marker {
            check_marker(marker, "grain table", table.at.range.start().get())?;
        }
        if is_zero(&table.bytes) {
            // If tables have markers, each table follows its grains.
            if table.marker.is_some() {
                return Err(Error::truncated(format!(
                    "the grain table at {} reads as zeros: a part of the image is missing",
                    table.at.range.start()
                ))
                .at(table.at.range.start()));
            }
            out.push(Extent::new(self.guest(at, to), ExtentKind::Hole));
            return Ok(());
        }
        let layout = self.directory.layout();
        let start_of_table = table.index.saturating_mul(layout.span());
        let mut copy = None;
        let mut from = at;
        let mut index = at.saturating_sub(start_of_table).checked_div(layout.grain_bytes).unwrap_or_default();
        while from < to {
            let start = start_of_table.saturating_add(index.saturating_mul(layout.grain_bytes));
            let end = start.saturating_add(layout.grain_bytes).min(self.bytes);
            let grain = match (self.grain(&table, index, start, end), table.at.redundant) {
                (Err(error), Some(range)) => {
                    let redundant = match copy.take() {
                        Some(redundant) => redundant,
                        None => self.redundant(table.index, range).await?,
                    };
                    let grain = self.grain(&redundant, index, start, end).map_err(|_| error)?;
                    self.directory.table_replaced(table.at);
                    copy = Some(redundant);
                    grain
                }
                (grain, _) => grain?,
            };
            let (first, last, kind) = match (grain, &self.compressed) {
                (Grain::Hole, _) => (from, end.min(to), ExtentKind::Hole),
                (Grain::Zero, _) => (from, end.min(to), ExtentKind::Zero),
                // A compressed grain is always mapped in full.
                (Grain::At(place), Some(compressed)) => {
                    (start, end, ExtentKind::Coded(self.coded(compressed, place, ends)))
                }
                (Grain::At(place), None) => {
                    let until = end.min(to);
                    let place = StoredOffset::new(place.saturating_add(from.saturating_sub(start)));
                    let behind = StoredOffset::new(place.get().saturating_add(until.saturating_sub(from)));
                    let range = StoredRange::between(place, behind);
                    if let Some(tail) = &self.tail {
                        tail.note_data(range);
                    }
                    (from, until, ExtentKind::Data(Stored { file: self.file, range }))
                }
            };
            out.push(Extent::new(self.guest(first, last), kind));
            from = end;
            index = index.saturating_add(1);
        }
        Ok(())
    }

    async fn redundant(&self, index: u64, range: StoredRange) -> Result<GrainTable> {
        let bytes = self.tables.load_one(range).await?;
        Ok(GrainTable { index, at: TableAt { range, redundant: None, marker: None }, bytes, marker: None })
    }

    /// Validates the grain of entry `index` of a table. It covers `start..end` of the extent.
    fn grain(&self, table: &GrainTable, index: u64, start: u64, end: u64) -> Result<Grain> {
        let layout = self.directory.layout();
        let offset =
            || table.at.range.start().get().saturating_add(index.saturating_mul(layout.entries.width()));
        let wrong = |error: Error| error.context(format_args!("grain table entry {index}")).at(offset());
        let entry = layout
            .entries
            .get(&table.bytes, index)
            .ok_or_else(|| Error::internal(format!("grain table {} has no entry {index}", table.index)))?;
        let grain = layout.entries.grain(entry, layout.grain_bytes).map_err(wrong)?;
        let needed = match (&self.compressed, grain) {
            (_, Grain::Hole | Grain::Zero) => 0,
            (Some(compressed), _) if compressed.markers => GRAIN_MARKER_LEN as u64,
            (Some(_), _) => 1,
            (None, _) => end.saturating_sub(start),
        };
        if let Grain::At(stored) = grain {
            let range = StoredRange::new(StoredOffset::new(stored), needed)
                .filter(|range| range.end().get() <= self.object_bytes);
            let range = range.ok_or_else(|| {
                wrong(Error::truncated(format!(
                    "the grain of guest offset {} is at {stored}, and the object ends at {}",
                    self.base.saturating_add(start),
                    self.object_bytes
                )))
            })?;
            layout.check_apart(range).map_err(wrong)?;
            if table.at.range.intersection(range).is_some() {
                let error = Error::malformed(format!(
                    "it points to {range}, inside its own table at {}",
                    table.at.range
                ));
                return Err(wrong(error));
            }
        }
        Ok(grain)
    }

    /// Sorted byte addresses that no grain in `tables` extends past. See the module documentation.
    ///
    /// `tables` are the tables before index `last`. `starts` has the addresses of their grains in guest order. If the
    /// addresses are not ascending, the structure after a grain can be in any table. All tables are then read once,
    /// unless there are too many.
    async fn ends(
        &self,
        compressed: &Compressed,
        page: &Page,
        tables: &[GrainTable],
        starts: Vec<u64>,
        last: u64,
    ) -> Result<Arc<[u64]>> {
        if !starts.is_sorted() && self.directory.len() <= self.group_end(0).min(page.end) {
            return self.all_ends(compressed, page).await;
        }
        let highest = starts.last().copied();
        let mut ends = starts;
        ends.extend(compressed.footer);
        ends.push(self.directory.layout().directory);
        ends.extend(tables.iter().map(|table| table.at.range.start().get()));
        if let Some(highest) = highest {
            self.end_of_last(page, highest, last, &mut ends).await?;
        }
        // The stable sort is fast on runs that are already sorted.
        ends.sort();
        Ok(ends.into())
    }

    /// Searches the tables from index `from` for the end of the grain at `highest`, unless `ends` has it. It reads a
    /// few tables first and then many, because writers that store their tables before the data leave empty ones for
    /// holes.
    async fn end_of_last(&self, page: &Page, highest: u64, from: u64, ends: &mut Vec<u64>) -> Result<()> {
        let bound = highest.saturating_add(most_compressed(self.directory.layout().grain_bytes));
        let found = |ends: &[u64]| ends.iter().any(|end| (highest.saturating_add(1)..=bound).contains(end));
        let mut from = from;
        for count in [FEW_TABLES, self.group_end(0)] {
            if found(ends) {
                break;
            }
            let to = from.saturating_add(count).min(page.end);
            // Errors in those tables are reported when they are mapped.
            let Ok(mut tables) = self.reader(page, from, to) else { break };
            while let Some(table) = tables.next().await? {
                ends.push(table.at.range.start().get());
                self.starts(&table.bytes, ends);
            }
            from = to;
        }
        Ok(())
    }

    /// Like [`ends`](Self::ends), for all tables of the extent.
    async fn all_ends(&self, compressed: &Compressed, page: &Page) -> Result<Arc<[u64]>> {
        let mut all = compressed.all.lock().await;
        if let Some(ends) = &*all {
            return Ok(Arc::clone(ends));
        }
        let mut ends = vec![self.directory.layout().directory];
        ends.extend(compressed.footer);
        let mut tables = self.reader(page, 0, self.directory.len())?;
        while let Some(table) = tables.next().await? {
            ends.push(table.at.range.start().get());
            self.starts(&table.bytes, &mut ends);
        }
        ends.sort();
        let ends: Arc<[u64]> = ends.into();
        *all = Some(Arc::clone(&ends));
        Ok(ends)
    }

    /// Adds the addresses of a table's grains.
    fn starts(&self, table: &[u8], starts: &mut Vec<u64>) {
        let layout = self.directory.layout();
        let entries = (0..layout.table_entries).map_while(|index| layout.entries.get(table, index));
        starts.extend(entries.filter_map(|entry| match layout.entries.grain(entry, layout.grain_bytes) {
            Ok(Grain::At(start)) => Some(start),
            _ => None,
        }));
    }

    fn coded(&self, compressed: &Compressed, start: u64, ends: &mut Ends<'_>) -> Coded {
        let most =
            most_compressed(self.directory.layout().grain_bytes).saturating_add(GRAIN_MARKER_LEN as u64);
        let most = most.checked_next_multiple_of(SECTOR).unwrap_or(most);
        let bound = start.saturating_add(most);
        let used = ends.above(start).map_or(bound, |next| bound.min(next));
        let end = used.min(self.object_bytes);
        let codec =
            if end < used || end == self.object_bytes { &compressed.object } else { &compressed.used };
        let range = StoredRange::between(StoredOffset::new(start), StoredOffset::new(end));
        Coded { stored: Stored { file: self.file, range }, codec: Arc::clone(codec) }
    }
}

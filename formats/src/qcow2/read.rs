//! Opens an image, and its block map.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use diskferry_core::{
    BATCH_EXTENTS, BlockMap, BoxFuture, Codec, Coded, Disk, Error, Extent, ExtentKind, Extents, FileIndex,
    GuestOffset, GuestRange, Result, Source, Stored, StoredOffset, StoredRange, Warning, Warnings,
};
use zerocopy::FromBytes;
use zerocopy::byteorder::{BigEndian, U64};

use super::cluster::Compressed;
use super::describe;
use super::entry::{self, Mapping};
use super::grid::Grid;
use super::header::Header;
use super::tail_check::TailCheck;
use crate::flat::push_flat;
use crate::open_input::OpenInput;
use crate::table_cache::{Tables, shared_free};

/// An image has one file.
const FILE: FileIndex = FileIndex(0);
/// The unit in which the L1 table is read: the whole table for disks of up to 64 TiB with clusters of 64 KiB. Parts of
/// a larger table take no memory until they are used.
const L1_PAGE: u64 = 1 << 20;
/// The unit in which an L2 table is read. A table of 2 MiB maps 512 GiB, and a small disk uses little of it.
const L2_SLICE: u64 = 64 << 10;
/// Most bytes of L2 tables that one result loads: half of the cache, so that tables that a result did not use are still
/// cached for the next one.
const TABLES_AT_ONCE: u64 = 8 << 20;
/// Shortest run of data for which the source is queried for holes. Images with preallocated clusters in a sparse file
/// have long ones.
const HOLES_WORTH: u64 = 256 << 10;

/// Opens an image. Besides head and tail it reads the first page of the snapshot table, if there is one.
///
/// # Errors
/// `malformed`, `truncated`, `unsupported_feature` with their offset; the `source_*` codes.
pub(crate) async fn open(input: OpenInput) -> Result<Disk> {
    let file = input.file;
    let object_bytes = file.len();
    let mut header = Header::parse(file.head(), object_bytes)?;
    if header.extensions.cut {
        let cluster = StoredRange::first(header.grid.cluster_bytes().min(object_bytes));
        header = Header::parse(&file.read(cluster).await?, object_bytes)?;
    }
    let refusals = describe::refusals(&*file, &header).await?;
    let info = describe::info(&header);
    let warnings = Warnings::new();
    describe::warn(&*file, &header, &warnings).await?;
    let tail_check = TailCheck::new(Arc::clone(&file));
    let source: Arc<dyn Source> = file;
    if !refusals.is_empty() {
        return Ok(Disk::refused(info, vec![source], warnings, refusals));
    }
    let map = Box::new(Map::new(header, Arc::clone(&source), tail_check, warnings.clone())?);
    Ok(Disk::new(info, vec![source], map, warnings, refusals))
}

/// Maps guest clusters through the L1 and L2 tables.
struct Map {
    header: Header,
    /// The part of the L1 table that the disk needs.
    l1: StoredRange,
    /// Ranges that no entry may point into.
    metadata: [(StoredRange, &'static str); 3],
    source: Arc<dyn Source>,
    object_bytes: u64,
    tables: Tables,
    codec: Arc<dyn Codec>,
    warnings: Warnings,
    /// If the object ends in zeros.
    tail_check: Option<TailCheck>,
    /// The pages of the L1 table, at most 32, that [`Map::check_sharing`] has accepted.
    shared_little: AtomicU32,
}

/// A run of guest bytes and the L2 entries that map it.
struct Piece {
    /// Whole clusters, except at the end of the disk.
    guest: GuestRange,
    /// Where the entries are stored; none if the L1 table maps nothing.
    entries: Option<StoredRange>,
}

impl Map {
    fn new(
        header: Header,
        source: Arc<dyn Source>,
        tail_check: Option<TailCheck>,
        warnings: Warnings,
    ) -> Result<Self> {
        let cluster_bytes = usize::try_from(header.grid.cluster_bytes())
            .map_err(|_| Error::internal("a cluster is longer than the address space"))?;
        let needed = header.grid.l1_entries(header.virtual_bytes).saturating_mul(Grid::L1_ENTRY_BYTES);
        Ok(Self {
            l1: header.l1.split_at(needed).0,
            metadata: header.metadata(),
            codec: Arc::new(Compressed { compression: header.compression, cluster_bytes }),
            tables: Tables::new(Arc::clone(&source)),
            header,
            object_bytes: source.len(),
            source,
            warnings,
            tail_check,
            shared_little: AtomicU32::new(0),
        })
    }

    async fn walk(&self, window: GuestRange) -> Result<Vec<Extent>> {
        if let Some(tail_check) = &self.tail_check {
            tail_check.check(window, &self.header, &self.tables, &self.warnings).await?;
        }
        let pieces = self.pieces(window).await?;
        let mut tables = self.tables.sequence(pieces.iter().filter_map(|piece| piece.entries).collect());
        let mut extents = Extents::new();
        for piece in pieces {
            match piece.entries {
                None => push(&mut extents, window, piece.guest, ExtentKind::Hole),
                Some(range) => {
                    let table = tables.next().await?;
                    self.push_slice(&mut extents, window, piece.guest, range.start(), &table)?;
                }
            }
            if extents.len() >= BATCH_EXTENTS {
                break;
            }
        }
        let extents = extents.into_vec();
        if let Some(tail_check) = &self.tail_check {
            tail_check.warn_of_data(&extents, &self.warnings);
        }
        self.with_holes(extents).await
    }

    /// Returns the same extents, split at the holes that the source reports in a sparse file. The result is shorter if
    /// there are very many.
    async fn with_holes(&self, extents: Vec<Extent>) -> Result<Vec<Extent>> {
        let worth = |extent: &Extent| matches!(extent.kind, ExtentKind::Data(Stored { range, .. }) if range.len() >= HOLES_WORTH);
        if !extents.iter().any(worth) {
            return Ok(extents);
        }
        let mut told = Extents::new();
        for extent in extents {
            let ExtentKind::Data(Stored { range, .. }) = extent.kind else {
                told.push(extent);
                continue;
            };
            if range.len() < HOLES_WORTH {
                told.push(extent);
                continue;
            }
            let (mut guest, mut at) = (extent.guest, range.start());
            while !guest.is_empty() {
                push_flat(&mut told, &*self.source, FILE, guest, at).await?;
                let end = told.end().filter(|end| *end > guest.start());
                let end = end.ok_or_else(|| Error::internal("a source returned no segment of a range"))?;
                at = at.checked_add(end.get().saturating_sub(guest.start().get())).unwrap_or(at);
                guest = GuestRange::between(end, guest.end());
                if told.len() >= BATCH_EXTENTS {
                    return Ok(told.into_vec());
                }
            }
        }
        Ok(told.into_vec())
    }

    /// The L2 entries that map the first part of the window, limited to one page of the L1 table and [`TABLES_AT_ONCE`]
    /// bytes of L2 tables.
    async fn pieces(&self, window: GuestRange) -> Result<Vec<Piece>> {
        let grid = self.header.grid;
        let first = grid.l1_index(window.start());
        let skip = first.saturating_mul(Grid::L1_ENTRY_BYTES);
        let page_skip = skip.saturating_sub(skip % L1_PAGE);
        let page = self.l1.skip(page_skip).split_at(L1_PAGE).0;
        let bytes = self.tables.load_one(page).await?;
        let entries = <[U64<BigEndian>]>::ref_from_bytes(&bytes)
            .map_err(|_| Error::internal("a page of the L1 table is no whole number of entries"))?;
        self.check_sharing(page, entries)?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut loaded = 0u64;
        let start =
            usize::try_from(skip.saturating_sub(page_skip) / Grid::L1_ENTRY_BYTES).unwrap_or(usize::MAX);
        for (index, raw) in (first..).zip(entries.iter().skip(start)) {
            let maps = grid.l1_entry_maps();
            let guest = GuestRange::new(GuestOffset::new(index.saturating_mul(maps)), maps)
                .and_then(|guest| guest.intersection(GuestRange::first(self.header.virtual_bytes)));
            let Some(guest) = guest.filter(|guest| guest.start() < window.end()) else { break };
            let place = self.l1.skip(index.saturating_mul(Grid::L1_ENTRY_BYTES)).start();
            match entry::l1_entry(grid, raw.get()).map_err(|error| error.at(place))? {
                None => match pieces.last_mut() {
                    Some(last) if last.entries.is_none() => {
                        last.guest = GuestRange::between(last.guest.start(), guest.end());
                    }
                    _ => pieces.push(Piece { guest, entries: None }),
                },
                Some(table) => {
                    self.check_table(table, guest).map_err(|error| error.at(place))?;
                    loaded = loaded.saturating_add(self.push_slices(&mut pieces, window, guest, table)?);
                }
            }
            if loaded >= TABLES_AT_ONCE {
                break;
            }
        }
        Ok(pieces)
    }

    /// Checks that a page of the L1 table does not map much more than the object can hold.
    ///
    /// L1 entries may share an L2 table: its data is content once per entry. But a small object whose entries all share
    /// one table would take days to walk. Without sharing, the entries of all tables fit in the object.
    fn check_sharing(&self, page: StoredRange, entries: &[U64<BigEndian>]) -> Result<()> {
        let number = page.start().get().saturating_sub(self.l1.start().get()) / L1_PAGE;
        let bit = u32::try_from(number).ok().and_then(|number| 1u32.checked_shl(number)).unwrap_or_default();
        if self.shared_little.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let grid = self.header.grid;
        let tables = entries.iter().filter(|entry| entry.get() != 0).count() as u64;
        // The last table may be shorter.
        let mapped = tables.saturating_sub(1).saturating_mul(grid.cluster_bytes());
        let free = shared_free(grid.l2_entry_bytes(), grid.cluster_bytes());
        let share = free.checked_div(self.l1.len().div_ceil(L1_PAGE)).unwrap_or_default();
        if mapped > share.max(self.object_bytes) {
            return Err(Error::malformed(format!(
                "{tables} entries of the L1 table in {page} point to L2 tables, more than an object of {} bytes \
                 can hold: many share one",
                self.object_bytes
            ))
            .at(page.start()));
        }
        self.shared_little.fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that the L2 table at `table` is valid, and that the part of it that maps `guest` is in the object.
    fn check_table(&self, table: StoredOffset, guest: GuestRange) -> Result<()> {
        let whole = self.stored(table, self.header.grid.cluster_bytes())?;
        self.check_metadata("an L1 entry", whole)?;
        let used = whole.split_at(self.header.grid.l2_bytes(guest.len())).0;
        if used.end().get() > self.object_bytes {
            return Err(Error::truncated(format!(
                "an L1 entry points to an L2 table at {used} and the object ends at {}",
                self.object_bytes
            )));
        }
        Ok(())
    }

    /// Appends the slices of the L2 table at `table`, which maps `guest`, in the window. Returns their length.
    fn push_slices(
        &self,
        pieces: &mut Vec<Piece>,
        window: GuestRange,
        guest: GuestRange,
        table: StoredOffset,
    ) -> Result<u64> {
        let grid = self.header.grid;
        let slice_bytes = L2_SLICE.min(grid.cluster_bytes());
        let slice_maps = grid.mapped_by(slice_bytes);
        let before = window.start().get().saturating_sub(guest.start().get());
        let first = before.checked_div(slice_maps).unwrap_or_default();
        let mut rest = guest.skip(first.saturating_mul(slice_maps));
        let mut at = table.checked_add(first.saturating_mul(slice_bytes));
        let mut loaded = 0u64;
        while !rest.is_empty() && rest.start() < window.end() && loaded < TABLES_AT_ONCE {
            let (mapped, behind) = rest.split_at(slice_maps);
            let entries = at
                .and_then(|at| StoredRange::new(at, grid.l2_bytes(mapped.len())))
                .ok_or_else(|| Error::internal("an L2 table extends past the end of the address space"))?;
            pieces.push(Piece { guest: mapped, entries: Some(entries) });
            loaded = loaded.saturating_add(entries.len());
            at = entries.start().checked_add(slice_bytes);
            rest = behind;
        }
        Ok(loaded)
    }

    /// Appends the extents of the entries in `table`, stored at `place`, for `guest`, within the window.
    fn push_slice(
        &self,
        extents: &mut Extents,
        window: GuestRange,
        guest: GuestRange,
        place: StoredOffset,
        table: &Bytes,
    ) -> Result<()> {
        let grid = self.header.grid;
        let entry_bytes = grid.l2_entry_bytes();
        let before = window.start().get().saturating_sub(guest.start().get());
        let first = before.checked_div(grid.cluster_bytes()).unwrap_or_default();
        let mut rest = guest.skip(first.saturating_mul(grid.cluster_bytes()));
        let mut place = place.get().saturating_add(first.saturating_mul(entry_bytes));
        let skip = usize::try_from(first.saturating_mul(entry_bytes) / 8).unwrap_or(usize::MAX);
        let mut words = <[U64<BigEndian>]>::ref_from_bytes(table)
            .map_err(|_| Error::internal("an L2 table is no whole number of entries"))?
            .get(skip..)
            .unwrap_or_default();
        while !rest.is_empty() && rest.start() < window.end() && extents.len() < BATCH_EXTENTS {
            let missing = || Error::internal("an L2 table is shorter than its guest range");
            let (word, after) = words.split_first().ok_or_else(missing)?;
            let (mapping, after) = if grid.extended_l2() {
                let (bitmap, after) = after.split_first().ok_or_else(missing)?;
                (entry::extended(grid, word.get(), bitmap.get()), after)
            } else {
                (entry::standard(grid, self.header.version, word.get()), after)
            };
            let mapping = mapping.map_err(|error| error.at(place))?;
            let mut clusters = 1u64;
            if !grid.extended_l2() {
                // Whole runs at once: most disks consist of few.
                let wanted = GuestRange::between(rest.start(), window.end()).len();
                let most = wanted.div_ceil(grid.cluster_bytes().max(1)).saturating_sub(1);
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                let same = self.run(mapping, word.get(), after.get(..most).unwrap_or(after));
                clusters = clusters.saturating_add(same);
            }
            let (run, behind) = rest.split_at(clusters.saturating_mul(grid.cluster_bytes()));
            match mapping {
                Mapping::Data(at) if clusters > 1 => {
                    let range = StoredRange::between(at, at.checked_add(run.len()).unwrap_or(at));
                    push(extents, window, run, ExtentKind::Data(Stored { file: FILE, range }));
                }
                _ => self.push_cluster(extents, window, run, mapping).map_err(|error| error.at(place))?,
            }
            let more = usize::try_from(clusters.saturating_sub(1)).unwrap_or(usize::MAX);
            words = after.get(more..).unwrap_or_default();
            rest = behind;
            place = place.saturating_add(clusters.saturating_mul(entry_bytes));
        }
        Ok(())
    }

    /// Number of the standard entries `after` that continue the run that `word`, with the meaning `mapping`, begins:
    /// unmapped clusters, or clusters with consecutive data that is outside all metadata and before the object's end.
    fn run(&self, mapping: Mapping, word: u64, after: &[U64<BigEndian>]) -> u64 {
        let step = self.header.grid.cluster_bytes();
        let same = match mapping {
            Mapping::Hole if word == 0 => after.iter().take_while(|next| next.get() == 0).count(),
            Mapping::Data(at) => {
                let free = self.free_from(at);
                let whole = free.checked_div(step).unwrap_or_default();
                let most = usize::try_from(whole.saturating_sub(1)).unwrap_or(usize::MAX);
                let mut expected = word;
                let follows = |next: &&U64<BigEndian>| {
                    expected = expected.wrapping_add(step);
                    next.get() == expected
                };
                after.iter().take(most).take_while(follows).count()
            }
            _ => 0,
        };
        same as u64
    }

    /// Number of bytes from `at` on before the next metadata and the object's end.
    fn free_from(&self, at: StoredOffset) -> u64 {
        let taken = self.metadata.iter().map(|(taken, _)| *taken).filter(|taken| taken.end() > at);
        let end =
            taken.map(|taken| taken.start().get()).fold(self.object_bytes.min(entry::OFFSET_LIMIT), u64::min);
        end.saturating_sub(at.get())
    }

    /// Appends one cluster, or a run of clusters without stored data, within the window.
    fn push_cluster(
        &self,
        extents: &mut Extents,
        window: GuestRange,
        guest: GuestRange,
        mapping: Mapping,
    ) -> Result<()> {
        let grid = self.header.grid;
        match mapping {
            Mapping::Hole => push(extents, window, guest, ExtentKind::Hole),
            Mapping::Zero => push(extents, window, guest, ExtentKind::Zero),
            Mapping::Data(at) => {
                let stored = self.data(at, grid.cluster_bytes(), guest.len())?;
                push(extents, window, guest, ExtentKind::Data(stored));
            }
            Mapping::Compressed { at, len } => {
                push(extents, window, guest, ExtentKind::Coded(self.compressed(at, len)?));
            }
            Mapping::Mixed { at, data, zero } => {
                let unit = grid.subcluster_bytes();
                let (mut rest, mut at) = (guest, at);
                let (mut data, mut zero) = (data, zero);
                while !rest.is_empty() {
                    let (part, behind) = rest.split_at(unit);
                    let kind = if data & 1 != 0 {
                        ExtentKind::Data(self.data(at, unit, part.len())?)
                    } else if zero & 1 != 0 {
                        ExtentKind::Zero
                    } else {
                        ExtentKind::Hole
                    };
                    push(extents, window, part, kind);
                    (data, zero, rest) = (data >> 1, zero >> 1, behind);
                    at = at.checked_add(unit).unwrap_or(at);
                }
            }
        }
        Ok(())
    }

    /// The first `needed` bytes of a unit of `unit` bytes at `at`. The rest of the unit is after the disk's end and may
    /// be missing in the object, because some writers leave the last cluster incomplete.
    fn data(&self, at: StoredOffset, unit: u64, needed: u64) -> Result<Stored> {
        let whole = self.stored(at, unit)?;
        self.check_metadata("an L2 entry", whole)?;
        let range = whole.split_at(needed).0;
        if range.end().get() > self.object_bytes {
            return Err(Error::truncated(format!(
                "an L2 entry points to data at {range} and the object ends at {}",
                self.object_bytes
            )));
        }
        if whole.end().get() > self.object_bytes {
            self.warnings.add(Warning::new(
                "short_last_cluster",
                format!(
                    "the last cluster is at {whole} and the object ends at {}: only bytes after the disk's end are \
                     missing",
                    self.object_bytes
                ),
            ));
        }
        Ok(Stored { file: FILE, range })
    }

    /// The range of compressed bytes: `len` bytes at `at`, limited by the object's end. The entry counts whole sectors,
    /// and the object's end may cut the last one.
    fn compressed(&self, at: StoredOffset, len: u64) -> Result<Coded> {
        let said = self.stored(at, len)?;
        self.check_metadata("a compressed L2 entry", said.split_at(1).0)?;
        match said.intersection(StoredRange::first(self.object_bytes)) {
            Some(range) => Ok(Coded { stored: Stored { file: FILE, range }, codec: Arc::clone(&self.codec) }),
            None => Err(Error::truncated(format!(
                "a compressed L2 entry points to {said} and the object ends at {}",
                self.object_bytes
            ))),
        }
    }

    fn stored(&self, at: StoredOffset, len: u64) -> Result<StoredRange> {
        StoredRange::new(at, len).ok_or_else(|| {
            Error::malformed(format!("{len} bytes at {at} extend past the end of the address space"))
        })
    }

    fn check_metadata(&self, who: &str, range: StoredRange) -> Result<()> {
        match self.metadata.iter().find(|(taken, _)| taken.intersection(range).is_some()) {
            Some((taken, name)) => {
                Err(Error::malformed(format!("{who} points to {range}, inside {name} at {taken}")))
            }
            None => Ok(()),
        }
    }
}

fn push(extents: &mut Extents, window: GuestRange, guest: GuestRange, kind: ExtentKind) {
    let extent = Extent::new(guest, kind);
    if window.contains(guest) {
        extents.push(extent);
    } else {
        extent.clip(window).into_iter().for_each(|part| extents.push(part));
    }
}

impl BlockMap for Map {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.walk(window))
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

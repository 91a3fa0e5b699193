//! Tables of an image, loaded in bulk and kept as far as a bound allows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use diskferry_core::{Error, FileIndex, Result, Source, StoredOffset, StoredRange};
use futures_util::stream::{FuturesUnordered, TryStreamExt};

/// Most bytes of tables that are kept of an image, however many files it has.
const KEPT: u64 = 16 << 20;
/// Tables no further apart than this are read in one request. Small: what lies between tables is mostly data, which is
/// fetched when its turn comes.
const GAP: u64 = 4 << 10;
/// Longest request for tables, so that many go side by side.
const LONGEST: u64 = 4 << 20;
/// Requests for tables that are made side by side over a network, and more where the source finds more worth having.
const AT_ONCE: usize = 32;

/// Entries that may be walked again and again of tables that several entries name, however small the object is.
const SHARED_ENTRIES: u64 = 1 << 19;
/// Guest bytes that such entries may map: about a second's reading.
const SHARED_BYTES: u64 = 2 << 30;

/// How many bytes of tables may be named, counted each time, although the object is smaller: of entries of `entry_bytes` that
/// map `unit_bytes` each. No writer shares a table, and tables that are not shared fit the object.
pub(crate) fn shared_free(entry_bytes: u64, unit_bytes: u64) -> u64 {
    let entries = SHARED_BYTES.checked_div(unit_bytes).unwrap_or_default().min(SHARED_ENTRIES);
    entries.saturating_mul(entry_bytes)
}

/// Reads and keeps the tables of one file.
///
/// A load of more than is kept is answered all the same: the caller bounds what it asks for at once.
pub(crate) struct Tables {
    source: Arc<dyn Source>,
    file: FileIndex,
    kept: Shelf,
}

/// Where the tables of all files of an image are kept. What was used longest ago goes first once more than [`KEPT`] bytes
/// are held. Clones are the same shelf.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Kept>>);

impl Shelf {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Place = (FileIndex, StoredRange);

#[derive(Default)]
struct Kept {
    tables: HashMap<Place, (Bytes, u64)>,
    by_age: BTreeMap<u64, Place>,
    bytes: u64,
    clock: u64,
}

impl Kept {
    fn get(&mut self, place: Place) -> Option<Bytes> {
        self.clock = self.clock.saturating_add(1);
        let (bytes, age) = self.tables.get_mut(&place)?;
        self.by_age.remove(age);
        self.by_age.insert(self.clock, place);
        *age = self.clock;
        Some(bytes.clone())
    }

    fn put(&mut self, place: Place, bytes: Bytes) {
        self.clock = self.clock.saturating_add(1);
        if let Some((_, age)) = self.tables.insert(place, (bytes, self.clock)) {
            self.by_age.remove(&age);
        } else {
            self.bytes = self.bytes.saturating_add(place.1.len());
        }
        self.by_age.insert(self.clock, place);
        while self.bytes > KEPT {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.tables.remove(&oldest);
            self.bytes = self.bytes.saturating_sub(oldest.1.len());
        }
    }
}

impl Tables {
    /// The tables of an image in one file.
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self::on(Shelf::default(), FileIndex(0), source)
    }

    /// The tables of a file of an image, kept with those of its others.
    pub(crate) fn on(kept: Shelf, file: FileIndex, source: Arc<dyn Source>) -> Self {
        Self { source, file, kept }
    }

    /// One table.
    ///
    /// # Errors
    /// Those of [`Source::read`].
    pub(crate) async fn load_one(&self, range: StoredRange) -> Result<Bytes> {
        let mut all = self.load(&[range]).await?;
        all.pop().ok_or_else(|| Error::internal("a table was not loaded"))
    }

    /// All of `ranges`, in the order asked. What is not kept is fetched: neighbours in one request, requests side by side.
    ///
    /// # Errors
    /// Those of [`Source::read`]: the caller has checked that the ranges lie in the object.
    pub(crate) async fn load(&self, ranges: &[StoredRange]) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> = {
            let mut kept = self.kept.kept();
            ranges.iter().map(|range| kept.get((self.file, *range))).collect()
        };
        let mut missing: Vec<StoredRange> =
            ranges.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(range, _)| *range).collect();
        missing.sort_unstable();
        missing.dedup();
        let fetched = self.fetch(&runs(&missing)).await?;
        let mut kept = self.kept.kept();
        for (range, slot) in ranges.iter().zip(&mut found) {
            if slot.is_some() {
                continue;
            }
            let bytes = cut(&fetched, *range)?;
            // A copy: a slice would keep the whole request alive for as long as one table of it is kept.
            let bytes = Bytes::copy_from_slice(&bytes);
            kept.put((self.file, *range), bytes.clone());
            *slot = Some(bytes);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// `ranges` one after the other, see [`Ahead`].
    pub(crate) fn ahead(&self, ranges: Vec<StoredRange>) -> Ahead<'_> {
        Ahead { tables: self, ranges, next: 0, loaded: Vec::new() }
    }

    async fn fetch(&self, runs: &[StoredRange]) -> Result<BTreeMap<StoredOffset, Bytes>> {
        let can = self.source.capabilities();
        // What is worth having in flight is found out from data. Over a network tables cost nothing but the time to their
        // first byte, and the source itself lets in no more than it is allowed.
        let at_once = if can.remote { can.in_flight.max(AT_ONCE) } else { can.in_flight.max(1) };
        let mut waiting = runs.iter();
        let mut under_way = FuturesUnordered::new();
        let start = |run: &StoredRange| {
            let run = *run;
            let read = self.source.read(run);
            async move { Ok::<_, Error>((run.start(), read.await?)) }
        };
        under_way.extend(waiting.by_ref().take(at_once).map(start));
        let mut fetched = BTreeMap::new();
        while let Some((at, bytes)) = under_way.try_next().await? {
            fetched.insert(at, bytes);
            under_way.extend(waiting.next().map(start));
        }
        Ok(fetched)
    }
}

/// Tables that are taken one after the other, by a walk that may stop before it has come to the last. Once one is not
/// kept, it and all behind it are loaded together.
pub(crate) struct Ahead<'a> {
    tables: &'a Tables,
    ranges: Vec<StoredRange>,
    next: usize,
    /// The ranges from one on, in the reverse order.
    loaded: Vec<Bytes>,
}

impl Ahead<'_> {
    /// The next table.
    ///
    /// # Errors
    /// Those of [`Tables::load`]; `internal` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        let rest = self.ranges.get(self.next..).unwrap_or_default();
        let first = *rest.first().ok_or_else(|| Error::internal("more tables are taken than were named"))?;
        self.next = self.next.saturating_add(1);
        if let Some(bytes) = self.loaded.pop() {
            return Ok(bytes);
        }
        let kept = self.tables.kept.kept().get((self.tables.file, first));
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        self.loaded = self.tables.load(rest).await?;
        self.loaded.reverse();
        self.loaded.pop().ok_or_else(|| Error::internal("a table was not loaded"))
    }
}

/// The requests for sorted ranges.
fn runs(ranges: &[StoredRange]) -> Vec<StoredRange> {
    let mut runs: Vec<StoredRange> = Vec::new();
    for range in ranges {
        let joined = runs.last().and_then(|last| {
            let near = range.start().get() <= last.end().get().saturating_add(GAP);
            let joined = StoredRange::between(last.start(), last.end().max(range.end()));
            (near && (joined.len() <= LONGEST || last.contains(*range))).then_some(joined)
        });
        match (joined, runs.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => runs.push(*range),
        }
    }
    runs
}

/// `range` of `bytes` that are stored from `at` on, if it is in them.
fn slice(at: StoredOffset, bytes: &Bytes, range: StoredRange) -> Option<Bytes> {
    let skip = usize::try_from(range.start().get().checked_sub(at.get())?).ok()?;
    let end = skip.checked_add(usize::try_from(range.len()).ok()?)?;
    (end <= bytes.len()).then(|| bytes.slice(skip..end))
}

fn cut(fetched: &BTreeMap<StoredOffset, Bytes>, range: StoredRange) -> Result<Bytes> {
    let missing = || Error::internal(format!("table {range:?} is not in what was fetched for it"));
    let (at, bytes) = fetched.range(..=range.start()).next_back().ok_or_else(missing)?;
    slice(*at, bytes, range).ok_or_else(missing)
}

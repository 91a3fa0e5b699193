//! Tables of an image, loaded in bulk and cached in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use diskferry_core::{Error, FileIndex, Result, Source, StoredOffset, StoredRange};
use futures_util::stream::{FuturesUnordered, TryStreamExt};

/// Most bytes of tables that are cached for an image, however many files it has.
const CACHE_BYTES: u64 = 16 << 20;
/// Tables no further apart than this are read in one request. It is small because the bytes between tables are mostly
/// data, which is fetched again later.
const GAP: u64 = 4 << 10;
/// Longest request for tables, so that many run in parallel.
const LONGEST: u64 = 4 << 20;
/// Parallel requests for tables over a network. A source that supports more gets more.
const PARALLEL_REQUESTS: usize = 32;

/// Entries that may be walked repeatedly, in tables that several entries name, however small the object is.
const SHARED_ENTRIES: u64 = 1 << 19;
/// Guest bytes that such entries may map: about one second of reading.
const SHARED_BYTES: u64 = 2 << 30;

/// The largest total size of tables that may be named, counted once per name, even if the object is smaller. An entry
/// has `entry_bytes` and maps `unit_bytes`. Writers do not share tables, and tables that are not shared fit in the
/// object.
pub(crate) fn shared_free(entry_bytes: u64, unit_bytes: u64) -> u64 {
    let entries = SHARED_BYTES.checked_div(unit_bytes).unwrap_or_default().min(SHARED_ENTRIES);
    entries.saturating_mul(entry_bytes)
}

/// Reads the tables of one file through the cache.
///
/// A load of more bytes than the cache holds succeeds too. The caller bounds its requests.
pub(crate) struct Tables {
    source: Arc<dyn Source>,
    file: FileIndex,
    cache: TableCache,
}

/// The cache of the tables of all files of an image. It evicts the least recently used table. Clones share the cache.
#[derive(Clone, Default)]
pub(crate) struct TableCache(Arc<Mutex<CachedTables>>);

impl TableCache {
    fn lock(&self) -> MutexGuard<'_, CachedTables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type TableKey = (FileIndex, StoredRange);

#[derive(Default)]
struct CachedTables {
    tables: HashMap<TableKey, (Bytes, u64)>,
    by_age: BTreeMap<u64, TableKey>,
    bytes: u64,
    clock: u64,
}

impl CachedTables {
    fn get(&mut self, key: TableKey) -> Option<Bytes> {
        self.clock = self.clock.saturating_add(1);
        let (bytes, age) = self.tables.get_mut(&key)?;
        self.by_age.remove(age);
        self.by_age.insert(self.clock, key);
        *age = self.clock;
        Some(bytes.clone())
    }

    fn put(&mut self, key: TableKey, bytes: Bytes) {
        self.clock = self.clock.saturating_add(1);
        if let Some((_, age)) = self.tables.insert(key, (bytes, self.clock)) {
            self.by_age.remove(&age);
        } else {
            self.bytes = self.bytes.saturating_add(key.1.len());
        }
        self.by_age.insert(self.clock, key);
        while self.bytes > CACHE_BYTES {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.tables.remove(&oldest);
            self.bytes = self.bytes.saturating_sub(oldest.1.len());
        }
    }
}

impl Tables {
    /// The tables of an image that is one file.
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self::with_cache(TableCache::default(), FileIndex(0), source)
    }

    /// The tables of one file of an image, in the cache that its files share.
    pub(crate) fn with_cache(cache: TableCache, file: FileIndex, source: Arc<dyn Source>) -> Self {
        Self { source, file, cache }
    }

    /// One table.
    ///
    /// # Errors
    /// Those of [`Source::read`].
    pub(crate) async fn load_one(&self, range: StoredRange) -> Result<Bytes> {
        let mut all = self.load(&[range]).await?;
        all.pop().ok_or_else(|| Error::internal("a table was not loaded"))
    }

    /// All of `ranges`, in the given order. Tables that are not cached are fetched: neighbours in one request, and
    /// requests in parallel.
    ///
    /// # Errors
    /// Those of [`Source::read`]. The caller has checked that the ranges are inside the object.
    pub(crate) async fn load(&self, ranges: &[StoredRange]) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> = {
            let mut cache = self.cache.lock();
            ranges.iter().map(|range| cache.get((self.file, *range))).collect()
        };
        let mut missing: Vec<StoredRange> =
            ranges.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(range, _)| *range).collect();
        missing.sort_unstable();
        missing.dedup();
        let fetched = self.fetch(&runs(&missing)).await?;
        let mut cache = self.cache.lock();
        for (range, slot) in ranges.iter().zip(&mut found) {
            if slot.is_some() {
                continue;
            }
            let bytes = cut(&fetched, *range)?;
            // A copy: a slice would hold the memory of the whole request while one of its tables is cached.
            let bytes = Bytes::copy_from_slice(&bytes);
            cache.put((self.file, *range), bytes.clone());
            *slot = Some(bytes);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// `ranges` one after the other: see [`TableSequence`].
    pub(crate) fn sequence(&self, ranges: Vec<StoredRange>) -> TableSequence<'_> {
        TableSequence { tables: self, ranges, next: 0, loaded: Vec::new() }
    }

    async fn fetch(&self, runs: &[StoredRange]) -> Result<BTreeMap<StoredOffset, Bytes>> {
        let can = self.source.capabilities();
        // The best concurrency is measured on data. Over a network, a request for tables costs only the time to its
        // first byte, and the source bounds the number of requests itself.
        let at_once = if can.remote { can.in_flight.max(PARALLEL_REQUESTS) } else { can.in_flight.max(1) };
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

/// Tables that are used one after the other, by a walk that may stop before the last one. The first table that is not
/// cached is loaded together with all tables after it.
pub(crate) struct TableSequence<'a> {
    tables: &'a Tables,
    ranges: Vec<StoredRange>,
    next: usize,
    /// The tables from one position on, in reverse order.
    loaded: Vec<Bytes>,
}

impl TableSequence<'_> {
    /// The next table.
    ///
    /// # Errors
    /// Those of [`Tables::load`]; `internal` after the last table.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        let rest = self.ranges.get(self.next..).unwrap_or_default();
        let first = *rest.first().ok_or_else(|| Error::internal("more tables were requested than listed"))?;
        self.next = self.next.saturating_add(1);
        if let Some(bytes) = self.loaded.pop() {
            return Ok(bytes);
        }
        let cached = self.tables.cache.lock().get((self.tables.file, first));
        if let Some(bytes) = cached {
            return Ok(bytes);
        }
        self.loaded = self.tables.load(rest).await?;
        self.loaded.reverse();
        self.loaded.pop().ok_or_else(|| Error::internal("a table was not loaded"))
    }
}

/// Merges sorted ranges into requests.
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

/// The bytes of `range` from `bytes`, which are stored at `at`, if they contain it.
fn slice(at: StoredOffset, bytes: &Bytes, range: StoredRange) -> Option<Bytes> {
    let skip = usize::try_from(range.start().get().checked_sub(at.get())?).ok()?;
    let end = skip.checked_add(usize::try_from(range.len()).ok()?)?;
    (end <= bytes.len()).then(|| bytes.slice(skip..end))
}

fn cut(fetched: &BTreeMap<StoredOffset, Bytes>, range: StoredRange) -> Result<Bytes> {
    let missing = || Error::internal(format!("table {range:?} is not in the bytes that were fetched for it"));
    let (at, bytes) = fetched.range(..=range.start()).next_back().ok_or_else(missing)?;
    slice(*at, bytes, range).ok_or_else(missing)
}

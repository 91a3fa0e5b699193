//! Compressed data: streams are stored consecutively in guest order. Clusters that would not shrink are stored
//! uncompressed.
//!
//! ```text
//! | cluster         | cluster         | cluster         | cluster         |
//! | stream | stream | stream | strea  m | s | zeros     | plain           | stream …
//! ```

use std::sync::Arc;

use diskferry_core::{
    Coding, Encoded, Error, ErrorKind, Result, TargetOffset, TargetRange, UnitMap, Write, Writes,
};

use super::regions::{Regions, check_data, entries_of_table};
use super::table::EntryRun;
use crate::qcow2::entry;
use crate::qcow2::grid::Grid;

/// Streams are collected into writes of this size, because most are short.
const WRITE: usize = 256 << 10;
/// Most references to a cluster: reference counts have 16 bits.
const MOST_REFERENCES: u64 = u16::MAX as u64;
/// Marks an uncompressed unit in the list of lengths. No stream is empty.
const PLAIN: u32 = 0;

/// The units of an image that is being written. Memory: the set of stored units, and four bytes for each.
#[derive(Debug)]
pub(super) struct Compressed {
    grid: Grid,
    units: UnitMap,
    lengths: Vec<u32>,
    cursor: Cursor,
    /// Streams that are not written yet, and their offset.
    gathered: Vec<u8>,
    gathered_at: u64,
}

impl Compressed {
    pub(super) fn new(grid: Grid) -> Self {
        Self {
            grid,
            units: UnitMap::new(grid.cluster_bytes()),
            lengths: Vec::new(),
            cursor: Cursor::new(grid),
            gathered: Vec::new(),
            gathered_at: 0,
        }
    }

    /// Adds the next unit.
    ///
    /// # Errors
    /// `destination_unsuitable` if the image becomes too large; `internal` if the unit is invalid or out of order.
    pub(super) fn place(&mut self, encoded: Encoded) -> Result<Vec<Write>> {
        let Encoded { unit, coding, bytes } = encoded;
        let length = self.length(coding, bytes.len())?;
        if self.units.last().is_some_and(|last| last >= unit) {
            return Err(Error::internal(format!("unit {unit} is not after the last one")));
        }
        self.units.add_units(unit..unit.saturating_add(1))?;
        let before = self.cursor.at;
        let at = self.cursor.take(length);
        if length != PLAIN && entry::to_stream(self.grid, TargetOffset::new(at), length.into()).is_none() {
            return Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!(
                    "a compressed cluster would be at byte {at} of the image, beyond what QCOW2 can address with clusters \
                     of {} bytes",
                    self.grid.cluster_bytes()
                ),
            )
            .hint("use smaller clusters with -o cluster_size, or -o compression=none"));
        }
        check_data(self.grid, self.cursor.clusters())?;
        self.lengths.push(length);
        let mut writes = Vec::new();
        let zeros = TargetRange::between(TargetOffset::new(before), TargetOffset::new(at));
        if !zeros.is_empty() {
            writes.extend(self.flush());
            writes.push(Write::Zero(zeros));
        }
        if length != PLAIN {
            if self.gathered.is_empty() {
                self.gathered_at = at;
            }
            self.gathered.extend_from_slice(&bytes);
            if self.gathered.len() >= WRITE {
                writes.extend(self.flush());
            }
            return Ok(writes);
        }
        writes.extend(self.flush());
        match writes.last_mut() {
            Some(Write::Bytes(_, pieces)) => pieces.push(bytes),
            _ => writes.push(Write::Bytes(TargetOffset::new(at), vec![bytes])),
        }
        Ok(writes)
    }

    /// The unit's entry in the list of lengths.
    fn length(&self, coding: Coding, bytes: usize) -> Result<u32> {
        let cluster = self.grid.cluster_bytes();
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        match coding {
            Coding::Plain if u64::from(length) == cluster => Ok(PLAIN),
            Coding::Coded(len) if len == bytes && length != PLAIN && u64::from(length) < cluster => {
                Ok(length)
            }
            _ => Err(Error::internal(format!(
                "{bytes} bytes are not a cluster of {cluster} encoded as {coding:?}"
            ))),
        }
    }

    /// Writes the collected streams.
    pub(super) fn flush(&mut self) -> Option<Write> {
        let bytes = std::mem::take(&mut self.gathered);
        (!bytes.is_empty()).then(|| Write::Bytes(TargetOffset::new(self.gathered_at), vec![bytes.into()]))
    }

    /// The regions of the image.
    pub(super) fn regions(&self, virtual_bytes: u64) -> Regions {
        let tables = self.units.groups(entries_of_table(self.grid));
        Regions::new(self.grid, virtual_bytes, self.cursor.clusters(), tables)
    }

    /// The end of the data, and the tables.
    ///
    /// # Errors
    /// See [`Regions::tables`].
    pub(super) fn finish(&mut self, regions: &Regions) -> Result<Writes> {
        let grid = self.grid;
        let units = std::mem::replace(&mut self.units, UnitMap::new(grid.cluster_bytes()));
        let lengths = Arc::new(std::mem::take(&mut self.lengths));
        let zeros = TargetRange::between(TargetOffset::new(self.cursor.at), regions.data_range().end());
        let rest = self.flush().into_iter().chain((!zeros.is_empty()).then_some(Write::Zero(zeros)));
        let entries = Units::new(grid, Arc::clone(&lengths)).map(move |(at, length)| match length {
            PLAIN => entry::to_one(at),
            // Each was checked when it was placed.
            _ => entry::to_stream(grid, at, length.into()).unwrap_or_default(),
        });
        let tables = regions.tables(units, entries, counts(grid, Units::new(grid, lengths)))?;
        Ok(Box::new(rest.chain(tables)))
    }
}

/// Computes the offset of the next unit. The lengths of all units determine their offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cursor {
    cluster: u64,
    /// End of the last unit.
    at: u64,
    /// Number of streams in the cluster that contains `at`.
    streams: u64,
}

impl Cursor {
    fn new(grid: Grid) -> Self {
        // After the header.
        Self { cluster: grid.cluster_bytes().max(1), at: grid.cluster_bytes(), streams: 0 }
    }

    /// Returns the offset of a unit: directly after the last one, unless it needs its own cluster or the last cluster
    /// has the largest reference count.
    fn take(&mut self, length: u32) -> u64 {
        if length == PLAIN || self.streams >= MOST_REFERENCES {
            self.at = self.at.div_ceil(self.cluster).saturating_mul(self.cluster);
        }
        let at = self.at;
        let end = at.saturating_add(if length == PLAIN { self.cluster } else { length.into() });
        let cluster_of = |at: u64| at.checked_div(self.cluster).unwrap_or_default();
        let same = cluster_of(at) == cluster_of(end);
        let before = if at.is_multiple_of(self.cluster) { 0 } else { self.streams };
        self.streams = match end.checked_rem(self.cluster) {
            Some(0) | None => 0,
            Some(_) if same => before.saturating_add(1),
            Some(_) => 1,
        };
        self.at = end;
        at
    }

    /// Number of data clusters.
    fn clusters(&self) -> u64 {
        self.at.div_ceil(self.cluster).saturating_sub(1)
    }
}

/// Iterates over the units again, each with its offset and its entry in the list of lengths.
struct Units {
    lengths: Arc<Vec<u32>>,
    next: usize,
    cursor: Cursor,
}

impl Units {
    fn new(grid: Grid, lengths: Arc<Vec<u32>>) -> Self {
        Self { lengths, next: 0, cursor: Cursor::new(grid) }
    }
}

impl Iterator for Units {
    type Item = (TargetOffset, u32);

    fn next(&mut self) -> Option<Self::Item> {
        let length = *self.lengths.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some((TargetOffset::new(self.cursor.take(length)), length))
    }
}

/// The number of units in each cluster, which is its reference count.
fn counts(
    grid: Grid,
    units: impl Iterator<Item = (TargetOffset, u32)> + Send,
) -> impl Iterator<Item = EntryRun> + Send {
    let cluster = grid.cluster_bytes();
    let mut touched = units
        .flat_map(move |(at, length)| {
            let length = if length == PLAIN { cluster } else { length.into() };
            let last = at.get().saturating_add(length).saturating_sub(1);
            let cluster_of = |at: u64| at.checked_div(cluster).unwrap_or_default();
            cluster_of(at.get())..=cluster_of(last)
        })
        .peekable();
    std::iter::from_fn(move || {
        let index = touched.next()?;
        let mut value = 1u64;
        while touched.next_if_eq(&index).is_some() {
            value = value.saturating_add(1);
        }
        Some(EntryRun { index, count: 1, value, step: 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places units, and counts the units of each cluster by another method.
    fn placed(grid: Grid, lengths: Vec<u32>) -> (Vec<u64>, Vec<u64>) {
        let cluster = grid.cluster_bytes();
        let lengths = Arc::new(lengths);
        let mut expected: Vec<u64> = Vec::new();
        let mut places = Vec::new();
        let mut end = cluster;
        for (at, length) in Units::new(grid, Arc::clone(&lengths)) {
            assert!(at.get() >= end && at.get() < end + cluster, "{at} after {end}");
            assert!(length != PLAIN || at.is_aligned(cluster));
            end = at.get() + if length == PLAIN { cluster } else { length.into() };
            let (first, last) = (at.get() / cluster, (end - 1) / cluster);
            expected.resize(last as usize + 1, 0);
            expected[first as usize..=last as usize].iter_mut().for_each(|count| *count += 1);
            places.push(at.get());
        }
        let mut found = vec![0; expected.len()];
        for run in counts(grid, Units::new(grid, lengths)) {
            assert_eq!((run.count, found[run.index as usize]), (1, 0));
            found[run.index as usize] = run.value;
        }
        assert_eq!(found, expected);
        (places, expected)
    }

    #[test]
    fn streams_are_consecutive_and_plain_units_have_their_own_clusters() {
        let (places, counts) =
            placed(Grid::new(9, false), vec![100, 412, 1, PLAIN, 500, 500, 500, PLAIN, PLAIN, 511]);
        assert_eq!(places, [512, 612, 1024, 1536, 2048, 2548, 3048, 3584, 4096, 4608]);
        assert_eq!(counts, [0, 2, 1, 1, 2, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn no_cluster_exceeds_the_largest_refcount() {
        let grid = Grid::new(21, false);
        let (places, counts) = placed(grid, vec![1; 200_000]);
        assert_eq!(counts, [0, 65_535, 65_535, 65_535, 3395]);
        assert_eq!(places[65_535], 4 << 20);
        // One that begins in the last bytes of a cluster counts in the next one too.
        let mut lengths = vec![1; 65_534];
        lengths.extend([(2 << 20) - 65_534 + 7, 5]);
        lengths.extend(vec![1; 70_000]);
        let (_, counts) = placed(grid, lengths);
        assert_eq!(&counts[..3], [0, 65_535, 65_535]);
    }

    #[test]
    fn invalid_and_out_of_order_units_are_refused() {
        let mut data = Compressed::new(Grid::new(9, false));
        let unit = |unit, coding, len| Encoded { unit, coding, bytes: vec![1; len].into() };
        data.place(unit(7, Coding::Coded(20), 20)).unwrap();
        for wrong in [
            unit(7, Coding::Coded(20), 20),
            unit(3, Coding::Plain, 512),
            unit(8, Coding::Plain, 511),
            unit(8, Coding::Coded(0), 0),
            unit(8, Coding::Coded(19), 20),
            unit(8, Coding::Coded(512), 512),
        ] {
            assert_eq!(data.place(wrong).unwrap_err().kind(), ErrorKind::Internal);
        }
        data.place(unit(8, Coding::Plain, 512)).unwrap();
    }
}

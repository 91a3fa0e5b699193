//! The units of a disk (clusters, blocks, grains) that hold data. The tables of a target are built from this.

use std::ops::Range;

use crate::address::GuestRange;
use crate::error::{Error, ErrorKind, Result};

/// A set of units of one size, stored as runs of adjacent units in guest order.
///
/// Its memory depends on the number of runs and not of units: nearly empty and nearly full disks are cheap, however
/// large they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitMap {
    unit: u64,
    runs: Vec<Run>,
    count: u64,
}

/// The start of a run, and the number of units in the runs before it. The next run thus gives the length of this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    start: u64,
    rank: u64,
}

impl UnitMap {
    /// The most runs: 16 MiB of memory. A disk of 128 GiB in which every other 64 KiB block is set has that many.
    pub const MOST_RUNS: usize = 1 << 20;

    /// An empty set of units of `unit` bytes.
    pub fn new(unit: u64) -> Self {
        Self { unit: unit.max(1), runs: Vec::new(), count: 0 }
    }

    /// All units of a disk of `virtual_bytes`.
    pub fn full(unit: u64, virtual_bytes: u64) -> Self {
        let mut units = Self::new(unit);
        let end = virtual_bytes.div_ceil(units.unit);
        units.runs.extend((end > 0).then_some(Run { start: 0, rank: 0 }));
        units.count = end;
        units
    }

    /// Size of a unit in bytes.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// Adds the units that `guest` touches. It must not begin before the last unit in the set.
    ///
    /// # Errors
    /// `internal` if it begins before the last unit; `destination_unsuitable` if there are too many runs.
    pub fn add(&mut self, guest: GuestRange) -> Result<()> {
        if guest.is_empty() {
            return Ok(());
        }
        self.add_units(guest.start().get() / self.unit..guest.end().get().div_ceil(self.unit))
    }

    /// Adds units by index, see [`add`](Self::add).
    ///
    /// # Errors
    /// See [`add`](Self::add).
    pub fn add_units(&mut self, units: Range<u64>) -> Result<()> {
        if units.is_empty() {
            return Ok(());
        }
        let full = self.runs.len() >= Self::MOST_RUNS;
        match self.end() {
            Some(end) if end > units.start && end - units.start > 1 => {
                Err(Error::internal(format!("unit {} is added after unit {}", units.start, end - 1)))
            }
            Some(end) if units.start <= end => {
                self.count += units.end.max(end) - end;
                Ok(())
            }
            _ if full => Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!(
                    "the data of the disk is in more than {} separate runs of {} bytes",
                    Self::MOST_RUNS,
                    self.unit
                ),
            )),
            _ => {
                self.runs.push(Run { start: units.start, rank: self.count });
                self.count += units.end - units.start;
                Ok(())
            }
        }
    }

    /// The number of units.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The index after the last unit.
    fn end(&self) -> Option<u64> {
        let last = self.runs.last()?;
        Some(last.start + (self.count - last.rank))
    }

    /// The runs from index `first` on, each with the number of units before it.
    fn from(&self, first: usize) -> impl Iterator<Item = (Range<u64>, u64)> + '_ {
        let runs = self.runs.get(first..).unwrap_or_default();
        let next = runs.iter().skip(1).map(|run| run.rank).chain(std::iter::once(self.count));
        runs.iter().zip(next).map(|(run, next)| (run.start..run.start + (next - run.rank), run.rank))
    }

    /// The number of units before `unit`, if `unit` is in the set.
    pub fn rank(&self, unit: u64) -> Option<u64> {
        let (run, rank) = self.runs_from(unit).next()?;
        Some(rank + unit.checked_sub(run.start)?)
    }

    /// The index of the last unit.
    pub fn last(&self) -> Option<u64> {
        // No run is empty.
        self.end().map(|end| end - 1)
    }

    /// The units in guest order, as runs of adjacent units.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.from(0).map(|(run, _)| run)
    }

    /// Like [`runs`](Self::runs), without those that end at `unit` or before it. Each run comes with the number of
    /// units before it.
    pub fn runs_from(&self, unit: u64) -> impl Iterator<Item = (Range<u64>, u64)> + '_ {
        // The last run that begins at the unit or before it may contain the unit. If there is none, all runs are after it.
        let first = self.runs.partition_point(|run| run.start <= unit).saturating_sub(1);
        self.from(first).skip_while(move |(run, _)| run.end <= unit)
    }

    /// Like [`runs`](Self::runs), but owned.
    pub fn into_runs(self) -> impl Iterator<Item = Range<u64>> + Send {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (run, _) = self.from(at).next()?;
            at += 1;
            Some(run)
        })
    }

    /// The number of groups of `units` adjacent units that contain any. A group can be the entries of one table; this
    /// is then the number of tables that a two-level map needs.
    pub fn groups(&self, units: u64) -> u64 {
        let units = units.max(1);
        let (mut groups, mut next) = (0u64, 0u64);
        for run in self.runs() {
            let first = (run.start / units).max(next);
            let end = run.end.div_ceil(units);
            groups += end.max(first) - first;
            next = next.max(end);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::GuestOffset;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    #[test]
    fn units_are_counted_once_however_often_they_are_touched() {
        let mut units = UnitMap::new(100);
        for (start, end) in [(0, 1), (50, 100), (100, 100), (350, 420), (480, 501), (1000, 1300)] {
            units.add(range(start, end)).unwrap();
        }
        assert_eq!(units.runs().collect::<Vec<_>>(), [0..1, 3..6, 10..13]);
        assert_eq!((units.count(), units.last()), (7, Some(12)));
        let ranks: Vec<_> = (0..14).map(|unit| units.rank(unit)).collect();
        let expected = [0, -1, -1, 1, 2, 3, -1, -1, -1, -1, 4, 5, 6, -1i64];
        assert_eq!(ranks, expected.map(|rank| u64::try_from(rank).ok()));
        for unit in 0..14 {
            let expected: Vec<_> =
                [(0..1, 0), (3..6, 1), (10..13, 4)].into_iter().filter(|(run, _)| run.end > unit).collect();
            assert_eq!(units.runs_from(unit).collect::<Vec<_>>(), expected, "{unit}");
        }
        assert!(units.add(range(200, 300)).is_err(), "guest order");
    }

    #[test]
    fn groups_are_counted_if_they_contain_a_unit() {
        let mut units = UnitMap::new(1);
        for (start, end) in [(0, 2), (3, 9), (9, 10), (40, 41), (47, 52)] {
            units.add(range(start, end)).unwrap();
        }
        for size in 1..60 {
            let mut groups: Vec<_> = units.runs().flatten().map(|unit| unit / size).collect();
            groups.dedup();
            assert_eq!(units.groups(size), groups.len() as u64, "{size}");
        }
        assert_eq!(UnitMap::full(100, 1001).count(), 11);
        assert_eq!(UnitMap::full(100, 0).count(), 0);
    }
}

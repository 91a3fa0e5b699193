//! Data that is not compressed: a cluster for each that holds anything, in guest order.

use std::ops::Range;

use bytes::Bytes;
use diskferry_core::address::{GuestOffset, GuestRange, TargetOffset, TargetRange};
use diskferry_core::digest::BLOCK;
use diskferry_core::error::{Error, Result};
use diskferry_core::scan::{Scanned, is_zero};
use diskferry_core::target::{Write, Writes};
use diskferry_core::units::UnitMap;

use super::regions::{Regions, check_data, entries_of_table};
use super::table::Run;
use crate::qcow2::entry;
use crate::qcow2::grid::Grid;

/// The clusters of an image as they are written.
#[derive(Debug)]
pub(super) struct Plain {
    grid: Grid,
    units: UnitMap,
    /// True where the units were known from the start, and each has its cluster, whatever is in it.
    placed: bool,
    /// Everything before it is written, from the end of the header's cluster on.
    at: u64,
}

impl Plain {
    /// Clusters are appended as they come.
    pub(super) fn packed(grid: Grid) -> Self {
        let at = grid.cluster_bytes();
        Self { grid, units: UnitMap::new(at), placed: false, at }
    }

    /// Clusters have their places.
    pub(super) fn placed(grid: Grid, units: UnitMap) -> Self {
        Self { grid, units, placed: true, at: grid.cluster_bytes() }
    }

    /// Takes guest bytes, in guest order. Zeros are written when what comes behind them in the image is, or at the end.
    ///
    /// # Errors
    /// `destination_unsuitable` where it becomes too much; `internal` where data comes that the map did not know of.
    pub(super) fn place(&mut self, scanned: &Scanned) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        for (range, _) in scanned.ranges().filter(|(_, zero)| !zero) {
            let bytes = scanned.slice(range);
            if self.grid.cluster_bytes() >= BLOCK {
                self.write(range, bytes, &mut writes)?;
            } else {
                for part in self.content(&bytes) {
                    let bytes = bytes.slice(part.clone());
                    let guest = range.skip(part.start as u64).split_at(bytes.len() as u64).0;
                    self.write(guest, bytes, &mut writes)?;
                }
            }
        }
        Ok(writes)
    }

    /// The parts of `bytes`, which begin where a cluster does, without clusters of zeros.
    fn content(&self, bytes: &Bytes) -> Vec<Range<usize>> {
        let cluster = usize::try_from(self.grid.cluster_bytes()).unwrap_or(usize::MAX);
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut start = 0usize;
        for chunk in bytes.chunks(cluster) {
            let end = start.saturating_add(chunk.len());
            if !is_zero(chunk) {
                match parts.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => parts.push(start..end),
                }
            }
            start = end;
        }
        parts
    }

    /// Writes guest bytes into their clusters, and zeros before them.
    fn write(&mut self, guest: GuestRange, bytes: Bytes, writes: &mut Vec<Write>) -> Result<()> {
        if guest.is_empty() {
            return Ok(());
        }
        if !self.placed {
            self.units.add(guest)?;
            check_data(self.grid, self.units.count())?;
        }
        let start = self.target_of(guest.start())?;
        let last = self.target_of(GuestOffset::new(guest.end().get().saturating_sub(1)))?;
        if start < self.at || last.saturating_sub(start) != guest.len().saturating_sub(1) {
            return Err(Error::internal(format!("guest bytes {guest} do not fit behind {}", self.at)));
        }
        let target = TargetOffset::new(start);
        let zeros = TargetRange::between(TargetOffset::new(self.at), target);
        match writes.last_mut() {
            Some(Write::Bytes(_, pieces)) if zeros.is_empty() => pieces.push(bytes),
            _ => {
                writes.extend((!zeros.is_empty()).then_some(Write::Zero(zeros)));
                writes.push(Write::Bytes(target, vec![bytes]));
            }
        }
        self.at = last.saturating_add(1);
        Ok(())
    }

    /// Where a guest byte lies in the image.
    fn target_of(&self, guest: GuestOffset) -> Result<u64> {
        let cluster = self.grid.cluster_bytes();
        let unit = guest.get().checked_div(cluster).unwrap_or_default();
        let rank = self.units.rank(unit);
        let rank = rank.ok_or_else(|| {
            Error::internal(format!("there is data at guest byte {guest}, where the map has none"))
        })?;
        let inside = guest.get().checked_rem(cluster).unwrap_or_default();
        Ok(rank.saturating_add(1).saturating_mul(cluster).saturating_add(inside))
    }

    /// The regions of the image.
    pub(super) fn regions(&self, virtual_bytes: u64) -> Regions {
        let tables = self.units.groups(entries_of_table(self.grid));
        Regions::new(self.grid, virtual_bytes, self.units.count(), tables)
    }

    /// The end of the data, and the tables.
    ///
    /// # Errors
    /// See [`Regions::tables`].
    pub(super) fn finish(&mut self, regions: &Regions) -> Result<Writes> {
        let cluster = self.grid.cluster_bytes();
        let units = std::mem::replace(&mut self.units, UnitMap::new(cluster));
        let count = units.count();
        let zeros = TargetRange::between(TargetOffset::new(self.at), regions.data_range().end());
        let first = entry::to_one(regions.data_range().start());
        let entries = (0..count).map(move |rank| first.saturating_add(rank.saturating_mul(cluster)));
        let counts = Run { index: 1, count, value: 1, step: 0 };
        let tables = regions.tables(units, entries, std::iter::once(counts))?;
        Ok(Box::new((!zeros.is_empty()).then_some(Write::Zero(zeros)).into_iter().chain(tables)))
    }
}

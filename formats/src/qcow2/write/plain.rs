//! Uncompressed data: one cluster for each unit with data, in guest order.

use diskferry_core::{Result, Scanned, UnitMap, Write, Writes};

use super::regions::{Regions, check_data, entries_of_table};
use super::table::EntryRun;
use crate::qcow2::entry;
use crate::qcow2::grid::Grid;
use crate::unit_placement::{AppendWriter, UnitPlacement};

/// The clusters of an image during the write.
#[derive(Debug)]
pub(super) struct Plain {
    grid: Grid,
    clusters: AppendWriter,
}

impl Plain {
    /// A packed layout: clusters are appended in order.
    pub(super) fn packed(grid: Grid) -> Self {
        let first = grid.cluster_bytes();
        let count = move |end: u64| end.saturating_sub(first).checked_div(first).unwrap_or_default();
        let check = Box::new(move |end| check_data(grid, count(end)));
        Self { grid, clusters: AppendWriter::found(first, b"", first, check) }
    }

    /// A placed layout: the map determines the cluster offsets.
    pub(super) fn placed(grid: Grid, units: UnitMap) -> Self {
        let first = grid.cluster_bytes();
        Self { grid, clusters: AppendWriter::known(UnitPlacement::new(first, b"", units)) }
    }

    /// Adds guest bytes, in guest order.
    ///
    /// # Errors
    /// `destination_unsuitable` if the image becomes too large; `internal` for data that is not in the map.
    pub(super) fn place(&mut self, scanned: &Scanned) -> Result<Vec<Write>> {
        self.clusters.place(scanned)
    }

    /// The regions of the image.
    pub(super) fn regions(&self, virtual_bytes: u64) -> Regions {
        let units = self.clusters.stored().units();
        let tables = units.groups(entries_of_table(self.grid));
        Regions::new(self.grid, virtual_bytes, units.count(), tables)
    }

    /// The end of the data, and the tables.
    ///
    /// # Errors
    /// See [`Regions::tables`].
    pub(super) fn finish(&mut self, regions: &Regions) -> Result<Writes> {
        let cluster = self.grid.cluster_bytes();
        let clusters = std::mem::replace(self, Self::packed(self.grid)).clusters;
        let (rest, stored) = clusters.finish();
        let units = stored.into_units();
        let count = units.count();
        let first = entry::to_one(regions.data_range().start());
        let entries = (0..count).map(move |rank| first.saturating_add(rank.saturating_mul(cluster)));
        let counts = EntryRun { index: 1, count, value: 1, step: 0 };
        let tables = regions.tables(units, entries, std::iter::once(counts))?;
        Ok(Box::new(rest.into_iter().chain(tables)))
    }
}

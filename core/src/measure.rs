//! What an image really holds, and whether it fits: from its tables, without reading data.

use std::sync::Arc;

use crate::address::{GuestOffset, GuestRange};
use crate::conversion::{Conversion, Report, Resources};
use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::limits::{Limits, Sizes, Verdict};
use crate::source::Traffic;

/// How deep to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Depth {
    /// No table beyond what opening read: `allocated_bytes` is known only where no table is needed.
    Quick,
    /// Every table, no data.
    #[default]
    Tables,
    /// The data too: the real content.
    Scan,
}

/// What was measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measured {
    /// The sizes known at that depth.
    pub sizes: Sizes,
    /// The rules.
    pub verdict: Verdict,
    /// All that was remarkable so far.
    pub warnings: Vec<Warning>,
    /// What it cost, opening included.
    pub cost: Traffic,
}

/// Measures `disk` against `limits` from its tables. A rule that fails is part of the answer and no error.
///
/// # Errors
/// The disk's refusal; those of its map and its source.
pub async fn measure(disk: &Arc<Disk>, limits: &Limits) -> Result<Measured> {
    measure_at(disk, limits, Depth::Tables, &Resources::default()).await
}

/// Measures `disk` against `limits` as deep as `depth` says; `resources` are used where data is read.
///
/// # Errors
/// See [`measure`]; with [`Depth::Scan`] those of reading too.
pub async fn measure_at(
    disk: &Arc<Disk>,
    limits: &Limits,
    depth: Depth,
    resources: &Resources,
) -> Result<Measured> {
    disk.admit()?;
    let mut sizes = Sizes {
        object_bytes: disk.object_bytes(),
        virtual_bytes: Some(disk.virtual_bytes()),
        ..Sizes::default()
    };
    match depth {
        Depth::Quick => sizes.allocated_bytes = disk.allocated_without_tables(),
        Depth::Tables => sizes.allocated_bytes = Some(allocated(disk).await?),
        Depth::Scan => {
            // The content is wanted whatever it is: the rule is judged below.
            let unlimited = Limits { image: crate::limits::ImageLimit::None, capacity: None };
            let reading = Conversion::reading(Arc::clone(disk)).limits(unlimited).digest(false);
            let report = reading.resources(resources.clone()).run().await?;
            return Ok(Measured::of_reading(&report, limits));
        }
    }
    let verdict = limits.judge(&sizes);
    let mut warnings = disk.warnings().list();
    warnings.extend(verdict.warnings.iter().cloned());
    Ok(Measured { sizes, verdict, warnings, cost: disk.traffic() })
}

impl Measured {
    /// What reading a disk to its end found out, against `limits`: [`Depth::Scan`] for a caller who wants to follow its
    /// progress or to cancel it. The reading itself has no limits, so that one that fails does not end it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskferry_core::{conversion::Conversion, disk::Disk, error::Result, limits::{ImageLimit, Limits}};
    /// # use diskferry_core::measure::Measured;
    /// # async fn scan(disk: Arc<Disk>, limits: Limits) -> Result<Measured> {
    /// let unlimited = Limits { image: ImageLimit::None, capacity: None };
    /// let report = Conversion::reading(disk).limits(unlimited).digest(false).run().await?;
    /// Ok(Measured::of_reading(&report, &limits))
    /// # }
    /// ```
    pub fn of_reading(report: &Report, limits: &Limits) -> Self {
        let verdict = limits.judge(&report.sizes);
        let mut warnings = report.warnings.clone();
        warnings.extend(verdict.warnings.iter().cloned());
        Self { sizes: report.sizes, verdict, warnings, cost: report.movement.source }
    }
}

/// Walks the whole map, some tables at a time.
async fn allocated(disk: &Disk) -> Result<u64> {
    if let Some(known) = disk.allocated_without_tables() {
        return Ok(known);
    }
    let end = GuestOffset::new(disk.virtual_bytes());
    let mut at = GuestOffset::ZERO;
    let mut allocated = 0u64;
    while at < end {
        for extent in disk.extents(GuestRange::between(at, end)).await? {
            at = extent.guest.end();
            if extent.is_allocated() {
                allocated = allocated.saturating_add(extent.guest.len());
            }
        }
    }
    Ok(allocated)
}

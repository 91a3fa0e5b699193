//! What an image really holds, and whether it fits: from its tables, without reading data.

use std::sync::Arc;

use crate::address::{GuestOffset, GuestRange};
use crate::conversion::{Conversion, Resources};
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
    let mut extra = Vec::new();
    match depth {
        Depth::Quick => sizes.allocated_bytes = disk.allocated_without_tables(),
        Depth::Tables => sizes.allocated_bytes = Some(allocated(disk).await?),
        Depth::Scan => {
            // The content is wanted whatever it is: the rule is judged below.
            let unlimited = Limits { image: crate::limits::ImageLimit::None, capacity: None };
            let reading = Conversion::reading(Arc::clone(disk)).limits(unlimited).digest(false);
            let report = reading.resources(resources.clone()).run().await?;
            sizes.allocated_bytes = report.sizes.allocated_bytes;
            sizes.content_bytes = report.sizes.content_bytes;
            sizes.content_end = report.sizes.content_end;
            extra = report.warnings;
        }
    }
    let verdict = limits.judge(&sizes);
    let mut warnings = disk.warnings().list();
    warnings.extend(extra.into_iter().filter(|warning| !disk.warnings().list().contains(warning)));
    warnings.extend(verdict.warnings.iter().cloned());
    Ok(Measured { sizes, verdict, warnings, cost: disk.traffic() })
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

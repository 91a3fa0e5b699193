//! What an image really holds, and whether it fits: from its tables, without reading data.

use std::sync::Arc;

use crate::conversion::{Conversion, Report, Resources};
use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::layout::{Layout, LayoutFacts, OutputSize, UnitMap, allocation};
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
#[non_exhaustive]
pub struct Measure {
    /// The sizes known at that depth.
    pub sizes: Sizes,
    /// The rules.
    pub verdict: Verdict,
    /// All that was remarkable so far.
    pub warnings: Vec<Warning>,
    /// What a target would take, where a layout was given and the tables tell.
    pub output: Option<OutputSize>,
    /// What it cost, opening included.
    pub cost: Traffic,
}

/// Measures `disk` against `limits` from its tables. A rule that fails is part of the answer and no error.
///
/// # Errors
/// The disk's refusal; those of its map and its source.
pub async fn measure(disk: &Arc<Disk>, limits: &Limits) -> Result<Measure> {
    measure_at(disk, limits, Depth::Tables, None, &Resources::default()).await
}

/// Measures `disk` against `limits` as deep as `depth` says, and what a target of that layout takes; `resources` are used
/// where data is read.
///
/// # Errors
/// See [`measure`]; with [`Depth::Scan`] those of reading too; `destination_unsuitable` if the layout cannot hold the
/// disk.
pub async fn measure_at(
    disk: &Arc<Disk>,
    limits: &Limits,
    depth: Depth,
    layout: Option<&dyn Layout>,
    resources: &Resources,
) -> Result<Measure> {
    disk.admit()?;
    let mut sizes = Sizes {
        object_bytes: disk.object_bytes(),
        virtual_bytes: Some(disk.virtual_bytes()),
        ..Sizes::default()
    };
    let mut output = None;
    match depth {
        Depth::Quick => {
            sizes.allocated_bytes = disk.allocated_without_tables();
            if let Some(layout) = layout
                && (layout.unit().is_none() || sizes.allocated_bytes.is_some())
            {
                output = predict(disk, layout, None)?;
            }
        }
        Depth::Tables => {
            let (allocated, map) = allocation(disk, layout.and_then(Layout::unit)).await?;
            sizes.allocated_bytes = Some(allocated);
            output = layout.map_or(Ok(None), |layout| predict(disk, layout, map))?;
        }
        Depth::Scan => {
            // The content is wanted whatever it is: the rule is judged below.
            let unlimited = Limits { image: crate::limits::ImageLimit::None, capacity: None };
            let reading = Conversion::reading(Arc::clone(disk)).limits(unlimited).digest(false);
            let report = reading.resources(resources.clone()).run().await?;
            let mut measured = Measure::of_reading(&report, limits);
            if let Some(layout) = layout {
                measured.predict(disk, layout).await?;
            }
            return Ok(measured);
        }
    }
    sizes.output_bytes = output.map(|output| output.bytes);
    let verdict = limits.judge(&sizes);
    let mut warnings = disk.warnings().list();
    warnings.extend(verdict.warnings.iter().cloned());
    Ok(Measure { sizes, verdict, warnings, output, cost: disk.traffic() })
}

fn predict(disk: &Disk, layout: &dyn Layout, map: Option<UnitMap>) -> Result<Option<OutputSize>> {
    let virtual_bytes = Some(layout.virtual_bytes(disk.virtual_bytes())?);
    layout.output_size(&LayoutFacts { virtual_bytes, fingerprint: disk.info().fingerprint, map })
}

impl Measure {
    /// What reading a disk to its end found out, against `limits`: [`Depth::Scan`] for a caller who wants to follow its
    /// progress or to cancel it. The reading itself has no limits, so that one that fails does not end it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskferry_core::{Conversion, Disk, ImageLimit, Limits, Result};
    /// # use diskferry_core::Measure;
    /// # async fn scan(disk: Arc<Disk>, limits: Limits) -> Result<Measure> {
    /// let unlimited = Limits::default().image(ImageLimit::None);
    /// let report = Conversion::reading(disk).limits(unlimited).digest(false).run().await?;
    /// Ok(Measure::of_reading(&report, &limits))
    /// # }
    /// ```
    pub fn of_reading(report: &Report, limits: &Limits) -> Self {
        let verdict = limits.judge(&report.sizes);
        let mut warnings = report.warnings.clone();
        warnings.extend(verdict.warnings.iter().cloned());
        Self { sizes: report.sizes, verdict, warnings, output: None, cost: report.stats.source }
    }

    /// Adds what a target of that layout takes, from the tables of `disk`.
    ///
    /// # Errors
    /// Those of the map; `destination_unsuitable` if the layout cannot hold the disk.
    pub async fn predict(&mut self, disk: &Disk, layout: &dyn Layout) -> Result<()> {
        let (_, map) = allocation(disk, layout.unit()).await?;
        self.output = predict(disk, layout, map)?;
        self.sizes.output_bytes = self.output.map(|output| output.bytes);
        Ok(())
    }
}

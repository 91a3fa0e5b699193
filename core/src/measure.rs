//! Measures an image from its tables, without reading data: how much it holds, and whether it fits the limits.

use std::sync::Arc;

use crate::conversion::{Conversion, Report, Resources};
use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::layout::{Layout, LayoutFacts, OutputSize, UnitMap, allocation};
use crate::limits::{Limits, Sizes, Verdict};
use crate::source::Traffic;

/// How much to read for a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Depth {
    /// Only the tables that opening read. `allocated_bytes` is known only if no other table is needed.
    Quick,
    /// Every table, no data.
    #[default]
    Tables,
    /// The data too, for the real content.
    Scan,
}

/// The result of a measurement.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Measure {
    /// The sizes that are known at that depth.
    pub sizes: Sizes,
    /// The rules and their outcomes.
    pub verdict: Verdict,
    /// All warnings so far.
    pub warnings: Vec<Warning>,
    /// The size of a target, if a layout was given and the tables determine it.
    pub output: Option<OutputSize>,
    /// The traffic, opening included.
    pub cost: Traffic,
}

/// Measures `disk` against `limits` from its tables. A rule that fails is part of the result and not an error.
///
/// # Errors
/// The disk's refusal; errors of its map and its source.
pub async fn measure(disk: &Arc<Disk>, limits: &Limits) -> Result<Measure> {
    measure_at(disk, limits, Depth::Tables, None, &Resources::default()).await
}

/// Measures `disk` against `limits` at the given depth, and computes the size of a target of that layout. `resources`
/// are used if data is read.
///
/// # Errors
/// See [`measure`]; with [`Depth::Scan`] also errors of reading; `destination_unsuitable` if the layout cannot hold
/// the disk.
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
            // The real content is measured without limits: the rule is checked below.
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
    /// The measurement from the report of a conversion that read the whole disk, checked against `limits`. This is
    /// [`Depth::Scan`] for callers that want to follow the progress or to cancel. The conversion itself should have
    /// no limits, so that a failing rule does not end it.
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

    /// Adds the size of a target of that layout, from the tables of `disk`.
    ///
    /// # Errors
    /// Errors of the map; `destination_unsuitable` if the layout cannot hold the disk.
    pub async fn predict(&mut self, disk: &Disk, layout: &dyn Layout) -> Result<()> {
        let (_, map) = allocation(disk, layout.unit()).await?;
        self.output = predict(disk, layout, map)?;
        self.sizes.output_bytes = self.output.map(|output| output.bytes);
        Ok(())
    }
}

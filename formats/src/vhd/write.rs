//! Writing VHD.
//!
//! ```text
//! fixed    guest bytes, each at its own address ······ footer
//! dynamic  copy of the footer · header · BAT · [bitmap, block] [bitmap, block] ··· footer
//! ```
//!
//! A disk has its exact size: the creator is `win `, for which every reader takes the size from `current_size` and not
//! from the CHS geometry.

mod disk;
mod dynamic;
mod fixed;

use diskferry_core::{Layout, Result, WriteOrder};

use self::dynamic::DynamicLayout;
use self::fixed::FixedLayout;
use super::options::{VhdOptions, VhdSubformat};
use crate::target_reader::TargetReader;

/// Creates the layout that `options` select, for a sink that accepts writes in `order`.
///
/// # Errors
/// `usage` for an invalid option value.
pub(crate) fn layout(
    options: &VhdOptions,
    order: WriteOrder,
    reader: TargetReader,
) -> Result<Box<dyn Layout>> {
    let size = options.sector_size()?;
    Ok(match options.subformat {
        VhdSubformat::Dynamic => Box::new(DynamicLayout::new(size, options.id, order, reader)),
        VhdSubformat::Fixed => Box::new(FixedLayout::new(size, options.id, order, reader)),
    })
}

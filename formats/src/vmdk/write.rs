//! Writing VMDK: monolithicSparse, which a virtual machine can run from, and streamOptimized, which is used in an OVA.
//!
//! Both have grains of 64 KiB, tables of 512 entries, and an embedded descriptor, like the output of other writers.
//!
//! ```text
//! monolithicSparse  header │ descriptor │ redundant directory and tables │ directory and tables │ grain, grain, …
//! streamOptimized   header │ descriptor │ grain, grain, …, table │ grain, …, table │ directory │ footer │ end
//!                                         └ each after a marker with its type
//! ```

mod descriptor;
mod disk;
mod encode;
mod front;
mod plain;
mod stream;

use diskferry_core::{Layout, Result, WriteOrder};

use self::disk::DiskOptions;
use self::encode::GrainEncoder;
use self::plain::PlainLayout;
use self::stream::StreamLayout;
use super::options::VmdkOptions;
use crate::target_reader::TargetReader;

/// Creates the layout that `options` select, for a sink that accepts writes in `order`.
///
/// # Errors
/// `usage` for options that contradict each other, and for invalid values.
pub(crate) fn layout(
    options: &VmdkOptions,
    order: WriteOrder,
    reader: TargetReader,
) -> Result<Box<dyn Layout>> {
    let disk = DiskOptions::new(options)?;
    Ok(match options.compression_level()? {
        Some(level) => {
            let encoder = GrainEncoder::new(level, options.recompress.unwrap_or(false));
            Box::new(StreamLayout::new(disk, encoder, order, reader))
        }
        None => Box::new(PlainLayout::new(disk, order, reader)),
    })
}

//! Writing VMDK: monolithicSparse, which a virtual machine can run from, and streamOptimized, which travels in an OVA.
//!
//! Both have grains of 64 KiB and tables of 512 of them, as all writers have, and an embedded descriptor.
//!
//! ```text
//! monolithicSparse  header │ descriptor │ redundant directory and tables │ directory and tables │ grain, grain, …
//! streamOptimized   header │ descriptor │ grain, grain, …, table │ grain, …, table │ directory │ footer │ end
//!                                         └ each behind a marker that says what it is
//! ```

mod descriptor;
mod disk;
mod encode;
mod front;
mod plain;
mod stream;

use diskferry_core::{Error, ErrorKind, Layout, Result, WriteOrder};

use self::disk::{ContentId, DiskOptions};
use self::encode::GrainEncoder;
use self::plain::PlainLayout;
use self::stream::StreamLayout;
use crate::options::Options;

/// What `-o help` says of it.
pub(crate) const HELP: &str = "\
vmdk
  subformat=KIND       monolithicSparse (the default), or streamOptimized: compressed, as in an OVA
  level=N              streamOptimized: how hard to compress, from 0 to 9 (default 5)
  recompress=on|off    streamOptimized: compress anew what the source has compressed already (default off)
  align=SIZE           rounds the virtual size up to a multiple of SIZE, with zeros
  id=UUID              the content ID, whose last four bytes are the CID (default: derived from the source)
";

/// Shorter than zlib makes them at its own default, 6; each level above takes longer than it saves.
const DEFAULT_LEVEL: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Subformat {
    MonolithicSparse,
    StreamOptimized,
}

/// The layout that `options` ask for, for a sink that takes writes in `order`.
///
/// # Errors
/// `usage` for an option that does not fit.
pub(crate) fn layout(options: &mut Options<'_>, order: WriteOrder) -> Result<Box<dyn Layout>> {
    let kinds =
        [("monolithicSparse", Subformat::MonolithicSparse), ("streamOptimized", Subformat::StreamOptimized)];
    let subformat = options.choice("subformat", &kinds)?.unwrap_or(Subformat::MonolithicSparse);
    let level = options.number("level", 0..=9)?;
    let recompress = options.switch("recompress")?;
    let disk = DiskOptions::new(options.sectors()?, options.uuid("id")?.map(ContentId))?;
    match subformat {
        Subformat::StreamOptimized => {
            let encoder = GrainEncoder::new(level.unwrap_or(DEFAULT_LEVEL), recompress.unwrap_or(false));
            Ok(Box::new(StreamLayout::new(disk, encoder, order)))
        }
        Subformat::MonolithicSparse => {
            let compressing = level.map(|_| "level").or(recompress.map(|_| "recompress"));
            match compressing {
                Some(key) => Err(Error::new(
                    ErrorKind::Usage,
                    format!("the option {key} is for compressed targets, and monolithicSparse is not one"),
                )
                .hint("add -o subformat=streamOptimized")),
                None => Ok(Box::new(PlainLayout::new(disk, order))),
            }
        }
    }
}

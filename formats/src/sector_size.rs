//! Disk sizes in formats that count sectors instead of bytes.

use diskferry_core::{Error, ErrorKind, Result};

use crate::format::Format;
use crate::option_text::wrong;

/// The sector, the unit of sizes in these formats.
const SECTOR: u64 = 512;

/// The virtual sizes that a target can have: whole sectors, or multiples of the option `align`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectorSize {
    format: Format,
    /// The size is rounded up to a multiple of this, in bytes.
    align: Option<u64>,
}

impl SectorSize {
    /// # Errors
    /// `usage` if `align` is 0 or no multiple of a sector.
    pub(crate) fn new(format: Format, align: Option<u64>) -> Result<Self> {
        match align {
            Some(bytes) if bytes == 0 || !bytes.is_multiple_of(SECTOR) => {
                Err(wrong("align", format_args!("{bytes} bytes"), "it is a multiple of 512"))
            }
            _ => Ok(Self { format, align }),
        }
    }

    /// The size in bytes of the target disk for a source of `source_bytes`. A size that cannot be rounded up within 64
    /// bits is `u64::MAX`, which every format refuses.
    ///
    /// # Errors
    /// `destination_unsuitable` if it is not a whole number of sectors and is not rounded up.
    pub(crate) fn size(self, source_bytes: u64) -> Result<u64> {
        match self.align {
            Some(align) => Ok(source_bytes.checked_next_multiple_of(align).unwrap_or(u64::MAX)),
            None if source_bytes.is_multiple_of(SECTOR) => Ok(source_bytes),
            None => Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!(
                    "the disk has {source_bytes} bytes, and a {} counts whole sectors of {SECTOR}",
                    self.format
                ),
            )
            .hint("round its size up, with zeros: -o align=512")),
        }
    }
}

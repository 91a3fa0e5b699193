//! Microsoft's Virtual Hard Disk: fixed and dynamic; a differencing one is described and refused.
//!
//! From the "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, October 2006). All numbers are
//! big-endian, all places count sectors of 512 bytes or are byte addresses.
//!
//! ```text
//! fixed     guest bytes ······································· footer
//! dynamic   copy of the footer · header · BAT · [bitmap, block] [bitmap, block] ··· footer
//! ```
//!
//! The footer at the end is the master, the copy at the start is there for the day it is lost. A block holds guest
//! bytes in one piece; the bitmap before it says which of its sectors were ever written.

mod bat;
mod bitmap;
mod footer;
mod header;
mod read;

use diskferry_core::source::wrap::HeadTail;

pub(crate) use read::open;

use crate::detect::Recognised;

/// The unit of the format, in bytes.
const SECTOR: u64 = 512;

/// Whether the object is one: the cookie `conectix` at its end, or at its start for one that lost its end.
pub(crate) fn recognise(file: &HeadTail) -> Recognised {
    match read::examine(file) {
        Ok(None) => Recognised::No,
        Ok(Some(_)) => Recognised::Sound,
        Err(error) => Recognised::Unsound(error),
    }
}

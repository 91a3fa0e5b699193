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
mod dropped;
mod evidence;
mod footer;
mod header;
mod read;
pub(crate) mod write;

use diskferry_core::{HeadTail, StoredOffset};

use footer::Candidate;
pub(crate) use footer::TAIL_LEN;
pub(crate) use read::open;

use crate::detect::Recognised;

/// The unit of the format, in bytes.
const SECTOR: u64 = 512;

/// True where bytes begin as a dynamic or differencing disk does. A fixed one begins with the guest's bytes.
pub(crate) fn has_marks(head: &[u8]) -> bool {
    footer::has_cookie(head)
}

/// Length of a footer in bytes.
pub(crate) const FOOTER_LEN: usize = footer::LEN;

/// True where bytes end as a disk of any kind does, with an intact footer.
pub(crate) fn ends_as_one(tail: &[u8]) -> bool {
    Candidate::at_tail(tail, StoredOffset::ZERO).is_some_and(|candidate| candidate.is_intact())
}

/// Whether the object is one: the cookie `conectix` at its end, or at its start for one that lost its end.
pub(crate) fn recognise(file: &HeadTail) -> Recognised {
    match read::examine(file) {
        Ok(None) => Recognised::No,
        Ok(Some(_)) => Recognised::Sound,
        Err(error) => Recognised::Unsound(error),
    }
}

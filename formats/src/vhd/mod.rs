//! Microsoft's Virtual Hard Disk: fixed and dynamic. A differencing disk is described and refused.
//!
//! Source: "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, October 2006). All numbers are
//! big-endian. Offsets are counted in sectors of 512 bytes or in bytes.
//!
//! ```text
//! fixed     guest bytes ······································· footer
//! dynamic   copy of the footer · header · BAT · [bitmap, block] [bitmap, block] ··· footer
//! ```
//!
//! The footer at the end is authoritative; the copy at the start is used if the footer is lost. A block contains guest
//! bytes in one piece. The bitmap before it has one bit for each of its sectors, set if the sector was written.

mod bat;
mod bitmap;
mod chs_size;
mod footer;
mod header;
mod options;
mod probe;
mod read;
mod tail_check;
mod write;

pub(crate) use footer::{LEN as FOOTER_LEN, TAIL_LEN, ends_with_footer};
pub(crate) use options::HELP;
pub use options::{VhdOptions, VhdSubformat};
pub(crate) use probe::{has_magic, probe};
pub(crate) use read::open;
pub(crate) use write::layout;

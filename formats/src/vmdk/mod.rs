//! VMDK: VMware's Virtual Disk Format, in one file or in many.
//!
//! Source: VMware, *Virtual Disk Format 5.0* (2011) and *1.1*; for what they leave out (seSparse), the facts as other
//! readers have them.
//!
//! ```text
//! descriptor ─▶ extent ─▶ flat: bytes as they are
//!  (text)       extent ─▶ sparse: directory ─▶ table ─▶ grain
//!               extent ─▶ zero
//! ```
//!
//! `header` and `descriptor` are pure. `read` opens an image and makes its [`map`] of [`sparse`], [`scan`]ned and flat
//! parts; `stream` reads a streamOptimized image in one pass. `write` lays out the two kinds that are one sparse file.

mod descriptor;
mod directory;
mod esx;
mod evidence;
mod footer;
mod grain;
mod header;
mod map;
mod named;
mod read;
mod scan;
mod set;
mod sparse;
mod stream;
mod tail;
pub(crate) mod write;

pub(crate) use read::{has_marks, open, recognise};
pub(crate) use stream::open_stream;

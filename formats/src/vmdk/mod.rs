//! VMDK: VMware's Virtual Disk Format, in one file or in several.
//!
//! Source: VMware, *Virtual Disk Format 5.0* (2011) and *1.1*. For what they omit (seSparse), the facts that other
//! readers agree on.
//!
//! ```text
//! descriptor ─▶ extent ─▶ flat: bytes, verbatim
//!  (text)       extent ─▶ sparse: directory ─▶ table ─▶ grain
//!               extent ─▶ zero
//! ```
//!
//! `header`, `esx`, `marker` and `descriptor` are pure. `read` opens an image that is one file and `multi_extent` one
//! that is several; both open extents with `extent_file`. `map` is the block map over `sparse`, scanned (`scan`) and
//! flat extents. `stream` reads a streamOptimized image in one pass. `write` lays out the two kinds that are one sparse
//! file.

mod completeness;
mod content_id;
mod descriptor;
mod directory;
mod embedded;
mod esx;
mod extent_file;
mod footer;
mod grain;
mod grain_digest;
mod header;
mod map;
mod marker;
mod multi_extent;
mod options;
mod probe;
mod read;
mod scan;
mod sparse;
mod stream;
mod tail_check;
mod write;

pub(crate) use options::HELP;
pub use options::{VmdkOptions, VmdkSubformat};
pub(crate) use probe::{has_magic, probe};
pub(crate) use read::open;
pub(crate) use stream::open_stream;
pub(crate) use write::layout;

//! QCOW2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! ```text
//! | header + extensions | refcount table, blocks | L1 table | L2 table | clusters … | L2 table | clusters … |
//!
//! guest offset ─▶ L1 entry ─▶ L2 table ─▶ L2 entry ─▶ cluster: data, compressed, zero or none
//! ```
//!
//! Everything is on cluster boundaries, in any order. Reference counts serve writers and are not read. What an
//! image names (a backing file, a data file) is never opened: such an image is described and refused.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`; where it leaves room, what `qemu-img` does.

mod cluster;
mod entry;
mod extensions;
mod grid;
mod header;
mod read;
mod snapshots;

use diskferry_core::source::Source;
use diskferry_core::source::wrap::HeadTail;

use crate::detect::Recognised;
use header::Header;
pub(crate) use read::open;

/// Whether the object is a QCOW2 image: its magic at 0, and a header that holds up as far as the head shows.
pub(crate) fn recognise(file: &HeadTail) -> Recognised {
    if !file.head().starts_with(header::MAGIC) {
        return Recognised::No;
    }
    match Header::parse(file.head(), file.len()) {
        Ok(_) => Recognised::Sound,
        Err(error) => Recognised::Unsound(error),
    }
}

//! QCOW2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! ```text
//! | header + extensions | refcount table, blocks | L1 table | L2 table | clusters … | L2 table | clusters … |
//!
//! guest offset ─▶ L1 entry ─▶ L2 table ─▶ L2 entry ─▶ cluster: data, compressed, zero or unallocated
//! ```
//!
//! Everything is aligned to clusters and may be stored in any order. Reference counts are for writers. They are read
//! only if the object ends in zeros, as evidence for the tables (see `tail_check`). Files that an image names (a
//! backing file, a data file) are never opened: such an image is described and refused.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`, and the behaviour of `qemu-img` if that is ambiguous.

mod cluster;
mod describe;
mod entry;
mod extensions;
mod grid;
mod header;
mod options;
mod probe;
mod read;
mod snapshots;
mod tail_check;
mod write;

pub(crate) use options::HELP;
pub use options::{Qcow2Compression, Qcow2Options};
pub(crate) use probe::{has_magic, probe};
pub(crate) use read::open;
pub(crate) use write::layout;

//! QCOW2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! ```text
//! | header + extensions | refcount table, blocks | L1 table | L2 table | clusters … | L2 table | clusters … |
//!
//! guest offset ─▶ L1 entry ─▶ L2 table ─▶ L2 entry ─▶ cluster: data, compressed, zero or none
//! ```
//!
//! Everything is on cluster boundaries, in any order. Reference counts serve writers; they
//! are read only if the object ends in zeros, as [`evidence`] for its tables. What an
//! image names (a backing file, a data file) is never opened: such an image is described and refused.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`; where it leaves room, what `qemu-img` does.

mod cluster;
mod describe;
mod entry;
mod evidence;
mod extensions;
mod grid;
mod header;
mod read;
mod snapshots;
pub(crate) mod write;

use diskferry_core::HeadTail;

use crate::detect::Recognised;
use header::Header;
pub(crate) use read::open;

/// True where bytes begin as an image does.
pub(crate) fn has_marks(head: &[u8]) -> bool {
    head.starts_with(header::MAGIC)
}

/// Whether the object is a QCOW2 image: its magic at 0, and a header that holds up as far as the head shows.
pub(crate) fn recognise(file: &HeadTail) -> Recognised {
    if !has_marks(file.head()) {
        return Recognised::No;
    }
    match Header::parse(file.head(), file.len()) {
        Ok(_) => Recognised::Sound,
        Err(error) => Recognised::Unsound(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diskferry_core::{ErrorKind, MemorySource};

    use super::*;

    fn recognised(bytes: Vec<u8>) -> Recognised {
        let file = diskferry_core::HeadTailSource::open(Arc::new(MemorySource::new("x", bytes)));
        recognise(&tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(file).unwrap())
    }

    /// An empty disk of one cluster: header, refcount table, L1 table.
    fn smallest() -> Vec<u8> {
        let mut bytes = vec![0; 3 * 512];
        for (at, number) in [(4, 3u32), (20, 9), (36, 1), (56, 1), (96, 4), (100, 104)] {
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        for (at, number) in [(24, 512u64), (40, 1024), (48, 512)] {
            bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
        bytes[..4].copy_from_slice(header::MAGIC);
        bytes
    }

    #[test]
    fn a_header_that_holds_up_is_recognised() {
        assert!(matches!(recognised(smallest()), Recognised::Sound));
        assert!(matches!(recognised(vec![0; 512]), Recognised::No));
        assert!(matches!(recognised(b"QFI".to_vec()), Recognised::No));
    }

    #[test]
    fn a_header_that_does_not_says_the_error_of_opening_it() {
        let mut bytes = smallest();
        bytes[23] = 8;
        let Recognised::Unsound(error) = recognised(bytes) else { panic!("8 cluster bits") };
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(20)));
        let Recognised::Unsound(error) = recognised(b"QFI\xfb".to_vec()) else { panic!("four bytes") };
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Truncated, Some(4)));
    }

    #[test]
    fn what_is_refused_is_recognised_all_the_same() {
        let mut bytes = smallest();
        bytes[35] = 1;
        assert!(matches!(recognised(bytes), Recognised::Sound));
    }
}

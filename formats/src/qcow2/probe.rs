//! Detection of QCOW2.

use diskferry_core::HeadTail;

use super::header::{Header, MAGIC};
use crate::probe::Probe;

/// True if `head` begins with the magic.
pub(crate) fn has_magic(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Checks for the magic at 0 and a header that is valid as far as the head shows.
pub(crate) fn probe(file: &HeadTail) -> Probe {
    if !has_magic(file.head()) {
        return Probe::NoMatch;
    }
    match Header::parse(file.head(), file.len()) {
        Ok(_) => Probe::Valid,
        Err(error) => Probe::Invalid(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diskferry_core::{ErrorKind, MemorySource};

    use super::*;

    fn probed(bytes: Vec<u8>) -> Probe {
        let file = diskferry_core::HeadTailSource::open(Arc::new(MemorySource::new("x", bytes)));
        probe(&tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(file).unwrap())
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
        bytes[..4].copy_from_slice(MAGIC);
        bytes
    }

    #[test]
    fn a_valid_header_is_detected() {
        assert!(matches!(probed(smallest()), Probe::Valid));
        assert!(matches!(probed(vec![0; 512]), Probe::NoMatch));
        assert!(matches!(probed(b"QFI".to_vec()), Probe::NoMatch));
    }

    #[test]
    fn an_invalid_header_returns_the_same_error_as_open() {
        let mut bytes = smallest();
        bytes[23] = 8;
        let Probe::Invalid(error) = probed(bytes) else { panic!("8 cluster bits") };
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(20)));
        let Probe::Invalid(error) = probed(b"QFI\xfb".to_vec()) else { panic!("four bytes") };
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Truncated, Some(4)));
    }

    #[test]
    fn a_refused_image_is_detected() {
        let mut bytes = smallest();
        bytes[35] = 1;
        assert!(matches!(probed(bytes), Probe::Valid));
    }
}

//! How the bytes of local files are moved.

use std::sync::Arc;

#[cfg(not(feature = "io-uring"))]
use crate::local::no_ring::Ring;
#[cfg(feature = "io-uring")]
use crate::local::ring::{Ring, shared_ring};

/// How the bytes of local files and block devices are moved.
///
/// Nothing chooses the ring by itself: on two cores it was measured to win nowhere, see PERFORMANCE.md. With files that are
/// not in memory it takes less of the processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum FileIo {
    /// By `pread` and `pwritev` on threads for blocking calls.
    #[default]
    Plain,
    /// By io_uring, on the one ring of this process. If the kernel gives none (it is older than 5.6, or a policy
    /// forbids it) it is [`Plain`](Self::Plain), without an error. Needs the feature `io-uring`.
    #[cfg(feature = "io-uring")]
    Ring,
}

impl FileIo {
    /// The ring, if it is wanted and can be had. Starts it if need be, which waits for the kernel for a moment.
    pub(crate) fn ring(self) -> Option<Arc<Ring>> {
        match self {
            Self::Plain => None,
            #[cfg(feature = "io-uring")]
            Self::Ring => shared_ring(),
        }
    }
}

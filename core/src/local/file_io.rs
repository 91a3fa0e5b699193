//! How local files are read and written.

use std::sync::Arc;

#[cfg(not(feature = "io-uring"))]
use crate::local::no_ring::Ring;
#[cfg(feature = "io-uring")]
use crate::local::ring::Ring;

/// How local files and block devices are read and written.
///
/// The ring is never chosen automatically. On two cores it was measured to be no faster in any case, see
/// PERFORMANCE.md. For files that are not in the page cache it takes less CPU time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum FileIo {
    /// With `pread` and `pwritev` on threads for blocking calls.
    #[default]
    Plain,
    /// With io_uring, on one ring shared by this process. If the kernel does not provide one (it is older than 5.6,
    /// or a policy forbids it), [`Plain`](Self::Plain) is used instead, without an error. Needs the feature
    /// `io-uring`.
    #[cfg(feature = "io-uring")]
    Ring,
}

impl FileIo {
    /// The ring, if it is wanted and available. Starts it if necessary, which briefly waits for the kernel.
    pub(crate) fn ring(self) -> Option<Arc<Ring>> {
        match self {
            Self::Plain => None,
            #[cfg(feature = "io-uring")]
            Self::Ring => super::ring::shared_ring(),
        }
    }
}

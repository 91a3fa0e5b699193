//! Services of the local machine: blocking system calls, io_uring, and CPU workers.

mod blocking;
mod cpu_pool;
mod file_io;
mod gather;
mod moved;
#[cfg(not(feature = "io-uring"))]
mod no_ring;
#[cfg(feature = "io-uring")]
mod ring;

pub(crate) use blocking::{SerialQueue, Stop, blocking};
pub use cpu_pool::CpuPool;
pub use file_io::FileIo;
pub(crate) use gather::{Gather, MOST_ZEROS, zeros};
pub(crate) use moved::Moved;
#[cfg(not(feature = "io-uring"))]
pub(crate) use no_ring::Ring;
#[cfg(feature = "io-uring")]
pub(crate) use ring::Ring;

//! What the local machine does for the engine: blocking system calls, io_uring, and the CPU workers.

mod blocking;
mod cpu_pool;
mod gather;
mod ring;

pub(crate) use blocking::{SerialQueue, Stop, blocking};
pub use cpu_pool::CpuPool;
pub(crate) use gather::{Gather, MOST_ZEROS, zeros};
pub use ring::FileIo;
pub(crate) use ring::{Moved, Ring};

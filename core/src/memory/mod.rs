//! The bound on bytes in flight, and the buffers that hold them.

mod budget;
mod buffer;

pub use budget::{Budget, Reservation, Reserved};
pub use buffer::{Buffer, FillBuffer, zeros};

//! The bound on bytes in flight, and the buffers that hold them.

mod budget;
mod buffer;
mod parts_buffer;

pub use budget::{Budget, Reservation, Reserved};
pub use buffer::{Buffer, zeros};
pub use parts_buffer::PartsBuffer;

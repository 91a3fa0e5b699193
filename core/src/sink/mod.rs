//! Destinations of the bytes of a target.
//!
//! A [`Sink`] is one target being written. Its [`Journal`], if it has one, lets a later run continue the target.

mod device;
mod file;
mod front;
mod journal;
mod memory;
mod place;
mod sink;
mod stdout;
mod types;

pub use device::{BlockDeviceSink, DEVICE_HEAD_BYTES, DeviceSinkOptions, is_block_device};
pub use file::{FileSink, FileSinkOptions, Preallocation};
pub use journal::{Journal, SavedCheckpoint, pack, unpack};
pub use memory::MemorySink;
pub use sink::Sink;
pub use stdout::StdoutSink;
pub use types::{ReadBack, Receipt, SinkCapabilities, SinkHint, WriteOrder, budget_for, memory_of};

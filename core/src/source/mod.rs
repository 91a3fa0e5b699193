//! Sources of the bytes of an image.
//!
//! A [`Source`] is random access to one stored object, a [`ByteStream`] is a single pass over one, and a [`Gate`] opens
//! the files next to an image.

mod byte_stream;
mod file;
mod file_gate;
mod gate;
mod head_tail;
mod local_file;
mod memory;
#[cfg(feature = "mmap")]
mod mmap;
mod source;
mod stdin;
mod types;
mod wrap;

pub use byte_stream::ByteStream;
pub use file::FileSource;
pub use file_gate::FileGate;
pub use gate::{ClosedGate, Gate, SiblingName};
pub use head_tail::{HeadTail, HeadTailSource};
pub use memory::MemorySource;
#[cfg(feature = "mmap")]
pub use mmap::MapSource;
pub use source::{BoxFuture, SEGMENTS, Source, check_range, covering, read_up_to};
pub use stdin::StandardInput;
pub use types::{Capabilities, Identity, Segment, Traffic};
pub use wrap::{Counted, Failing, Recording};

//! RAW: the guest's bytes, verbatim.
//!
//! There is no map: everything is allocated, except for the holes that the source reports. Every length is preserved.

mod options;
mod read;
mod stream;
mod write;

pub(crate) use options::HELP;
pub use options::RawOptions;
pub(crate) use read::open;
pub(crate) use stream::open_stream;
pub(crate) use write::RawLayout;

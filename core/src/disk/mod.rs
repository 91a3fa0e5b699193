//! Opened images: what a disk is, and where its guest bytes are stored.
//!
//! ```text
//! Disk ── info, warnings, refusals
//!   └── BlockMap ──window──▶ [Extent]      where each run of guest bytes is stored
//!                              └── Walk    the whole map, for listing
//! ImageStream ──▶ [Piece]                  the same, for an image that is read in one pass
//! ```

mod disk;
mod extent;
mod image_stream;
mod walk;

pub use disk::{BATCH_EXTENTS, BlockMap, Disk, ImageInfo, Warnings};
pub use extent::{
    Codec, Coded, CompressedStream, Compression, Extent, ExtentKind, Extents, MAX_UNIT_BYTES, Payload,
    SourceStream, Stored, Tally,
};
pub use image_stream::{ImageStream, Piece};
pub use walk::{Stretch, StretchKind, Walk, occupancy};

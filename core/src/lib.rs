//! The vocabulary and the engine of diskferry.
//!
//! A [`Source`] is the bytes of a stored object. A [`Disk`] is an opened image with its [`BlockMap`], which says where
//! each run of guest bytes is stored ([`Extent`]). A [`Conversion`] moves a disk into a [`Target`]: a [`Layout`] that
//! knows the format and a [`Sink`] that knows the place. This crate knows no format and no network: formats are in
//! `diskferry-formats`, S3 and HTTP in `diskferry-s3io`.

#[macro_use]
mod setters;

mod address;
mod compare;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
mod conversion;
mod digest;
mod disk;
mod engine;
mod error;
mod layout;
mod limits;
mod local;
mod measure;
mod memory;
mod progress;
mod ranges;
mod sink;
mod size;
mod source;

// Errors.
pub use error::{Error, ErrorKind, Refusal, Result, Warning};

// Addresses of the three spaces.
pub use address::{
    FileIndex, GuestOffset, GuestRange, GuestSpace, Offset, Span, StoredOffset, StoredRange, StoredSpace,
    TargetOffset, TargetRange, TargetSpace,
};

// Where images come from.
#[cfg(feature = "mmap")]
pub use source::MapSource;
pub use source::{
    BoxFuture, ByteStream, Capabilities, ClosedGate, FileGate, FileSource, Gate, HeadTail, HeadTailSource,
    Identity, MemorySource, Segment, SiblingName, Source, StandardInput, Traffic,
};

// Opened images.
pub use disk::{
    BATCH_EXTENTS, BlockMap, Codec, Coded, CompressedStream, Compression, Disk, Extent, ExtentKind, Extents,
    ImageInfo, ImageStream, MAX_UNIT_BYTES, Payload, Piece, SourceStream, Stored, Stretch, StretchKind,
    Tally, Walk, Warnings, occupancy,
};

// Where targets go.
pub use sink::{
    BlockDeviceSink, DeviceSinkOptions, FileSink, FileSinkOptions, Journal, MemorySink, Preallocation,
    ReadBack, Receipt, SavedCheckpoint, Sink, SinkCapabilities, SinkHint, StdoutSink, WriteOrder,
    is_block_device,
};

// How targets are laid out.
pub use layout::{
    BlockRun, Coding, Encoded, Encoder, Layout, LayoutFacts, LayoutInput, Order, OutputSize, Part, Scanned,
    Target, UnitMap, Write, Writes,
};

// What is done with a disk.
pub use compare::{Comparison, compare};
pub use conversion::{Conversion, Input, Report, Resources, Timing, TransferStats, metrics};
pub use digest::{Digest, Hash};
pub use limits::{ImageLimit, Limits, Outcome, Rule, Sizes, Verdict};
pub use local::{CpuPool, FileIo};
pub use measure::{Depth, Measure, measure, measure_at};
pub use memory::Budget;
pub use progress::{Phase, Progress};

/// What only the sibling crates of diskferry need. It may change in any release.
#[doc(hidden)]
pub mod internal {
    pub use crate::digest::{BLOCK, DigestTree, hash_block, sha256};
    pub use crate::engine::{
        Fetch, FetchPart, GuestItem, Passthrough, RequestLimits, Transfer, TransferOptions, is_zero, plan,
        taper,
    };
    pub use crate::error::printable;
    pub use crate::limits::HumanBytes;
    pub use crate::memory::{Buffer, PartsBuffer, Reservation, Reserved, zeros};
    pub use crate::sink::{DEVICE_HEAD_BYTES, budget_for, memory_of, pack, unpack};
    pub use crate::size::parse_size;
    pub use crate::source::{Counted, Failing, Recording, SEGMENTS, check_range, covering, read_up_to};
}

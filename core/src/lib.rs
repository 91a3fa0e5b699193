//! The vocabulary and the engine of diskferry.
//!
//! A [`Source`] reads the bytes of a stored object. A [`Disk`] is an opened image with its [`BlockMap`], which maps runs
//! of guest bytes to stored bytes ([`Extent`]). A [`Conversion`] writes a disk to a [`Target`]: a [`Layout`] for the
//! format and a [`Sink`] for the destination. This crate contains no format and no network code: formats are in
//! `diskferry-formats`, S3 and HTTP in `diskferry-s3io`.

#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[macro_use]
mod setters;

/// The example of the README runs as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address;
mod compare;
// A test suite: a failed check is a panic.
#[allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
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

// Sources of images.
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

// Destinations of targets.
pub use sink::{
    BlockDeviceSink, DeviceSinkOptions, FileSink, FileSinkOptions, Journal, MemorySink, Preallocation,
    ReadBack, Receipt, SavedCheckpoint, Sink, SinkCapabilities, SinkHint, StdoutSink, WriteOrder,
    is_block_device,
};

// Layouts of targets.
pub use layout::{
    BlockRun, Coding, Encoded, Encoder, Layout, LayoutFacts, LayoutInput, Order, OutputSize, Part, Scanned,
    Target, UnitMap, Write, Writes,
};

// Operations on a disk.
pub use compare::{Comparison, compare};
pub use conversion::{Conversion, Input, Report, Resources, Timing, TransferStats, metrics};
pub use digest::{Digest, Hash};
pub use limits::{ImageLimit, Limits, Outcome, Rule, Sizes, Verdict};
pub use local::{CpuPool, FileIo};
pub use measure::{Depth, Measure, measure, measure_at};
pub use memory::Budget;
pub use progress::{Phase, Progress};

/// Items for the sibling crates of diskferry. They may change in any release.
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

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "serde")]
pub mod json;

// Errors, limits and verdicts.
pub use diskferry_core::{Error, ErrorKind, Limits, Measure, Result, Verdict, measure};

// Opening and creating images.
pub use diskferry_core::{Disk, Target};
pub use diskferry_formats::{Declared, Format, create, open, open_stream, open_with};
pub use diskferry_formats::{
    Qcow2Compression, Qcow2Options, RawOptions, TargetOptions, VhdOptions, VhdSubformat, VmdkOptions,
    VmdkSubformat,
};

// Conversions: resources, progress and reports.
pub use diskferry_core::{Budget, Conversion, CpuPool, Progress, Report, Resources};

// Local sources and sinks.
pub use diskferry_core::{
    BlockDeviceSink, FileGate, FileSink, FileSinkOptions, FileSource, StandardInput, StdoutSink,
};

// Other ways to read and write local files.
#[cfg(feature = "io-uring")]
pub use diskferry_core::FileIo;
#[cfg(feature = "mmap")]
pub use diskferry_core::MapSource;

// Remote sources and sinks.
#[cfg(feature = "http")]
pub use diskferry_s3io::{Client, ClientOptions, HttpSource};
#[cfg(feature = "s3")]
pub use diskferry_s3io::{S3Gate, S3Sink, S3Source};

/// The types that the methods of [`Source`] and [`Sink`] use, for custom ones. `examples/custom_source.rs` is a source.
pub mod custom {
    pub use diskferry_core::{
        BoxFuture, Capabilities, Identity, Receipt, Segment, SinkCapabilities, SinkHint, StoredOffset,
        StoredRange, TargetOffset, TargetRange, Traffic, WriteOrder,
    };
}

// Traits for custom formats, sources and sinks.
pub use diskferry_core::{BlockMap, Layout, Sink, Source};

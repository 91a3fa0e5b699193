#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// What every embedder meets: errors, limits and verdicts.
pub use diskferry_core::{Error, ErrorKind, Limits, Measure, Result, Verdict, measure};

// Opening and creating images.
pub use diskferry_core::{Disk, Target};
pub use diskferry_formats::{Declared, Format, create, open, open_stream, open_with};
pub use diskferry_formats::{
    Qcow2Compression, Qcow2Options, RawOptions, TargetOptions, VhdOptions, VhdSubformat, VmdkOptions,
    VmdkSubformat,
};

// A conversion, what it may use, and what it reports.
pub use diskferry_core::{Budget, Conversion, CpuPool, Progress, Report, Resources};

// Local sources and sinks.
pub use diskferry_core::{
    BlockDeviceSink, FileGate, FileSink, FileSinkOptions, FileSource, StandardInput, StdoutSink,
};

// Remote ones.
#[cfg(feature = "s3")]
pub use diskferry_s3io::{Client, ClientOptions, HttpSource, S3Gate, S3Sink, S3Source};

// The traits, for those who bring their own.
pub use diskferry_core::{BlockMap, Layout, Sink, Source};

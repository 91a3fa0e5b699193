//! The JSON documents of the command line, as types.
//!
//! `diskferry --json` prints these documents, so a backend that embeds the library stores and shows the same ones. They
//! serialize with any serde format and read back what the program printed. Sizes and offsets are bytes, times are seconds.
//!
//! ```
//! # let printed = r#"{"error":{"code":"truncated","message":"the file ends at byte 512","hint":null,
//! #     "retryable":false,"offset":512}}"#;
//! let failure: diskferry::json::Failure = serde_json::from_str(printed)?;
//! assert_eq!(failure.error.code, "truncated");
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::borrow::Cow;

use diskferry_core::{
    Comparison, Disk, ImageInfo, Outcome, Refusal, Report, Stretch, Traffic, Verdict, Warning,
};
use diskferry_formats::DiskContents;
use serde::{Deserialize, Serialize};

/// A name from a fixed set.
type Name = Cow<'static, str>;

/// The source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Source {
    /// Its URL or path without secrets; `-` is standard input.
    pub url: String,
    /// Its stored size; the sum if it has several files.
    pub object_bytes: u64,
    /// Its ETag, if it is an object in a store.
    pub etag: Option<String>,
    /// Its version ID, if the bucket is versioned.
    pub version_id: Option<String>,
}

impl Source {
    /// Creates a source with a URL and no other facts.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

impl From<&Disk> for Source {
    fn from(disk: &Disk) -> Self {
        let first = disk.files().first();
        let identity = first.map(|file| file.identity().clone()).unwrap_or_default();
        Self {
            url: first.map(|file| file.url().to_owned()).unwrap_or_default(),
            object_bytes: disk.object_bytes(),
            etag: identity.etag,
            version_id: identity.version_id,
        }
    }
}

/// A warning or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its stable code.
    pub code: Name,
    /// One sentence with the facts.
    pub message: String,
}

impl From<&Warning> for Message {
    fn from(warning: &Warning) -> Self {
        Self { code: warning.code.into(), message: warning.message.clone() }
    }
}

impl From<&Refusal> for Message {
    fn from(refusal: &Refusal) -> Self {
        Self { code: refusal.kind.code().into(), message: refusal.message.clone() }
    }
}

fn messages<'a, T>(all: &'a [T]) -> Vec<Message>
where
    Message: From<&'a T>,
{
    all.iter().map(Message::from).collect()
}

/// The requests to the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cost {
    /// Ranged requests, retries included.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
}

impl From<Traffic> for Cost {
    fn from(traffic: Traffic) -> Self {
        Self { requests: traffic.requests, bytes: traffic.bytes }
    }
}

/// The result of `info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// The source.
    pub source: Source,
    /// `raw`, `vhd`, `qcow2` or `vmdk`.
    pub format: Name,
    /// The variant of the format, such as `dynamic`.
    pub variant: String,
    /// Size of the disk that the guest sees.
    pub virtual_bytes: u64,
    /// The format's allocation unit, if it has one.
    pub cluster_bytes: Option<u64>,
    /// Other properties of the image, as text for people.
    pub features: Vec<String>,
    /// The warnings.
    pub warnings: Vec<Message>,
    /// Why other commands refuse the image; empty if they accept it.
    pub refusals: Vec<Message>,
    /// `mbr` or `gpt`; none if there is no table or the disk was not read.
    pub partition_table: Option<Name>,
    /// The partitions of the disk.
    pub partitions: Vec<Partition>,
    /// The requests that this command made.
    pub cost: Cost,
}

impl Info {
    /// Creates the document for `disk` and the partitions found in it.
    pub fn new(disk: &Disk, partitions: &DiskContents) -> Self {
        let image = disk.info();
        Self {
            source: disk.into(),
            format: image.format.into(),
            variant: image.variant.clone(),
            virtual_bytes: image.virtual_bytes,
            cluster_bytes: image.cluster_bytes,
            features: image.features.clone(),
            warnings: messages(&disk.warnings().list()),
            refusals: messages(disk.refusals()),
            partition_table: partitions.table_name().map(Name::from),
            partitions: partitions.partitions.iter().map(Partition::from).collect(),
            cost: disk.traffic().into(),
        }
    }
}

/// A partition of the guest disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Partition {
    /// Its number, from 1; those in an extended partition from 5.
    pub index: u32,
    /// Its first byte on the guest disk.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    /// Its type in the partition table: two hexadecimal digits or a GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the table marks it as bootable.
    pub bootable: bool,
    /// The file system detected from its first sectors.
    pub filesystem: Option<Name>,
}

impl From<&diskferry_formats::Partition> for Partition {
    fn from(partition: &diskferry_formats::Partition) -> Self {
        Self {
            index: partition.index,
            start: partition.start,
            bytes: partition.bytes,
            kind: partition.kind.to_string(),
            bootable: partition.bootable,
            filesystem: partition.filesystem.map(|found| found.name().into()),
        }
    }
}

/// A row of `map`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Extent {
    /// Its first guest byte.
    pub start: u64,
    /// Its length in guest bytes.
    pub length: u64,
    /// `data`, `compressed`, `zero` or `hole`.
    pub kind: Name,
    /// Offset of its stored bytes; none for zeros and holes.
    pub offset: Option<u64>,
    /// Number of stored bytes.
    pub stored: Option<u64>,
    /// The file that stores them, if the image has several files.
    pub file: Option<String>,
}

impl Extent {
    /// Creates the row for one extent of `disk`.
    pub fn new(disk: &Disk, stretch: &Stretch) -> Self {
        let several = disk.files().len() > 1;
        let file = stretch.stored.filter(|_| several).and_then(|stored| disk.file(stored.file).ok());
        Self {
            start: stretch.guest.start().get(),
            length: stretch.guest.len(),
            kind: stretch.kind.name().into(),
            offset: stretch.stored.map(|stored| stored.range.start().get()),
            stored: stretch.stored.map(|stored| stored.range.len()),
            // The files of a set share a directory or a prefix.
            file: file.and_then(|file| file.url().rsplit('/').next().map(str::to_owned)),
        }
    }
}

/// The result of `measure`, and the first part of the result of `convert`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measured {
    /// The source.
    pub source: Source,
    /// `raw`, `vhd`, `qcow2` or `vmdk`.
    pub format: Name,
    /// The variant of the format.
    pub variant: String,
    /// The sizes.
    pub sizes: Sizes,
    /// True if no rule fails.
    pub accepted: bool,
    /// True if `output_bytes` is an upper bound; omitted if it is exact.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_upper_bound: bool,
    /// The outcome of each rule.
    pub rules: Vec<Rule>,
    /// The smallest capacity in GiB that would be accepted.
    pub smallest_capacity_gib: Option<u64>,
    /// The warnings.
    pub warnings: Vec<Message>,
    /// The requests to the source.
    pub cost: Cost,
}

impl Measured {
    /// Creates the document for a measurement of `disk`.
    pub fn new(disk: &Disk, measured: &diskferry_core::Measure) -> Self {
        let diskferry_core::Measure { sizes, verdict, warnings, output, cost, .. } = measured;
        let upper_bound = output.is_some_and(|output| !output.exact);
        Self {
            output_upper_bound: upper_bound,
            ..Self::of(disk.into(), disk.info(), sizes, verdict, warnings, *cost)
        }
    }

    fn of(
        source: Source,
        image: &ImageInfo,
        sizes: &diskferry_core::Sizes,
        verdict: &Verdict,
        warnings: &[Warning],
        cost: Traffic,
    ) -> Self {
        Self {
            source,
            format: image.format.into(),
            variant: image.variant.clone(),
            sizes: sizes.into(),
            accepted: verdict.accepted(),
            output_upper_bound: false,
            rules: verdict.rules.iter().map(Rule::from).collect(),
            smallest_capacity_gib: verdict.smallest_capacity_gib,
            warnings: messages(warnings),
            cost: cost.into(),
        }
    }
}

/// The sizes of an image; none if unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sizes {
    /// Stored size of the source; the sum if it has several files.
    pub object_bytes: u64,
    /// Size of the disk that the guest sees.
    pub virtual_bytes: Option<u64>,
    /// Guest bytes that the image maps to stored data, in the format's units.
    pub allocated_bytes: Option<u64>,
    /// Guest bytes in blocks of 4 KiB that are not all zero.
    pub content_bytes: Option<u64>,
    /// The end of the last such block.
    pub content_end: Option<u64>,
    /// Size of the target.
    pub output_bytes: Option<u64>,
}

impl From<&diskferry_core::Sizes> for Sizes {
    fn from(sizes: &diskferry_core::Sizes) -> Self {
        Self {
            object_bytes: sizes.object_bytes,
            virtual_bytes: sizes.virtual_bytes,
            allocated_bytes: sizes.allocated_bytes,
            content_bytes: sizes.content_bytes,
            content_end: sizes.content_end,
            output_bytes: sizes.output_bytes,
        }
    }
}

/// The outcome of one rule: a limit of the import service compared with the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rule {
    /// `object_size`, `capacity` or `content_size`.
    pub rule: Name,
    /// `pass`, `warn` or `fail`.
    pub outcome: Name,
    /// The error code, if it fails.
    pub code: Option<Name>,
    /// The measured value; none if it is not known yet.
    pub actual: Option<u64>,
    /// The limit.
    pub limit: u64,
    /// One sentence with both values.
    pub message: String,
}

impl From<&diskferry_core::Rule> for Rule {
    fn from(rule: &diskferry_core::Rule) -> Self {
        Self {
            rule: rule.rule.into(),
            outcome: rule.outcome.name().into(),
            code: (rule.outcome == Outcome::Fail).then(|| rule.kind.code().into()),
            actual: rule.actual,
            limit: rule.limit,
            message: rule.message.clone(),
        }
    }
}

/// The result of `convert`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Converted {
    /// The members of `measure`, with the content sizes measured while converting.
    #[serde(flatten)]
    pub measured: Measured,
    /// The target.
    pub target: Target,
    /// The digest of the disk; none if it was not computed.
    pub digest: Option<Digest>,
    /// Transfer statistics.
    pub transfer: Transfer,
}

impl Converted {
    /// Creates the document for a finished conversion; none if the run of `report` had no target.
    pub fn new(source: Source, report: &Report) -> Option<Self> {
        let (format, variant, receipt) = report.target.as_ref()?;
        let stats = &report.stats;
        let source = Source { object_bytes: report.sizes.object_bytes, ..source };
        Some(Self {
            measured: Measured::of(
                source,
                &report.image,
                &report.sizes,
                &report.verdict,
                &report.warnings,
                stats.source,
            ),
            target: Target {
                url: receipt.url.clone(),
                format: (*format).into(),
                variant: variant.clone(),
                bytes: receipt.bytes,
            },
            digest: report.digest.map(Digest::from),
            transfer: Transfer {
                requests: stats.source.requests,
                bytes_fetched: stats.source.bytes,
                bytes_written: stats.bytes_written,
                retries: stats.source.retries,
                resumed_bytes: stats.resumed_bytes,
                peak_memory_bytes: stats.peak_budget_bytes,
                seconds: stats.seconds,
                time: stats.timing.into(),
            },
        })
    }
}

/// The target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Target {
    /// Its URL or path without secrets.
    pub url: String,
    /// Its format.
    pub format: Name,
    /// The variant of the format.
    pub variant: String,
    /// Its stored size.
    pub bytes: u64,
}

/// The digest of a guest disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Digest {
    /// `fsverity-sha256`.
    pub algorithm: Name,
    /// 64 hexadecimal digits.
    pub hex: String,
}

impl From<diskferry_core::Digest> for Digest {
    fn from(digest: diskferry_core::Digest) -> Self {
        Self { algorithm: diskferry_core::Digest::ALGORITHM.into(), hex: digest.to_string() }
    }
}

/// Transfer statistics of a conversion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transfer {
    /// Requests to the source, retries included.
    pub requests: u64,
    /// Bytes received from the source.
    pub bytes_fetched: u64,
    /// Bytes sent to the destination.
    pub bytes_written: u64,
    /// Requests that were repeated.
    pub retries: u64,
    /// Bytes of the target that an interrupted earlier run had written.
    pub resumed_bytes: u64,
    /// From the library: the peak number of reserved budget bytes. From the program: the peak resident memory of the process.
    pub peak_memory_bytes: u64,
    /// Total duration.
    pub seconds: f64,
    /// The duration by stage.
    pub time: Time,
}

/// The duration of a conversion by stage, in seconds. The sum is the total duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Time {
    /// Opening and planning.
    pub plan: f64,
    /// Waiting for the source.
    pub source: f64,
    /// Waiting for CPU workers.
    pub cpu: f64,
    /// Waiting for the destination.
    pub destination: f64,
    /// Waiting for memory that other conversions have reserved.
    pub memory: f64,
    /// Publishing the target.
    pub finish: f64,
    /// Reading the target back.
    pub verify: f64,
}

impl From<diskferry_core::Timing> for Time {
    fn from(timing: diskferry_core::Timing) -> Self {
        let diskferry_core::Timing { plan, source, cpu, destination, memory, finish, verify, .. } = timing;
        Self { plan, source, cpu, destination, memory, finish, verify }
    }
}

/// The result of `compare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compared {
    /// Whether the disks have the same bytes.
    pub equal: bool,
    /// The first guest byte that differs; none if only the sizes do.
    pub first_difference: Option<u64>,
    /// The sizes of both disks.
    pub virtual_bytes: [u64; 2],
}

impl From<&Comparison> for Compared {
    fn from(found: &Comparison) -> Self {
        Self {
            equal: found.equal,
            first_difference: found.first_difference,
            virtual_bytes: found.virtual_bytes,
        }
    }
}

/// The result of `digest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Digested {
    /// The digest.
    #[serde(flatten)]
    pub digest: Digest,
    /// Size of the disk.
    pub virtual_bytes: u64,
}

impl Digested {
    /// Creates the document; none if `report` has no digest.
    pub fn new(report: &Report) -> Option<Self> {
        Some(Self { digest: report.digest?.into(), virtual_bytes: report.image.virtual_bytes })
    }
}

/// The document of a failed run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The error.
    pub error: Error,
}

/// The error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Error {
    /// The stable code.
    pub code: Name,
    /// One sentence with the facts.
    pub message: String,
    /// What the user can do; none if nothing.
    pub hint: Option<String>,
    /// Whether a retry can help.
    pub retryable: bool,
    /// Offset in the stored image at which the error was found.
    pub offset: Option<u64>,
}

impl From<&diskferry_core::Error> for Failure {
    fn from(error: &diskferry_core::Error) -> Self {
        Self {
            error: Error {
                code: error.kind().code().into(),
                message: error.message().to_owned(),
                hint: error.hint_text().map(str::to_owned),
                retryable: error.is_retryable(),
                offset: error.offset(),
            },
        }
    }
}

/// A progress event: one line of `--progress json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// `progress`.
    pub event: Name,
    /// `plan`, `transfer`, `finish` or `verify`.
    pub phase: Name,
    /// Guest bytes that are done. Never decreases within a phase.
    pub done_bytes: u64,
    /// Total guest bytes; none while unknown.
    pub total_bytes: Option<u64>,
    /// Bytes received from the source.
    pub fetched_bytes: u64,
    /// Bytes sent to the destination.
    pub written_bytes: u64,
    /// Time since the start.
    pub elapsed_s: f64,
    /// Estimated remaining time; none while unknown.
    pub eta_s: Option<f64>,
}

impl From<&diskferry_core::Progress> for Progress {
    fn from(progress: &diskferry_core::Progress) -> Self {
        Self {
            event: "progress".into(),
            phase: progress.phase.name().into(),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            fetched_bytes: progress.fetched_bytes,
            written_bytes: progress.written_bytes,
            elapsed_s: progress.elapsed_s,
            eta_s: progress.eta_s,
        }
    }
}

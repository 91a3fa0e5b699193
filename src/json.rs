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

/// One of a fixed set of names.
type Name = Cow<'static, str>;

/// The stored object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Source {
    /// Its URL or path without secrets; `-` is standard input.
    pub url: String,
    /// Its stored size, all its files together.
    pub object_bytes: u64,
    /// Its entity tag, of an object in a store.
    pub etag: Option<String>,
    /// Its version, of an object in a versioned bucket.
    pub version_id: Option<String>,
}

impl Source {
    /// The object that is at `url`, of which nothing else is known.
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

/// A warning, or a reason to refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its stable code.
    pub code: Name,
    /// A sentence with the facts.
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

/// What the source was asked for.
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

/// The answer of `info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// The stored object.
    pub source: Source,
    /// `raw`, `vhd`, `qcow2` or `vmdk`.
    pub format: Name,
    /// The kind within the format, such as `dynamic`.
    pub variant: String,
    /// Size of the disk that the guest sees.
    pub virtual_bytes: u64,
    /// The format's unit of allocation, if it has one.
    pub cluster_bytes: Option<u64>,
    /// What else the image says of itself, for a person.
    pub features: Vec<String>,
    /// What is unusual.
    pub warnings: Vec<Message>,
    /// Why other commands refuse the image; empty if they do not.
    pub refusals: Vec<Message>,
    /// `mbr` or `gpt`; none if there is no table or the disk is not read.
    pub partition_table: Option<Name>,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// What finding this out took.
    pub cost: Cost,
}

impl Info {
    /// The document of `disk` with the partitions found in it.
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

/// A partition of the guest's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Partition {
    /// Its number, from 1; those in an extended partition from 5.
    pub index: u32,
    /// Its first byte on the guest's disk.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    /// Its type as the table has it: two hexadecimal digits or a GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the table marks it as bootable.
    pub bootable: bool,
    /// The file system that its first sectors show.
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
    /// Its guest bytes.
    pub length: u64,
    /// `data`, `compressed`, `zero` or `hole`.
    pub kind: Name,
    /// Where its bytes are stored; none for zeros and holes.
    pub offset: Option<u64>,
    /// How many bytes are stored.
    pub stored: Option<u64>,
    /// In which file, if the image has several.
    pub file: Option<String>,
}

impl Extent {
    /// The row of one stretch of `disk`.
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

/// The answer of `measure`, and the first part of that of `convert`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measured {
    /// The stored object.
    pub source: Source,
    /// `raw`, `vhd`, `qcow2` or `vmdk`.
    pub format: Name,
    /// The kind within the format.
    pub variant: String,
    /// The sizes.
    pub sizes: Sizes,
    /// Whether no rule fails.
    pub accepted: bool,
    /// True if `output_bytes` is an upper bound; left out if it is exact.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_upper_bound: bool,
    /// The rules with their numbers.
    pub rules: Vec<Rule>,
    /// The smallest capacity in GiB that would be accepted.
    pub smallest_capacity_gib: Option<u64>,
    /// What is unusual.
    pub warnings: Vec<Message>,
    /// What the source was asked for.
    pub cost: Cost,
}

impl Measured {
    /// The document of a measurement of `disk`.
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

/// The sizes of an image; an unknown one is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sizes {
    /// Stored size of the source, all its files together.
    pub object_bytes: u64,
    /// Size of the disk that the guest sees.
    pub virtual_bytes: Option<u64>,
    /// Guest bytes that the image maps to stored data, in the format's units.
    pub allocated_bytes: Option<u64>,
    /// Guest bytes in blocks of 4 KiB that are not all zero.
    pub content_bytes: Option<u64>,
    /// The end of the last such block.
    pub content_end: Option<u64>,
    /// What the target takes.
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

/// A rule of the service, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rule {
    /// `object_size`, `capacity` or `content_size`.
    pub rule: Name,
    /// `pass`, `warn` or `fail`.
    pub outcome: Name,
    /// The error code, if it fails.
    pub code: Option<Name>,
    /// What was measured; none if it is not known yet.
    pub actual: Option<u64>,
    /// What is allowed.
    pub limit: u64,
    /// A sentence with both.
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

/// The answer of `convert`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Converted {
    /// What `measure` answers, with the content as it was read.
    #[serde(flatten)]
    pub measured: Measured,
    /// What was written.
    pub target: Target,
    /// The digest of the disk, unless it was not wanted.
    pub digest: Option<Digest>,
    /// What moved.
    pub transfer: Transfer,
}

impl Converted {
    /// The document of a finished conversion; none if `report` is of a run that wrote nothing.
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

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Target {
    /// Its URL or path without secrets.
    pub url: String,
    /// Its format.
    pub format: Name,
    /// The kind within the format.
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

/// What moved in a conversion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transfer {
    /// Requests to the source, retries included.
    pub requests: u64,
    /// Bytes received from it.
    pub bytes_fetched: u64,
    /// Bytes given to the destination.
    pub bytes_written: u64,
    /// Requests that were repeated.
    pub retries: u64,
    /// Bytes of the target that an earlier run had written.
    pub resumed_bytes: u64,
    /// From the library, the most bytes of the budget that were reserved at any time; the program reports the most memory
    /// that its process ever had.
    pub peak_memory_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What it was waiting for.
    pub time: Time,
}

/// What a conversion was waiting for, in seconds. Together they are all of its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Time {
    /// Opening and planning.
    pub plan: f64,
    /// The source.
    pub source: f64,
    /// The processors.
    pub cpu: f64,
    /// The destination.
    pub destination: f64,
    /// Memory that others hold.
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

/// The answer of `compare`.
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

/// The answer of `digest`.
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
    /// The document of a reading; none if `report` is of one without a digest.
    pub fn new(report: &Report) -> Option<Self> {
        Some(Self { digest: report.digest?.into(), virtual_bytes: report.image.virtual_bytes })
    }
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// What failed.
    pub error: Error,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Error {
    /// The stable code.
    pub code: Name,
    /// A sentence with the facts.
    pub message: String,
    /// What the user can do, if there is something.
    pub hint: Option<String>,
    /// Whether a retry can help.
    pub retryable: bool,
    /// The stored byte where it is, of an image.
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

/// A progress event: a line of `--progress json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// `progress`.
    pub event: Name,
    /// `plan`, `transfer`, `finish` or `verify`.
    pub phase: Name,
    /// Guest bytes that are done. Never decreases within a phase.
    pub done_bytes: u64,
    /// Guest bytes in all, once known.
    pub total_bytes: Option<u64>,
    /// Bytes received from the source.
    pub fetched_bytes: u64,
    /// Bytes given to the destination.
    pub written_bytes: u64,
    /// Time since the start.
    pub elapsed_s: f64,
    /// Time to the end, as far as can be told.
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

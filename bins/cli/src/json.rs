//! The JSON documents, key by key as the contract names them.

use diskferry_core::{Disk, Error, ImageInfo, Outcome, Refusal, Rule, Sizes, Traffic, Verdict, Warning};
use diskferry_formats::Partition;
use serde::Serialize;

/// The stored object.
#[derive(Clone, Serialize, Debug, Default)]
pub(crate) struct Source {
    pub(crate) url: String,
    pub(crate) object_bytes: u64,
    pub(crate) etag: Option<String>,
    pub(crate) version_id: Option<String>,
}

impl Source {
    pub(crate) fn of(disk: &Disk) -> Self {
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

#[derive(Serialize, Debug)]
pub(crate) struct Remark {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

pub(crate) fn warnings(all: &[Warning]) -> Vec<Remark> {
    all.iter().map(|warning| Remark { code: warning.code, message: warning.message.clone() }).collect()
}

pub(crate) fn refusals(all: &[Refusal]) -> Vec<Remark> {
    all.iter().map(|refusal| Remark { code: refusal.kind.code(), message: refusal.message.clone() }).collect()
}

#[derive(Serialize, Debug)]
pub(crate) struct Cost {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

impl From<Traffic> for Cost {
    fn from(traffic: Traffic) -> Self {
        Self { requests: traffic.requests, bytes: traffic.bytes }
    }
}

/// The answer of `info`.
#[derive(Serialize, Debug)]
pub(crate) struct Info {
    pub(crate) source: Source,
    pub(crate) format: &'static str,
    pub(crate) variant: String,
    pub(crate) virtual_bytes: u64,
    pub(crate) cluster_bytes: Option<u64>,
    pub(crate) features: Vec<String>,
    pub(crate) warnings: Vec<Remark>,
    pub(crate) refusals: Vec<Remark>,
    pub(crate) partition_table: Option<&'static str>,
    pub(crate) partitions: Vec<PartitionRow>,
    pub(crate) cost: Cost,
}

#[derive(Serialize, Debug)]
pub(crate) struct PartitionRow {
    index: u32,
    start: u64,
    bytes: u64,
    #[serde(rename = "type")]
    kind: String,
    bootable: bool,
    filesystem: Option<&'static str>,
}

impl From<&Partition> for PartitionRow {
    fn from(partition: &Partition) -> Self {
        Self {
            index: partition.index,
            start: partition.start,
            bytes: partition.bytes,
            kind: partition.kind.to_string(),
            bootable: partition.bootable,
            filesystem: partition.filesystem.map(|found| found.name()),
        }
    }
}

/// A row of `map`.
#[derive(Serialize, Debug)]
pub(crate) struct MapRow<'a> {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) kind: &'static str,
    pub(crate) offset: Option<u64>,
    pub(crate) stored: Option<u64>,
    pub(crate) file: Option<&'a str>,
}

/// The answer of `measure`, and the first part of that of `convert`.
#[derive(Serialize, Debug)]
pub(crate) struct Measured {
    pub(crate) source: Source,
    pub(crate) format: &'static str,
    pub(crate) variant: String,
    pub(crate) sizes: SizesRow,
    pub(crate) accepted: bool,
    /// There where `output_bytes` is a prediction and no more than an upper bound.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) output_upper_bound: bool,
    pub(crate) rules: Vec<RuleRow>,
    pub(crate) smallest_capacity_gib: Option<u64>,
    pub(crate) warnings: Vec<Remark>,
    pub(crate) cost: Cost,
}

impl Measured {
    pub(crate) fn new(
        source: Source,
        geometry: &ImageInfo,
        sizes: &Sizes,
        output_upper_bound: bool,
        verdict: &Verdict,
        all: &[Warning],
        cost: Traffic,
    ) -> Self {
        Self {
            source,
            format: geometry.format,
            variant: geometry.variant.clone(),
            sizes: sizes.into(),
            accepted: verdict.accepted(),
            output_upper_bound,
            rules: verdict.rules.iter().map(RuleRow::from).collect(),
            smallest_capacity_gib: verdict.smallest_capacity_gib,
            warnings: warnings(all),
            cost: cost.into(),
        }
    }
}

#[derive(Serialize, Debug)]
pub(crate) struct SizesRow {
    object_bytes: u64,
    virtual_bytes: Option<u64>,
    allocated_bytes: Option<u64>,
    content_bytes: Option<u64>,
    content_end: Option<u64>,
    output_bytes: Option<u64>,
}

impl From<&Sizes> for SizesRow {
    fn from(sizes: &Sizes) -> Self {
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

#[derive(Serialize, Debug)]
pub(crate) struct RuleRow {
    rule: &'static str,
    outcome: &'static str,
    code: Option<&'static str>,
    actual: Option<u64>,
    limit: u64,
    message: String,
}

impl From<&Rule> for RuleRow {
    fn from(rule: &Rule) -> Self {
        Self {
            rule: rule.rule,
            outcome: rule.outcome.name(),
            code: (rule.outcome == Outcome::Fail).then(|| rule.kind.code()),
            actual: rule.actual,
            limit: rule.limit,
            message: rule.message.clone(),
        }
    }
}

/// The answer of `convert`.
#[derive(Serialize, Debug)]
pub(crate) struct Converted {
    #[serde(flatten)]
    pub(crate) measured: Measured,
    pub(crate) target: Target,
    pub(crate) digest: Option<Digest>,
    pub(crate) transfer: Transfer,
}

#[derive(Serialize, Debug)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) format: &'static str,
    pub(crate) variant: String,
    pub(crate) bytes: u64,
}

#[derive(Serialize, Debug)]
pub(crate) struct Digest {
    pub(crate) algorithm: &'static str,
    pub(crate) hex: String,
}

impl From<diskferry_core::Digest> for Digest {
    fn from(digest: diskferry_core::Digest) -> Self {
        Self { algorithm: diskferry_core::Digest::ALGORITHM, hex: digest.to_string() }
    }
}

#[derive(Serialize, Debug)]
pub(crate) struct Transfer {
    pub(crate) requests: u64,
    pub(crate) bytes_fetched: u64,
    pub(crate) bytes_written: u64,
    pub(crate) retries: u64,
    pub(crate) resumed_bytes: u64,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) time: Spent,
}

/// Where the seconds went; together they are all.
#[derive(Serialize, Debug)]
pub(crate) struct Spent {
    plan: f64,
    source: f64,
    cpu: f64,
    destination: f64,
    memory: f64,
    finish: f64,
    verify: f64,
}

impl From<diskferry_core::Timing> for Spent {
    fn from(spent: diskferry_core::Timing) -> Self {
        let diskferry_core::Timing { plan, source, cpu, destination, memory, finish, verify, .. } = spent;
        Self { plan, source, cpu, destination, memory, finish, verify }
    }
}

/// The answer of `compare`.
#[derive(Serialize, Debug)]
pub(crate) struct Compared {
    pub(crate) equal: bool,
    pub(crate) first_difference: Option<u64>,
    pub(crate) virtual_bytes: [u64; 2],
}

/// The answer of `digest`.
#[derive(Serialize, Debug)]
pub(crate) struct Digested {
    #[serde(flatten)]
    pub(crate) digest: Digest,
    pub(crate) virtual_bytes: u64,
}

/// A failure.
#[derive(Serialize, Debug)]
pub(crate) struct Failure {
    error: FailureBody,
}

#[derive(Serialize, Debug)]
struct FailureBody {
    code: &'static str,
    message: String,
    hint: Option<String>,
    retryable: bool,
    offset: Option<u64>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            error: FailureBody {
                code: error.kind().code(),
                message: error.message().to_owned(),
                hint: error.hint_text().map(str::to_owned),
                retryable: error.is_retryable(),
                offset: error.offset(),
            },
        }
    }
}

/// What `demo` did.
#[cfg(feature = "demo")]
#[derive(Serialize, Debug)]
pub(crate) struct Demo {
    pub(crate) imported: Vec<Converted>,
    pub(crate) refused: Failure,
}

/// A line of `--progress json`.
#[derive(Serialize, Debug)]
pub(crate) struct Event {
    pub(crate) event: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: Option<u64>,
    pub(crate) fetched_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) elapsed_s: f64,
    pub(crate) eta_s: Option<f64>,
}

impl From<&diskferry_core::Progress> for Event {
    fn from(progress: &diskferry_core::Progress) -> Self {
        Self {
            event: "progress",
            phase: progress.phase.name(),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            fetched_bytes: progress.fetched_bytes,
            written_bytes: progress.written_bytes,
            elapsed_s: progress.elapsed_s,
            eta_s: progress.eta_s,
        }
    }
}

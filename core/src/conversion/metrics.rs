//! Metrics of conversions, published through the [`metrics`](https://docs.rs/metrics) facade. An embedder installs a
//! recorder; without one nothing is counted.
//!
//! Counters are updated a few times a second and at the end of a run, including runs that fail or are dropped. A
//! dropped run has no outcome. Gauges are the sum over all conversions of the process. Times are in seconds, sizes in
//! bytes.
//!
//! | name | kind | what |
//! |---|---|---|
//! | [`CONVERSIONS`] | counter | runs that ended; `outcome` is `done` or the error's code |
//! | [`RUNNING`] | gauge | runs under way |
//! | [`SOURCE_REQUESTS`] | counter | requests to sources, opening included |
//! | [`SOURCE_BYTES`] | counter | bytes that came from sources |
//! | [`SOURCE_RETRIES`] | counter | requests that were retried |
//! | [`TARGET_BYTES`] | counter | bytes that targets accepted |
//! | [`GUEST_BYTES`] | counter | bytes of guest disks that were processed, zeros included |
//! | [`READS`] | gauge | requests to sources that are under way |
//! | [`CPU_JOBS`] | gauge | jobs of decoding, hashing and encoding that run or wait for a worker |
//! | [`WRITES`] | gauge | writes to targets that are under way |
//! | [`BACKLOG_BYTES`] | gauge | bytes that wait for their target |
//! | [`WAITING_FOR_MEMORY`] | gauge | runs that wait for memory that other runs hold in a shared budget |
//! | [`SPENT`] | counter | microseconds of completed runs, by activity: `on` is a field of [`Timing`] |
//!
//! `diskferry-s3io` has more metrics, for its requests.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::conversion::timing::Timing;
use crate::error::Error;
use crate::source::Traffic;

/// `diskferry_conversions_total`
pub const CONVERSIONS: &str = "diskferry_conversions_total";
/// `diskferry_conversions_running`
pub const RUNNING: &str = "diskferry_conversions_running";
/// `diskferry_source_requests_total`
pub const SOURCE_REQUESTS: &str = "diskferry_source_requests_total";
/// `diskferry_source_bytes_total`
pub const SOURCE_BYTES: &str = "diskferry_source_bytes_total";
/// `diskferry_source_retries_total`
pub const SOURCE_RETRIES: &str = "diskferry_source_retries_total";
/// `diskferry_target_bytes_total`
pub const TARGET_BYTES: &str = "diskferry_target_bytes_total";
/// `diskferry_guest_bytes_total`
pub const GUEST_BYTES: &str = "diskferry_guest_bytes_total";
/// `diskferry_reads_in_flight`
pub const READS: &str = "diskferry_reads_in_flight";
/// `diskferry_cpu_jobs`
pub const CPU_JOBS: &str = "diskferry_cpu_jobs";
/// `diskferry_writes_in_flight`
pub const WRITES: &str = "diskferry_writes_in_flight";
/// `diskferry_backlog_bytes`
pub const BACKLOG_BYTES: &str = "diskferry_backlog_bytes";
/// `diskferry_waiting_for_memory`
pub const WAITING_FOR_MEMORY: &str = "diskferry_waiting_for_memory";
/// `diskferry_spent_microseconds_total`
pub const SPENT: &str = "diskferry_spent_microseconds_total";

/// The state of a run.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct RunSnapshot {
    pub(crate) source: Traffic,
    /// Bytes that the target accepted.
    pub(crate) written: u64,
    /// Guest bytes that were processed.
    pub(crate) guest: u64,
    pub(crate) queues: QueueDepths,
}

/// The work under way in a run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct QueueDepths {
    pub(crate) reads: usize,
    pub(crate) jobs: usize,
    pub(crate) writes: usize,
    /// Bytes that wait for the target.
    pub(crate) backlog: u64,
    pub(crate) waits_for_memory: bool,
}

impl QueueDepths {
    fn gauges(self) -> [(&'static str, f64); 5] {
        [
            (READS, self.reads as f64),
            (CPU_JOBS, self.jobs as f64),
            (WRITES, self.writes as f64),
            (BACKLOG_BYTES, self.backlog as f64),
            (WAITING_FOR_MEMORY, f64::from(u8::from(self.waits_for_memory))),
        ]
    }
}

/// Publishes the metrics of one run, from its start until it is dropped.
#[derive(Debug)]
pub(crate) struct RunMetrics {
    told: RunSnapshot,
    at: Instant,
}

impl RunMetrics {
    /// The interval between two updates.
    const EVERY: Duration = Duration::from_millis(250);

    pub(crate) fn new() -> Self {
        gauge!(RUNNING).increment(1.0);
        Self { told: RunSnapshot::default(), at: Instant::now() }
    }

    pub(crate) fn is_due(&self) -> bool {
        self.at.elapsed() >= Self::EVERY
    }

    pub(crate) fn tell(&mut self, now: RunSnapshot) {
        let told = std::mem::replace(&mut self.told, now);
        let count = |name: &'static str, now: u64, told: u64| {
            if now > told {
                counter!(name).increment(now - told);
            }
        };
        count(SOURCE_REQUESTS, now.source.requests, told.source.requests);
        count(SOURCE_BYTES, now.source.bytes, told.source.bytes);
        count(SOURCE_RETRIES, now.source.retries, told.source.retries);
        count(TARGET_BYTES, now.written, told.written);
        count(GUEST_BYTES, now.guest, told.guest);
        for ((name, now), (_, told)) in now.queues.gauges().into_iter().zip(told.queues.gauges()) {
            if now != told {
                gauge!(name).increment(now - told);
            }
        }
        let QueueDepths { reads, jobs, writes, backlog, .. } = now.queues;
        tracing::debug!(reads, jobs, writes, backlog, guest = now.guest, "under way");
        let span = tracing::Span::current();
        span.record("requests", now.source.requests).record("bytes", now.source.bytes);
        span.record("retries", now.source.retries).record("written", now.written);
        self.at = Instant::now();
    }

    /// Records the bytes that the target accepted in total. Nothing is under way any more.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.tell(RunSnapshot { written: bytes, queues: QueueDepths::default(), ..self.told });
    }
}

impl Drop for RunMetrics {
    fn drop(&mut self) {
        self.tell(RunSnapshot { queues: QueueDepths::default(), ..self.told });
        gauge!(RUNNING).decrement(1.0);
    }
}

/// Counts the outcome of a run.
pub(crate) fn ended(ended: Result<&Timing, &Error>) {
    counter!(CONVERSIONS, "outcome" => ended.map_or_else(|error| error.kind().code(), |_| "done"))
        .increment(1);
    for (on, seconds) in ended.iter().flat_map(|timing| timing.parts()) {
        counter!(SPENT, "on" => on).increment((seconds * 1e6) as u64);
    }
}

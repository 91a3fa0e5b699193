//! Reports the state of a run: progress over a channel, and metrics.

use std::time::Instant;

use tokio::sync::watch::Sender;

use crate::conversion::content_meter::ContentMeter;
use crate::conversion::metrics::{QueueDepths, RunMetrics, RunSnapshot};
use crate::engine::Pipeline;
use crate::progress::{Phase, Progress};

/// Reports the state of one run.
pub(super) struct Status {
    progress: Option<Sender<Progress>>,
    metrics: RunMetrics,
    started: Instant,
}

/// The progress of the source.
#[derive(Clone, Copy, Default)]
pub(super) struct SourceProgress {
    done: u64,
    total: Option<u64>,
    fetched: u64,
}

impl SourceProgress {
    pub(super) fn of(pipeline: &Pipeline<ContentMeter>) -> Self {
        let fetched = pipeline.transfer.traffic().bytes;
        Self { done: pipeline.meter.seen_bytes, total: pipeline.transfer.virtual_bytes(), fetched }
    }
}

impl Status {
    pub(super) fn new(progress: Option<Sender<Progress>>) -> Self {
        Self { progress, metrics: RunMetrics::new(), started: Instant::now() }
    }

    /// Seconds since the start of the run.
    pub(super) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Reports the progress. `written` are the bytes that the target accepted.
    pub(super) fn show(&self, phase: Phase, source: SourceProgress, written: u64) {
        let Some(progress) = &self.progress else { return };
        let elapsed_s = self.elapsed();
        let SourceProgress { done, total, fetched } = source;
        let left = total.and_then(|total| total.checked_sub(done)).filter(|_| done > 0);
        let eta_s = left.map(|left| elapsed_s * left as f64 / done as f64);
        progress.send_replace(Progress {
            phase,
            done_bytes: done,
            total_bytes: total,
            fetched_bytes: fetched,
            written_bytes: written,
            elapsed_s,
            eta_s,
        });
    }

    /// True if it is time to update the metrics.
    pub(super) fn is_due(&self) -> bool {
        self.metrics.is_due()
    }

    /// Updates the metrics.
    pub(super) fn tell(&mut self, pipeline: &Pipeline<ContentMeter>, written: u64, queues: QueueDepths) {
        self.metrics.tell(RunSnapshot {
            source: pipeline.transfer.traffic(),
            written,
            guest: pipeline.meter.seen_bytes,
            queues,
        });
    }

    /// Records the bytes that the target accepted in total.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.metrics.wrote(bytes);
    }
}

//! Where the time of a run went.

use std::time::Duration;

use tokio::time::Instant;

/// Where the time of a run went, in seconds; together it is the whole of it, from the first look at the facts to the
/// answer. Opening the source comes before. Reading, computing and writing go on side by side: each moment counts for
/// what the run could not do without, and nothing else was ready.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Timing {
    /// Before the first byte: what the target's layout needs to know of the map, and making room for it.
    pub plan: f64,
    /// Waiting for the source.
    pub source: f64,
    /// Decoding, hashing, encoding, and all else that keeps processors busy.
    pub cpu: f64,
    /// Waiting for the destination to take what is ready.
    pub destination: f64,
    /// Waiting for room in a budget that other runs hold.
    pub memory: f64,
    /// Writing what comes last, and publishing; synchronising a file is a part of it.
    pub finish: f64,
    /// Reading the target back.
    pub verify: f64,
}

impl Timing {
    /// Each part with its name.
    pub fn parts(&self) -> [(&'static str, f64); 7] {
        [
            ("plan", self.plan),
            ("source", self.source),
            ("cpu", self.cpu),
            ("destination", self.destination),
            ("memory", self.memory),
            ("finish", self.finish),
            ("verify", self.verify),
        ]
    }
}

/// What a run waits for at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitReason {
    Source,
    Cpu,
    Destination,
    Memory,
}

/// Counts where time goes.
#[derive(Debug)]
pub(super) struct TimingClock {
    timing: Timing,
    /// Up to when it is counted.
    at: Instant,
}

impl TimingClock {
    pub(super) fn new() -> Self {
        Self { timing: Timing::default(), at: Instant::now() }
    }

    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.at, now)).as_secs_f64()
    }

    /// What was not counted yet was a part of this.
    pub(super) fn charge(&mut self, part: impl FnOnce(&mut Timing) -> &mut f64) {
        let lap = self.lap();
        *part(&mut self.timing) += lap;
    }

    /// What was not counted yet was a wait. Shorter ones are work: of the executor, and of this run.
    pub(super) fn charge_wait(&mut self, wait: WaitReason) {
        const WORK: f64 = Duration::from_micros(5).as_secs_f64();
        let lap = self.lap();
        *match wait {
            _ if lap < WORK => &mut self.timing.cpu,
            WaitReason::Source => &mut self.timing.source,
            WaitReason::Cpu => &mut self.timing.cpu,
            WaitReason::Destination => &mut self.timing.destination,
            WaitReason::Memory => &mut self.timing.memory,
        } += lap;
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }
}

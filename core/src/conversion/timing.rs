//! Measures how the time of a run is spent.

use std::time::Duration;

use tokio::time::Instant;

/// The time of a run by activity, in seconds. The sum is the whole duration, from the first check of the sizes to the
/// result; opening the source is not included. Reading, computing and writing overlap: each moment counts for the
/// activity that the run was waiting for.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Timing {
    /// Before the first byte: walking the map for the target's layout, and preparing the target.
    pub plan: f64,
    /// Waiting for the source.
    pub source: f64,
    /// Decoding, hashing, encoding, and other CPU work.
    pub cpu: f64,
    /// Waiting for the destination to accept data that is ready.
    pub destination: f64,
    /// Waiting for memory that other runs hold in a shared budget.
    pub memory: f64,
    /// Writing the last part and publishing. Includes syncing a file.
    pub finish: f64,
    /// Reading the target back.
    pub verify: f64,
}

impl Timing {
    /// Each field with its name.
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

/// The reason why a run waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitReason {
    Source,
    Cpu,
    Destination,
    Memory,
}

/// Measures how the time of a run is spent.
#[derive(Debug)]
pub(super) struct TimingClock {
    timing: Timing,
    /// The time up to which everything is charged.
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

    /// Charges the time since the last charge to `part`.
    pub(super) fn charge(&mut self, part: impl FnOnce(&mut Timing) -> &mut f64) {
        let lap = self.lap();
        *part(&mut self.timing) += lap;
    }

    /// Charges the time since the last charge to a wait. Very short waits count as work, of the executor and of this
    /// run.
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

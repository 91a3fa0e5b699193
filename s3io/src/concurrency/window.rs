//! The window: how many bytes may be requested and not yet received.
//!
//! Counting bytes rather than requests keeps requests out of step. Requests of one length that start together share the
//! link equally, end together, and then all wait for their first byte while the link is idle. With a window of bytes, the
//! next request starts as soon as another request's length has been received, whichever requests those bytes belong to,
//! so its first-byte latency passes while others use the link.
//!
//! The window starts large enough for nearly every link. It grows for as long as more requests bring more bytes, and
//! shrinks step by step while fewer bring as many: the fewest requests that fill the link.

use std::time::{Duration, Instant};

/// The length of a request, unless something is known of the object. Most tools upload parts of 8 MiB or a multiple.
pub(crate) const DEFAULT_REQUEST_BYTES: u64 = 8 << 20;
/// The unit of the window.
pub(super) const UNIT: u64 = DEFAULT_REQUEST_BYTES;
/// Requests that may start at once, and the fewest that are ever tried. Twice as many are in flight once they are out of
/// step, since half of each has then been received. 16 connections of 50 MB/s bring 800 MB/s: starting lower costs a wide
/// line several round trips, and starting there costs a narrow one nothing.
const FIRST: u64 = 16;
const LEAST: u64 = 4;
/// Upper bound of the limit on requests: more have no effect.
const MAX_REQUESTS: u64 = 1 << 20;
/// Time over which a rate is measured. Several answers of a usual link, and longer than usual first-byte latency.
const SAMPLE: Duration = Duration::from_millis(125);
/// A sample counts if the window was full for this share of its time; otherwise something else was the limit.
const FULL: f64 = 0.8;
/// A larger window is kept if the rate rises by this factor: at once, and as the mean of [`SAMPLES`].
const CLEAR_GAIN: f64 = 1.15;
const GAIN: f64 = 1.03;
/// A smaller window is kept if the rate stays above this share.
const LOSS: f64 = 0.98;
/// Samples of a decision that is not clear at once.
const SAMPLES: u32 = 4;
/// Samples without a decision after a step that did not help: at first, and at most.
const REST: u32 = 64;
const LONGEST_REST: u32 = 512;

/// What is being tried.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    /// The rate of the first window is being measured.
    Start,
    /// A larger window, against the rate of the one before.
    Grow { before: u64, rate: f64 },
    /// A smaller one.
    Shrink { before: u64, rate: f64 },
    /// Nothing, for this number of samples.
    Rest(u32),
}

/// The number of bytes that may be outstanding, and the search for its best value.
#[derive(Clone, Debug)]
pub(super) struct Window {
    bytes: u64,
    most: u64,
    step: Step,
    next_rest: u32,
    /// The sum of the rates of the samples of this step, and their number. The first sample after a change is left out:
    /// its requests have not brought anything yet.
    sum: f64,
    samples: u32,
    settling: bool,
    sample: Option<Sample>,
}

/// A sample under way.
#[derive(Clone, Copy, Debug)]
struct Sample {
    since: Instant,
    bytes: u64,
    /// Until when it is known whether the window was full, and for how long it was full until then.
    known: Instant,
    full: Duration,
}

impl Window {
    /// A window for at most `most` requests.
    pub(super) fn new(most: usize) -> Self {
        let most = (most as u64).clamp(1, MAX_REQUESTS) * UNIT;
        Self {
            bytes: (FIRST * UNIT).min(most),
            most,
            step: Step::Start,
            next_rest: REST,
            sum: 0.0,
            samples: 0,
            settling: true,
            sample: None,
        }
    }

    /// Bytes that may be outstanding.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if a further request of `len` bytes may start beside `outstanding` bytes. One request always may.
    pub(super) fn admits(&self, outstanding: u64, len: u64) -> bool {
        outstanding == 0 || outstanding.checked_add(len).is_some_and(|sum| sum <= self.bytes)
    }

    /// The number of outstanding bytes is about to change from `outstanding`, with `received` bytes that came in.
    pub(super) fn changes(&mut self, outstanding: u64, received: u64, now: Instant) {
        let start = Sample { since: now, bytes: 0, known: now, full: Duration::ZERO };
        let Some(sample) = &mut self.sample else {
            // The first bytes end the wait for them, and say nothing about a rate.
            self.sample = (received > 0).then_some(start);
            return;
        };
        // The window has at least one unit.
        if outstanding > self.bytes - UNIT {
            sample.full += now.saturating_duration_since(sample.known);
        }
        sample.known = now;
        sample.bytes += received;
        let lasted = now.saturating_duration_since(sample.since);
        if lasted < SAMPLE {
            return;
        }
        let sample = std::mem::replace(sample, start);
        if sample.full.as_secs_f64() >= FULL * lasted.as_secs_f64() {
            self.measured(sample.bytes as f64 / lasted.as_secs_f64());
        }
    }

    /// The service asked for fewer requests: what was measured no longer counts.
    pub(super) fn interrupted(&mut self) {
        self.sample = None;
        self.rest();
    }

    /// The rate of a sample in which the window was full, in bytes a second.
    fn measured(&mut self, rate: f64) {
        if std::mem::take(&mut self.settling) {
            return;
        }
        self.sum += rate;
        self.samples += 1;
        let mean = self.sum / f64::from(self.samples);
        let decided = self.samples >= SAMPLES;
        match self.step {
            Step::Start if self.samples >= 2 => self.grow(mean),
            Step::Grow { rate: before, .. } if rate >= before * CLEAR_GAIN => self.grow(rate),
            Step::Grow { rate: before, .. } if decided && mean >= before * GAIN => self.grow(mean),
            Step::Grow { before, rate } if decided => {
                self.set(before);
                self.shrink(rate.max(mean));
            }
            Step::Shrink { rate: before, .. } if decided && mean >= before * LOSS => {
                self.shrink(before.max(mean));
            }
            Step::Shrink { before, .. } if decided => {
                self.set((before + UNIT).min(self.most));
                self.rest();
            }
            Step::Rest(left) if self.samples >= left => {
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
                self.grow(mean);
            }
            _ => {}
        }
        tracing::trace!(rate, window = self.bytes, step = ?self.step, "window");
    }

    /// Tries half as many requests more. `rate` is that of the present window.
    fn grow(&mut self, rate: f64) {
        let before = self.bytes;
        let more = (before / UNIT).div_ceil(2) * UNIT;
        self.set((before + more).min(self.most));
        if self.bytes > before {
            self.begin(Step::Grow { before, rate });
        } else {
            self.shrink(rate);
        }
    }

    /// Tries one request less.
    fn shrink(&mut self, rate: f64) {
        let before = self.bytes;
        if before < (LEAST + 1) * UNIT {
            return self.rest();
        }
        self.set(before - UNIT);
        self.begin(Step::Shrink { before, rate });
    }

    fn rest(&mut self) {
        self.begin(Step::Rest(self.next_rest));
    }

    fn set(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    fn begin(&mut self, step: Step) {
        self.step = step;
        (self.sum, self.samples, self.settling) = (0.0, 0, true);
    }
}

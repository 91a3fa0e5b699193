//! Duplicate requests for ranges that are stuck: when, and how many.
//!
//! Of thousands of responses some never arrive, or fall silent. Waiting for the timeout can take as long as the rest of the
//! transfer; a duplicate request costs little. So a range that is silent for much longer than usual is requested again,
//! from the byte reached. The first of the two requests that delivers a byte continues, and the other is dropped. Hardly
//! any byte is received twice, and no second buffer is needed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A range is stuck after this silence at the latest.
const MAX_THRESHOLD: Duration = Duration::from_secs(5);
/// And at the earliest: a shorter silence may also come from a busy machine.
const MIN_THRESHOLD: Duration = Duration::from_secs(1);
/// Usual is the 95th percentile of the longest silences of this many last responses.
const SAMPLES: usize = 64;
/// Fewer do not show what is usual.
const MIN_SAMPLES: usize = 16;
/// A silence is stuck if it is this many times as long as usual.
const FACTOR: u32 = 3;

/// What a duplicate request is counted as: bytes that may be in flight of the response that is dropped.
const COST: u64 = 1 << 20;
/// All duplicates together may cost one in this many bytes fetched, and [`BASE_ALLOWANCE`].
const SHARE: u64 = 100;
const BASE_ALLOWANCE: u64 = 8 << 20;
/// Duplicates in flight. If everything is stuck, more requests do not help.
const MAX_IN_FLIGHT: usize = 2;

/// Decides on duplicate requests of one source.
#[derive(Debug, Default)]
pub(super) struct Hedging {
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// The longest silences of the last responses.
    silences: Vec<Duration>,
    oldest: usize,
    in_flight: usize,
    spent: u64,
}

impl Hedging {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the longest silence of a complete response, including the wait for its first byte.
    pub(super) fn record(&self, silence: Duration) {
        let mut history = self.history();
        if history.silences.len() < SAMPLES {
            history.silences.push(silence);
            return;
        }
        let oldest = history.oldest;
        if let Some(slot) = history.silences.get_mut(oldest) {
            *slot = silence;
        }
        history.oldest = (oldest + 1) % SAMPLES;
    }

    /// The silence after which a response is stuck.
    pub(super) fn threshold(&self) -> Duration {
        let mut sorted = self.history().silences.clone();
        if sorted.len() < MIN_SAMPLES {
            return MAX_THRESHOLD;
        }
        sorted.sort_unstable();
        let usual = sorted.get(sorted.len() * 95 / 100).and_then(|usual| usual.checked_mul(FACTOR));
        usual.map_or(MAX_THRESHOLD, |threshold| threshold.clamp(MIN_THRESHOLD, MAX_THRESHOLD))
    }

    /// Permission for a duplicate request, if `fetched` bytes have been received so far.
    pub(super) fn try_start(&self, fetched: u64) -> Option<Hedge<'_>> {
        let mut history = self.history();
        let spent = history.spent.checked_add(COST)?;
        let allowance = (fetched / SHARE).checked_add(BASE_ALLOWANCE)?;
        if history.in_flight >= MAX_IN_FLIGHT || spent > allowance {
            return None;
        }
        history.spent = spent;
        history.in_flight += 1;
        Some(Hedge { hedging: self })
    }
}

/// A duplicate request in flight.
#[derive(Debug)]
pub(super) struct Hedge<'a> {
    hedging: &'a Hedging,
}

impl Drop for Hedge<'_> {
    fn drop(&mut self) {
        let mut history = self.hedging.history();
        debug_assert!(history.in_flight > 0, "each ends once");
        history.in_flight = history.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_threshold_is_three_times_the_usual_silence_within_bounds() {
        let hedging = Hedging::default();
        for _ in 1..MIN_SAMPLES {
            hedging.record(MS * 30);
        }
        assert_eq!(hedging.threshold(), MAX_THRESHOLD, "too few to tell");
        hedging.record(MS * 30);
        assert_eq!(hedging.threshold(), MIN_THRESHOLD);
        for _ in 0..SAMPLES {
            hedging.record(MS * 600);
        }
        assert_eq!(hedging.threshold(), MS * 1800);
        // Two in a hundred are not usual.
        hedging.record(MS * 9000);
        assert_eq!(hedging.threshold(), MS * 1800);
        for _ in 0..SAMPLES {
            hedging.record(MS * 9000);
        }
        assert_eq!(hedging.threshold(), MAX_THRESHOLD);
    }

    #[test]
    fn duplicates_stay_within_one_percent_and_a_base_allowance_and_two_at_once() {
        let hedging = Hedging::default();
        let two = (hedging.try_start(0).unwrap(), hedging.try_start(0).unwrap());
        assert!(hedging.try_start(0).is_none());
        drop(two);
        let free = (0..100).take_while(|_| hedging.try_start(0).is_some()).count();
        assert_eq!(free as u64 + 2, BASE_ALLOWANCE / COST);
        assert!(hedging.try_start(99 << 20).is_none());
        assert!(hedging.try_start(100 << 20).is_some());
        assert!(hedging.try_start(100 << 20).is_none());
    }
}

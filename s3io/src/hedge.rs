//! A second request for a range that is stuck: when, and how many.
//!
//! Of thousands of answers some never come, or fall silent. Waiting for the timeout costs as long as everything else; asking
//! once more costs a request. So a range that is silent for much longer than usual is asked for a second time, from the
//! byte reached, and whichever of the two brings a byte first goes on. The other is dropped, so that next to nothing
//! comes twice and no second buffer is needed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A range is stuck after a silence of this at the latest.
const LATEST: Duration = Duration::from_secs(5);
/// And at the earliest: below it, a busy machine is as likely.
const EARLIEST: Duration = Duration::from_secs(1);
/// Usual is the 95th percentile of the longest silence in each of so many last answers.
const ANSWERS: usize = 64;
/// Fewer say nothing of what is usual.
const TELLING: usize = 16;
/// Silence is out of the usual when it is so many times as long.
const TIMES: u32 = 3;

/// What a second request is counted as: what may be on the way of the answer that is dropped.
const COST: u64 = 1 << 20;
/// All together may cost one in so many bytes fetched, and [`ONCE`].
const SHARE: u64 = 100;
const ONCE: u64 = 8 << 20;
/// Second requests in flight: when everything is stuck, asking again does not help.
const ABREAST: usize = 2;

/// Knows what is usual, and what was spent.
#[derive(Debug, Default)]
pub(crate) struct Hedges {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    silences: Vec<Duration>,
    oldest: usize,
    under_way: usize,
    spent: u64,
}

impl Hedges {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer came whole, and this was its longest silence, the wait for its first byte included.
    pub(crate) fn silence(&self, longest: Duration) {
        let mut state = self.state();
        if state.silences.len() < ANSWERS {
            state.silences.push(longest);
            return;
        }
        let oldest = state.oldest % ANSWERS;
        if let Some(slot) = state.silences.get_mut(oldest) {
            *slot = longest;
        }
        state.oldest = (oldest + 1) % ANSWERS;
    }

    /// After how long a silence an answer is stuck.
    pub(crate) fn stuck(&self) -> Duration {
        let mut sorted = self.state().silences.clone();
        if sorted.len() < TELLING {
            return LATEST;
        }
        sorted.sort_unstable();
        let usual = sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(LATEST);
        usual.saturating_mul(TIMES).clamp(EARLIEST, LATEST)
    }

    /// Leave for a second request, where `fetched` bytes have come so far.
    pub(crate) fn leave(&self, fetched: u64) -> Option<Hedge<'_>> {
        let mut state = self.state();
        let spent = state.spent.saturating_add(COST);
        if state.under_way >= ABREAST || spent > ONCE.saturating_add(fetched / SHARE) {
            return None;
        }
        state.spent = spent;
        state.under_way += 1;
        Some(Hedge { hedges: self })
    }
}

/// A second request that is under way.
#[derive(Debug)]
pub(crate) struct Hedge<'a> {
    hedges: &'a Hedges,
}

impl Drop for Hedge<'_> {
    fn drop(&mut self) {
        let mut state = self.hedges.state();
        state.under_way = state.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn stuck_is_three_times_the_usual_within_its_bounds() {
        let hedges = Hedges::default();
        for _ in 1..TELLING {
            hedges.silence(MS * 30);
        }
        assert_eq!(hedges.stuck(), LATEST, "too few to tell");
        hedges.silence(MS * 30);
        assert_eq!(hedges.stuck(), EARLIEST);
        for _ in 0..ANSWERS {
            hedges.silence(MS * 600);
        }
        assert_eq!(hedges.stuck(), MS * 1800);
        // Two in a hundred are no longer usual.
        hedges.silence(MS * 9000);
        assert_eq!(hedges.stuck(), MS * 1800);
        for _ in 0..ANSWERS {
            hedges.silence(MS * 9000);
        }
        assert_eq!(hedges.stuck(), LATEST);
    }

    #[test]
    fn second_requests_stay_within_one_percent_and_one_request_and_two_at_once() {
        let hedges = Hedges::default();
        let two = (hedges.leave(0).unwrap(), hedges.leave(0).unwrap());
        assert!(hedges.leave(0).is_none());
        drop(two);
        let free = (0..100).take_while(|_| hedges.leave(0).is_some()).count();
        assert_eq!(free as u64 + 2, ONCE / COST);
        assert!(hedges.leave(99 << 20).is_none());
        assert!(hedges.leave(100 << 20).is_some());
        assert!(hedges.leave(100 << 20).is_none());
    }
}

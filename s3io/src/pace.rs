//! How many requests are in flight: as many as allowed, fewer after the service asked for less.
//!
//! Additive increase, multiplicative decrease. A service that answers 503 to one request answers it to those sent
//! beside it too, so only the first of a burst counts: the next halving waits until the answers to what was in flight are in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Admits requests. Dropping a waiting [`enter`](Self::enter) takes it out of the line.
#[derive(Debug)]
pub(crate) struct Pace {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    most: usize,
    limit: f64,
    in_flight: usize,
    /// Answers to wait for before another 503 counts.
    stale: usize,
}

impl State {
    fn admitted(&self) -> usize {
        // At least 1.0 and at most `most`, which fits.
        self.limit as usize
    }
}

impl Pace {
    /// At most `most` requests at once; 0 counts as 1.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        let state = State { most, limit: most as f64, in_flight: 0, stale: 0 };
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn, first come first served.
    pub(crate) async fn enter(&self) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if state.in_flight < state.admitted() {
                    state.in_flight += 1;
                    return Turn { pace: self };
                }
            }
            freed.await;
        }
    }

    /// How many are admitted at once now.
    pub(crate) fn limit(&self) -> usize {
        self.state().admitted()
    }
}

/// A request's place. Dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
}

impl Turn<'_> {
    /// The request was answered.
    pub(crate) fn went_well(&self) {
        let mut state = self.pace.state();
        let step = 1.0 / state.limit;
        state.limit = (state.limit + step).min(state.most as f64);
    }

    /// The service asked for fewer requests.
    pub(crate) fn slow_down(&self) {
        let mut state = self.pace.state();
        if state.stale == 0 {
            state.limit = (state.limit / 2.0).max(1.0);
            state.stale = state.in_flight;
            tracing::debug!(limit = state.admitted(), "the service asks for fewer requests");
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let room = {
            let mut state = self.pace.state();
            state.in_flight = state.in_flight.saturating_sub(1);
            state.stale = state.stale.saturating_sub(1);
            state.admitted().saturating_sub(state.in_flight)
        };
        // More than one may enter after the limit rose.
        for _ in 0..room.min(2) {
            self.pace.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_burst_of_refusals_halves_once_and_success_raises_again() {
        let pace = Pace::new(16);
        let turns: Vec<_> = (0..16).map(|_| pace.enter().now_or_never().unwrap()).collect();
        assert!(pace.enter().now_or_never().is_none());
        turns.iter().for_each(Turn::slow_down);
        drop(turns);
        assert_eq!(pace.limit(), 8);
        for _ in 0..200 {
            pace.enter().now_or_never().unwrap().went_well();
        }
        assert_eq!(pace.limit(), 16);
        for _ in 0..100 {
            pace.enter().now_or_never().unwrap().slow_down();
        }
        assert_eq!(pace.limit(), 1);
    }

    #[test]
    fn one_that_waits_is_let_in_when_another_leaves_or_gives_up() {
        let pace = Pace::new(1);
        let first = pace.enter().now_or_never().unwrap();
        let mut second = Box::pin(pace.enter());
        let mut third = Box::pin(pace.enter());
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(first);
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }
}

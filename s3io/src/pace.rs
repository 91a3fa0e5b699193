//! How many requests are in flight: as many as bring more, and no more than the service stands.
//!
//! Two numbers bound it, and the smaller counts. What the service *allows* follows its answers: additive increase,
//! multiplicative decrease. What is *worth* having follows what is measured, see [`Climb`]. Requests for tables are short,
//! and others wait for what they say: they are let in beyond what is worth having.
//!
//! A service that answers 503 to one request answers it to those sent beside it too, so only the first of a burst counts:
//! the next halving waits until the answers to what was in flight are in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Requests in flight at first: enough for most links, few enough to leave memory to the decoders.
const FIRST: usize = 4;
/// Time over which throughput is measured: many answers of a request each, few enough that a fast link is filled soon.
const EPOCH: Duration = Duration::from_millis(250);
/// Of the places in flight, so many hundredths must have been taken for an epoch to say anything.
const TAKEN: f64 = 0.85;
/// Of what more requests would bring if each brought as much as those before, this much makes them worth having.
const GAIN: f64 = 0.25;
/// Epochs without a look at whether more would bring more now: after the first one that did not, and the most.
const REST: u32 = 16;
const LONGEST_REST: u32 = 256;

/// How many requests are worth having: twice as many for as long as throughput rises with them.
#[derive(Clone, Copy, Debug)]
struct Climb {
    most: usize,
    worth: usize,
    /// Bytes a second with [`worth`](Self::worth) requests, or with `before` while trying more.
    rate: f64,
    /// Tried more: how many were worth having before.
    before: Option<usize>,
    rest: u32,
    next_rest: u32,
}

impl Climb {
    fn new(most: usize) -> Self {
        Self { most, worth: FIRST.min(most), rate: 0.0, before: None, rest: 0, next_rest: REST }
    }

    /// So many bytes a second came in an epoch in which the places were taken.
    fn measured(&mut self, rate: f64) {
        match self.before {
            None if self.rest > 0 => {
                self.rest -= 1;
                self.rate = self.rate * 0.7 + rate * 0.3;
            }
            None => self.try_more(rate),
            Some(before) => {
                let more = (self.worth - before) as f64 / before as f64;
                self.before = None;
                if rate >= self.rate * (1.0 + more * GAIN) {
                    self.next_rest = REST;
                    self.try_more(rate);
                } else {
                    self.worth = before;
                    self.rest = self.next_rest;
                    self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
                }
            }
        }
    }

    fn try_more(&mut self, rate: f64) {
        self.rate = rate;
        let more = (self.worth * 2).min(self.most);
        if more > self.worth {
            self.before = Some(std::mem::replace(&mut self.worth, more));
        }
    }
}

/// What came in since when, and how much of the places were taken.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    since: Instant,
    bytes: u64,
    /// When the number in flight changed last, and its integral over time until then, in request seconds.
    changed: Instant,
    taken: f64,
}

/// Admits requests. Dropping a waiting [`enter`](Self::enter) takes it out of the line.
#[derive(Debug)]
pub(crate) struct Pace {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    most: usize,
    allowed: f64,
    climb: Climb,
    epoch: Option<Epoch>,
    /// Long requests in flight, and short ones.
    long: usize,
    short: usize,
    /// Answers to wait for before another 503 counts.
    stale: usize,
}

impl State {
    fn allowed(&self) -> usize {
        // At least 1.0 and at most `most`, which fits.
        self.allowed as usize
    }

    fn limit(&self) -> usize {
        self.allowed().min(self.climb.worth)
    }

    fn admits(&self, short: bool) -> bool {
        self.long + self.short < self.allowed() && (short || self.long < self.climb.worth)
    }

    /// The number of requests in flight is about to change.
    fn integrate(&mut self, now: Instant) {
        let in_flight = (self.long + self.short) as f64;
        if let Some(epoch) = &mut self.epoch {
            epoch.taken += in_flight * now.saturating_duration_since(epoch.changed).as_secs_f64();
            epoch.changed = now;
        }
    }

    /// Bytes came in.
    fn came(&mut self, bytes: u64, now: Instant) {
        let begin = Epoch { since: now, bytes: 0, changed: now, taken: 0.0 };
        let Some(epoch) = &mut self.epoch else {
            // The first bytes end the wait for them, and say nothing of a rate.
            self.epoch = Some(begin);
            return;
        };
        epoch.bytes = epoch.bytes.saturating_add(bytes);
        let lasted = now.saturating_duration_since(epoch.since);
        if lasted < EPOCH {
            return;
        }
        self.integrate(now);
        let Some(epoch) = self.epoch.replace(begin) else { return };
        let seconds = lasted.as_secs_f64();
        if epoch.taken >= TAKEN * self.climb.worth as f64 * seconds {
            self.climb.measured(epoch.bytes as f64 / seconds);
            tracing::trace!(bytes = epoch.bytes, seconds, worth = self.climb.worth, "pace");
        }
    }
}

impl Pace {
    /// At most `most` requests at once, as many of them as bring more; 0 counts as 1.
    pub(crate) fn new(most: usize) -> Self {
        Self::of(most.max(1), Climb::new(most.max(1)))
    }

    /// At most `most` requests at once, from the first on: for those that bring something instead of fetching it.
    pub(crate) fn writing(most: usize) -> Self {
        Self::of(most.max(1), Climb { worth: most.max(1), ..Climb::new(most.max(1)) })
    }

    fn of(most: usize, climb: Climb) -> Self {
        let state = State { most, allowed: most as f64, climb, epoch: None, long: 0, short: 0, stale: 0 };
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn. A `short` one is for tables.
    pub(crate) async fn enter(&self, short: bool) -> Turn<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            {
                let mut state = self.state();
                if state.admits(short) {
                    state.integrate(Instant::now());
                    *(if short { &mut state.short } else { &mut state.long }) += 1;
                    return Turn { pace: self, short };
                }
            }
            freed.await;
        }
    }

    /// How many long ones are admitted at once now.
    pub(crate) fn limit(&self) -> usize {
        self.state().limit()
    }
}

/// A request's place. Dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    short: bool,
}

impl Turn<'_> {
    /// Bytes of its answer came in.
    pub(crate) fn came(&self, bytes: usize) {
        self.pace.state().came(bytes as u64, Instant::now());
    }

    /// The request was answered.
    pub(crate) fn went_well(&self) {
        let mut state = self.pace.state();
        let step = 1.0 / state.allowed;
        state.allowed = (state.allowed + step).min(state.most as f64);
    }

    /// The service asked for fewer requests.
    pub(crate) fn slow_down(&self) {
        let mut state = self.pace.state();
        if state.stale == 0 {
            // What was in force was too much, whatever was allowed.
            state.allowed = (state.allowed.min(state.climb.worth as f64) / 2.0).max(1.0);
            state.stale = state.long + state.short;
            state.epoch = None;
            crate::metrics::slowdown();
            tracing::debug!(limit = state.limit(), "the service asks for fewer requests");
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.pace.state();
            state.integrate(Instant::now());
            let count = if self.short { &mut state.short } else { &mut state.long };
            *count = count.saturating_sub(1);
            state.stale = state.stale.saturating_sub(1);
        }
        // Each looks for itself: what is room for a short one may be none for a long one.
        self.pace.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn enter(pace: &Pace) -> Option<Turn<'_>> {
        pace.enter(false).now_or_never()
    }

    #[test]
    fn a_burst_of_refusals_halves_what_is_in_force_once_and_success_raises_again() {
        let pace = Pace::new(16);
        let turns: Vec<_> = (0..FIRST).map(|_| enter(&pace).unwrap()).collect();
        assert!(enter(&pace).is_none());
        turns.iter().for_each(Turn::slow_down);
        drop(turns);
        assert_eq!(pace.limit(), FIRST / 2);
        for _ in 0..200 {
            enter(&pace).unwrap().went_well();
        }
        assert_eq!((pace.limit(), pace.state().allowed()), (FIRST, 16));
        for _ in 0..100 {
            enter(&pace).unwrap().slow_down();
        }
        assert_eq!(pace.limit(), 1);
    }

    #[test]
    fn one_that_waits_is_let_in_when_another_leaves_or_gives_up() {
        let pace = Pace::new(1);
        let first = enter(&pace).unwrap();
        let mut second = Box::pin(pace.enter(false));
        let mut third = Box::pin(pace.enter(false));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(first);
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }

    #[test]
    fn tables_do_not_wait_behind_data() {
        let pace = Pace::new(8);
        let data: Vec<_> = (0..FIRST).map(|_| enter(&pace).unwrap()).collect();
        let tables: Vec<_> = (0..8 - FIRST).map(|_| pace.enter(true).now_or_never().unwrap()).collect();
        assert!(pace.enter(true).now_or_never().is_none(), "the bound holds for all together");
        drop((data, tables));
    }

    /// Climbs over a link that gives `rate(requests)` bytes a second; gives the numbers that were settled on.
    fn climb(most: usize, rate: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut climb = Climb::new(most);
        let mut seen = Vec::new();
        for _ in 0..40 {
            climb.measured(rate(climb.worth));
            seen.push(climb.worth);
        }
        seen
    }

    #[test]
    fn more_requests_are_made_for_as_long_as_they_bring_more() {
        // 80 MB/s each, the link of 10 Gbit/s is full at 16.
        let seen = climb(16, |requests| (requests as f64 * 80e6).min(1250e6));
        assert_eq!(seen[..3], [8, 16, 16]);
        assert_eq!(seen.last(), Some(&16));
        // 100 MB/s each, and 125 together: four are enough, and trying eight now and then is all.
        let seen = climb(16, |requests| (requests as f64 * 100e6).min(125e6));
        assert_eq!(seen[..2], [8, 4]);
        assert_eq!(seen.iter().filter(|worth| **worth > 4).count(), 2);
        // A link that becomes worse with more.
        let seen = climb(64, |requests| 100e6 / requests as f64);
        assert_eq!(seen.last(), Some(&4));
        assert!(climb(2, |requests| requests as f64).iter().all(|worth| *worth == 2));
    }

    #[test]
    fn an_epoch_counts_only_where_the_places_were_taken() {
        let start = Instant::now();
        let run = |long: usize| {
            let mut state = Pace::new(16).state.into_inner().unwrap();
            state.long = long;
            for tick in 0..100u64 {
                state.came(10_000_000, start + Duration::from_millis(10 * tick));
            }
            state.climb
        };
        let idle = run(1);
        assert_eq!((idle.worth, idle.rate), (FIRST, 0.0));
        let busy = run(FIRST);
        assert!((busy.rate - 1e9).abs() < 1e8, "{busy:?}");
    }
}

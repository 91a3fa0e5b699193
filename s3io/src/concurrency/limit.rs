//! Admits requests: as many as fill the line, and no more than the service allows.
//!
//! What the service *allows* follows its answers: additive increase, multiplicative decrease. A service that answers 503
//! to one request answers it to those sent beside it too, so only the first of a burst counts: the next halving waits
//! until the answers to what was in flight are in. What *fills the line* is the [`Window`]'s to say. Requests for tables
//! are short and others wait for what they say: the window does not hold them back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::window::{UNIT, Window};

/// A shorter range is taken for a table, which others wait for.
pub(crate) const TABLE: u64 = 1 << 20;

/// Admits requests. Dropping a waiting [`enter`](Self::enter) takes it out of the queue.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    state: Mutex<Admission>,
    freed: Notify,
}

#[derive(Debug)]
struct Admission {
    most: usize,
    allowed: f64,
    /// None for requests that bring data instead of fetching it.
    window: Option<Window>,
    in_flight: usize,
    /// Bytes of data that were requested and not yet received. Tables do not count.
    outstanding: u64,
    /// The shortest request that the window refused since waiters were last woken.
    refused: Option<u64>,
    /// Answers to wait for before another 503 counts.
    stale: usize,
}

impl Admission {
    fn new(most: usize, window: Option<Window>) -> Self {
        Self { most, allowed: most as f64, window, in_flight: 0, outstanding: 0, refused: None, stale: 0 }
    }

    fn allowed(&self) -> usize {
        // At least 1.0 and at most `most`, which fits.
        self.allowed as usize
    }

    /// Requests for data that are worth starting: half of each has been received, in the mean.
    fn limit(&self) -> usize {
        let worth = self.window.as_ref().map_or(u64::MAX, |window| window.bytes() / UNIT * 2);
        self.allowed().min(usize::try_from(worth).unwrap_or(usize::MAX)).max(1)
    }

    /// Admits a request of `len` bytes, or refuses it.
    fn admit(&mut self, len: u64, now: Instant) -> bool {
        if self.in_flight >= self.allowed() {
            return false;
        }
        if let Some(window) = self.window.as_mut().filter(|_| len >= TABLE) {
            if !window.admits(self.outstanding, len) {
                self.refused = Some(self.refused.map_or(len, |refused| refused.min(len)));
                return false;
            }
            window.changes(self.outstanding, 0, now);
            self.outstanding = self.outstanding.saturating_add(len);
        }
        self.in_flight += 1;
        true
    }

    /// `bytes` of data came in, or no longer will. True if a request that the window refused may now start.
    fn settle(&mut self, bytes: u64, received: u64, now: Instant) -> bool {
        let Some(window) = &mut self.window else { return false };
        window.changes(self.outstanding, received, now);
        self.outstanding = self.outstanding.saturating_sub(bytes);
        let room = self.refused.is_some_and(|len| window.admits(self.outstanding, len));
        if room {
            self.refused = None;
        }
        room
    }

    fn slow_down(&mut self) -> bool {
        if self.stale > 0 {
            return false;
        }
        // What was in force was too much, whatever was allowed.
        self.allowed = (self.limit() as f64 / 2.0).max(1.0);
        self.stale = self.in_flight;
        if let Some(window) = &mut self.window {
            window.interrupted();
        }
        true
    }

    fn went_well(&mut self) {
        let step = 1.0 / self.allowed;
        self.allowed = (self.allowed + step).min(self.most as f64);
    }
}

impl ConcurrencyLimit {
    /// At most `most` requests at once, and as many of them as fill the line. 0 counts as 1.
    pub(crate) fn reading(most: usize) -> Self {
        Self::of(Admission::new(most.max(1), Some(Window::new(most))))
    }

    /// At most `most` requests at once, for uploads. 0 counts as 1.
    pub(crate) fn writing(most: usize) -> Self {
        Self::of(Admission::new(most.max(1), None))
    }

    fn of(state: Admission) -> Self {
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, Admission> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request of `len` bytes may start.
    pub(crate) async fn enter(&self, len: u64) -> Permit<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.state().admit(len, Instant::now()) {
                return Permit { limit: self, left: AtomicU64::new(if len < TABLE { 0 } else { len }) };
            }
            freed.await;
        }
    }

    /// How many requests for data are worth starting now.
    pub(crate) fn limit(&self) -> usize {
        self.state().limit()
    }
}

/// A request in flight. Dropping it lets the next one start.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limit: &'a ConcurrencyLimit,
    /// Bytes of it that are outstanding; none if it is for a table.
    left: AtomicU64,
}

impl Permit<'_> {
    /// Bytes of its answer came in.
    pub(crate) fn received(&self, bytes: usize) {
        let bytes = bytes as u64;
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
        let settled = taken.unwrap_or_else(|left| left).min(bytes);
        let room = self.limit.state().settle(settled, bytes, Instant::now());
        if room {
            self.limit.freed.notify_waiters();
        }
    }

    /// The request was answered.
    pub(crate) fn went_well(&self) {
        self.limit.state().went_well();
    }

    /// The service asked for fewer requests.
    pub(crate) fn slow_down(&self) {
        let mut state = self.limit.state();
        if state.slow_down() {
            crate::metrics::slowdown();
            tracing::debug!(limit = state.limit(), "the service asks for fewer requests");
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.limit.state();
            state.settle(self.left.load(Ordering::Relaxed), 0, Instant::now());
            state.refused = None;
            state.in_flight = state.in_flight.saturating_sub(1);
            state.stale = state.stale.saturating_sub(1);
        }
        // Each looks for itself: room for a table may be none for data.
        self.limit.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;

    const MB: f64 = 1e6;

    fn enter(limit: &ConcurrencyLimit, len: u64) -> Option<Permit<'_>> {
        limit.enter(len).now_or_never()
    }

    #[test]
    fn a_burst_of_503_halves_what_was_in_force_once_and_success_raises_it_again() {
        let limit = ConcurrencyLimit::reading(16);
        let permits: Vec<_> = (0..16).map(|_| enter(&limit, UNIT).unwrap()).collect();
        assert!(enter(&limit, UNIT).is_none(), "as many are in flight as may be");
        permits.iter().for_each(Permit::slow_down);
        drop(permits);
        assert_eq!(limit.limit(), 8);
        for _ in 0..200 {
            enter(&limit, UNIT).unwrap().went_well();
        }
        assert_eq!(limit.limit(), 16);
        for _ in 0..100 {
            enter(&limit, UNIT).unwrap().slow_down();
        }
        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn a_waiting_request_starts_when_another_ends_or_is_given_up() {
        let limit = ConcurrencyLimit::reading(1);
        let first = enter(&limit, UNIT).unwrap();
        let mut second = Box::pin(limit.enter(UNIT));
        let mut third = Box::pin(limit.enter(UNIT));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(first);
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }

    #[test]
    fn a_request_starts_when_its_length_has_come_in_for_others() {
        let limit = ConcurrencyLimit::reading(32);
        let permits: Vec<_> = (0..16).map(|_| enter(&limit, UNIT).unwrap()).collect();
        let mut next = Box::pin(limit.enter(UNIT));
        for permit in &permits[1..] {
            assert!((&mut next).now_or_never().is_none());
            permit.received(UNIT as usize / 15);
        }
        permits[0].received(16);
        assert!((&mut next).now_or_never().is_some());
    }

    #[test]
    fn tables_do_not_wait_for_the_window() {
        let limit = ConcurrencyLimit::reading(16);
        let data: Vec<_> = (0..8).map(|_| enter(&limit, UNIT).unwrap()).collect();
        let tables: Vec<_> = (0..8).map(|_| enter(&limit, TABLE - 1).unwrap()).collect();
        assert!(enter(&limit, 1).is_none(), "the bound holds for all together");
        drop((data, tables));
        assert_eq!(limit.state().outstanding, 0);
    }

    #[test]
    fn an_upload_is_bounded_by_the_number_of_requests_alone() {
        let limit = ConcurrencyLimit::writing(3);
        let parts: Vec<_> = (0..3).map(|_| enter(&limit, u64::MAX).unwrap()).collect();
        assert!(enter(&limit, 1).is_none());
        drop(parts);
        assert_eq!(limit.limit(), 3);
    }

    /// A line that shares its rate equally between the connections that are receiving.
    struct Line {
        latency: f64,
        each: f64,
        all: f64,
        /// Every n-th request is answered this many seconds late.
        late: (usize, f64),
    }

    const STEADY: (usize, f64) = (usize::MAX, 0.0);

    /// How a transfer over a line went.
    #[derive(Debug)]
    struct Outcome {
        seconds: f64,
        /// Most requests in flight, and how many there were at the end.
        most: usize,
        last: usize,
    }

    /// Fetches `total` bytes over `line` in steps of a millisecond.
    fn fetch(most: usize, line: &Line, total: u64) -> Outcome {
        const STEP: f64 = 0.001;
        let start = Instant::now();
        let mut state = Admission::new(most, Some(Window::new(most)));
        // When a request's first byte comes, and what is left of it.
        let mut requests: Vec<(f64, f64)> = Vec::new();
        let (mut asked, mut clock, mut count) = (0, 0.0, 0);
        let mut outcome = Outcome { seconds: 0.0, most: 0, last: 0 };
        while asked < total || !requests.is_empty() {
            let now = start + Duration::from_secs_f64(clock);
            while asked < total && state.admit(UNIT, now) {
                asked += UNIT;
                count += 1;
                let late = if count % line.late.0 == 0 { line.late.1 } else { 0.0 };
                requests.push((clock + line.latency + late, UNIT as f64));
            }
            outcome.most = outcome.most.max(requests.len());
            if asked < total {
                outcome.last = requests.len();
            }
            let receiving = requests.iter().filter(|(first, _)| *first <= clock).count();
            let share = (line.all / receiving.max(1) as f64).min(line.each) * STEP;
            for (first, left) in &mut requests {
                if *first <= clock {
                    let bytes = share.min(*left);
                    *left -= bytes;
                    state.settle(bytes.round() as u64, bytes.round() as u64, now);
                }
            }
            let before = requests.len();
            requests.retain(|(_, left)| *left > 0.5);
            for _ in requests.len()..before {
                state.went_well();
                state.in_flight -= 1;
            }
            clock += STEP;
        }
        outcome.seconds = clock;
        outcome
    }

    #[test]
    fn a_line_is_filled_by_few_requests_whose_first_bytes_nobody_waits_for() {
        const GIB: u64 = 1 << 30;
        let lines = [
            // A machine in the region of the store, its link of 1 Gbit/s full at two connections.
            ("near", Line { latency: 0.03, each: 100.0 * MB, all: 125.0 * MB, late: STEADY }, 1.02),
            ("far", Line { latency: 0.08, each: 50.0 * MB, all: 125.0 * MB, late: STEADY }, 1.03),
            ("late", Line { latency: 0.03, each: 100.0 * MB, all: 125.0 * MB, late: (7, 0.2) }, 1.02),
            ("slow", Line { latency: 0.03, each: 12.5 * MB, all: 12.5 * MB, late: STEADY }, 1.02),
        ];
        for (name, line, most) in lines {
            let went = fetch(32, &line, GIB);
            let floor = line.latency + GIB as f64 / line.all;
            assert!(went.seconds <= floor * most, "{name}: {went:?}, the floor is {floor:.2}");
            assert!(went.most <= 32, "{name}: {went:?}");
        }
    }

    #[test]
    fn a_window_grows_until_a_wide_line_is_full_and_shrinks_to_what_a_narrow_one_needs() {
        let wide = Line { latency: 0.03, each: 60.0 * MB, all: 1250.0 * MB, late: STEADY };
        let went = fetch(64, &wide, 16 << 30);
        assert!(went.seconds <= 1.06 * (16u64 << 30) as f64 / wide.all, "{went:?}");
        let narrow = Line { latency: 0.03, each: 100.0 * MB, all: 125.0 * MB, late: STEADY };
        let went = fetch(64, &narrow, 8 << 30);
        assert!(went.last <= 10, "{went:?}");
        assert!(went.seconds <= 1.01 * (8u64 << 30) as f64 / narrow.all, "{went:?}");
    }

    #[test]
    fn sixteen_connections_that_start_in_step_are_not_faster() {
        // Each round of 16 takes the latency and the time of a request: 80 ms and 168 ms.
        let line = Line { latency: 0.08, each: 50.0 * MB, all: f64::INFINITY, late: STEADY };
        let went = fetch(32, &line, 1 << 30);
        let rounds = 8.0 * (line.latency + UNIT as f64 / line.each);
        assert!(went.seconds <= rounds, "{went:?}, in step {rounds:.2}");
    }
}

//! Limits the requests in flight: as many as fill the link, and no more than the service allows.
//!
//! What the service *allows* follows from its responses: additive increase, multiplicative decrease. A service that
//! throttles one request (503) also throttles those in flight with it, so only the first 503 of a burst counts: the next
//! one counts after the responses to all requests that were in flight. What *fills the link* is decided by the
//! [`Window`]. Requests for tables are short and others wait for their content, so the window does not limit them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::window::{UNIT, Window};

/// A shorter range is taken for a table, which others wait for.
pub(crate) const TABLE_BYTES: u64 = 1 << 20;

/// Limits the requests of one source or upload. Dropping a waiting [`acquire`](Self::acquire) removes it from the queue.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    state: Mutex<Admission>,
    freed: Notify,
}

#[derive(Debug)]
struct Admission {
    max: usize,
    allowed: f64,
    /// `None` for uploads.
    window: Option<Window>,
    in_flight: usize,
    /// Bytes of data that were requested and not yet received. Tables do not count.
    outstanding: u64,
    /// The shortest request that the window refused since waiters were last woken.
    refused: Option<u64>,
    /// Responses to wait for before another 503 counts.
    stale: usize,
}

impl Admission {
    fn new(max: usize, window: Option<Window>) -> Self {
        Self { max, allowed: max as f64, window, in_flight: 0, outstanding: 0, refused: None, stale: 0 }
    }

    fn allowed(&self) -> usize {
        // Between 1.0 and `max`, which fits.
        self.allowed as usize
    }

    /// Requests for data that are worth starting: half of each has been received, in the mean.
    fn limit(&self) -> usize {
        let allowed = self.allowed().max(1);
        let worth = self.window.as_ref().and_then(|window| usize::try_from(window.bytes() / UNIT * 2).ok());
        worth.map_or(allowed, |worth| worth.clamp(1, allowed))
    }

    /// Admits a request of `len` bytes, or refuses it.
    fn admit(&mut self, len: u64, now: Instant) -> bool {
        if self.in_flight >= self.allowed() {
            return false;
        }
        if let Some(window) = self.window.as_mut().filter(|_| len >= TABLE_BYTES) {
            if !window.admits(self.outstanding, len) {
                self.refused = Some(self.refused.map_or(len, |refused| refused.min(len)));
                return false;
            }
            window.changes(self.outstanding, 0, now);
            // The window admits no more than fit, or one request alone.
            debug_assert!(self.outstanding.checked_add(len).is_some());
            self.outstanding = self.outstanding.saturating_add(len);
        }
        self.in_flight += 1;
        true
    }

    /// `bytes` of data are no longer outstanding, of which `received` were received. True if a request that the window
    /// refused may now start.
    fn settle(&mut self, bytes: u64, received: u64, now: Instant) -> bool {
        let Some(window) = &mut self.window else { return false };
        window.changes(self.outstanding, received, now);
        debug_assert!(bytes <= self.outstanding, "bytes are settled once");
        self.outstanding = self.outstanding.saturating_sub(bytes);
        let room = self.refused.is_some_and(|len| window.admits(self.outstanding, len));
        if room {
            self.refused = None;
        }
        room
    }

    /// Halves what is allowed, unless this 503 belongs to a burst that was counted. True if it was halved.
    fn throttled(&mut self) -> bool {
        if self.stale > 0 {
            return false;
        }
        // The limit in force was too high, whatever was allowed.
        self.allowed = (self.limit() as f64 / 2.0).max(1.0);
        self.stale = self.in_flight;
        if let Some(window) = &mut self.window {
            window.interrupted();
        }
        true
    }

    fn succeeded(&mut self) {
        let step = 1.0 / self.allowed;
        self.allowed = (self.allowed + step).min(self.max as f64);
    }
}

impl ConcurrencyLimit {
    /// At most `max` requests in flight, and only as many of them as fill the link. 0 counts as 1.
    pub(crate) fn reading(max: usize) -> Self {
        Self::of(Admission::new(max.max(1), Some(Window::new(max))))
    }

    /// At most `max` requests in flight, for uploads. 0 counts as 1.
    #[cfg(feature = "s3")]
    pub(crate) fn writing(max: usize) -> Self {
        Self::of(Admission::new(max.max(1), None))
    }

    fn of(state: Admission) -> Self {
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, Admission> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request of `len` bytes may start.
    pub(crate) async fn acquire(&self, len: u64) -> Permit<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.state().admit(len, Instant::now()) {
                return Permit { limit: self, left: AtomicU64::new(if len < TABLE_BYTES { 0 } else { len }) };
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
    /// Bytes of the response were received.
    pub(crate) fn received(&self, bytes: usize) {
        let bytes = bytes as u64;
        // A response may have more bytes than requested, and a table counts none.
        let settle = |left: u64| Some(left.saturating_sub(bytes));
        let (Ok(left) | Err(left)) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, settle);
        let settled = left.min(bytes);
        let room = self.limit.state().settle(settled, bytes, Instant::now());
        if room {
            self.limit.freed.notify_waiters();
        }
    }

    /// The request succeeded.
    pub(crate) fn succeeded(&self) {
        self.limit.state().succeeded();
    }

    /// The service asked for fewer requests.
    pub(crate) fn throttled(&self) {
        let mut state = self.limit.state();
        if state.throttled() {
            crate::metrics::slowdown();
            tracing::debug!(limit = state.limit(), "the service is throttling requests");
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.limit.state();
            state.settle(self.left.load(Ordering::Relaxed), 0, Instant::now());
            state.refused = None;
            debug_assert!(state.in_flight > 0, "a permit ends once");
            state.in_flight = state.in_flight.saturating_sub(1);
            // Zero unless a burst is being waited for.
            state.stale = state.stale.saturating_sub(1);
        }
        // Each waiter checks for itself: a table may be admitted when data is not.
        self.limit.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;

    const MB: f64 = 1e6;

    fn acquire(limit: &ConcurrencyLimit, len: u64) -> Option<Permit<'_>> {
        limit.acquire(len).now_or_never()
    }

    #[test]
    fn a_burst_of_503_halves_the_limit_once_and_success_raises_it_again() {
        let limit = ConcurrencyLimit::reading(16);
        let permits: Vec<_> = (0..16).map(|_| acquire(&limit, UNIT).unwrap()).collect();
        assert!(acquire(&limit, UNIT).is_none(), "as many are in flight as may be");
        permits.iter().for_each(Permit::throttled);
        drop(permits);
        assert_eq!(limit.limit(), 8);
        for _ in 0..200 {
            acquire(&limit, UNIT).unwrap().succeeded();
        }
        assert_eq!(limit.limit(), 16);
        for _ in 0..100 {
            acquire(&limit, UNIT).unwrap().throttled();
        }
        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn a_waiting_request_starts_when_another_ends_or_is_dropped() {
        let limit = ConcurrencyLimit::reading(1);
        let first = acquire(&limit, UNIT).unwrap();
        let mut second = Box::pin(limit.acquire(UNIT));
        let mut third = Box::pin(limit.acquire(UNIT));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(first);
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }

    #[test]
    fn a_request_starts_when_its_length_has_been_received_for_others() {
        let limit = ConcurrencyLimit::reading(32);
        let permits: Vec<_> = (0..16).map(|_| acquire(&limit, UNIT).unwrap()).collect();
        let mut next = Box::pin(limit.acquire(UNIT));
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
        let data: Vec<_> = (0..8).map(|_| acquire(&limit, UNIT).unwrap()).collect();
        let tables: Vec<_> = (0..8).map(|_| acquire(&limit, TABLE_BYTES - 1).unwrap()).collect();
        assert!(acquire(&limit, 1).is_none(), "the bound holds for all together");
        drop((data, tables));
        assert_eq!(limit.state().outstanding, 0);
    }

    #[test]
    fn an_upload_is_bounded_by_the_number_of_requests_alone() {
        let limit = ConcurrencyLimit::writing(3);
        let parts: Vec<_> = (0..3).map(|_| acquire(&limit, u64::MAX).unwrap()).collect();
        assert!(acquire(&limit, 1).is_none());
        drop(parts);
        assert_eq!(limit.limit(), 3);
    }

    /// A link that shares its rate equally between the connections that are receiving.
    struct Link {
        latency: f64,
        each: f64,
        all: f64,
        /// Every n-th request is answered this many seconds late.
        late: (usize, f64),
    }

    const STEADY: (usize, f64) = (usize::MAX, 0.0);

    /// How a transfer over a link went.
    #[derive(Debug)]
    struct Outcome {
        seconds: f64,
        /// Most requests in flight, and how many there were at the end.
        most: usize,
        last: usize,
    }

    /// Fetches `total` bytes over `link` in steps of a millisecond.
    fn fetch(most: usize, link: &Link, total: u64) -> Outcome {
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
                let late = if count % link.late.0 == 0 { link.late.1 } else { 0.0 };
                requests.push((clock + link.latency + late, UNIT as f64));
            }
            outcome.most = outcome.most.max(requests.len());
            if asked < total {
                outcome.last = requests.len();
            }
            let receiving = requests.iter().filter(|(first, _)| *first <= clock).count();
            let share = (link.all / receiving.max(1) as f64).min(link.each) * STEP;
            for (first, left) in &mut requests {
                if *first <= clock {
                    let bytes = share.min(*left);
                    *left -= bytes;
                    let received = bytes.round() as u64;
                    // The sum of rounded numbers may exceed what was requested.
                    state.settle(received.min(state.outstanding), received, now);
                }
            }
            let before = requests.len();
            requests.retain(|(_, left)| *left > 0.5);
            for _ in requests.len()..before {
                state.succeeded();
                state.in_flight -= 1;
            }
            clock += STEP;
        }
        outcome.seconds = clock;
        outcome
    }

    #[test]
    fn a_link_is_filled_by_few_requests_without_waiting_for_first_bytes() {
        const GIB: u64 = 1 << 30;
        let links = [
            // A machine in the region of the store, its link of 1 Gbit/s full at two connections.
            ("near", Link { latency: 0.03, each: 100.0 * MB, all: 125.0 * MB, late: STEADY }, 1.02),
            ("far", Link { latency: 0.08, each: 50.0 * MB, all: 125.0 * MB, late: STEADY }, 1.03),
            ("late", Link { latency: 0.03, each: 100.0 * MB, all: 125.0 * MB, late: (7, 0.2) }, 1.02),
            ("slow", Link { latency: 0.03, each: 12.5 * MB, all: 12.5 * MB, late: STEADY }, 1.02),
        ];
        for (name, link, most) in links {
            let went = fetch(32, &link, GIB);
            let floor = link.latency + GIB as f64 / link.all;
            assert!(went.seconds <= floor * most, "{name}: {went:?}, the floor is {floor:.2}");
            assert!(went.most <= 32, "{name}: {went:?}");
        }
    }

    #[test]
    fn a_window_grows_until_a_wide_link_is_full_and_shrinks_to_what_a_narrow_one_needs() {
        let wide = Link { latency: 0.03, each: 60.0 * MB, all: 1250.0 * MB, late: STEADY };
        let went = fetch(64, &wide, 16 << 30);
        assert!(went.seconds <= 1.06 * (16u64 << 30) as f64 / wide.all, "{went:?}");
        let narrow = Link { latency: 0.03, each: 100.0 * MB, all: 125.0 * MB, late: STEADY };
        let went = fetch(64, &narrow, 8 << 30);
        assert!(went.last <= 10, "{went:?}");
        assert!(went.seconds <= 1.01 * (8u64 << 30) as f64 / narrow.all, "{went:?}");
    }

    #[test]
    fn sixteen_connections_that_start_in_step_are_not_faster() {
        // Each round of 16 takes the latency and the time of a request: 80 ms and 168 ms.
        let link = Link { latency: 0.08, each: 50.0 * MB, all: f64::INFINITY, late: STEADY };
        let went = fetch(32, &link, 1 << 30);
        let rounds = 8.0 * (link.latency + UNIT as f64 / link.each);
        assert!(went.seconds <= rounds, "{went:?}, in step {rounds:.2}");
    }
}

//! Retries of one range or one upload request.
//!
//! The SDK's retries end at the response headers and are off. These cover bodies too, and continue from the byte reached.
//! They go on until there was no progress for the stall timeout, however many tries that takes. A try counts as progress
//! only if it brought at least [`PROGRESS_BYTES`] bytes or everything that was missing, so that a server that sends one
//! byte at a time is given up as well.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use diskferry_core::{Error, ErrorKind};

use super::options::ClientOptions;

/// Bytes that make a try count as progress.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Upper bound of the first random wait; it doubles with each try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Longest wait between two tries to write a journal: others take a journal for abandoned if it does not change for a
/// few seconds.
#[cfg(feature = "s3")]
const MAX_JOURNAL_WAIT: Duration = Duration::from_secs(2);
/// Doublings of [`FIRST_WAIT`] after which [`MAX_WAIT`] is reached.
const MAX_DOUBLINGS: u32 = 8;
/// Upper bound of [`Timeouts::silence`].
const MAX_SILENCE: Duration = Duration::from_secs(20);
/// Longest time that is spent on removing what a failed upload left.
#[cfg(feature = "s3")]
const MAX_CLEANUP: Duration = Duration::from_secs(10);

/// Timeouts of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// A range fails after this time without progress.
    pub(crate) stall: Duration,
    /// A try fails after this time without a byte: a third of `stall`, at most 20 s.
    pub(crate) silence: Duration,
}

impl Timeouts {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self::of(options.stall_timeout)
    }

    fn of(stall: Duration) -> Self {
        let stall = stall.max(Duration::from_millis(1));
        Self { stall, silence: (stall / 3).min(MAX_SILENCE) }
    }

    /// For another request, if this much time is left without progress. Some time it gets in any case.
    #[cfg(feature = "s3")]
    pub(crate) fn within(self, left: Duration) -> Self {
        Self::of(left.max(self.cleanup().stall).min(self.stall))
    }

    /// For requests that remove what a failed upload left. They must not keep the error from being reported.
    #[cfg(feature = "s3")]
    pub(crate) fn cleanup(self) -> Self {
        Self::of((self.stall / 4).min(MAX_CLEANUP))
    }
}

/// When any request of an object last made progress.
#[derive(Debug)]
pub(crate) struct LastProgress(Mutex<Instant>);

impl Default for LastProgress {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl LastProgress {
    /// There is progress now.
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another try cannot help.
    Fatal(Error),
    /// The right to read has expired: a fresh URL may help, the same one cannot.
    Expired(Error),
    /// The service asks for fewer requests.
    Throttled {
        /// What it said.
        what: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// No response, or one that was incomplete. Another try may help.
    Transient {
        /// What happened.
        what: String,
    },
}

impl Failure {
    pub(crate) fn fatal(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Fatal(Error::new(kind, message))
    }

    pub(crate) fn transient(what: impl Into<String>) -> Self {
        Self::Transient { what: what.into() }
    }
}

/// Counts the tries of one range or one request.
#[derive(Debug)]
pub(crate) struct Retries {
    timeouts: Timeouts,
    max_wait: Duration,
    /// The kind of the error after the last try.
    kind: ErrorKind,
    /// Tries in a row without progress.
    failed: u32,
    /// Bytes of the range at the last progress, and when that was.
    progress_bytes: u64,
    progress_at: Instant,
    /// When the current try began.
    began: Instant,
}

impl Retries {
    fn new(timeouts: Timeouts, kind: ErrorKind) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            max_wait: MAX_WAIT,
            kind,
            failed: 0,
            progress_bytes: 0,
            progress_at: now,
            began: now,
        }
    }

    /// Retries of a request that reads.
    pub(crate) fn reading(timeouts: Timeouts) -> Self {
        Self::new(timeouts, ErrorKind::SourceUnavailable)
    }

    /// Retries of a request that writes.
    #[cfg(feature = "s3")]
    pub(crate) fn writing(timeouts: Timeouts) -> Self {
        Self::new(timeouts, ErrorKind::DestinationUnavailable)
    }

    /// Retries of a request that writes a journal.
    #[cfg(feature = "s3")]
    pub(crate) fn journal(timeouts: Timeouts) -> Self {
        Self { max_wait: MAX_JOURNAL_WAIT, ..Self::writing(timeouts) }
    }

    /// Bytes were sent that no try had sent before, or the server shows that it works on the request. The count of tries
    /// continues: the bytes are lost if this try fails.
    #[cfg(feature = "s3")]
    pub(crate) fn alive(&mut self) {
        self.progress_at = Instant::now();
    }

    /// Bytes were received: `bytes` is the number of bytes of the range that are there now.
    ///
    /// # Errors
    /// If they arrive too slowly: a connection that drips is as useless as a silent one.
    pub(crate) fn received(&mut self, bytes: u64) -> Result<(), Failure> {
        debug_assert!(bytes >= self.progress_bytes, "a range does not shrink");
        if bytes.saturating_sub(self.progress_bytes) >= PROGRESS_BYTES {
            self.progress_bytes = bytes;
            self.failed = 0;
            self.progress_at = Instant::now();
        } else if self.progress_at.max(self.began).elapsed() >= self.timeouts.stall {
            let seconds = self.timeouts.stall.as_secs_f64();
            return Err(Failure::transient(format!(
                "fewer than {PROGRESS_BYTES} bytes arrived in {seconds:.1} s"
            )));
        }
        Ok(())
    }

    /// A try begins after it was `queued` in this process. That time does not count against the server as far as other
    /// requests made progress meanwhile: `others` says when one last did.
    pub(crate) fn begin(&mut self, queued: Duration, others: &LastProgress) {
        let later = self.progress_at.checked_add(queued).unwrap_or(self.progress_at);
        self.progress_at = self.progress_at.max(later.min(others.get()));
        self.began = Instant::now();
    }

    /// The time that is left without progress.
    pub(crate) fn left(&self) -> Duration {
        self.timeouts.stall.saturating_sub(self.progress_at.elapsed())
    }

    /// How long the try that begins now may wait for its first byte. It leaves time for another try, since a request that
    /// was sent while the server was away may never be answered; the last try ends with the stall timeout.
    pub(crate) fn limit(&self) -> Duration {
        self.share(self.timeouts.silence)
    }

    /// At most `most`, half of the time that is left, or all of it if that is little.
    pub(crate) fn share(&self, most: Duration) -> Duration {
        let left = self.left();
        let little = left.min(self.timeouts.silence / 4).max(self.least());
        most.min((left / 2).max(little))
    }

    /// No try is worth less time than this.
    fn least(&self) -> Duration {
        FIRST_WAIT.min(self.timeouts.stall / 8)
    }

    /// How long to wait before the next try, or the error if no time is left for one.
    pub(crate) fn next_wait(&mut self, failure: Failure) -> Result<Duration, Error> {
        let (what, retry_after) = match failure {
            Failure::Fatal(error) | Failure::Expired(error) => return Err(error),
            Failure::Throttled { what, retry_after } => (what, retry_after),
            Failure::Transient { what } => (what, None),
        };
        self.failed = self.failed.saturating_add(1);
        let left = self.left();
        if left < self.least() {
            let tries = if self.failed == 1 { "1 try".to_owned() } else { format!("{} tries", self.failed) };
            let (silent, stall) = (self.progress_at.elapsed(), self.timeouts.stall);
            return Err(Error::new(
                self.kind,
                format!("{what}; given up after {tries} without progress in {:.1} s", silent.as_secs_f64()),
            )
            .hint(format!(
                "check that the server is up and reachable; --stall-timeout says for how long to try, now {} s",
                stall.as_secs_f64()
            )));
        }
        // Full jitter.
        let ceiling = FIRST_WAIT * (1 << self.failed.saturating_sub(1).min(MAX_DOUBLINGS));
        let jitter = ceiling.min(self.max_wait).mul_f64(fastrand::f64());
        let wait = retry_after.map_or(jitter, |asked| asked.max(jitter)).min(self.max_wait);
        // The last try needs time, too.
        let room = (left / 2).min(self.timeouts.silence / 2);
        let wait = wait.min(left.saturating_sub(room));
        crate::metrics::again(self.kind);
        tracing::debug!(%what, ?wait, "retrying");
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(stall: Duration) -> Retries {
        Retries::reading(Timeouts::of(stall))
    }

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn tries_are_not_counted_and_only_time_without_progress_ends_them() {
        let mut retries = retries(Duration::from_secs(3600));
        for _ in 0..1000 {
            assert!(retries.next_wait(Failure::transient("cut")).unwrap() <= MAX_WAIT);
        }
        retries.progress_at = ago(Duration::from_secs(3600));
        let error = retries.next_wait(Failure::transient("cut")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
        assert!(error.is_retryable() && error.message().contains("1001 tries"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--stall-timeout")), "{error}");
    }

    #[test]
    fn the_waits_grow_to_the_longest_and_leave_room_for_a_last_try() {
        let stall = Duration::from_secs(60);
        let mut longest = Duration::ZERO;
        for _ in 0..300 {
            let mut retries = retries(stall);
            // All time passes in waits: the worst case for the last try.
            loop {
                let left = retries.left();
                let Ok(wait) = retries.next_wait(Failure::transient("refused")) else { break };
                longest = longest.max(wait);
                assert!(wait < left, "{wait:?} of {left:?}");
                retries.progress_at = retries.progress_at.checked_sub(wait).unwrap();
            }
            assert!(retries.left() < Duration::from_millis(100), "{:?}", retries.left());
        }
        assert!(longest > Duration::from_secs(10) && longest <= MAX_WAIT, "{longest:?}");
    }

    #[test]
    fn progress_gives_the_whole_stall_timeout_again_and_a_few_bytes_do_not() {
        let mut retries = retries(Duration::from_secs(60));
        retries.progress_at = ago(Duration::from_secs(59));
        retries.received(PROGRESS_BYTES - 1).unwrap();
        assert!(retries.left() < Duration::from_secs(2));
        retries.received(PROGRESS_BYTES).unwrap();
        assert!(retries.left() > Duration::from_secs(50));
    }

    #[test]
    fn a_try_that_drips_for_the_stall_timeout_fails() {
        let mut retries = retries(Duration::from_secs(60));
        retries.progress_at = ago(Duration::from_secs(60));
        // A server that is back may be slow to start.
        retries.received(10).unwrap();
        retries.began = ago(Duration::from_secs(60));
        assert!(matches!(retries.received(20), Err(Failure::Transient { .. })));
        retries.next_wait(Failure::transient("drips")).unwrap_err();
    }

    #[test]
    fn time_in_the_queue_counts_only_while_nobody_makes_progress() {
        let hour = Duration::from_secs(3600);
        let others = LastProgress::default();
        let mut retries = retries(hour);
        retries.progress_at = ago(hour);
        retries.begin(hour, &others);
        assert!(retries.left() > hour / 2, "another request made progress just now");
        *others.0.lock().unwrap() = ago(hour);
        retries.progress_at = ago(hour);
        retries.begin(hour, &others);
        assert!(retries.left() < hour / 2, "no request did");
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest_wait() {
        let throttled = |seconds| Failure::Throttled {
            what: "slow down".into(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let wait = |seconds| retries(Duration::from_secs(60)).next_wait(throttled(seconds)).unwrap();
        assert!(wait(3) >= Duration::from_secs(3));
        assert_eq!(wait(3600), MAX_WAIT);
    }
}

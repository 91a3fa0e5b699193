//! Retries of one range or one upload request.
//!
//! The SDK's retries end at the response headers and are off. These cover bodies too, and continue from the byte reached. A
//! try counts as failed unless it brought at least [`PROGRESS_BYTES`] bytes or everything that was missing, so that a
//! server that sends one byte at a time is not asked for ever.

use std::time::{Duration, Instant};

use diskferry_core::{Error, ErrorKind};

use super::options::ClientOptions;

/// Tries in a row without progress, after which a range fails.
const MAX_TRIES: u32 = 5;
/// Bytes that make a try count as progress.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Upper bound of the first random wait; it doubles with each try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Upper bound of [`Timeouts::silence`].
const MAX_SILENCE: Duration = Duration::from_secs(20);

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
        let stall = options.stall_timeout.max(Duration::from_millis(1));
        Self { stall, silence: (stall / 3).min(MAX_SILENCE) }
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
        Self { timeouts, kind, failed: 0, progress_bytes: 0, progress_at: now, began: now }
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

    /// Bytes were sent. They are lost if this try fails, so the count of tries continues.
    #[cfg(feature = "s3")]
    pub(crate) fn sent(&mut self) {
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

    /// A try begins after it was `queued` in this process. That time does not count against the server.
    pub(crate) fn begin(&mut self, queued: Duration) {
        self.progress_at = self.progress_at.checked_add(queued).unwrap_or(self.progress_at);
        self.began = Instant::now();
    }

    /// How long to wait before the next try, or the error if no try is left.
    pub(crate) fn next_wait(&mut self, failure: Failure) -> Result<Duration, Error> {
        let (what, retry_after) = match failure {
            Failure::Fatal(error) | Failure::Expired(error) => return Err(error),
            Failure::Throttled { what, retry_after } => (what, retry_after),
            Failure::Transient { what } => (what, None),
        };
        debug_assert!(self.failed < MAX_TRIES, "no try follows the last one");
        self.failed = (self.failed + 1).min(MAX_TRIES);
        let silent = self.progress_at.elapsed();
        if self.failed >= MAX_TRIES || silent >= self.timeouts.stall {
            return Err(Error::new(
                self.kind,
                format!(
                    "{what}; given up after {} tries without progress in {:.1} s",
                    self.failed,
                    silent.as_secs_f64()
                ),
            ));
        }
        // Full jitter. At most MAX_TRIES doublings.
        let ceiling = FIRST_WAIT * (1 << self.failed) / 2;
        let jitter = ceiling.min(MAX_WAIT).mul_f64(fastrand::f64());
        let wait = retry_after.map_or(jitter, |asked| asked.max(jitter)).min(MAX_WAIT);
        crate::metrics::again(self.kind);
        tracing::debug!(%what, ?wait, "retrying");
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries() -> Retries {
        Retries::reading(Timeouts::new(&ClientOptions::default()))
    }

    #[test]
    fn a_request_fails_after_five_tries_without_progress() {
        let mut retries = retries();
        for _ in 0..4 {
            assert!(retries.next_wait(Failure::transient("cut")).unwrap() <= MAX_WAIT);
        }
        let error = retries.next_wait(Failure::transient("cut")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
        assert!(error.is_retryable() && error.message().contains("5 tries"), "{error}");
    }

    #[test]
    fn progress_resets_the_count_and_a_few_bytes_do_not() {
        let mut retries = retries();
        for round in 1..50 {
            retries.received(round * PROGRESS_BYTES).unwrap();
            retries.next_wait(Failure::transient("cut")).unwrap();
        }
        let failed_at = (1..50).find(|extra| {
            retries.received(49 * PROGRESS_BYTES + extra).unwrap();
            retries.next_wait(Failure::transient("cut")).is_err()
        });
        assert_eq!(failed_at, Some(4));
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest_wait() {
        let throttled = |seconds| Failure::Throttled {
            what: "slow down".into(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert!(retries().next_wait(throttled(3)).unwrap() >= Duration::from_secs(3));
        assert_eq!(retries().next_wait(throttled(3600)).unwrap(), MAX_WAIT);
    }
}

//! When a range is asked for again, and when it is given up.
//!
//! The SDK's own retries end at the headers and are off; ours cover bodies too and go on from the byte reached. A
//! try counts as fruitless unless it brought at least [`FRUIT`] bytes or all that was left, so that a server that
//! gives a byte a time is not asked for ever.

use std::time::{Duration, Instant};

use diskferry_core::{Error, ErrorKind};

use crate::client::ClientOptions;

/// Fruitless tries in a row that are made of one range.
const TRIES: u32 = 5;
/// Bytes that make a try count as progress.
const FRUIT: u64 = 64 << 10;
/// Shortest ceiling of a random wait.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A try is broken off after so long without a byte, or after a third of the stall timeout where that is less.
const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// How long to be patient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Time in which some progress must be made, or a range is given up.
    pub(crate) stall: Duration,
    /// Time without a byte after which one try of it is.
    pub(crate) silence: Duration,
}

impl Patience {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        let stall = options.stall_timeout.max(Duration::from_millis(1));
        Self { stall, silence: (stall / 3).min(LONGEST_SILENCE) }
    }
}

/// Why a try did not bring what it was for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another try cannot help.
    Fatal(Error),
    /// The right to read ended: a fresh URL may help, the same one cannot.
    Expired(Error),
    /// The service has too much to do.
    Busy {
        /// What it said.
        what: String,
        /// How long it asked to wait.
        after: Option<Duration>,
    },
    /// No answer, or one that broke off.
    Broken {
        /// What happened.
        what: String,
    },
}

impl Failure {
    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self::Broken { what: what.into() }
    }
}

/// The tries of one range.
#[derive(Debug)]
pub(crate) struct Tries {
    patience: Patience,
    /// What it is called when none is left.
    kind: ErrorKind,
    fruitless: u32,
    /// Bytes held, and the time, when [`FRUIT`] bytes had come in last.
    held: u64,
    progress: Instant,
    /// When the current try began.
    begun: Instant,
}

impl Tries {
    pub(crate) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        let kind = ErrorKind::SourceUnavailable;
        Self { patience, kind, fruitless: 0, held: 0, progress: now, begun: now }
    }

    /// The tries of a request that writes.
    pub(crate) fn writing(patience: Patience) -> Self {
        Self { kind: ErrorKind::DestinationUnavailable, ..Self::new(patience) }
    }

    /// Bytes left. They are lost if this try fails, so the count of tries goes on.
    pub(crate) fn left(&mut self) {
        self.progress = Instant::now();
    }

    /// Bytes came in: `held` is what there is of the range now.
    ///
    /// # Errors
    /// Where they come too slowly: a line that drips is as good as a silent one.
    pub(crate) fn came(&mut self, held: u64) -> Result<(), Failure> {
        if held.saturating_sub(self.held) >= FRUIT {
            self.held = held;
            self.fruitless = 0;
            self.progress = Instant::now();
        } else if self.progress.max(self.begun).elapsed() >= self.patience.stall {
            let seconds = self.patience.stall.as_secs_f64();
            return Err(Failure::broken(format!("fewer than {FRUIT} bytes came in {seconds:.1} s")));
        }
        Ok(())
    }

    /// A try begins, which waited for its turn before: for that the server is not to blame.
    pub(crate) fn begin(&mut self, queued: Duration) {
        self.progress = self.progress.checked_add(queued).unwrap_or(self.progress);
        self.begun = Instant::now();
    }

    /// How long to wait before the next try, or the error where none is left.
    pub(crate) fn after(&mut self, failure: Failure) -> Result<Duration, Error> {
        let (what, asked) = match failure {
            Failure::Fatal(error) | Failure::Expired(error) => return Err(error),
            Failure::Busy { what, after } => (what, after),
            Failure::Broken { what } => (what, None),
        };
        self.fruitless = self.fruitless.saturating_add(1);
        let silent = self.progress.elapsed();
        if self.fruitless >= TRIES || silent >= self.patience.stall {
            return Err(Error::new(
                self.kind,
                format!(
                    "{what}; given up after {} tries without progress in {:.1} s",
                    self.fruitless,
                    silent.as_secs_f64()
                ),
            ));
        }
        let ceiling = FIRST_WAIT.saturating_mul(1 << self.fruitless.min(16)) / 2;
        let jitter = ceiling.min(LONGEST_WAIT).mul_f64(fastrand::f64());
        let wait = jitter.max(asked.unwrap_or_default()).min(LONGEST_WAIT);
        crate::metrics::again(self.kind);
        tracing::debug!(%what, ?wait, "asking again");
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries() -> Tries {
        Tries::new(Patience::new(&ClientOptions::default()))
    }

    #[test]
    fn five_fruitless_tries_are_all() {
        let mut tries = tries();
        for _ in 0..4 {
            assert!(tries.after(Failure::broken("cut")).unwrap() <= LONGEST_WAIT);
        }
        let error = tries.after(Failure::broken("cut")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
        assert!(error.is_retryable() && error.message().contains("5 tries"), "{error}");
    }

    #[test]
    fn progress_starts_the_count_again_and_crumbs_do_not() {
        let mut tries = tries();
        for round in 1..50 {
            tries.came(round * FRUIT).unwrap();
            tries.after(Failure::broken("cut")).unwrap();
        }
        let crumbs = (1..50).find(|crumb| {
            tries.came(49 * FRUIT + crumb).unwrap();
            tries.after(Failure::broken("cut")).is_err()
        });
        assert_eq!(crumbs, Some(4));
    }

    #[test]
    fn what_the_service_asks_for_is_waited_but_no_longer_than_the_longest() {
        let busy =
            |seconds| Failure::Busy { what: "slow down".into(), after: Some(Duration::from_secs(seconds)) };
        assert!(tries().after(busy(3)).unwrap() >= Duration::from_secs(3));
        assert_eq!(tries().after(busy(3600)).unwrap(), LONGEST_WAIT);
    }
}

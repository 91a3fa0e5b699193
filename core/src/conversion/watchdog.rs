//! Ends a run that makes no progress.

use std::time::Duration;

use crate::engine::Transfer;
use crate::error::{Error, ErrorKind, Result};

/// Ends a run that makes no progress.
///
/// It counts its own ticks and not the time. A process that was stopped for a while, or got no CPU time, could not
/// observe any progress.
pub(crate) struct Watchdog {
    timeout: Duration,
    ticks: tokio::time::Interval,
    /// `None` before the first tick.
    seen: Option<[u64; 5]>,
    idle: u32,
}

impl Watchdog {
    /// The number of ticks in the timeout.
    const TICKS: u32 = 8;
    /// Ticks without a change that make a stall. A source or sink of a network has the same timeout and knows more: which
    /// server is away, and why. The additional ticks let it report that first.
    const STALLED: u32 = Self::TICKS + 2;

    pub(crate) fn new(timeout: Duration) -> Self {
        let each = (timeout / Self::TICKS).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(each);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick of an interval completes at once, and counts as one with a change.
        Self { timeout, ticks, seen: None, idle: 0 }
    }

    pub(crate) async fn tick(watch: &mut Option<Self>) -> &mut Self {
        match watch {
            Some(watch) => {
                watch.ticks.tick().await;
                watch
            }
            None => std::future::pending().await,
        }
    }

    /// Checks for progress since the last tick. `transfer` is the reading side. `writing` are the bytes that the sink
    /// accepted, while writes are under way. `done` are the guest bytes that were processed, `zeroed` the target
    /// bytes that were zeroed.
    pub(crate) fn look(
        &mut self,
        transfer: Option<&Transfer>,
        writing: Option<u64>,
        done: u64,
        zeroed: u64,
    ) -> Result<()> {
        let fetched = transfer.map_or(0, |transfer| transfer.traffic().bytes);
        let mapped = transfer.map_or(0, Transfer::mapped_bytes);
        let written = writing.unwrap_or(0);
        let seen = [fetched, mapped, written, done, zeroed];
        // The run that holds the memory this one waits for has its own watchdog.
        let others_turn = writing.is_none() && transfer.is_some_and(Transfer::waits_for_memory);
        if self.seen != Some(seen) || others_turn {
            (self.seen, self.idle) = (Some(seen), 0);
            return Ok(());
        }
        self.idle += 1;
        if self.idle < Self::STALLED {
            return Ok(());
        }
        let (kind, what) = match writing {
            Some(_) => (
                ErrorKind::DestinationUnavailable,
                format!("the destination accepted nothing after {written} bytes"),
            ),
            None => {
                (ErrorKind::SourceUnavailable, format!("the source delivered nothing after {fetched} bytes"))
            }
        };
        Err(Error::new(kind, format!("{what}, for {} seconds", self.timeout.as_secs_f64())))
    }
}

//! Ending a run in which nothing moves any more.

use std::time::Duration;

use crate::engine::Transfer;
use crate::error::{Error, ErrorKind, Result};

/// Ends a run in which nothing moves any more.
///
/// It counts its own ticks, not the time: a process that was stopped for a while, or got no processor, saw nothing
/// move since it did not look.
pub(crate) struct Watchdog {
    timeout: Duration,
    ticks: tokio::time::Interval,
    seen: [u64; 5],
    idle: u32,
}

impl Watchdog {
    /// Ticks in the timeout.
    const TICKS: u32 = 8;
    /// Ticks without a change that make a stall. A source or sink of a network has the same timeout and knows more: which
    /// server is away, and why. The additional ticks let it report that first.
    const STALLED: u32 = Self::TICKS + 2;

    pub(crate) fn new(timeout: Duration) -> Self {
        let each = (timeout / Self::TICKS).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(each);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick of an interval comes at once, and counts as one with a change.
        Self { timeout, ticks, seen: [u64::MAX; 5], idle: 0 }
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

    /// Whether something moved since the last tick. `transfer` is what is read, `writing` are the bytes that the sink took, while writes
    /// are under way, `done` are the guest bytes that came, `zeroed` those of the target that were zeroed.
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
        // Whoever holds the room that this one waits for is watched itself, from the first byte to the last.
        let others_turn = writing.is_none() && transfer.is_some_and(Transfer::waits_for_room);
        if seen != self.seen || others_turn {
            (self.seen, self.idle) = (seen, 0);
            return Ok(());
        }
        self.idle += 1;
        if self.idle < Self::STALLED {
            return Ok(());
        }
        let (kind, what) = match writing {
            Some(_) => (
                ErrorKind::DestinationUnavailable,
                format!("the destination took nothing after {written} bytes"),
            ),
            None => (ErrorKind::SourceUnavailable, format!("the source gave nothing after {fetched} bytes")),
        };
        Err(Error::new(kind, format!("{what}, for {} seconds", self.timeout.as_secs_f64())))
    }
}

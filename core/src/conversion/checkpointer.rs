//! When a run notes how far it is, and what it notes.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::address::GuestOffset;
use crate::conversion::checkpoint::{Checkpoint, PlacedParts};
use crate::conversion::content_meter::ContentMeter;
use crate::conversion::head_tail::WrittenEnds;
use crate::digest::Hash;
use crate::disk::Disk;
use crate::engine::Pipeline;
use crate::error::Result;
use crate::layout::{Part, Write};
use crate::sink::Journal;
use crate::source::BoxFuture;

/// What comes over a network is noted after so many bytes of content, or so long: about that is lost with a run. But not more
/// often than a disk can be asked to store what it has.
const REMOTE_BYTES: u64 = 8 << 20;
const REMOTE_LEAST: Duration = Duration::from_millis(200);
const REMOTE: Duration = Duration::from_secs(1);
/// What lies here is read again in no time.
const LOCAL: Duration = Duration::from_secs(5);
/// A journal is a small part of what is written: so many bytes of content for each of its own.
const WORTH: u64 = 64;
/// Marks that wait until their bytes are stable, where that takes more than has been written: the last one of which that is so
/// is kept. Large ones wait alone.
const PENDING: usize = 8;
const PENDING_BYTES: u64 = 1 << 20;
/// A larger one is not kept.
const MOST: usize = 64 << 20;

/// Keeps the journal of a run.
pub(super) struct Checkpointer<'a> {
    journal: &'a dyn Journal,
    key: Hash,
    pub(super) placed: PlacedParts,
    /// Smallest part that the layout looks at.
    unit: Option<u64>,
    /// Everything that an earlier run placed was placed again.
    pub(super) behind: bool,
    remote: bool,
    /// Behind the last byte of the target that is written front to back.
    end: u64,
    content: u64,
    last: Instant,
    len: u64,
    /// It cannot be kept.
    off: bool,
}

impl<'a> Checkpointer<'a> {
    pub(super) fn new(
        journal: &'a dyn Journal,
        key: Hash,
        ordered: bool,
        unit: Option<u64>,
        disk: &Disk,
    ) -> Self {
        Self {
            journal,
            key,
            placed: PlacedParts::new(ordered),
            unit,
            behind: true,
            remote: disk.files().iter().any(|file| file.capabilities().remote),
            end: 0,
            content: 0,
            last: Instant::now(),
            len: 0,
            off: false,
        }
    }

    /// Goes on from what an earlier run placed, `content` bytes of it content.
    pub(super) fn go_on(&mut self, placed: PlacedParts, content: u64) {
        self.end = placed.target_end();
        self.behind = !matches!(placed, PlacedParts::Prefix { .. });
        self.placed = placed;
        self.content = content;
    }

    /// Takes note of a part that is placed now.
    pub(super) fn note(&mut self, part: &Part) {
        // What an earlier run had noted is placed again where the place lost it.
        if self.behind && !self.off && !self.placed.note(part, self.unit) {
            self.give_up("there are too many separate parts to keep a journal of");
        }
    }

    /// The last mark stays.
    fn give_up(&mut self, why: &str) {
        tracing::debug!("no more marks: {why}");
        self.placed = PlacedParts::new(true);
        self.off = true;
    }

    /// Takes note of what is written of it.
    pub(super) fn reach(&mut self, writes: &[Write]) {
        self.end = writes.iter().map(Write::end).fold(self.end, u64::max);
    }

    /// Whether it is time for a mark, while `pending` wait to be kept.
    pub(super) fn wants_mark(&self, flow: &Pipeline<ContentMeter>, pending: usize) -> bool {
        let most = if self.len <= PENDING_BYTES { PENDING } else { 1 };
        if self.off || !self.behind || pending >= most {
            return false;
        }
        let (new, since) = (flow.meter.content_bytes.saturating_sub(self.content), self.last.elapsed());
        let worth = new >= self.len.saturating_mul(WORTH);
        let due = match self.remote {
            true => (new >= REMOTE_BYTES && since >= REMOTE_LEAST) || since >= REMOTE,
            false => since >= LOCAL,
        };
        worth && due && new > 0
    }

    /// Keeps how far the run is: `at`, where the target takes guest order. All that it wrote was answered.
    pub(super) fn save(
        &mut self,
        at: GuestOffset,
        flow: &Pipeline<ContentMeter>,
        written: &WrittenEnds,
    ) -> Option<BoxFuture<'a, Result<()>>> {
        self.placed.mark(at.get(), self.end);
        self.content = flow.meter.content_bytes;
        self.last = Instant::now();
        let state = Checkpoint {
            key: self.key,
            counted: flow.meter.counted(),
            placed: Cow::Borrowed(&self.placed),
            written: Cow::Borrowed(written),
        };
        let bytes = state.encode().filter(|bytes| bytes.len() <= MOST);
        let Some(bytes) = bytes else {
            self.give_up("the journal became too large");
            return None;
        };
        self.len = bytes.len() as u64;
        tracing::debug!(guest = at.get(), target = self.end, bytes = self.len, "a mark");
        Some(self.journal.save(self.end, bytes))
    }

    /// How saving went. A target is none the worse for a journal that cannot be kept.
    pub(super) fn saved(&mut self, saved: Result<()>) {
        if let Err(error) = saved {
            tracing::warn!(%error, "the journal cannot be kept up: a run that goes on later does more again");
            self.off = true;
        }
    }
}

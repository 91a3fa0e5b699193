//! When a run saves a checkpoint, what it saves, and how a later run continues from it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::address::{GuestOffset, GuestRange};
use crate::conversion::checkpoint::{Checkpoint, PlacedParts, Placeholder};
use crate::conversion::content_meter::{ContentMeter, ContentState};
use crate::conversion::head_tail::HeadTailRecorder;
use crate::digest::{Hash, sha256};
use crate::disk::Disk;
use crate::error::{Error, Result, Warning};
use crate::layout::{Layout, Order, Part, Write};
use crate::ranges::are_sound;
use crate::sink::{Journal, Sink};
use crate::source::BoxFuture;

/// Data from a network is saved after this many bytes of content, or this long: about that is lost with a run. But not more
/// often than a disk can be asked to store what it has.
const REMOTE_BYTES: u64 = 8 << 20;
const REMOTE_LEAST: Duration = Duration::from_millis(200);
const REMOTE: Duration = Duration::from_secs(1);
/// Local data is read again in no time.
const LOCAL: Duration = Duration::from_secs(5);
/// A checkpoint is a small part of what is written: this many bytes of content for each byte of it.
const WORTH: u64 = 64;
/// Checkpoints that wait until their bytes are stable, if that takes longer than writing more: the last one whose bytes are
/// stable is kept. Large ones wait alone.
const PENDING: usize = 8;
const PENDING_BYTES: u64 = 1 << 20;
/// A larger one is not kept.
const MOST: usize = 64 << 20;

/// Saves the checkpoints of a run, and replays what an earlier run placed.
pub(super) struct Checkpointer<'a> {
    journal: &'a dyn Journal,
    key: Hash,
    placed: PlacedParts,
    /// Smallest part that the layout looks at.
    unit: Option<u64>,
    /// Everything that an earlier run placed was replayed.
    replayed: bool,
    remote: bool,
    /// End of the target that is written front to back.
    end: u64,
    content: u64,
    last: Instant,
    len: u64,
    /// It cannot be kept.
    off: bool,
    /// The pipeline paused here, and a checkpoint is saved once all that was written before is answered.
    settling: Option<GuestOffset>,
    saving: FuturesUnordered<BoxFuture<'a, Result<()>>>,
}

/// What a journal has of an interrupted run.
pub(super) struct Resumed {
    checkpoint: Checkpoint<'static>,
    /// Guest ranges that need not be read again.
    pub(super) done: Vec<GuestRange>,
}

/// What a run continues with, apart from what the checkpointer itself does.
pub(super) struct Continued {
    pub(super) content: ContentState,
    pub(super) ends: HeadTailRecorder,
    /// In guest order: what is replayed and not read.
    pub(super) done: Option<GuestRange>,
}

impl<'a> Checkpointer<'a> {
    /// For a target of `disk`; `None` if nothing can be saved of it, with the key that says which run it belongs to.
    pub(super) fn new(
        journal: &'a dyn Journal,
        disk: &Disk,
        layout: &dyn Layout,
        order: Order,
        digest: bool,
    ) -> Option<Self> {
        Some(Self {
            journal,
            key: key(disk, layout, digest)?,
            placed: PlacedParts::new(order == Order::Guest),
            unit: layout.unit(),
            replayed: true,
            remote: disk.files().iter().any(|file| file.capabilities().remote),
            end: 0,
            content: 0,
            last: Instant::now(),
            len: 0,
            off: false,
            settling: None,
            saving: FuturesUnordered::new(),
        })
    }

    /// What tells this conversion from others.
    pub(super) fn key(&self) -> Hash {
        self.key
    }

    /// Loads what an interrupted run left, if it was the same conversion; otherwise drops it, with a warning.
    pub(super) async fn load(
        key: Option<Hash>,
        journal: &dyn Journal,
        sink: &dyn Sink,
        disk: &Disk,
    ) -> Result<(Option<Resumed>, Option<Warning>)> {
        let Some(saved) = journal.load().await? else { return Ok((None, None)) };
        let why = match (key, Checkpoint::decode(&saved.state)) {
            (None, _) => "nothing tells whether the source is still the same",
            (_, None) => "its journal cannot be read",
            (Some(key), Some(checkpoint)) if checkpoint.key != key => {
                "it was of another source, of other options, or made by another version"
            }
            (_, Some(checkpoint)) => {
                let done = checkpoint.placed.done(&saved.target);
                if !done.is_empty() && are_sound(&done, disk.virtual_bytes()) {
                    return Ok((Some(Resumed { checkpoint, done }), None));
                }
                "too little of it is left"
            }
        };
        journal.drop_saved().await?;
        let message =
            format!("{} is converted from the start: what was left of it is dropped, {why}", sink.url());
        Ok((None, Some(Warning::new("resume_started_over", message))))
    }

    /// Continues from what an interrupted run left.
    pub(super) fn resume(&mut self, resumed: Resumed) -> Continued {
        let Resumed { checkpoint, done } = resumed;
        let placed = checkpoint.placed.into_owned();
        let in_order = matches!(placed, PlacedParts::Prefix { .. });
        self.end = placed.target_end();
        self.replayed = !in_order;
        self.placed = placed;
        self.content = checkpoint.counted.content_bytes;
        Continued {
            content: checkpoint.counted,
            ends: checkpoint.written.into_owned(),
            done: done.first().copied().filter(|_| in_order),
        }
    }

    /// Places once more what an interrupted run placed of `done`: its bytes are in the target, so nothing is written.
    pub(super) fn replay(&mut self, done: GuestRange, layout: &mut dyn Layout) -> Result<()> {
        let end = self.placed.target_end();
        let unit = layout.unit();
        let placeholder = Placeholder::new(unit);
        let mut check = |write: &Write| match write.end() > end {
            true => Err(Error::internal(format!("what was placed up to {end} now ends at {}", write.end()))),
            false => Ok(()),
        };
        for replayed in self.placed.parts(done, unit) {
            for part in placeholder.parts(replayed, unit) {
                layout.place(part)?.iter().try_for_each(&mut check)?;
            }
        }
        layout.flush().iter().try_for_each(&mut check)?;
        self.replayed = true;
        Ok(())
    }

    /// Records a part that is placed now.
    pub(super) fn note(&mut self, part: &Part) {
        // What an earlier run had noted is placed again where the sink lost it.
        if self.replayed && !self.off && !self.placed.note(part, self.unit) {
            self.give_up("there are too many separate parts to keep a journal of");
        }
    }

    /// The last checkpoint stays.
    fn give_up(&mut self, why: &str) {
        tracing::debug!("no more checkpoints: {why}");
        self.placed = PlacedParts::new(true);
        self.off = true;
    }

    /// Records what is written of it.
    pub(super) fn reach(&mut self, writes: &[Write]) {
        self.end = writes.iter().map(Write::end).fold(self.end, u64::max);
    }

    /// Whether it is time for a checkpoint.
    pub(super) fn is_due(&self, meter: &ContentMeter) -> bool {
        let most = if self.len <= PENDING_BYTES { PENDING } else { 1 };
        if self.off || !self.replayed || self.saving.len() >= most {
            return false;
        }
        let (new, since) = (meter.content_bytes.saturating_sub(self.content), self.last.elapsed());
        let worth = new >= self.len.saturating_mul(WORTH);
        let due = match self.remote {
            true => (new >= REMOTE_BYTES && since >= REMOTE_LEAST) || since >= REMOTE,
            false => since >= LOCAL,
        };
        worth && due && new > 0
    }

    /// The pipeline paused at `at`: nothing more is taken until the checkpoint is on its way.
    pub(super) fn settle(&mut self, at: GuestOffset) {
        self.settling = Some(at);
    }

    /// True while a checkpoint waits for the writes before it.
    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// All that was written is answered: saves the checkpoint that waited for that, if any.
    pub(super) fn settled(&mut self, meter: &ContentMeter, written: &HeadTailRecorder) {
        let Some(at) = self.settling.take() else { return };
        self.placed.checkpoint(at.get(), self.end);
        self.content = meter.content_bytes;
        self.last = Instant::now();
        let checkpoint = Checkpoint {
            key: self.key,
            counted: meter.counted(),
            placed: Cow::Borrowed(&self.placed),
            written: Cow::Borrowed(written),
        };
        let bytes = checkpoint.encode().filter(|bytes| bytes.len() <= MOST);
        let Some(bytes) = bytes else {
            self.give_up("the journal became too large");
            return;
        };
        self.len = bytes.len() as u64;
        tracing::debug!(guest = at.get(), target = self.end, bytes = self.len, "a checkpoint");
        self.saving.push(self.journal.save(self.end, bytes));
    }

    /// True while a checkpoint is being saved.
    pub(super) fn is_saving(&self) -> bool {
        !self.saving.is_empty()
    }

    /// One of the checkpoints was saved, or not. A target is none the worse for a journal that cannot be kept. Dropping
    /// the future loses nothing.
    pub(super) async fn next_saved(this: &mut Option<Self>) {
        let Some(this) = this else { return std::future::pending().await };
        match this.saving.next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "no checkpoint can be saved: a run that resumes later repeats more");
                this.off = true;
            }
            None => std::future::pending().await,
        }
    }
}

/// What a run has in common with the one that it continues: source, target, options and build, as one hash. `None` if a
/// source does not show whether it changed.
fn key(disk: &Disk, layout: &dyn Layout, digest: bool) -> Option<Hash> {
    let mut text = format!(
        "{} {} {} {} {} {} {digest}",
        env!("CARGO_PKG_VERSION"),
        layout.format(),
        layout.variant(),
        layout.options(),
        disk.virtual_bytes(),
        disk.files().len(),
    );
    for file in disk.files() {
        let identity = file.identity();
        if identity.etag.is_none() && identity.version_id.is_none() && identity.file.is_none() {
            return None;
        }
        text += &format!(" {} {identity:?}", file.len());
    }
    Some(sha256(&[text.as_bytes(), &disk.info().fingerprint]))
}

//! Decides when a run saves a checkpoint, encodes it, and resumes a later run from it.

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

/// A run that reads from a network saves a checkpoint after this many bytes of content, or after this time. About
/// that much is lost if the run is killed. More frequent checkpoints would ask the disk to sync too often.
const REMOTE_BYTES: u64 = 8 << 20;
const REMOTE_LEAST: Duration = Duration::from_millis(200);
const REMOTE: Duration = Duration::from_secs(1);
/// The interval if all sources are local: reading local data again is cheap.
const LOCAL: Duration = Duration::from_secs(5);
/// A checkpoint must be small compared to the data that it saves: this many bytes of content for each byte of it.
const WORTH: u64 = 64;
/// The number of checkpoints that wait for their bytes to become stable, if that takes longer than writing more. The
/// last stable one is kept. A large checkpoint waits alone.
const PENDING: usize = 8;
const PENDING_BYTES: u64 = 1 << 20;
/// Checkpoints larger than this are not saved.
const MOST: usize = 64 << 20;

/// Saves the checkpoints of a run, and replays the parts that an earlier run placed.
pub(super) struct Checkpointer<'a> {
    journal: &'a dyn Journal,
    key: Hash,
    placed: PlacedParts,
    /// The smallest part that the layout distinguishes.
    unit: Option<u64>,
    /// True after everything that an earlier run placed was replayed.
    replayed: bool,
    remote: bool,
    /// End of the target, which is written in ascending order.
    end: u64,
    content: u64,
    last: Instant,
    len: u64,
    /// True if the destination cannot store checkpoints.
    off: bool,
    /// The pipeline is paused here. The checkpoint is saved once all earlier writes are complete.
    settling: Option<GuestOffset>,
    saving: FuturesUnordered<BoxFuture<'a, Result<()>>>,
}

/// The state of an interrupted run, from its journal.
pub(super) struct Resumed {
    checkpoint: Checkpoint<'static>,
    /// Guest ranges that need not be read again.
    pub(super) done: Vec<GuestRange>,
}

/// The state that the rest of a run resumes with.
pub(super) struct Continued {
    pub(super) content: ContentState,
    pub(super) ends: HeadTailRecorder,
    /// In guest order: the range that is replayed and not read.
    pub(super) done: Option<GuestRange>,
}

impl<'a> Checkpointer<'a> {
    /// Returns a checkpointer for a target of `disk`. `None` if a source has no identity that shows changes, so that
    /// a later run could not check that it continues the same conversion.
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

    /// The hash that identifies this conversion.
    pub(super) fn key(&self) -> Hash {
        self.key
    }

    /// Loads the checkpoint of an interrupted run if it is for the same conversion. Otherwise drops it, with a
    /// warning.
    pub(super) async fn load(
        key: Option<Hash>,
        journal: &dyn Journal,
        sink: &dyn Sink,
        disk: &Disk,
    ) -> Result<(Option<Resumed>, Option<Warning>)> {
        let Some(saved) = journal.load().await? else { return Ok((None, None)) };
        let why = match (key, Checkpoint::decode(&saved.state)) {
            (None, _) => "the source has no identity that shows changes",
            (_, None) => "its journal cannot be read",
            (Some(key), Some(checkpoint)) if checkpoint.key != key => {
                "it is for another source, other options, or another version of diskferry"
            }
            (_, Some(checkpoint)) => {
                let done = checkpoint.placed.done(&saved.target);
                if !done.is_empty() && are_sound(&done, disk.virtual_bytes()) {
                    return Ok((Some(Resumed { checkpoint, done }), None));
                }
                "the destination has too little of the target"
            }
        };
        journal.drop_saved().await?;
        let message =
            format!("{} is converted from the start and its partial target is dropped: {why}", sink.url());
        Ok((None, Some(Warning::new("resume_started_over", message))))
    }

    /// Resumes from the checkpoint of an interrupted run.
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

    /// Places the parts of `done` again that an interrupted run placed. Their bytes are in the target, so the writes
    /// are discarded.
    pub(super) fn replay(&mut self, done: GuestRange, layout: &mut dyn Layout) -> Result<()> {
        let end = self.placed.target_end();
        let unit = layout.unit();
        let placeholder = Placeholder::new(unit);
        let mut check = |write: &Write| match write.end()? {
            now if now > end => {
                Err(Error::internal(format!("the replay of a target that ended at {end} ends at {now}")))
            }
            _ => Ok(()),
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

    /// Records a part that is being placed.
    pub(super) fn note(&mut self, part: &Part) {
        // Parts that an earlier run had recorded are placed again if the sink lost them.
        if self.replayed && !self.off && !self.placed.note(part, self.unit) {
            self.give_up("the journal has too many separate parts");
        }
    }

    /// Stops saving checkpoints. The last one stays.
    fn give_up(&mut self, why: &str) {
        tracing::debug!("no more checkpoints: {why}");
        self.placed = PlacedParts::new(true);
        self.off = true;
    }

    /// Records the end of the target after `writes`.
    ///
    /// # Errors
    /// `internal` if a write ends after the last address.
    pub(super) fn reach(&mut self, writes: &[Write]) -> Result<()> {
        for write in writes {
            self.end = self.end.max(write.end()?);
        }
        Ok(())
    }

    /// True if it is time for a checkpoint.
    pub(super) fn is_due(&self, meter: &ContentMeter) -> bool {
        let most = if self.len <= PENDING_BYTES { PENDING } else { 1 };
        if self.off || !self.replayed || self.saving.len() >= most {
            return false;
        }
        debug_assert!(meter.content_bytes >= self.content, "the content of a run only grows");
        let (new, since) = (meter.content_bytes - self.content, self.last.elapsed());
        // `len` is at most `MOST`, so the product fits.
        let worth = new >= self.len * WORTH;
        let due = match self.remote {
            true => (new >= REMOTE_BYTES && since >= REMOTE_LEAST) || since >= REMOTE,
            false => since >= LOCAL,
        };
        worth && due && new > 0
    }

    /// The pipeline paused at `at`. Nothing more is read until the checkpoint is being saved.
    pub(super) fn settle(&mut self, at: GuestOffset) {
        self.settling = Some(at);
    }

    /// True while a checkpoint waits for the earlier writes.
    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// All writes are complete: saves the checkpoint that waited for them, if there is one.
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
        tracing::debug!(guest = at.get(), target = self.end, bytes = self.len, "saving a checkpoint");
        self.saving.push(self.journal.save(self.end, bytes));
    }

    /// True while a checkpoint is being saved.
    pub(super) fn is_saving(&self) -> bool {
        !self.saving.is_empty()
    }

    /// Completes when a checkpoint was saved, or could not be saved. A failed journal does not harm the target.
    /// Dropping the future loses nothing.
    pub(super) async fn next_saved(this: &mut Option<Self>) {
        let Some(this) = this else { return std::future::pending().await };
        match this.saving.next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the checkpoint could not be saved: a resumed run will repeat more work");
                this.off = true;
            }
            None => std::future::pending().await,
        }
    }
}

/// The identity of a run, as one hash over source, target, options and build: a run continues another only if this is
/// equal. `None` if a source cannot show whether it changed.
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

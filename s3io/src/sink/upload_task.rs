//! The task of a sink: uploads parts concurrently, and publishes or aborts the upload.
//!
//! It runs in the background and owns what is in the bucket, so that a call of the sink can be dropped at any point and the
//! requests in flight still come to a known end. It ends after the sink is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result, Warning};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tracing::{Instrument, debug_span};

use super::journal::{JournalRecord, ResumableUpload};
use super::journal_writer::JournalWriter;
use super::parts::UploadPart;
use super::publish::{Published, Unpublished};
use super::shared_upload::SharedUpload;
use super::target::UploadedPart;

/// What the sink requests of its task.
pub(super) enum Command {
    /// Create the upload, to see whether that is allowed.
    Begin(oneshot::Sender<Result<()>>),
    Upload(UploadPart),
    Finish(Finish),
    /// Resume an upload with its checkpoint.
    Resume(ResumableUpload, Vec<u8>),
    /// Abort the upload that an earlier run left.
    DropAbandoned(ResumableUpload, oneshot::Sender<()>),
    /// Save a checkpoint, as soon as its parts are uploaded.
    Save(SaveCheckpoint),
    /// Abort the upload. The reply is false if the target was published.
    Abort(oneshot::Sender<bool>),
}

/// The end of a target of `len` bytes.
pub(super) struct Finish {
    /// Its last part, if that is not full.
    pub(super) last: Option<UploadPart>,
    pub(super) len: u64,
    /// The object, and warnings about what was left beside it.
    pub(super) reply: oneshot::Sender<Result<(Published, Vec<Warning>)>>,
}

/// A checkpoint from which a run continues after the first `at` bytes of the target. Those before `start` are written last.
pub(super) struct SaveCheckpoint {
    pub(super) at: u64,
    pub(super) part_bytes: u64,
    /// The address of the first write.
    pub(super) start: u64,
    pub(super) checkpoint: Bytes,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UploadState {
    Open,
    Published,
    Aborted,
}

/// Which journal an upload writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JournalUse {
    /// None.
    Never,
    /// One that must not be there yet.
    New,
    /// One in the place of a journal that is over and could not be deleted.
    Overwrite,
}

/// One upload.
pub(super) struct UploadTask {
    shared: Arc<SharedUpload>,
    id: Option<Arc<str>>,
    /// Parts in flight.
    parts: JoinSet<(u64, Result<UploadedPart>)>,
    uploaded: BTreeMap<u64, UploadedPart>,
    finishing: Option<Finish>,
    state: UploadState,
    /// The length of a target that may have been published.
    maybe_published: Option<u64>,
    /// Keep an upload that can be resumed.
    keep: bool,
    journal: Option<Arc<JournalWriter>>,
    heartbeat: Option<AbortOnDrop>,
    journal_use: JournalUse,
    /// Checkpoints whose parts are not uploaded yet.
    waiting: VecDeque<SaveCheckpoint>,
    saving: JoinSet<bool>,
}

/// A task that is aborted with its handle.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl UploadTask {
    /// `keep`: an upload that can be resumed is not aborted.
    pub(super) fn new(shared: &Arc<SharedUpload>, keep: bool, journal_use: JournalUse) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: None,
            parts: JoinSet::new(),
            uploaded: BTreeMap::new(),
            finishing: None,
            state: UploadState::Open,
            maybe_published: None,
            keep,
            journal: None,
            heartbeat: None,
            journal_use,
            waiting: VecDeque::new(),
            saving: JoinSet::new(),
        }
    }

    /// Executes commands until the sink is dropped, and aborts the upload unless it was published.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            if self.parts.is_empty()
                && let Some(finish) = self.finishing.take()
            {
                self.publish(finish).await;
                continue;
            }
            tokio::select! {
                biased;
                Some(ended) = self.parts.join_next() => self.part_ended(ended).await,
                Some(saved) = self.saving.join_next() => {
                    self.checkpoint_saved(saved);
                    self.save_next();
                }
                command = commands.recv() => match command {
                    Some(command) => self.execute(command).await,
                    None => break,
                },
            }
        }
        self.abort().await;
    }

    async fn execute(&mut self, command: Command) {
        match command {
            Command::Begin(reply) => {
                let begun = self.begin().await.map(drop);
                // Nobody waits if the creation of the sink was dropped.
                let _dropped = reply.send(begun);
            }
            Command::Upload(part) => self.upload(part).await,
            Command::Resume(upload, checkpoint) => self.resume(upload, checkpoint).await,
            Command::DropAbandoned(upload, reply) => {
                self.stop_journal().await;
                (self.id, self.journal) = (None, None);
                self.shared.has_checkpoint.store(false, Ordering::Relaxed);
                self.uploaded.clear();
                if !self.shared.target.drop_abandoned(&upload.id).await {
                    self.journal_use = JournalUse::Overwrite;
                }
                let _dropped = reply.send(());
            }
            Command::Save(save) => {
                self.waiting.push_back(save);
                self.save_next();
            }
            Command::Finish(mut finish) => {
                if let Some(part) = finish.last.take_if(|_| self.id.is_some()) {
                    self.upload(part).await;
                }
                if self.shared.is_stopped() {
                    self.fail_finish(finish, None).await;
                } else {
                    self.finishing = Some(finish);
                }
            }
            Command::Abort(reply) => {
                self.abort().await;
                let _dropped = reply.send(self.state != UploadState::Published);
            }
        }
    }

    /// Creates the upload and its journal, unless that was done before.
    async fn begin(&mut self) -> Result<Arc<str>> {
        if let Some(id) = &self.id {
            return Ok(Arc::clone(id));
        }
        let id: Arc<str> = self.shared.target.create_upload().await?.into();
        self.id = Some(Arc::clone(&id));
        if self.journal_use != JournalUse::Never {
            let run = self.shared.target.run();
            let upload =
                ResumableUpload { id: id.to_string(), run, part_bytes: 0, start: 0, parts: BTreeMap::new() };
            let first = self.journal_use == JournalUse::New;
            self.begin_journal(JournalRecord::new(upload, Vec::new()), first).await?;
        }
        Ok(id)
    }

    async fn begin_journal(&mut self, record: JournalRecord, first: bool) -> Result<()> {
        match JournalWriter::begin(Arc::clone(&self.shared), record, first).await {
            Ok(journal) => {
                self.heartbeat = Some(AbortOnDrop(tokio::spawn(Arc::clone(&journal).keep_alive())));
                self.journal = Some(journal);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::DestinationBusy => Err(error),
            Err(error) => {
                tracing::debug!(%error, "this upload has no journal");
                Ok(())
            }
        }
    }

    /// Continues the upload of an earlier run.
    async fn resume(&mut self, upload: ResumableUpload, checkpoint: Vec<u8>) {
        self.id = Some(upload.id.as_str().into());
        self.shared.target.set_run(&upload.run);
        self.uploaded = upload.parts.clone();
        if let Err(error) = self.begin_journal(JournalRecord::new(upload, checkpoint), false).await {
            return self.shared.fail(error);
        }
        self.shared.has_checkpoint.store(self.journal.is_some(), Ordering::Relaxed);
    }

    /// Saves the latest checkpoint whose parts are uploaded.
    fn save_next(&mut self) {
        let Some(journal) = &self.journal else { return };
        let Some(id) = self.id.clone() else { return };
        let Some(&SaveCheckpoint { at, part_bytes, start, .. }) = self.waiting.front() else { return };
        let (run, parts) = (self.shared.target.run(), self.uploaded.clone());
        let upload = ResumableUpload { id: id.to_string(), run, part_bytes, start, parts };
        let stored = upload.stored().end;
        if stored < at || !self.saving.is_empty() {
            return;
        }
        let Some(mut save) = self.waiting.pop_front() else { return };
        while let Some(later) = self.waiting.pop_front_if(|later| later.at <= stored) {
            // The later checkpoint replaces the earlier one.
            let _dropped = std::mem::replace(&mut save, later).reply.send(Ok(()));
        }
        let journal = Arc::clone(journal);
        self.saving.spawn(async move {
            let checkpoint = save.checkpoint.to_vec();
            let change = |record: &mut JournalRecord| {
                (record.upload, record.checkpoint) = (upload, checkpoint);
            };
            let written = journal.write(change).await;
            let saved = written.is_ok();
            let _dropped = save.reply.send(written);
            saved
        });
    }

    /// Waits for the writes of the journal; none follows.
    async fn stop_journal(&mut self) {
        self.waiting.clear();
        if let Some(mut heartbeat) = self.heartbeat.take() {
            heartbeat.0.abort();
            let _ended = (&mut heartbeat.0).await;
        }
        while let Some(saved) = self.saving.join_next().await {
            self.checkpoint_saved(saved);
        }
    }

    fn checkpoint_saved(&self, saved: Result<bool, JoinError>) {
        self.shared.has_checkpoint.fetch_or(saved.unwrap_or(false), Ordering::Relaxed);
    }

    async fn upload(&mut self, part: UploadPart) {
        if self.shared.is_stopped() {
            return;
        }
        let id = match self.begin().await {
            Ok(id) => id,
            Err(error) => return self.shared.fail(error),
        };
        let shared = Arc::clone(&self.shared);
        let span =
            debug_span!("part", url = shared.target.shown(), index = part.index, bytes = part.bytes.len());
        let upload = async move {
            let UploadPart { index, bytes, _zeros } = part;
            (index, shared.target.put_part(&id, index, bytes).await)
        };
        self.parts.spawn(upload.instrument(span));
    }

    async fn part_ended(&mut self, ended: Result<(u64, Result<UploadedPart>), JoinError>) {
        match ended {
            Ok((index, Ok(part))) => {
                self.uploaded.insert(index, part);
                self.save_next();
                return;
            }
            Ok((_, Err(error))) => self.shared.fail(with_leftovers(error)),
            Err(error) => self.shared.fail(Error::internal(format!("the upload of a part ended: {error}"))),
        }
        if let Some(finish) = self.finishing.take() {
            self.fail_finish(finish, None).await;
        }
    }

    /// Aborts the upload, and replies with the error.
    async fn fail_finish(&mut self, finish: Finish, error: Option<Error>) {
        let error = error.unwrap_or_else(|| self.shared.take_failure());
        let error = if self.id.is_some() { with_leftovers(error) } else { error };
        self.abort().await;
        let _dropped = finish.reply.send(Err(error));
    }

    async fn publish(&mut self, finish: Finish) {
        // Nobody wants the target any more if the finish was dropped.
        if self.shared.is_stopped() || finish.reply.is_closed() || self.state != UploadState::Open {
            self.shared.stop();
            return self.fail_finish(finish, None).await;
        }
        let target = &self.shared.target;
        let published = match &self.id {
            Some(id) => {
                let parts: Vec<UploadedPart> = self.uploaded.values().cloned().collect();
                let complete = self.uploaded.keys().copied().eq(0..parts.len() as u64) && !parts.is_empty();
                if complete {
                    target.complete(id, &parts, finish.len).await
                } else {
                    Err(Error::internal(format!("{} parts with a gap", parts.len())).into())
                }
            }
            // Without a part, the target is empty.
            None => target.put(finish.last.as_ref().map_or_else(Bytes::new, |part| part.bytes.clone())).await,
        };
        match published {
            Ok(published) => {
                self.state = UploadState::Published;
                self.stop_journal().await;
                let target = &self.shared.target;
                let mut warnings = Vec::new();
                if self.journal.take().is_some()
                    && let Err(error) = target.remove_journal(target.timeouts.cleanup()).await
                {
                    warnings.push(target.journal_left(&error));
                }
                let _dropped = finish.reply.send(Ok((published, warnings)));
            }
            Err(Unpublished { error, unknown }) => {
                self.maybe_published = unknown.then_some(finish.len);
                self.fail_finish(finish, Some(error)).await;
            }
        }
    }

    /// Aborts the upload, unless it was published or can be resumed.
    async fn abort(&mut self) {
        if self.state != UploadState::Open {
            return;
        }
        self.shared.stop();
        // Each ends by itself: it is dropped, or waits for the response to what was sent.
        let parts = !self.parts.is_empty();
        while self.parts.join_next().await.is_some() {}
        self.state = UploadState::Aborted;
        self.stop_journal().await;
        let target = &self.shared.target;
        let has_checkpoint = self.shared.has_checkpoint.load(Ordering::Relaxed);
        let stays = self.keep && has_checkpoint && self.maybe_published.is_none();
        if stays {
            tracing::debug!(url = target.shown(), "the upload is kept, and can be resumed");
        }
        let id = self.id.take().filter(|_| !stays);
        let journal = self.journal.take().filter(|_| !stays);
        // Side by side: if the store is away, both take as long as they may.
        let timeouts = target.timeouts.cleanup();
        let remove = async {
            if journal.is_some()
                && let Err(error) = target.remove_journal(timeouts).await
            {
                report_left("the journal", &error);
            }
        };
        let abort = async {
            if let Some(id) = &id
                && let Err(error) = target.abort(id, parts, timeouts).await
            {
                report_left("the upload", &error);
            }
        };
        tokio::join!(abort, remove);
        if let (Some(id), Some(len)) = (id, self.maybe_published) {
            let parts: Vec<UploadedPart> = self.uploaded.values().cloned().collect();
            if let Ok(Some(_)) = target.published(&id, &parts, len, timeouts).await {
                self.state = UploadState::Published;
            }
        }
        if let Some(finish) = self.finishing.take() {
            let _dropped = finish.reply.send(Err(target.cancelled()));
        }
    }
}

/// Reports what a failed run left. If the store is away, the hint of the error says so.
fn report_left(what: &str, error: &Error) {
    if error.kind() == ErrorKind::DestinationUnavailable {
        tracing::debug!(%error, what, "not removed");
    } else {
        tracing::warn!("{what} was not removed: {}", error.message());
    }
}

/// The error of a store that is away, with what becomes of the parts that it has.
fn with_leftovers(error: Error) -> Error {
    const WHAT: &str = "parts that the store keeps are removed by the next conversion to this key";
    if error.kind() != ErrorKind::DestinationUnavailable || !error.is_retryable() {
        return error;
    }
    match error.hint_text() {
        Some(hint) if hint.contains(WHAT) => error,
        Some(hint) => {
            let hint = format!("{hint}; {WHAT}");
            error.hint(hint)
        }
        None => error.hint(WHAT),
    }
}

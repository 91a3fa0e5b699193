//! The sink: copies writes into parts, and commands the upload task.
//!
//! Writes are copied into the memory of parts, so that the budget that they hold is released at once. A target of less than
//! one part is one PutObject.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Error, ErrorKind, Journal, ReadBack, Receipt, Result, SavedCheckpoint, Sink, SinkCapabilities,
    SinkHint, Source, TargetOffset, TargetRange, Warning, WriteOrder,
};
use tokio::sync::{mpsc, oneshot};

use super::failed_request::as_destination;
use super::journal::{JournalRecord, JournalState, ResumableUpload};
use super::part_plan::PartPlan;
use super::parts::{PartAssembler, PartContent, PartSlots, UploadPart};
use super::publish::Published;
use super::shared_upload::SharedUpload;
use super::target::{TargetObject, WritePermission};
use super::upload_task::{Command, Finish, JournalUse, SaveCheckpoint, UploadTask};
use crate::connection::{Client, S3Location, S3Service};
use crate::object::{RemoteObject, S3Source, Shown};

/// Options of an [`S3Sink`].
///
/// ```
/// use diskferry_s3io::S3SinkOptions;
///
/// let options = S3SinkOptions::default().force(true).part_bytes(Some(64 << 20));
/// assert!(options.force && !options.resume);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct S3SinkOptions {
    /// Replaces an existing object, in one step, when the new one is complete.
    pub force: bool,
    /// Length of a part in bytes, 5 MiB to 5 GiB. Parts are longer if 10,000 of them are too short for the target. By default
    /// 8 MiB, or a quarter of the memory (8 to 64 MiB) if the length of the target is not known.
    pub part_bytes: Option<u64>,
    /// Continues an interrupted run (`Conversion::resume`). If this run is interrupted, keeps what is needed to continue it:
    /// the upload, and the journal `KEY.diskferry-journal` beside the object. A bucket's lifecycle rule for unfinished
    /// uploads should leave time for that.
    pub resume: bool,
}

setters!(S3SinkOptions { force: bool, part_bytes: Option<u64>, resume: bool });

impl S3SinkOptions {
    /// Minimum length of a part, except the last ("Amazon S3 multipart upload limits" in the Amazon S3 User Guide).
    pub const MIN_PART: u64 = 5 << 20;
    /// Maximum length of a part (likewise).
    pub const MAX_PART: u64 = 5 << 30;
}

/// An object being written.
///
/// The upload begins with the first full part. Parts are uploaded concurrently: as many as fit the memory of
/// [`SinkHint::memory`] and the store accepts without throttling, up to
/// [`ClientOptions::connections`](crate::ClientOptions::connections). The key shows no object before
/// [`finish`](Sink::finish).
///
/// From the first part on, an object `KEY.diskferry-journal` beside it names the writer and how to resume:
///
/// - A second sink for the key is `destination_busy`.
/// - The upload of a killed process is aborted by the next sink, or resumed if [`S3SinkOptions::resume`] is set.
/// - Without the permission to write it there is no journal, and neither of these.
///
/// Dropping the sink, or any of its futures, is safe at any point. The upload of a sink that was dropped is aborted in the
/// background, by a task that the [`Client`] owns: see [`Client::settle`].
pub struct S3Sink {
    client: Client,
    options: S3SinkOptions,
    shared: Arc<SharedUpload>,
    commands: mpsc::UnboundedSender<Command>,
    /// `None` before it was prepared.
    parts: tokio::sync::Mutex<Option<PartAssembler>>,
    /// The journal of an interrupted run.
    abandoned: Mutex<Option<JournalRecord>>,
    /// The upload that is resumed.
    resumed: Mutex<Option<ResumableUpload>>,
    published: Mutex<Option<Published>>,
}

impl S3Sink {
    /// Creates a sink for the object `s3://bucket/key`, which must not exist.
    ///
    /// # Errors
    /// As [`create_with`](Self::create_with).
    pub async fn create(client: &Client, url: &str) -> Result<Self> {
        Self::create_with(client, url, S3SinkOptions::default()).await
    }

    /// Creates a sink for the object `s3://bucket/key`. As all of its methods, it needs a tokio runtime with timers.
    ///
    /// # Errors
    /// `usage` if `url` does not have that form or the length of a part is out of range, `destination_unsuitable` for a key
    /// that ends in a slash, `destination_exists` (unless `force`), `destination_busy`, `destination_forbidden`,
    /// `destination_unavailable`.
    pub async fn create_with(client: &Client, url: &str, options: S3SinkOptions) -> Result<Self> {
        let (min, max) = (S3SinkOptions::MIN_PART, S3SinkOptions::MAX_PART);
        if let Some(bytes) = options.part_bytes.filter(|bytes| !(min..=max).contains(bytes)) {
            let message = format!("parts of {bytes} bytes: {min} to {max} are possible");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let (target, permission) = TargetObject::open(client, locate(url)?, options.force).await?;
        let journal = target.find_journal().await?;
        let mut journal_use = match journal {
            JournalState::Unreadable => JournalUse::Never,
            JournalState::Ended => JournalUse::Overwrite,
            JournalState::Absent | JournalState::Abandoned(_) => JournalUse::New,
        };
        let abandoned = match journal {
            JournalState::Abandoned(record) if options.resume => Some(*record),
            JournalState::Abandoned(record) => {
                if !target.drop_abandoned(&record.upload.id).await {
                    journal_use = JournalUse::Overwrite;
                }
                None
            }
            JournalState::Absent | JournalState::Ended | JournalState::Unreadable => None,
        };
        let slots = PartSlots::new(client.options().connections);
        let shared = Arc::new(SharedUpload::new(target, slots));
        let (commands, received) = mpsc::unbounded_channel();
        let task = UploadTask::new(&shared, options.resume, journal_use).run(received);
        client.s3().background().spawn(task);
        let sink = Self {
            client: client.clone(),
            options,
            shared,
            commands,
            parts: tokio::sync::Mutex::new(None),
            abandoned: Mutex::new(abandoned),
            resumed: Mutex::new(None),
            published: Mutex::new(None),
        };
        if permission == WritePermission::Unknown {
            // Writing may be allowed nevertheless. This shows it before a source is read.
            sink.request(Command::Begin).await??;
        }
        Ok(sink)
    }

    /// Checks whether the object `url` may be created, and creates nothing: to fail before a source is opened.
    /// [`create`](Self::create) checks again, and also finds what only an upload shows.
    ///
    /// # Errors
    /// Those of [`create_with`](Self::create_with) that can be detected without writing.
    pub async fn admit(client: &Client, url: &str, force: bool) -> Result<()> {
        TargetObject::open(client, locate(url)?, force).await.map(drop)
    }

    /// Sends a command and waits for the reply.
    async fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (reply, replied) = oneshot::channel();
        let gone = || Error::new(ErrorKind::Cancelled, "the client of the upload was dropped");
        self.commands.send(command(reply)).map_err(|_| gone())?;
        replied.await.map_err(|_| gone())
    }

    async fn put(&self, at: TargetOffset, contents: impl Iterator<Item = PartContent<'_>>) -> Result<()> {
        let mut parts = self.parts.lock().await;
        self.shared.check()?;
        let parts = parts.as_mut().ok_or_else(unprepared)?;
        // The task lives as long as the client. If it has ended, the reply to the finish says so.
        let send = |part: UploadPart| drop(self.commands.send(Command::Upload(part)));
        let mut at = at.get();
        for content in contents {
            let put = parts.put(at, content, &send).await;
            put.map_err(|error| self.explain(&error))?;
            let end = at.checked_add(content.len());
            at = end.ok_or_else(|| Error::internal(format!("written at {at}, which is beyond 64 bits")))?;
        }
        Ok(())
    }

    async fn publish(&self, len: u64) -> Result<(Published, Vec<Warning>)> {
        let mut parts = self.parts.lock().await;
        if self.published().is_some() {
            return Err(Error::internal(format!("{} was finished before", self.url())));
        }
        self.shared.check()?;
        let parts = parts.as_mut().ok_or_else(unprepared)?;
        let last = parts.finish(len).await.map_err(|error| self.explain(&error))?;
        let (published, warnings) =
            self.request(|reply| Command::Finish(Finish { last, len, reply })).await??;
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(published.clone());
        Ok((published, warnings))
    }

    /// The error to report. A wait for memory is cancelled if an upload failed; then that failure is the error.
    fn explain(&self, error: &Error) -> Error {
        match error.kind() {
            ErrorKind::Cancelled => self.shared.take_failure(),
            _ => self.shared.target.named(as_destination(error)),
        }
    }

    fn take_abandoned(&self) -> Option<JournalRecord> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take_resumed(&self) -> Option<ResumableUpload> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Aborts an upload that is not resumed, and removes its journal.
    async fn drop_upload(&self, upload: ResumableUpload) -> Result<()> {
        self.request(|reply| Command::DropAbandoned(upload, reply)).await
    }

    fn published(&self) -> Option<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for S3Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Sink")
            .field("url", &self.url())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for S3Sink {
    fn drop(&mut self) {
        self.client.s3().background().sink_dropped();
        self.shared.stop();
    }
}

fn unprepared() -> Error {
    Error::internal("written before it was prepared")
}

/// The object of a target's URL.
fn locate(url: &str) -> Result<S3Location> {
    let at = S3Location::parse(url)?;
    let refuse = |kind, why: &str| Err(Error::new(kind, format!("{at}: {why}")));
    if at.version_id.is_some() {
        return refuse(ErrorKind::Usage, "a version cannot be written, only the object");
    }
    if at.key.ends_with('/') {
        return refuse(ErrorKind::DestinationUnsuitable, "a key that ends in a slash is a folder");
    }
    Ok(at)
}

impl Journal for S3Sink {
    fn load(&self) -> BoxFuture<'_, Result<Option<SavedCheckpoint>>> {
        Box::pin(async move {
            let Some(record) = self.take_abandoned() else { return Ok(None) };
            let JournalRecord { upload, checkpoint, .. } = record;
            let confirmed = self.shared.target.confirm(upload.clone()).await?;
            let is_usable = |upload: &ResumableUpload| !checkpoint.is_empty() && !upload.stored().is_empty();
            let Some(mut upload) = confirmed.filter(is_usable) else {
                self.drop_upload(upload).await?;
                return Ok(None);
            };
            let target = upload.stored();
            // Parts after the first gap are uploaded again.
            let part_bytes = upload.part_bytes;
            upload
                .parts
                .retain(|index, _| index.checked_mul(part_bytes).is_some_and(|at| target.contains(&at)));
            drop(self.commands.send(Command::Resume(upload.clone(), checkpoint.clone())));
            *self.resumed.lock().unwrap_or_else(PoisonError::into_inner) = Some(upload);
            Ok(Some(SavedCheckpoint { state: checkpoint.into(), target }))
        })
    }

    fn drop_saved(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.take_resumed() {
                Some(upload) => self.drop_upload(upload).await,
                None => Ok(()),
            }
        })
    }

    fn save(&self, at: u64, state: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (part_bytes, start) = match &*self.parts.lock().await {
                Some(parts) => (parts.part_bytes(), parts.start()),
                None => return Err(unprepared()),
            };
            let save = |reply| SaveCheckpoint { at, part_bytes, start, checkpoint: state, reply };
            self.request(|reply| Command::Save(save(reply))).await?
        })
    }

    fn stays(&self) -> bool {
        self.options.resume && self.shared.has_checkpoint.load(Ordering::Relaxed)
    }
}

impl Sink for S3Sink {
    fn url(&self) -> &str {
        self.shared.target.shown()
    }

    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::default()
            .order(WriteOrder::Ascending)
            .sparse(false)
            .buffers(true)
            .in_flight(1)
            .read_back(ReadBack::After)
    }

    fn written(&self) -> Option<u64> {
        Some(self.shared.target.written.load(Ordering::Relaxed))
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    fn prepare(&self, hint: SinkHint) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.shared.check()?;
            let mut parts = self.parts.lock().await;
            if parts.is_some() {
                return Err(Error::internal("prepared twice"));
            }
            let SinkHint { most_bytes, exact, memory, .. } = hint;
            if let Some(record) = self.take_abandoned() {
                // It was not loaded.
                self.drop_upload(record.upload).await?;
            }
            let resumed = self.take_resumed();
            let part_bytes = resumed.as_ref().map(|upload| upload.part_bytes).or(self.options.part_bytes);
            let plan = PartPlan::new(most_bytes, exact, memory, part_bytes)
                .map_err(|error| self.shared.target.named(error))?;
            tracing::debug!(url = self.url(), ?plan, "parts");
            let mut new =
                PartAssembler::new(plan, &self.shared.slots).map_err(|error| self.explain(&error))?;
            if let Some(upload) = resumed {
                if new.part_bytes() != upload.part_bytes {
                    return Err(Error::internal("an upload cannot be resumed with parts of another length"));
                }
                new.resume(upload.stored(), upload.start);
            }
            *parts = Some(new);
            self.shared.slots.memory.add_permits(plan.slots);
            Ok(())
        })
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.put(at, pieces.iter().map(|piece| PartContent::Bytes(piece))).await })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.put(range.start(), std::iter::once(PartContent::Zeros(range.len()))))
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            let published = self.publish(len).await;
            if published.is_err() {
                // The parts are of no use any more.
                self.abort().await;
            }
            let (published, warnings) = published?;
            Ok(Receipt::default()
                .url(self.url().to_owned())
                .bytes(len)
                .written(self.shared.target.written.load(Ordering::Relaxed))
                .etag(published.etag)
                .warnings(warnings))
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            // If the task has ended, nothing is left to abort.
            match self.request(Command::Abort).await {
                Ok(aborted) => aborted,
                Err(_) => self.published().is_none(),
            }
        })
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        Box::pin(async move {
            let target = &self.shared.target;
            let published =
                self.published().ok_or_else(|| Error::internal("read back before it was published"))?;
            let object = target.object(published.version_id.clone());
            let peer = self.client.s3().peer(&S3Service::Configured);
            let shown = Shown { url: self.url().to_owned(), peer };
            let remote = RemoteObject::open(&self.client, object, shown, None, Vec::new())
                .await
                .map_err(|error| as_destination(&error))?;
            let changed = |what: String| {
                let message = format!("the object was replaced after it was published: {what}");
                Err(target.named(Error::new(ErrorKind::VerificationFailed, message)))
            };
            if remote.len() != len {
                return changed(format!("it had {len} bytes and has {}", remote.len()));
            }
            let etag = &remote.identity().etag;
            match (&published.etag, etag) {
                (Some(ours), Some(now)) if ours != now => {
                    changed(format!("its ETag was {ours} and is {now}"))
                }
                _ => Ok(Arc::new(S3Source::from(remote)) as Arc<dyn Source>),
            }
        })
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        let etag = receipt.etag.clone();
        Box::pin(async move {
            match self.published() {
                Some(published) if published.etag == etag => self.shared.target.delete(&published).await,
                _ => Ok(false),
            }
        })
    }
}

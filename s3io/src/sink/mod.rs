//! An object being written: a multipart upload, published when whole.
//!
//! ```text
//! write, zero ──▶ parts (memory) ──▶ task of the sink ──▶ UploadPart, side by side
//! finish ────────────────────────────▶      │          ──▶ CompleteMultipartUpload, If-None-Match: *
//! abort, drop ───────────────────────▶      │          ──▶ AbortMultipartUpload
//! ```
//!
//! What is written is copied into the memory of parts, so that the budget which it held is free at once. A target of less
//! than a part is one PutObject.

mod journal;
mod parts;
mod publish;
mod refusal;
mod store;
mod upload;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Error, ErrorKind, Journal, ReadBack, Receipt, Result, SavedCheckpoint, Sink, SinkCapabilities,
    SinkHint, Source, TargetOffset, TargetRange, WriteOrder,
};
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::remote::Remote;
use crate::source::S3Source;
use crate::url::S3Location;
use journal::{Found, Held, Left};
use parts::{Content, Cutter, Part, Plan, Rooms};
use publish::Published;
use refusal::as_destination;
use store::{Look, Store};
use upload::{Finish, Order, Save, Shared, Upload};

/// How an object is written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct S3SinkOptions {
    /// Replace an existing object, in one step, when the new one is whole.
    pub force: bool,
    /// Length of a part in bytes, 5 MiB to 5 GiB; longer ones are taken where the target would not fit 10,000 of them. By
    /// default 8 MiB, or a quarter of the memory (8 to 64 MiB) where the length of the target is not known.
    pub part_bytes: Option<u64>,
    /// Take up what an interrupted run left (`Conversion::resume`), and leave what is needed to go on when this one is given
    /// up: the upload, and beside the object its journal, `KEY.diskferry-journal`. A bucket's lifecycle rule for unfinished uploads
    /// should leave time for that.
    pub resume: bool,
}

impl S3SinkOptions {
    /// Shortest part but for the last ("Amazon S3 multipart upload limits" in the Amazon S3 User Guide).
    pub const LEAST_PART: u64 = 5 << 20;
    /// Longest part (likewise).
    pub const MOST_PART: u64 = 5 << 30;
}

/// An object being written.
///
/// The upload begins with the first full part. Parts are uploaded side by side, as many as the memory of
/// [`SinkHint::memory`] holds and the store takes without asking for less, up to
/// [`ClientOptions::connections`](crate::ClientOptions::connections). Nothing shows under the key before
/// [`finish`](Sink::finish).
///
/// From the first part on, an object `KEY.diskferry-journal` beside it says who writes, and how to go on: a second sink for
/// the key is `destination_busy`, and what a killed process left is ended by the next one, or taken up where
/// [`S3SinkOptions::resume`] says so. Without the permission for it there is none, and neither of these.
///
/// Dropping it, or any of its futures, is safe at any point. The upload of a sink that was dropped is taken back in the
/// background, by a task that the [`Client`] owns: see [`Client::settle`].
pub struct S3Sink {
    client: Client,
    options: S3SinkOptions,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    /// None before it was prepared.
    cutter: tokio::sync::Mutex<Option<Cutter>>,
    /// What an interrupted run left.
    left: Mutex<Option<Held>>,
    /// What of it is gone on with.
    adopted: Mutex<Option<Left>>,
    published: Mutex<Option<Published>>,
}

impl S3Sink {
    /// Begins the object `s3://bucket/key`, which must not exist.
    ///
    /// # Errors
    /// As [`create_with`](Self::create_with).
    pub async fn create(client: &Client, url: &str) -> Result<Self> {
        Self::create_with(client, url, S3SinkOptions::default()).await
    }

    /// Begins the object `s3://bucket/key`. Needs a tokio runtime with its timers on, as all of its methods do.
    ///
    /// # Errors
    /// `usage` where `url` is none of that form or the length of a part is too small, `destination_unsuitable` for a key
    /// that ends in a slash, `destination_exists` (without `force`), `destination_forbidden`, `destination_unavailable`.
    pub async fn create_with(client: &Client, url: &str, options: S3SinkOptions) -> Result<Self> {
        let (least, most) = (S3SinkOptions::LEAST_PART, S3SinkOptions::MOST_PART);
        if let Some(bytes) = options.part_bytes.filter(|bytes| !(least..=most).contains(bytes)) {
            let message = format!("parts of {bytes} bytes: {least} to {most} are possible");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let (store, look) = Store::open(client, locate(url)?, options.force).await?;
        let found = store.find_journal().await?;
        let journals = !matches!(found, Found::Unknown);
        let left = match found {
            Found::Left(held) if options.resume => Some(*held),
            Found::Left(held) => {
                store.drop_left(&held.upload.id).await;
                None
            }
            Found::Nothing | Found::Unknown => None,
        };
        let rooms = Rooms::new(client.options().connections);
        let shared = Arc::new(Shared::new(store, rooms));
        let (orders, taken) = mpsc::unbounded_channel();
        client.works().take(Upload::new(&shared, options.resume, journals).run(taken));
        let sink = Self {
            client: client.clone(),
            options,
            shared,
            orders,
            cutter: tokio::sync::Mutex::new(None),
            left: Mutex::new(left),
            adopted: Mutex::new(None),
            published: Mutex::new(None),
        };
        if look == Look::Hidden {
            // Who may not look may still be allowed to write: that shows here, before a source is read.
            sink.ask(Order::Begin).await??;
        }
        Ok(sink)
    }

    /// Looks whether an object may appear as `url`, and creates nothing: to refuse before a source is even opened.
    /// [`create`](Self::create) looks again, and also finds out what cannot be seen by looking.
    ///
    /// # Errors
    /// Those of [`create_with`](Self::create_with) that show without writing.
    pub async fn admit(client: &Client, url: &str, force: bool) -> Result<()> {
        Store::open(client, locate(url)?, force).await.map(drop)
    }

    /// Gives an order and waits for its answer.
    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(ErrorKind::Cancelled, "the client of the upload is gone");
        self.orders.send(order(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    async fn put(&self, at: TargetOffset, contents: impl Iterator<Item = Content<'_>>) -> Result<()> {
        let mut cutter = self.cutter.lock().await;
        self.shared.check()?;
        let cutter = cutter.as_mut().ok_or_else(unprepared)?;
        // The task is there as long as the client is, and the answer of the finish says where it is not.
        let send = |part: Part| drop(self.orders.send(Order::Part(part)));
        let mut at = at.get();
        for content in contents {
            let put = cutter.put(at, content, &send).await;
            put.map_err(|error| self.explain(&error))?;
            at = at.saturating_add(content.len());
        }
        Ok(())
    }

    async fn publish(&self, len: u64) -> Result<Published> {
        let mut cutter = self.cutter.lock().await;
        if self.published().is_some() {
            return Err(Error::internal(format!("{} was finished before", self.url())));
        }
        self.shared.check()?;
        let cutter = cutter.as_mut().ok_or_else(unprepared)?;
        let last = cutter.finish(len).await.map_err(|error| self.explain(&error))?;
        let published = self.ask(|answer| Order::Finish(Finish { last, len, answer })).await??;
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(published.clone());
        Ok(published)
    }

    /// The error as it is to be told: waiting for room ends where an upload failed, and that is why.
    fn explain(&self, error: &Error) -> Error {
        match error.kind() {
            ErrorKind::Cancelled => self.shared.why(),
            _ => self.shared.store.named(&as_destination(error)),
        }
    }

    fn take_left(&self) -> Option<Held> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends an upload that nobody goes on with, and its journal.
    async fn drop_upload(&self, left: Left) -> Result<()> {
        self.ask(|answer| Order::Drop(left, answer)).await
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
        self.client.works().dropped();
        self.shared.stop();
    }
}

fn unprepared() -> Error {
    Error::internal("written before it was prepared")
}

/// The object that a target's URL names.
fn locate(url: &str) -> Result<S3Location> {
    let at = S3Location::parse(url)?;
    let refuse = |kind, why: &str| Err(Error::new(kind, format!("{at}: {why}")));
    if at.version_id.is_some() {
        return refuse(ErrorKind::Usage, "a version cannot be written, only the object");
    }
    if at.key.ends_with('/') {
        return refuse(ErrorKind::DestinationUnsuitable, "a key that ends in a slash stands for a folder");
    }
    Ok(at)
}

impl Journal for S3Sink {
    fn load(&self) -> BoxFuture<'_, Result<Option<SavedCheckpoint>>> {
        Box::pin(async move {
            let Some(held) = self.take_left() else { return Ok(None) };
            let Held { upload, state, .. } = held;
            let confirmed = self.shared.store.confirm(upload.clone()).await?;
            let Some(left) = confirmed.filter(|left| !state.is_empty() && !left.kept().is_empty()) else {
                self.drop_upload(upload).await?;
                return Ok(None);
            };
            let target = left.kept();
            // The task goes on with what is kept in one piece: the rest is uploaded again.
            let parts = left.parts.range(target.start / left.part_bytes..target.end / left.part_bytes);
            let parts = parts.map(|(index, done)| (*index, done.clone())).collect();
            let left = Left { parts, ..left };
            drop(self.orders.send(Order::Adopt(left.clone(), state.clone())));
            *self.adopted.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
            Ok(Some(SavedCheckpoint { state: state.into(), target }))
        })
    }

    fn drop_saved(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner).take();
            match adopted {
                Some(left) => self.drop_upload(left).await,
                None => Ok(()),
            }
        })
    }

    fn save(&self, at: u64, state: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (part_bytes, start) = match &*self.cutter.lock().await {
                Some(cutter) => cutter.shape(),
                None => return Err(unprepared()),
            };
            self.ask(|answer| Order::Save(Save { at, part_bytes, start, state, answer })).await?
        })
    }

    fn stays(&self) -> bool {
        self.options.resume && self.shared.saved.load(Ordering::Relaxed)
    }
}

impl Sink for S3Sink {
    fn url(&self) -> &str {
        self.shared.store.shown()
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
        Some(self.shared.store.written.load(Ordering::Relaxed))
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.shared.check()?;
            let mut cutter = self.cutter.lock().await;
            if cutter.is_some() {
                return Err(Error::internal("prepared twice"));
            }
            let SinkHint { most_bytes, exact, memory, .. } = expected;
            if let Some(held) = self.take_left() {
                // Nobody asked for it.
                self.drop_upload(held.upload).await?;
            }
            let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner).take();
            let part_bytes = adopted.as_ref().map(|left| left.part_bytes).or(self.options.part_bytes);
            let plan = Plan::new(most_bytes, exact, memory, part_bytes)
                .map_err(|error| self.shared.store.named(&error))?;
            tracing::debug!(url = self.url(), ?plan, "parts");
            let mut new = Cutter::new(plan, &self.shared.rooms).map_err(|error| self.explain(&error))?;
            if let Some(left) = adopted {
                if plan.size as u64 != left.part_bytes {
                    return Err(Error::internal("an upload cannot go on with other parts"));
                }
                new.go_on(left.kept(), left.start);
            }
            *cutter = Some(new);
            self.shared.rooms.memory.add_permits(plan.rooms);
            Ok(())
        })
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.put(at, pieces.iter().map(|piece| Content::Bytes(piece))).await })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.put(range.start(), std::iter::once(Content::Zeros(range.len()))))
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            let published = self.publish(len).await;
            if published.is_err() {
                // Nothing stays that was uploaded in vain.
                self.abort().await;
            }
            let etag = published?.etag;
            Ok(Receipt::default()
                .url(self.url().to_owned())
                .bytes(len)
                .written(self.written().unwrap_or_default())
                .etag(etag))
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            // Where the task is gone, so is all that it could do.
            match self.ask(Order::Abort).await {
                Ok(given_up) => given_up,
                Err(_) => self.published().is_none(),
            }
        })
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        Box::pin(async move {
            let store = &self.shared.store;
            let published =
                self.published().ok_or_else(|| Error::internal("read back before it was published"))?;
            let object = store.object(published.version_id.clone());
            let shown = self.url().to_owned();
            let remote = Remote::open(&self.client, object, shown, None, Vec::new())
                .await
                .map_err(|error| as_destination(&error))?;
            let changed = |what: String| {
                let message = format!("the object was replaced after it was published: {what}");
                Err(store.named(&Error::new(ErrorKind::VerificationFailed, message)))
            };
            if remote.len() != len {
                return changed(format!("it had {len} bytes and has {}", remote.len()));
            }
            let etag = &remote.identity().etag;
            match (&published.etag, etag) {
                (Some(ours), Some(now)) if ours != now => {
                    changed(format!("its ETag was {ours} and is {now}"))
                }
                _ => Ok(Arc::new(S3Source::of(remote)) as Arc<dyn Source>),
            }
        })
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        let etag = receipt.etag.clone();
        Box::pin(async move {
            match self.published() {
                Some(published) if published.etag == etag => self.shared.store.delete(&published).await,
                _ => Ok(false),
            }
        })
    }
}

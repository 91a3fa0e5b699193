//! The task of a sink: uploads parts side by side, publishes them, or takes them back.
//!
//! It runs beside the sink and owns what is in the bucket, so that a call of the sink can be dropped at any point: what was
//! begun comes to an end that is known. It ends when the sink is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tracing::{Instrument, debug_span};

use super::journal::{Held, Keeper, Left};
use super::parts::{Part, Rooms};
use super::publish::{Published, Unpublished};
use super::store::{Done, Store};

/// What the sink asks of its task.
pub(super) enum Order {
    /// Begin the upload, to see whether that is allowed.
    Begin(oneshot::Sender<Result<()>>),
    Part(Part),
    Finish(Finish),
    /// Go on with an upload.
    Adopt(Left, Vec<u8>),
    /// End the upload that an earlier run left.
    Drop(Left, oneshot::Sender<()>),
    /// Keep how to go on, once it would outlast this process.
    Save(Save),
    /// Take everything back. The answer is false where the target was published.
    Abort(oneshot::Sender<bool>),
}

/// The end of a target of `len` bytes.
pub(super) struct Finish {
    /// Its last part, if that is not full.
    pub(super) last: Option<Part>,
    pub(super) len: u64,
    pub(super) answer: oneshot::Sender<Result<Published>>,
}

/// How a run goes on from the first `at` bytes of the target, but for a front that comes last.
pub(super) struct Save {
    pub(super) at: u64,
    pub(super) part_bytes: u64,
    /// Where the writing began.
    pub(super) start: u64,
    pub(super) state: Bytes,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

/// What the sink and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) rooms: Arc<Rooms>,
    /// There is a journal that says how to go on.
    pub(super) saved: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Shared {
    pub(super) fn new(store: Store, rooms: Rooms) -> Self {
        Self { store, rooms: Arc::new(rooms), saved: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    /// Ends what is under way.
    pub(super) fn stop(&self) {
        self.store.stop.send_replace(true);
        self.rooms.close();
    }

    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop();
    }

    /// Why nothing goes on: the first failure, told once.
    pub(super) fn why(&self) -> Error {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.unwrap_or_else(|| self.store.given_up())
    }

    /// # Errors
    /// See [`why`](Self::why).
    pub(super) fn check(&self) -> Result<()> {
        if *self.store.stop.borrow() { Err(self.why()) } else { Ok(()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Published,
    GivenUp,
}

/// One upload.
pub(super) struct Upload {
    shared: Arc<Shared>,
    id: Option<Arc<str>>,
    parts: JoinSet<(u64, Result<Done>)>,
    done: BTreeMap<u64, Done>,
    finishing: Option<Finish>,
    state: State,
    /// The length of a target that may have been published.
    unknown: Option<u64>,
    /// Leave what can be gone on with.
    resume: bool,
    keeper: Option<Arc<Keeper>>,
    beating: Option<AbortOnDrop>,
    /// A journal is kept where that is allowed.
    journals: bool,
    /// What is to be kept when enough parts are there.
    waiting: VecDeque<Save>,
    saving: JoinSet<bool>,
}

/// A task that ends with its handle.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upload {
    /// `resume`: leave what can be gone on with; `journals`: a journal can be kept.
    pub(super) fn new(shared: &Arc<Shared>, resume: bool, journals: bool) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: None,
            parts: JoinSet::new(),
            done: BTreeMap::new(),
            finishing: None,
            state: State::Open,
            unknown: None,
            resume,
            keeper: None,
            beating: None,
            journals,
            waiting: VecDeque::new(),
            saving: JoinSet::new(),
        }
    }

    /// Does what is asked until nobody can ask any more, and takes back what was not published.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            if self.parts.is_empty()
                && let Some(finish) = self.finishing.take()
            {
                self.publish(finish).await;
                continue;
            }
            tokio::select! {
                biased;
                Some(ended) = self.parts.join_next() => self.ended(ended).await,
                Some(saved) = self.saving.join_next() => {
                    self.was_saved(saved);
                    self.save();
                }
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => break,
                },
            }
        }
        self.discard().await;
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Begin(answer) => {
                let begun = self.begin().await.map(drop);
                // Nobody waits where the creation of the sink was dropped.
                let _dropped = answer.send(begun);
            }
            Order::Part(part) => self.send(part).await,
            Order::Adopt(left, state) => self.adopt(left, state).await,
            Order::Drop(left, answer) => {
                self.rest().await;
                (self.id, self.keeper) = (None, None);
                self.shared.saved.store(false, Ordering::Relaxed);
                self.done.clear();
                self.shared.store.drop_left(&left.id).await;
                let _dropped = answer.send(());
            }
            Order::Save(save) => {
                self.waiting.push_back(save);
                self.save();
            }
            Order::Finish(mut finish) => {
                if let Some(part) = finish.last.take_if(|_| self.id.is_some()) {
                    self.send(part).await;
                }
                if *self.shared.store.stop.borrow() {
                    self.refuse(finish, None).await;
                } else {
                    self.finishing = Some(finish);
                }
            }
            Order::Abort(answer) => {
                self.discard().await;
                let _dropped = answer.send(self.state != State::Published);
            }
        }
    }

    async fn begin(&mut self) -> Result<Arc<str>> {
        if let Some(id) = &self.id {
            return Ok(Arc::clone(id));
        }
        let id: Arc<str> = self.shared.store.begin().await?.into();
        self.id = Some(Arc::clone(&id));
        if self.journals {
            let upload = Left { id: id.to_string(), part_bytes: 0, start: 0, parts: BTreeMap::new() };
            self.keep_journal(Held::new(upload, Vec::new()), true).await?;
        }
        Ok(id)
    }

    /// Begins the journal.
    async fn keep_journal(&mut self, held: Held, first: bool) -> Result<()> {
        match Keeper::begin(Arc::clone(&self.shared), held, first).await {
            Ok(keeper) => {
                self.beating = Some(AbortOnDrop(tokio::spawn(Arc::clone(&keeper).beat())));
                self.keeper = Some(keeper);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::DestinationBusy => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no journal is kept of this upload");
                Ok(())
            }
        }
    }

    /// Goes on with the upload of an earlier run.
    async fn adopt(&mut self, left: Left, state: Vec<u8>) {
        self.id = Some(left.id.as_str().into());
        self.done = left.parts.clone();
        if let Err(error) = self.keep_journal(Held::new(left, state), false).await {
            return self.shared.fail(error);
        }
        self.shared.saved.store(self.keeper.is_some(), Ordering::Relaxed);
    }

    /// Keeps what waits to be kept, where the parts that it speaks of are there.
    fn save(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let Some(id) = self.id.clone() else { return };
        let Some(&Save { at, part_bytes, start, .. }) = self.waiting.front() else { return };
        let upload = Left { id: id.to_string(), part_bytes, start, parts: self.done.clone() };
        let there = upload.kept().end;
        if there < at || !self.saving.is_empty() {
            return;
        }
        let Some(mut save) = self.waiting.pop_front() else { return };
        while let Some(later) = self.waiting.pop_front_if(|later| later.at <= there) {
            // The later one says all that this one does.
            let _dropped = std::mem::replace(&mut save, later).answer.send(Ok(()));
        }
        let keeper = Arc::clone(keeper);
        self.saving.spawn(async move {
            let state = save.state.to_vec();
            let written = keeper.write(|held| (held.upload, held.state) = (upload, state)).await;
            let saved = written.is_ok();
            let _dropped = save.answer.send(written);
            saved
        });
    }

    /// Nothing is written to the journal any more.
    async fn rest(&mut self) {
        self.waiting.clear();
        if let Some(mut beating) = self.beating.take() {
            beating.0.abort();
            let _ended = (&mut beating.0).await;
        }
        while let Some(saved) = self.saving.join_next().await {
            self.was_saved(saved);
        }
    }

    fn was_saved(&self, saved: Result<bool, JoinError>) {
        self.shared.saved.fetch_or(saved.unwrap_or(false), Ordering::Relaxed);
    }

    async fn send(&mut self, part: Part) {
        if *self.shared.store.stop.borrow() {
            return;
        }
        let id = match self.begin().await {
            Ok(id) => id,
            Err(error) => return self.shared.fail(error),
        };
        let shared = Arc::clone(&self.shared);
        let span =
            debug_span!("part", url = shared.store.shown(), index = part.index, bytes = part.bytes.len());
        let sent = async move {
            let Part { index, bytes, _zeros } = part;
            (index, shared.store.put_part(&id, index, bytes).await)
        };
        self.parts.spawn(sent.instrument(span));
    }

    async fn ended(&mut self, ended: Result<(u64, Result<Done>), JoinError>) {
        match ended {
            Ok((index, Ok(done))) => {
                self.done.insert(index, done);
                self.save();
                return;
            }
            Ok((_, Err(error))) => self.shared.fail(error),
            Err(error) => self.shared.fail(Error::internal(format!("the upload of a part ended: {error}"))),
        }
        if let Some(finish) = self.finishing.take() {
            self.refuse(finish, None).await;
        }
    }

    /// Ends a publishing that cannot be.
    async fn refuse(&mut self, finish: Finish, error: Option<Error>) {
        let error = error.unwrap_or_else(|| self.shared.why());
        self.discard().await;
        let _dropped = finish.answer.send(Err(error));
    }

    async fn publish(&mut self, finish: Finish) {
        // A dropped finish is a target that nobody wants any more.
        if *self.shared.store.stop.borrow() || finish.answer.is_closed() || self.state != State::Open {
            self.shared.stop();
            return self.refuse(finish, None).await;
        }
        let store = &self.shared.store;
        let published = match &self.id {
            Some(id) => {
                let parts: Vec<Done> = self.done.values().cloned().collect();
                let whole = self.done.keys().copied().eq(0..parts.len() as u64) && !parts.is_empty();
                if whole {
                    store.complete(id, &parts, finish.len).await
                } else {
                    Err(Error::internal(format!("{} parts with a gap", parts.len())).into())
                }
            }
            None => store.put(finish.last.as_ref().map(|part| part.bytes.clone()).unwrap_or_default()).await,
        };
        match published {
            Ok(published) => {
                self.state = State::Published;
                self.rest().await;
                if self.keeper.take().is_some() {
                    self.shared.store.remove_journal().await;
                }
                let _dropped = finish.answer.send(Ok(published));
            }
            Err(Unpublished { error, unknown }) => {
                self.unknown = unknown.then_some(finish.len);
                self.refuse(finish, Some(error)).await;
            }
        }
    }

    /// Takes everything back, unless it was published.
    async fn discard(&mut self) {
        if self.state != State::Open {
            return;
        }
        self.shared.stop();
        // Each ends by itself: cut, or with an answer to what has left already.
        let parts = !self.parts.is_empty();
        while self.parts.join_next().await.is_some() {}
        self.state = State::GivenUp;
        self.rest().await;
        let store = &self.shared.store;
        let stays = self.resume && self.shared.saved.load(Ordering::Relaxed) && self.unknown.is_none();
        if stays {
            tracing::debug!(url = store.shown(), "the upload stays, to be gone on with");
        } else if self.keeper.take().is_some() {
            store.remove_journal().await;
        }
        if let Some(id) = self.id.take().filter(|_| !stays) {
            if let Err(error) = store.abort(&id, parts).await {
                tracing::warn!(%error, "an upload stays behind");
            }
            if let Some(len) = self.unknown {
                let parts: Vec<Done> = self.done.values().cloned().collect();
                if let Ok(Some(_)) = store.published(&id, &parts, len).await {
                    self.state = State::Published;
                }
            }
        }
        if let Some(finish) = self.finishing.take() {
            let error = Error::new(ErrorKind::Cancelled, format!("{} was given up", store.shown()));
            let _dropped = finish.answer.send(Err(error));
        }
    }
}

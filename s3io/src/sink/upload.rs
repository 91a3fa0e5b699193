//! The task of a sink: uploads parts side by side, publishes them, or takes them back.
//!
//! It runs beside the sink and owns what is in the bucket, so that a call of the sink can be dropped at any point: what was
//! begun comes to an end that is known. It ends when the sink is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use diskferry_core::error::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::parts::{Part, Rooms};
use super::publish::{Published, Unpublished};
use super::store::{Done, Store};

/// What the sink asks of its task.
pub(super) enum Order {
    /// Begin the upload, to see whether that is allowed.
    Begin(oneshot::Sender<Result<()>>),
    Part(Part),
    Finish(Finish),
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

/// What the sink and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) rooms: Arc<Rooms>,
    failure: Mutex<Option<Error>>,
}

impl Shared {
    pub(super) fn new(store: Store, rooms: Rooms) -> Self {
        Self { store, rooms: Arc::new(rooms), failure: Mutex::new(None) }
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
}

impl Upload {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: None,
            parts: JoinSet::new(),
            done: BTreeMap::new(),
            finishing: None,
            state: State::Open,
            unknown: None,
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
        Ok(id)
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
        self.parts.spawn(async move {
            let Part { index, bytes, _zeros } = part;
            (index, shared.store.put_part(&id, index, bytes).await)
        });
    }

    async fn ended(&mut self, ended: Result<(u64, Result<Done>), JoinError>) {
        match ended {
            Ok((index, Ok(done))) => {
                self.done.insert(index, done);
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
        let store = &self.shared.store;
        if let Some(id) = self.id.take() {
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

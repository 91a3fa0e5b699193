//! Blocking system calls, away from the workers that carry sockets and timers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::{Error, ErrorKind, Result};

/// Tells blocking work that nobody waits for it any more.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// To be asked between two system calls.
    ///
    /// # Errors
    /// `cancelled` once the future of the work was dropped.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) {
            Err(Error::new(ErrorKind::Cancelled, "nobody waits for this work any more"))
        } else {
            Ok(())
        }
    }
}

/// Runs `work` on a thread for blocking calls.
///
/// Dropping the future takes work that did not begin out of the queue, and raises the [`Stop`] of work that did: what
/// remains is the one system call that it is in.
///
/// # Errors
/// Those of `work`; `cancelled` if the runtime shuts down.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> Result<T> {
    struct Owned<T>(JoinHandle<T>, Arc<AtomicBool>);

    impl<T> Drop for Owned<T> {
        fn drop(&mut self) {
            self.1.store(true, Ordering::Release);
            self.0.abort();
        }
    }

    let stop = Arc::new(AtomicBool::new(false));
    let seen = Stop(Arc::clone(&stop));
    let mut owned = Owned(spawn_blocking(move || work(&seen)), stop);
    match (&mut owned.0).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(shuts_down().caused_by(error)),
        Err(error) => Err(panicked().caused_by(error)),
    }
}

fn shuts_down() -> Error {
    Error::new(ErrorKind::Cancelled, "the runtime shuts down")
}

fn panicked() -> Error {
    Error::internal("a blocking call panicked")
}

/// Blocking work that is done one piece after the other, in the order in which it is asked for.
///
/// One thread does what waits, and goes on to the next piece without another being woken. For what the kernel does one at
/// a time anyway: threads that write to one file side by side spin for its lock, and win nothing.
#[derive(Default)]
pub(crate) struct SerialQueue {
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<(u64, Box<dyn FnOnce() + Send>)>,
    next: u64,
    /// A thread does the work, or is about to.
    running: bool,
}

impl std::fmt::Debug for SerialQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialQueue").field("waiting", &self.state().waiting.len()).finish_non_exhaustive()
    }
}

impl SerialQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in its turn. Dropping the future is as in [`blocking`].
    ///
    /// # Errors
    /// Those of `work`; `cancelled` if the runtime shuts down.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        struct Owned<'a>(&'a SerialQueue, u64, Arc<AtomicBool>);

        impl Drop for Owned<'_> {
            fn drop(&mut self) {
                self.2.store(true, Ordering::Release);
                let mut state = self.0.state();
                let place = state.waiting.iter().position(|(id, _)| *id == self.1);
                let work = place.and_then(|place| state.waiting.remove(place));
                drop(state);
                drop(work);
            }
        }

        let stop = Arc::new(AtomicBool::new(false));
        let seen = Stop(Arc::clone(&stop));
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move || {
            // Whoever waits for the answer knows that nothing is held any more, nor by a panic that unwinds.
            let done = catch_unwind(AssertUnwindSafe(|| work(&seen)));
            let _ = answer.send(done.unwrap_or_else(|_| Err(panicked())));
        });
        let (id, start) = {
            let mut state = self.state();
            let id = state.next;
            state.next += 1;
            state.waiting.push_back((id, work));
            (id, !std::mem::replace(&mut state.running, true))
        };
        let _owned = Owned(self, id, stop);
        if start {
            let mut worker = Worker { queue: Arc::clone(self), left: false };
            spawn_blocking(move || worker.work_off());
        }
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(shuts_down()),
        }
    }
}

/// The thread that does the work of a [`SerialQueue`]; where it never begins, nobody is left to wait for it.
struct Worker {
    queue: Arc<SerialQueue>,
    left: bool,
}

impl Worker {
    fn work_off(&mut self) {
        loop {
            let mut state = self.queue.state();
            let Some((_, work)) = state.waiting.pop_front() else {
                state.running = false;
                self.left = true;
                return;
            };
            drop(state);
            work();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.left {
            let mut state = self.queue.state();
            state.running = false;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            drop(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lane_does_one_thing_at_a_time_in_order() {
        let queue = Arc::new(SerialQueue::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let busy = Arc::new(AtomicBool::new(false));
        let work = (0..100).map(|i| {
            let (queue, seen, busy) = (Arc::clone(&queue), Arc::clone(&seen), Arc::clone(&busy));
            async move {
                let done = queue.run(move |_| {
                    assert!(!busy.swap(true, Ordering::SeqCst));
                    std::thread::yield_now();
                    seen.lock().unwrap().push(i);
                    busy.store(false, Ordering::SeqCst);
                    Ok(i)
                });
                assert_eq!(done.await.unwrap(), i);
            }
        });
        futures_util::future::join_all(work).await;
        assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_dropped_is_not_begun_and_what_follows_is_done() {
        let queue = Arc::new(SerialQueue::default());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(());
        let mut first = Box::pin(queue.run(move |stop| {
            wait.recv().unwrap();
            stop.check()
        }));
        let kept = Arc::clone(&held);
        let mut second = Box::pin(queue.run(move |_| {
            drop(kept);
            panic!("nobody waits for this");
            #[allow(unreachable_code)]
            Ok(())
        }));
        let moment = Duration::from_millis(5);
        assert!(tokio::time::timeout(moment, &mut first).await.is_err());
        assert!(tokio::time::timeout(moment, &mut second).await.is_err());
        drop(second);
        assert_eq!(Arc::strong_count(&held), 1, "it lets go of what it held");
        let third = queue.run(|_| Ok(3));
        drop(first);
        go.send(()).unwrap();
        assert_eq!(third.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_lane_goes_on_after_a_panic() {
        let queue = Arc::new(SerialQueue::default());
        let error = queue.run::<()>(|_| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(queue.run(|_| Ok(1)).await.unwrap(), 1);
    }

    #[test]
    fn nobody_waits_for_a_lane_whose_runtime_is_gone() {
        let queue = Arc::new(SerialQueue::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _inside = handle.enter();
        let waits = std::pin::pin!(queue.run(|_| Ok(())));
        let error = futures_util::FutureExt::now_or_never(waits).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}

//! Runs blocking system calls on threads apart from the workers that handle sockets and timers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::{Error, ErrorKind, Result};

/// Tells blocking work that its result is no longer needed.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Must be called between two system calls.
    ///
    /// # Errors
    /// `cancelled` if the future of the work was dropped.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) {
            Err(Error::new(ErrorKind::Cancelled, "the work was cancelled"))
        } else {
            Ok(())
        }
    }
}

/// Runs `work` on a thread for blocking calls.
///
/// Dropping the future removes work that has not begun from the queue, and raises the [`Stop`] of work that has. At
/// most the current system call then remains.
///
/// # Errors
/// Errors of `work`; `cancelled` if the runtime is shutting down.
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
    Error::new(ErrorKind::Cancelled, "the runtime is shutting down")
}

fn panicked() -> Error {
    Error::internal("a blocking call panicked")
}

/// Runs blocking work one piece at a time, in the order of submission.
///
/// One thread works through the queue and continues with the next piece without waking another. Meant for work that
/// the kernel serializes anyway: several threads that write to one file contend for its lock and gain nothing.
#[derive(Default)]
pub(crate) struct SerialQueue {
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<(u64, Box<dyn FnOnce() + Send>)>,
    next: u64,
    /// True if a thread is working, or is about to.
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

    /// Runs `work` when its turn comes. Dropping the future has the same effect as for [`blocking`].
    ///
    /// # Errors
    /// Errors of `work`; `cancelled` if the runtime is shutting down.
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
            // When the caller gets the result, nothing that `work` captured is held any more, even after a panic that
            // unwinds.
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

/// The thread that serves a [`SerialQueue`]. If it never starts, it is dropped, and every waiting caller gets an
/// error.
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
    async fn a_serial_queue_runs_one_piece_at_a_time_in_order() {
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
    async fn dropped_work_does_not_start_and_later_work_does() {
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
            panic!("this must not run");
            #[allow(unreachable_code)]
            Ok(())
        }));
        let moment = Duration::from_millis(5);
        assert!(tokio::time::timeout(moment, &mut first).await.is_err());
        assert!(tokio::time::timeout(moment, &mut second).await.is_err());
        drop(second);
        assert_eq!(Arc::strong_count(&held), 1, "captured values are dropped");
        let third = queue.run(|_| Ok(3));
        drop(first);
        go.send(()).unwrap();
        assert_eq!(third.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_serial_queue_continues_after_a_panic() {
        let queue = Arc::new(SerialQueue::default());
        let error = queue.run::<()>(|_| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(queue.run(|_| Ok(1)).await.unwrap(), 1);
    }

    #[test]
    fn callers_get_an_error_if_the_runtime_is_gone() {
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

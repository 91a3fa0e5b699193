//! The background work of a client's sinks: owned here, so that a sink which is dropped can still take back its upload,
//! and nothing is detached.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

/// Tasks of sinks, and how many of them end what was dropped. Dropping it ends them where they are.
#[derive(Debug)]
pub(crate) struct Works {
    tasks: Mutex<JoinSet<()>>,
    /// Sinks dropped, less tasks ended: a task that ended before its sink counts below zero until that is dropped.
    undoing: watch::Sender<isize>,
}

impl Default for Works {
    fn default() -> Self {
        Self { tasks: Mutex::default(), undoing: watch::Sender::new(0) }
    }
}

impl Works {
    /// Takes over the task of a sink, which ends once the sink is dropped. Needs a tokio runtime.
    pub(crate) fn take(&self, work: impl Future<Output = ()> + Send + 'static) {
        let ended = Ended(self.undoing.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _ended = ended;
            work.await;
        });
    }

    /// The sink of a task was dropped.
    pub(crate) fn dropped(&self) {
        self.undoing.send_modify(|undoing| *undoing += 1);
    }

    /// Waits for the tasks of all sinks that were dropped.
    pub(crate) async fn settle(&self) {
        let mut undoing = self.undoing.subscribe();
        // Its sender lives as long as this.
        let _closed = undoing.wait_for(|undoing| *undoing <= 0).await;
    }
}

/// Counts the end of a task, however it ends.
struct Ended(watch::Sender<isize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|undoing| *undoing -= 1);
    }
}

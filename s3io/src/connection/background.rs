//! Background tasks of a client's sinks. The client owns them, so that a dropped sink can still abort its upload and no
//! task is detached.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

/// One task for each sink. Dropping this stops all of them at once.
#[derive(Debug)]
pub(crate) struct BackgroundTasks {
    tasks: Mutex<JoinSet<()>>,
    /// Sinks dropped minus tasks ended. Negative while a task has ended before its sink was dropped.
    cleaning_up: watch::Sender<isize>,
}

impl Default for BackgroundTasks {
    fn default() -> Self {
        Self { tasks: Mutex::default(), cleaning_up: watch::Sender::new(0) }
    }
}

impl BackgroundTasks {
    /// Runs the task of a sink, which ends after the sink is dropped. Needs a tokio runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = Ended(self.cleaning_up.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _ended = ended;
            task.await;
        });
    }

    /// Notes that the sink of a task was dropped.
    pub(crate) fn sink_dropped(&self) {
        self.cleaning_up.send_modify(|count| *count += 1);
    }

    /// Waits for the tasks of all sinks that were dropped.
    pub(crate) async fn settle(&self) {
        let mut cleaning_up = self.cleaning_up.subscribe();
        // The sender lives as long as `self`.
        let _closed = cleaning_up.wait_for(|count| *count <= 0).await;
    }
}

/// Counts the end of a task, however it ends.
struct Ended(watch::Sender<isize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

//! Blocking system calls, away from the workers that carry sockets and timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
/// Those of `work`; `cancelled` where the runtime shuts down.
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
        Err(error) if error.is_cancelled() => {
            Err(Error::new(ErrorKind::Cancelled, "the runtime shuts down").caused_by(error))
        }
        Err(error) => Err(Error::internal("a blocking call panicked").caused_by(error)),
    }
}

//! State that all commands share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diskferry_core::{Budget, CpuPool, Error, ErrorKind, Resources, Result, Warning};
use tokio_util::sync::CancellationToken;

use crate::args::Common;
use crate::render;

/// The general options, and the token that a signal cancels.
pub(crate) struct Context {
    pub(crate) common: Common,
    pub(crate) cancel: CancellationToken,
}

impl Context {
    /// Awaits `work`, or fails with `cancelled` if the user interrupts the run.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.cancel.run_until_cancelled(work).await {
            Some(done) => done,
            None => Err(Error::new(ErrorKind::Cancelled, "the run was interrupted before it was complete")),
        }
    }

    /// Awaits `work`, which handles cancellation itself. After an interrupt, waits at most the grace period for it.
    pub(crate) async fn stopping<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        const GRACE: Duration = Duration::from_millis(700);
        let late = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = late => Err(Error::new(ErrorKind::Cancelled, "the run was interrupted, and the destination did not respond in time")
                .hint("check whether DST exists; the next run with the same DST aborts an unfinished upload")),
        }
    }

    /// Returns the memory budget, CPU workers and connections that the options set.
    pub(crate) fn resources(&self) -> Result<Resources> {
        Ok(Resources::default()
            .budget(Some(Budget::new(self.common.memory)))
            .pool(Some(Arc::new(CpuPool::new(self.common.threads.unwrap_or(0))?)))
            .connections(self.common.connections.map(std::num::NonZero::get)))
    }

    /// Prints warnings on standard error, unless they are part of a JSON result.
    pub(crate) fn warn(&self, warnings: &[Warning]) {
        if !self.common.json && !self.common.quiet {
            render::to_stderr(&render::warnings(warnings));
        }
    }
}

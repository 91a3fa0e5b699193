//! What all commands of a run share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diskferry_core::{Budget, CpuPool, Error, ErrorKind, Resources, Result, Warning};
use tokio_util::sync::CancellationToken;

use crate::args::Common;
use crate::render;

/// The options of the run, and the token that a signal cancels.
pub(crate) struct Context {
    pub(crate) common: Common,
    pub(crate) cancel: CancellationToken,
}

impl Context {
    /// Awaits `work`, or ends with `cancelled` when the user asks for it.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.cancel.run_until_cancelled(work).await {
            Some(done) => done,
            None => Err(Error::new(ErrorKind::Cancelled, "stopped before it was done")),
        }
    }

    /// Awaits `work`, which stops by itself when the user asks for it, but no longer than is taken for stopping.
    pub(crate) async fn stopping<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        const GRACE: Duration = Duration::from_millis(700);
        let late = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = late => Err(Error::new(ErrorKind::Cancelled, "stopped, and the destination did not answer in time")
                .hint("look whether DST is there; an unfinished upload of it is ended by the next run to it")),
        }
    }

    /// Budget, CPU workers and connections, as the options say.
    pub(crate) fn resources(&self) -> Result<Resources> {
        Ok(Resources::default()
            .budget(Some(Budget::new(self.common.memory)))
            .pool(Some(Arc::new(CpuPool::new(self.common.threads.unwrap_or(0))?)))
            .connections(self.common.connections.map(std::num::NonZero::get)))
    }

    /// Tells warnings on standard error, where they are no part of the result.
    pub(crate) fn warn(&self, warnings: &[Warning]) {
        if !self.common.json && !self.common.quiet {
            render::to_stderr(&render::warnings(warnings));
        }
    }
}

//! Signals: stop in order, and never die of a full quota.

use std::time::Duration;

use diskferry_core::{Error, Result};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Cancels `token` at SIGINT or SIGTERM. Another one some seconds later ends the process on the spot, for when undoing
/// hangs. A write beyond the file size limit is an error that has a code and no SIGXFSZ that kills.
///
/// # Errors
/// `internal` where the system takes no handler.
pub(crate) fn listen(token: CancellationToken) -> Result<()> {
    /// An impatient second keystroke must not keep a partial file.
    const PATIENCE: Duration = Duration::from_secs(2);
    let install = |kind| signal(kind).map_err(|error| Error::internal("no signal handler").caused_by(error));
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut terminate = install(SignalKind::terminate())?;
    // Installing a handler is all that it takes: the signal does nothing then, and the write fails with EFBIG.
    let mut too_large = install(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => {}
                Some(()) = terminate.recv() => {}
                Some(()) = too_large.recv() => continue,
            }
            match first {
                None => {
                    first = Some(Instant::now());
                    token.cancel();
                }
                Some(first) if first.elapsed() >= PATIENCE => std::process::exit(130),
                Some(_) => {}
            }
        }
    });
    Ok(())
}

//! Signal handling: orderly shutdown, and no death by SIGXFSZ.

use std::time::Duration;

use diskferry_core::{Error, Result};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Cancels `token` on SIGINT or SIGTERM. A second signal more than two seconds later exits immediately, in case the
/// cleanup hangs. With SIGXFSZ handled, a write beyond the file size limit fails with an error and does not kill the process.
///
/// # Errors
/// `internal` if a handler cannot be installed.
pub(crate) fn listen(token: CancellationToken) -> Result<()> {
    /// A quick second Ctrl-C must not skip the cleanup and leave a partial file.
    const PATIENCE: Duration = Duration::from_secs(2);
    let install = |kind| {
        signal(kind).map_err(|error| Error::internal("a signal handler cannot be installed").caused_by(error))
    };
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut terminate = install(SignalKind::terminate())?;
    // Installing a handler is enough: the signal is then ignored and the write fails with EFBIG.
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

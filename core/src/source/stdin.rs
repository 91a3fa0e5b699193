//! Standard input as a stream.
//!
//! A blocking read of a pipe cannot be cancelled, and a runtime that waits for its threads would hang. The thread
//! therefore waits in `poll` for input *or* for a bell, and reads only what is available:
//!
//! ```text
//! next() ──spawns──▶ poll(input, bell) ──ready──▶ read ──▶ bytes, held until requested
//! drop   ──rings───────────────▲
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::{Error, ErrorKind, Result};
use crate::source::byte_stream::ByteStream;
use crate::source::local_file::{failed, failed_io};
use crate::source::source::BoxFuture;

/// Standard input, or another descriptor that is read from front to back: a pipe, a socket, a file.
///
/// A dropped [`next`](ByteStream::next) loses no byte. Dropping the stream ends the thread that waits for input. The
/// methods need a tokio runtime.
#[derive(Debug)]
pub struct StandardInput {
    url: String,
    fds: Arc<Fds>,
    running: Option<JoinHandle<Result<Bytes>>>,
    left: Bytes,
    /// The number of bytes that have arrived.
    came: u64,
    stall: Option<Duration>,
}

/// How long to wait for input.
#[derive(Clone, Copy)]
enum Wait {
    No,
    /// For the first byte: at most for this time, or without a limit.
    First(Option<Duration>),
}

#[derive(Debug)]
struct Fds {
    input: OwnedFd,
    bell: OwnedFd,
}

impl StandardInput {
    /// The process's standard input, shown as `-`.
    ///
    /// # Errors
    /// `source_unavailable` if it is closed.
    pub fn new() -> Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned();
        Self::over(input.map_err(|error| failed_io("opening", "standard input", &error))?, "-")
    }

    /// Another descriptor, shown as `url`. It is read from its current position.
    ///
    /// # Errors
    /// `source_unavailable` if the system has no descriptor left.
    pub fn over(input: OwnedFd, url: &str) -> Result<Self> {
        // A pipe holds 64 KiB by default, and each read wakes two processes: request more, and ignore a refusal.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, 1 << 20);
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("waiting for", url, errno))?;
        let fds = Arc::new(Fds { input, bell });
        Ok(Self { url: url.to_owned(), fds, running: None, left: Bytes::new(), came: 0, stall: None })
    }

    /// Fails with `source_unavailable` if no byte arrives for this time after a request. By default, and with `None`,
    /// it waits without a limit.
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.stall = timeout;
        self
    }
}

impl ByteStream for StandardInput {
    fn url(&self) -> &str {
        &self.url
    }

    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            if self.left.is_empty() && most > 0 {
                let running = self.running.get_or_insert_with(|| {
                    let (fds, url, came) = (Arc::clone(&self.fds), self.url.clone(), self.came);
                    let stall = self.stall;
                    spawn_blocking(move || match fds.read(&url, most, stall)? {
                        Some(bytes) => Ok(bytes),
                        None => Err(silent(&url, came, stall)),
                    })
                });
                let joined = running.await;
                self.running = None;
                self.left = joined.map_err(|error| {
                    let kind = if error.is_cancelled() { ErrorKind::Cancelled } else { ErrorKind::Internal };
                    Error::new(kind, format!("reading {} was cancelled", self.url)).caused_by(error)
                })??;
                self.came += self.left.len() as u64;
            }
            Ok(self.left.split_to(most.min(self.left.len())))
        })
    }
}

fn silent(url: &str, came: u64, stall: Option<Duration>) -> Error {
    let during = stall.map(|stall| format!(", for {} seconds", stall.as_secs_f64()));
    let message = format!("{url} delivered nothing after {came} bytes{}", during.unwrap_or_default());
    Error::new(ErrorKind::SourceUnavailable, message)
}

impl Drop for StandardInput {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            // Cannot fail: the counter is far from full.
            let _ = rustix::io::write(&self.fds.bell, &1u64.to_ne_bytes());
        }
    }
}

impl Fds {
    /// Up to `most` bytes: all that are available together with the first one. `None` if none arrived within `stall`.
    fn read(&self, url: &str, most: usize, stall: Option<Duration>) -> Result<Option<Bytes>> {
        /// The most bytes in one answer, whatever is requested.
        const LONGEST: usize = 4 << 20;
        let most = most.min(LONGEST);
        let mut buffer = Vec::with_capacity(most);
        while buffer.len() < most {
            let wait = if buffer.is_empty() { Wait::First(stall) } else { Wait::No };
            if !self.ready(url, wait)? {
                if buffer.is_empty() {
                    return Ok(None);
                }
                break;
            }
            match rustix::io::read(&self.input, spare_capacity(&mut buffer)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                // The bytes before are returned first; the failure recurs at the next read.
                Err(_) if !buffer.is_empty() => break,
                Err(errno) => return Err(failed("reading", url, errno)),
            }
        }
        // A few bytes must not hold the memory of a large buffer.
        if buffer.len() < most / 2 {
            buffer.shrink_to_fit();
        }
        Ok(Some(Bytes::from(buffer)))
    }

    /// Waits for input or its end. True if there is either.
    fn ready(&self, url: &str, wait: Wait) -> Result<bool> {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        /// A process that was stopped for a while could not observe input: that costs it one of these ticks.
        const TICKS: u32 = 8;
        let (timeout, mut ticks) = match wait {
            Wait::No => (Some(AT_ONCE), 1),
            Wait::First(None) => (None, 1),
            Wait::First(Some(stall)) => {
                let tick = (stall / TICKS).max(Duration::from_millis(1));
                (Some(Timespec::try_from(tick).unwrap_or(AT_ONCE)), TICKS)
            }
        };
        loop {
            let mut fds = [PollFd::new(&self.input, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(0) if ticks <= 1 => return Ok(false),
                Ok(0) => {
                    ticks -= 1;
                    continue;
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("waiting for", url, errno)),
            }
            let [input, bell] = fds;
            if !bell.revents().is_empty() {
                return Err(Error::new(ErrorKind::Cancelled, format!("reading {url} was cancelled")));
            }
            if input.revents().contains(PollFlags::NVAL) {
                return Err(failed("reading", url, Errno::BADF));
            }
            return Ok(!input.revents().is_empty());
        }
    }
}

//! Standard output as a target. It is written front to back, and cannot be undone.
//!
//! A blocking write to a pipe cannot be cancelled, and a runtime that waits for its threads would hang if the reader
//! stops reading. The thread therefore waits in `poll` for space *or* for a bell, and writes only as much as there is
//! space for:
//!
//! ```text
//! write() ──spawns──▶ poll(output, bell) ──ready──▶ write ──▶ again, until all is written
//! drop    ──rings───────────────▲
//! ```

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{Gather, MOST_ZEROS, Stop, blocking, zeros};
use crate::sink::place::{failed, failed_io};
use crate::sink::sink::Sink;
use crate::sink::types::{ReadBack, Receipt, SinkCapabilities, SinkHint, WriteOrder};
use crate::source::BoxFuture;

/// Standard output, or another descriptor that is written from front to back: a pipe, a socket, a file.
///
/// A file is written from its current position, and is not synced. Written data cannot be taken back: an abort just
/// ends the output. A dropped write leaves the target torn at an unknown position, so it aborts the sink. The methods
/// need a tokio runtime.
#[derive(Debug)]
pub struct StdoutSink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: String,
    output: OwnedFd,
    /// Rung once, when the sink is aborted.
    bell: OwnedFd,
    /// The most bytes in one call that is guaranteed not to block after `poll` reports space; `None` if every call is.
    most: Option<usize>,
    /// The bytes written, which is also the offset of the next write.
    written: AtomicU64,
    /// Held while writing.
    turn: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Finished,
    GivenUp,
}

impl StdoutSink {
    /// The process's standard output, shown as `-`.
    ///
    /// # Errors
    /// `destination_unsuitable` if it is a terminal; `destination_forbidden` if it is not open for writing;
    /// `destination_unavailable` if it is closed.
    pub fn new() -> Result<Self> {
        let output = io::stdout().as_fd().try_clone_to_owned();
        Self::over(output.map_err(|error| failed_io("opening", "standard output", &error))?, "-")
    }

    /// Another descriptor, shown as `url`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn over(output: OwnedFd, url: &str) -> Result<Self> {
        if output.is_terminal() {
            let message = format!("{url} is a terminal, and an image is binary data");
            return Err(Error::new(ErrorKind::DestinationUnsuitable, message)
                .hint("redirect standard output to a file, or pipe it to another program"));
        }
        let flags = rustix::fs::fcntl_getfl(&output).map_err(|errno| failed("looking at", url, errno))?;
        if flags & OFlags::ACCMODE == OFlags::RDONLY {
            let message = format!("{url} is not open for writing");
            return Err(Error::new(ErrorKind::DestinationForbidden, message));
        }
        let stat = rustix::fs::fstat(&output).map_err(|errno| failed("looking at", url, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (output, flags) = match kind {
            FileType::Fifo if !flags.contains(OFlags::NONBLOCK) => own(output, flags),
            _ => (output, flags),
        };
        if kind == FileType::Fifo {
            // A pipe holds 64 KiB by default, and each write wakes two processes: request more, and ignore a refusal.
            let _ = rustix::pipe::fcntl_setpipe_size(&output, 1 << 20);
        }
        let waits = matches!(kind, FileType::Fifo | FileType::Socket) && !flags.contains(OFlags::NONBLOCK);
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("waiting for", url, errno))?;
        let inner = Inner {
            url: url.to_owned(),
            output,
            bell,
            most: waits.then_some(rustix::pipe::PIPE_BUF),
            written: AtomicU64::new(0),
            turn: Mutex::new(()),
            state: Mutex::new(State::Open),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work`, and aborts the sink if the future is dropped before it ends.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &Stop) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        struct Torn<'a>(&'a Inner, bool);

        impl Drop for Torn<'_> {
            fn drop(&mut self) {
                if self.1 {
                    self.0.give_up();
                }
            }
        }

        Box::pin(async move {
            let mut torn = Torn(&self.inner, true);
            let inner = Arc::clone(&self.inner);
            let done = blocking(move |stop| work(&inner, stop)).await;
            torn.1 = false;
            done
        })
    }
}

/// Opens a pipe again in non-blocking mode. The flag is then seen by this process alone; set on the original descriptor,
/// it would affect everyone who shares it. If that fails, the pipe is written in small pieces.
fn own(output: OwnedFd, flags: OFlags) -> (OwnedFd, OFlags) {
    let path = format!("/proc/self/fd/{}", output.as_raw_fd());
    let wanted = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, wanted, Mode::empty()) {
        Ok(own) => (own, wanted),
        Err(_) => (output, flags),
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<()> {
        match *self.state() {
            State::Open => Ok(()),
            State::Finished => Err(Error::internal(format!("{} is already finished", self.url))),
            State::GivenUp => Err(self.given_up()),
        }
    }

    fn given_up(&self) -> Error {
        Error::new(ErrorKind::Cancelled, format!("writing to {} was aborted", self.url))
    }

    /// Aborts if it is not finished. Returns false if it is.
    fn give_up(&self) -> bool {
        let mut state = self.state();
        if *state == State::Open {
            *state = State::GivenUp;
            // Cannot fail: the counter is far from full.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
        *state != State::Finished
    }

    /// Checks that a write at `at` is the next one, and the only one.
    fn turn(&self, at: TargetOffset) -> Result<MutexGuard<'_, ()>> {
        self.open()?;
        let turn = self
            .turn
            .try_lock()
            .map_err(|_| Error::internal(format!("{} accepts one write at a time, and got two", self.url)))?;
        let written = self.written.load(Ordering::Relaxed);
        if at.get() != written {
            let message = format!("{} was written up to {written} and cannot continue at {at}", self.url);
            return Err(Error::internal(message));
        }
        Ok(turn)
    }

    fn write(&self, at: TargetOffset, pieces: &[Bytes], stop: &Stop) -> Result<()> {
        let _turn = self.turn(at)?;
        self.put(pieces, stop)
    }

    fn zero(&self, range: TargetRange, stop: &Stop) -> Result<()> {
        let _turn = self.turn(range.start())?;
        let mut left = range.len();
        while left > 0 {
            let len = left.min(MOST_ZEROS);
            self.put(&zeros(len), stop)?;
            left -= len;
        }
        Ok(())
    }

    fn put(&self, pieces: &[Bytes], stop: &Stop) -> Result<()> {
        let mut rest = Gather::new(pieces);
        while !rest.is_empty() {
            stop.check()?;
            self.poll(None)?;
            match rustix::io::writev(&self.output, &rest.slices(self.most)) {
                // A descriptor that accepts nothing and does not fail would cause an endless loop.
                Ok(0) => return Err(failed("writing to", &self.url, Errno::IO)),
                Ok(wrote) => {
                    self.written.fetch_add(wrote as u64, Ordering::Relaxed);
                    rest.advance(wrote);
                }
                // A pipe with less than a page of space accepts nothing: `poll` reports when there is more.
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(self.reader_gone()),
                Err(errno) => return Err(failed("writing to", &self.url, errno)),
            }
        }
        Ok(())
    }

    /// Waits at most `timeout` until there is space, or until writing would fail. True if the reader is gone.
    fn poll(&self, timeout: Option<&Timespec>) -> Result<bool> {
        loop {
            let mut fds = [PollFd::new(&self.output, PollFlags::OUT), PollFd::new(&self.bell, PollFlags::IN)];
            match rustix::event::poll(&mut fds, timeout) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("waiting for", &self.url, errno)),
            }
            let [output, bell] = fds;
            if !bell.revents().is_empty() {
                return Err(self.given_up());
            }
            if output.revents().contains(PollFlags::NVAL) {
                return Err(failed("writing to", &self.url, Errno::BADF));
            }
            return Ok(output.revents().contains(PollFlags::ERR));
        }
    }

    fn reader_gone(&self) -> Error {
        let whose = if self.url == "-" { "standard output" } else { &self.url };
        let written = self.written.load(Ordering::Relaxed);
        let message = format!("the reader of {whose} closed it after {written} bytes");
        Error::new(ErrorKind::DestinationUnavailable, message).retry(false)
    }

    fn finish(&self, len: u64) -> Result<Receipt> {
        /// Only checks the current state.
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let written = self.written.load(Ordering::Relaxed);
        drop(self.turn(TargetOffset::new(len))?);
        // Data that is still in a pipe is lost with its reader. A reader that exits later cannot be noticed.
        if self.poll(Some(&AT_ONCE))? {
            return Err(self.reader_gone());
        }
        let mut state = self.state();
        if *state == State::GivenUp {
            return Err(self.given_up());
        }
        *state = State::Finished;
        Ok(Receipt { url: self.url.clone(), bytes: len, written, etag: None, warnings: Vec::new() })
    }
}

impl Drop for StdoutSink {
    fn drop(&mut self) {
        self.inner.give_up();
    }
}

impl Sink for StdoutSink {
    fn url(&self) -> &str {
        &self.inner.url
    }

    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            order: WriteOrder::Sequential,
            sparse: false,
            buffers: false,
            in_flight: 1,
            read_back: ReadBack::Never,
        }
    }

    fn written(&self) -> Option<u64> {
        Some(self.inner.written.load(Ordering::Relaxed))
    }

    fn prepare(&self, _expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.inner.open() })
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        self.run(move |inner, stop| inner.write(at, &pieces, stop))
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        self.run(move |inner, stop| inner.zero(range, stop))
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move { self.inner.finish(len) })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.inner.give_up() })
    }
}

//! Reads and writes of local files with io_uring.
//!
//! ```text
//! future ── request ──► queue ── eventfd ──► thread ── submissions ──► kernel
//!   ▲                                          │ ▲                       │
//!   └──────────── oneshot: buffer, length ─────┘ └────── completions ────┘
//! ```
//!
//! One thread per process owns the ring. It starts with the first file that is opened with
//! [`FileIo::Ring`](crate::FileIo::Ring), sleeps in the kernel while there are no requests, and ends with the last
//! such file. Memory that the kernel reads or writes (buffers, lists of slices) and the open file belong to that
//! thread until the kernel completes the request, whether or not a caller still waits. Dropping a future removes a
//! request that has not begun from the queue, and asks the kernel to cancel one that has.
//!
//! If the kernel does not complete a request, the plain calls continue it from where it stopped. They report all
//! errors, so both ways have the same errors. Only if the ring itself breaks, requests under way fail as `internal`:
//! the kernel may still write to their memory, so it cannot be returned.

mod thread;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use rustix::event::EventfdFlags;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::local::moved::Moved;
use crate::memory::Buffer;

/// The ring of this process; `None` if the kernel does not provide one. Starts it if necessary, which briefly waits
/// for the kernel.
pub(super) fn shared_ring() -> Option<Arc<Ring>> {
    shared(&SHARED, || Ring::start(thread::set_up))
}

static SHARED: Mutex<Weak<Ring>> = Mutex::new(Weak::new());

/// The existing ring, or a new one from `start`.
fn shared(place: &Mutex<Weak<Ring>>, start: impl FnOnce() -> io::Result<Ring>) -> Option<Arc<Ring>> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ring) = place.upgrade().filter(|ring| !ring.shared.queue().closed) {
        return Some(ring);
    }
    match start() {
        Ok(ring) => {
            let ring = Arc::new(ring);
            *place = Arc::downgrade(&ring);
            Some(ring)
        }
        Err(error) => {
            tracing::debug!(%error, "io_uring is not available: local files use plain system calls");
            None
        }
    }
}

/// The submitting side of the ring. When it is dropped, the thread ends after completing the requests under way.
#[derive(Debug)]
pub(crate) struct Ring {
    shared: Arc<Shared>,
    /// Not joined on drop: a slow disk must not block the caller.
    _thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the thread.
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, Request)>,
    /// Requests whose callers are gone.
    cancelled: Vec<u64>,
    next: u64,
    /// True if no more requests are accepted.
    closed: bool,
}

#[derive(Debug)]
struct Request {
    file: Arc<File>,
    /// Offset in the file in bytes.
    at: u64,
    what: What,
    answer: oneshot::Sender<Moved<What>>,
    /// Set when the caller is gone.
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
enum What {
    Read(Buffer),
    Write(Vec<Bytes>),
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Can fail only if the counter is full; then the thread is already being woken.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.bell, &1_u64.to_ne_bytes()));
    }
}

impl Ring {
    /// Starts a thread with the ring from `set_up`.
    fn start(set_up: impl FnOnce() -> io::Result<io_uring::IoUring>) -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { queue: Mutex::default(), bell });
        let uring = set_up()?;
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("diskferry-ring".to_owned())
            .spawn(move || thread::run(uring, &seen))?;
        Ok(Self { shared, _thread: thread })
    }

    /// Fills `buffer` from offset `at`, up to the end of the file.
    ///
    /// # Errors
    /// `internal` if the ring broke.
    pub(crate) async fn read(&self, file: &Arc<File>, at: u64, buffer: Buffer) -> Result<Moved<Buffer>> {
        let Moved { data, done } = self.ask(file, at, What::Read(buffer)).await?;
        match data {
            What::Read(data) => Ok(Moved { data, done }),
            What::Write(_) => Err(broke()),
        }
    }

    /// Writes `pieces`, one after the other, at `at`.
    ///
    /// # Errors
    /// `internal` if the ring broke.
    pub(crate) async fn write(
        &self,
        file: &Arc<File>,
        at: u64,
        pieces: Vec<Bytes>,
    ) -> Result<Moved<Vec<Bytes>>> {
        let Moved { data, done } = self.ask(file, at, What::Write(pieces)).await?;
        match data {
            What::Write(data) => Ok(Moved { data, done }),
            What::Read(_) => Err(broke()),
        }
    }

    async fn ask(&self, file: &Arc<File>, at: u64, what: What) -> Result<Moved<What>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (answer, answered) = oneshot::channel();
        let request = Request { file: Arc::clone(file), at, what, answer, stop: Arc::clone(&stop) };
        let id = {
            let mut queue = self.shared.queue();
            if queue.closed {
                // The ring broke. The plain call performs the request.
                return Ok(Moved { data: request.what, done: 0 });
            }
            let id = queue.next;
            queue.next += 1;
            queue.waiting.push_back((id, request));
            id
        };
        let mut asked = Asked { shared: &self.shared, id, stop: Some(stop) };
        self.shared.wake();
        let moved = answered.await;
        asked.stop = None;
        moved.map_err(|_| broke())
    }
}

fn broke() -> Error {
    Error::internal("the io_uring of this process failed")
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake();
    }
}

/// Cancels a request when its future is dropped.
struct Asked<'a> {
    shared: &'a Shared,
    id: u64,
    /// `None` after the request is complete.
    stop: Option<Arc<AtomicBool>>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(stop) = &self.stop else { return };
        stop.store(true, Ordering::Release);
        let mut queue = self.shared.queue();
        let place = queue.waiting.iter().position(|(id, _)| *id == self.id);
        let request = place.and_then(|place| queue.waiting.remove(place));
        if request.is_none() {
            queue.cancelled.push(self.id);
        }
        drop(queue);
        if request.is_none() {
            self.shared.wake();
        }
    }
}

#[cfg(test)]
mod tests;

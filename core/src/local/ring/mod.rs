//! Reads and writes of local files by io_uring.
//!
//! ```text
//! future ── request ──► queue ── eventfd ──► thread ── submissions ──► kernel
//!   ▲                                          │ ▲                       │
//!   └──────────── oneshot: buffer, length ─────┘ └────── completions ────┘
//! ```
//!
//! One thread a process owns the ring. It begins with the first file that is opened with [`FileIo::Ring`](crate::FileIo::Ring), sleeps in the
//! kernel while nothing is asked for, and ends with the last of them. What the kernel reads from and writes to
//! (buffers, lists of slices, the open file) belongs to that thread until the kernel says that it is done with
//! it, whoever waits: dropping a future takes a request that did not begin out of the queue, and asks the kernel to
//! cancel one that did.
//!
//! A request that the kernel does not bring to its end is continued by the plain calls from where it stopped. So these
//! alone say what went wrong, and both ways have the same errors. Only where the ring itself breaks, what is under way fails as
//! `internal`: what the kernel may still write to is in nobody's hands.

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

/// The ring of this process; none if the kernel gives none. Starts it if need be, which waits for the kernel for a moment.
pub(super) fn shared_ring() -> Option<Arc<Ring>> {
    shared(&SHARED, || Ring::start(thread::set_up))
}

static SHARED: Mutex<Weak<Ring>> = Mutex::new(Weak::new());

/// The ring that is there, or the one that `start` gives.
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
            tracing::debug!(%error, "no io_uring here: local files are read and written by plain calls");
            None
        }
    }
}

/// The ring's end that asks. The thread ends when it is dropped, after what is under way.
#[derive(Debug)]
pub(crate) struct Ring {
    shared: Arc<Shared>,
    /// Not waited for when dropped: a slow disk must not hold who drops it.
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
    /// Nobody waits for these any more.
    cancelled: Vec<u64>,
    next: u64,
    /// Nothing more is taken.
    closed: bool,
}

#[derive(Debug)]
struct Request {
    file: Arc<File>,
    /// Offset in the file in bytes.
    at: u64,
    what: What,
    answer: oneshot::Sender<Moved<What>>,
    /// Raised when nobody waits for it any more.
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
        // It fails only where it has rung 2⁶⁴ times unheard: then it rings.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.bell, &1_u64.to_ne_bytes()));
    }
}

impl Ring {
    /// Begins a thread with the ring of `set_up`.
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

    /// Fills `buffer` from `at` on, up to the end of the file.
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
                // It broke. What is asked for is done by the plain call.
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
    Error::internal("the io_uring of this process broke")
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake();
    }
}

/// Takes a request back when its future is dropped.
struct Asked<'a> {
    shared: &'a Shared,
    id: u64,
    /// None once it is answered.
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

//! The thread that owns the ring, and everything that was submitted to the kernel.
//!
//! The only unsafe code of the ring is the submission of addresses in [`Uring::push`]. It relies on [`Flights`],
//! which releases nothing that the kernel still uses.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use super::{Request, Shared, What};
use crate::local::gather::Gather;
use crate::local::moved::Moved;

/// The most requests in the kernel at once; the others wait. Sources and sinks have a handful each.
const MOST: u32 = 64;

/// The most bytes in one read; the kernel accepts less than 2³¹.
const LONGEST: u32 = 1 << 30;

/// Completions that belong to no request. Requests are numbered from 0.
const BELL: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// Creates a ring that supports all operations used here.
pub(super) fn set_up() -> io::Result<IoUring> {
    let uring = IoUring::new(MOST)?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    admit(uring, |code| probe.is_supported(code))
}

/// Refuses a kernel that lacks an operation.
pub(super) fn admit(uring: IoUring, supported: impl Fn(u8) -> bool) -> io::Result<IoUring> {
    let codes = [opcode::Read::CODE, opcode::Writev::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];
    if !uring.params().is_feature_nodrop() || !codes.into_iter().all(supported) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring lacks an operation"));
    }
    Ok(uring)
}

/// A slice in the form that the kernel reads: `struct iovec`.
#[repr(C)]
struct Slice {
    start: *const u8,
    len: usize,
}

/// A request that was submitted to the kernel.
struct Flight {
    request: Request,
    done: usize,
    /// The slices that the kernel writes from.
    slices: Vec<Slice>,
}

/// Everything that was submitted to the kernel, by request number.
///
/// If the thread unwinds, its content is leaked: the kernel may still write to it.
struct Flights(HashMap<u64, Flight>);

impl Drop for Flights {
    fn drop(&mut self) {
        for (_, flight) in self.0.drain() {
            let Request { file, what, answer, .. } = flight.request;
            std::mem::forget((file, what, flight.slices));
            // The callers get an error.
            drop(answer);
        }
    }
}

struct Uring {
    uring: IoUring,
    flights: Flights,
    /// Entries that did not fit into the submission queue yet.
    outgoing: VecDeque<Entry>,
}

impl Flight {
    fn len(&self) -> usize {
        match &self.request.what {
            What::Read(buffer) => buffer.len(),
            What::Write(pieces) => pieces.iter().map(bytes::Bytes::len).sum(),
        }
    }

    /// The submission entry for the part that is not done.
    fn entry(&mut self) -> Entry {
        let fd = types::Fd(self.request.file.as_raw_fd());
        // The kernel transferred these bytes, so their end fits.
        let at = self.request.at + self.done as u64;
        match &mut self.request.what {
            What::Read(buffer) => {
                let rest = buffer.get_mut(self.done..).unwrap_or_default();
                let len = u32::try_from(rest.len()).map_or(LONGEST, |len| len.min(LONGEST));
                opcode::Read::new(fd, rest.as_mut_ptr(), len).offset(at).build()
            }
            What::Write(pieces) => {
                let mut rest = Gather::new(pieces);
                rest.advance(self.done);
                let slices = rest.slices(None);
                self.slices.clear();
                self.slices
                    .extend(slices.iter().map(|slice| Slice { start: slice.as_ptr(), len: slice.len() }));
                // At most `IOV_MAX`, which is 1024.
                let count = self.slices.len() as u32;
                opcode::Writev::new(fd, self.slices.as_ptr().cast(), count).offset(at).build()
            }
        }
    }
}

impl Uring {
    /// Submits as many entries as fit.
    #[allow(unsafe_code)]
    fn push(&mut self) {
        let mut room = self.uring.submission();
        while let Some(entry) = self.outgoing.pop_front() {
            // SAFETY: the addresses and the descriptor of an entry must be good until its completion. Entries are made by
            // `Flight::entry`, of memory on the heap that the flight's buffer, pieces and list of slices own and of the file
            // that it keeps open, and by `ring_bell` and `cancel`, which name no memory (the bell is kept open by
            // `Shared`, which outlives the ring). A flight is put into `flights` before its entry is made, nothing in it
            // is touched or moved on the heap meanwhile, and it is taken out in `land` alone, which is called with its
            // completion. If that never comes `Flights` leaks it. The buffer of a read is in no other hands: it was
            // given away by value.
            if unsafe { room.push(&entry) }.is_err() {
                self.outgoing.push_front(entry);
                break;
            }
        }
    }

    fn begin(&mut self, id: u64, request: Request) {
        let flight = Flight { request, done: 0, slices: Vec::new() };
        if flight.len() == 0 {
            return answer(flight);
        }
        let flight = self.flights.0.entry(id).or_insert(flight);
        let entry = flight.entry().user_data(id);
        self.outgoing.push_back(entry);
    }

    fn cancel(&mut self, id: u64) {
        if self.flights.0.contains_key(&id) {
            self.outgoing.push_back(opcode::AsyncCancel::new(id).build().user_data(CANCEL));
        }
    }

    fn ring_bell(&mut self, shared: &Shared) {
        /// `POLLIN`, in the width that the kernel takes here.
        const READABLE: u32 = 1;
        let entry = opcode::PollAdd::new(types::Fd(shared.bell.as_raw_fd()), READABLE);
        self.outgoing.push_back(entry.build().user_data(BELL));
    }

    /// Handles a completion. The request continues if a part is missing and a caller still waits.
    fn land(&mut self, id: u64, result: i32) {
        let Some(mut flight) = self.flights.0.remove(&id) else { return };
        // A negative result is an error.
        let moved = usize::try_from(result).unwrap_or(0);
        debug_assert!(
            moved <= flight.len() - flight.done,
            "the kernel cannot transfer more than was submitted"
        );
        flight.done = (flight.done + moved).min(flight.len());
        let again = moved > 0 || result == -Errno::INTR.raw_os_error();
        if !again || flight.done == flight.len() || flight.request.stop.load(Ordering::Acquire) {
            return answer(flight);
        }
        let flight = self.flights.0.entry(id).or_insert(flight);
        let entry = flight.entry().user_data(id);
        self.outgoing.push_back(entry);
    }
}

/// Returns the buffers to the caller. The file is released before: a caller with the result knows that nothing is
/// held.
fn answer(flight: Flight) {
    let Request { file, what, answer, .. } = flight.request;
    drop(file);
    let _ = answer.send(Moved { data: what, done: flight.done });
}

/// Closes the queue when the thread ends, for any reason: nobody processes the rest.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(waiting);
    }
}

/// Serves the queue until it is closed and nothing is under way.
pub(super) fn run(uring: IoUring, shared: &Shared) {
    let _closing = Closing(shared);
    let flights = Flights(HashMap::new());
    let mut uring = Uring { uring, flights, outgoing: VecDeque::new() };
    let (mut armed, mut ending) = (false, false);
    loop {
        let (begun, cancelled, closed) = {
            let mut queue = shared.queue();
            debug_assert!(uring.flights.0.len() <= MOST as usize, "bounded by this");
            let room = (MOST as usize - uring.flights.0.len()).min(queue.waiting.len());
            let begun: Vec<_> = queue.waiting.drain(..room).collect();
            (begun, std::mem::take(&mut queue.cancelled), queue.closed && queue.waiting.is_empty())
        };
        for (id, request) in begun {
            uring.begin(id, request);
        }
        for id in cancelled {
            uring.cancel(id);
        }
        if closed && !std::mem::replace(&mut ending, closed) {
            // No caller can be waiting: each future holds the ring.
            let under_way: Vec<_> = uring.flights.0.keys().copied().collect();
            under_way.into_iter().for_each(|id| uring.cancel(id));
        }
        if ending && uring.flights.0.is_empty() {
            return;
        }
        if !std::mem::replace(&mut armed, true) {
            uring.ring_bell(shared);
        }
        uring.push();
        // Must not block while an entry waits for the submission queue: it may be the bell itself, and nothing would
        // wake this thread.
        let wanted = usize::from(uring.outgoing.is_empty());
        match uring.uring.submit_and_wait(wanted) {
            Ok(_) => {}
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                // The kernel lacks memory, or space for completions, which are processed now.
                Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => {
                    tracing::warn!(%error, "io_uring failed: local files use plain system calls");
                    return;
                }
            },
        }
        let landed: Vec<_> =
            uring.uring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (id, result) in landed {
            match id {
                BELL => {
                    armed = false;
                    let _ = rustix::io::read(&shared.bell, &mut [0; 8]);
                }
                CANCEL => {}
                id => uring.land(id, result),
            }
        }
    }
}

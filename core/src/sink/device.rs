//! A block device as a target. It is written in place, and looks empty until it is complete.
//!
//! ```text
//! prepare  first MiB zeroed, flushed             from here on the device looks empty:
//! write    after the first MiB: to the device   no partition table, no file system, no image header
//!          in the first MiB: to memory
//! finish   flush, first MiB written, flush
//! ```
//!
//! Pages that are whole in memory and on the device bypass the page cache (`O_DIRECT`). This saves a copy of every
//! byte and leaves nothing to sync at the end. Everything else goes through the page cache. The kernel keeps the two
//! consistent per page.

mod claim;

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;
use rustix::fs::{Access, Advice, AtFlags, CWD, FallocateFlags, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{FileIo, Gather, MOST_ZEROS, Moved, Ring, Stop, blocking, zeros};
use crate::sink::device::claim::{claim, open_direct, unsuitable};
use crate::sink::front::Front;
use crate::sink::place::{failed, failed_io};
use crate::sink::sink::Sink;
use crate::sink::types::{ReadBack, Receipt, SinkCapabilities, SinkHint, WriteOrder};
use crate::source::{BoxFuture, FileSource, Source};

/// The part that is zeroed first and written last, in bytes. Partition tables, boot sectors, superblocks and image
/// headers are in it.
pub const DEVICE_HEAD_BYTES: u64 = 1 << 20;

/// About the most bytes that may wait in the page cache. Closing the device waits for all of them, and so does
/// aborting. A failing device is also noticed after this many bytes and not only at the end.
const BACKLOG: u64 = 256 << 20;

/// No logical block of a device is larger, and no page of memory is smaller.
const PAGE: usize = 4096;

/// Direct writes are synchronous: with smaller ones a device is not kept busy.
const LEAST_DIRECT: usize = 64 << 10;

/// Options for writing a block device.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeviceSinkOptions {
    /// Wait for stable storage: after the old head is zeroed, before the new head is written, and after that. Without
    /// it, the kernel still writes everything when the device is closed, but nobody learns of a failure.
    pub sync: bool,
    /// How the device is written. The first [`DEVICE_HEAD_BYTES`] and zeros are always written by plain calls.
    pub io: FileIo,
}

setters!(DeviceSinkOptions { sync: bool, io: FileIo });

impl Default for DeviceSinkOptions {
    fn default() -> Self {
        Self { sync: true, io: FileIo::default() }
    }
}

/// True if `path` is a block device, or a link to one. Such a target is written with [`BlockDeviceSink`].
pub fn is_block_device(path: impl AsRef<Path>) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// A block device that is being written in place.
///
/// Naming a device is consent to overwrite it: there is no further confirmation. This process holds the device
/// exclusively until the sink and the sources of [`read_back`](Sink::read_back) are dropped. A device that is
/// mounted, part of a volume, or held by another process is `destination_busy`. [`prepare`](Sink::prepare) refuses a
/// device that is too small before it changes anything. Then it zeroes the first [`DEVICE_HEAD_BYTES`] bytes, which
/// are written last, so that a run that fails or is killed leaves a device that looks empty. The previous content is
/// not restored.
///
/// The device creates zeros itself if it can (which may free their space); otherwise they are written. It is never
/// assumed to be zero. On a device larger than the target, bytes after the target's end and after the first
/// [`DEVICE_HEAD_BYTES`] bytes are unchanged. The kernel keeps the old partitions until it is told to read the table
/// again (`blockdev --rereadpt`).
///
/// Its methods need a tokio runtime. After a write is dropped, at most its current system call continues, and the
/// device stays claimed until that ends.
#[derive(Debug)]
pub struct BlockDeviceSink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    url: String,
    options: DeviceSinkOptions,
    /// `None` if the device is written by plain calls.
    ring: Option<Arc<Ring>>,
    /// Length of the device in bytes.
    len: u64,
    /// The target's first bytes, zeros until they are written: [`DEVICE_HEAD_BYTES`] of them, or the whole device if
    /// it is shorter.
    head: Mutex<Vec<u8>>,
    head_len: u64,
    /// The end of the last byte that was written or zeroed.
    end: AtomicU64,
    written: AtomicU64,
    /// Bytes written since the last sync.
    unsynced: AtomicU64,
    /// A second descriptor of the device for direct writes; `None` if the device does not support them.
    direct: Option<File>,
    /// Set when the device refused a direct write: everything then goes through the page cache.
    cached: AtomicBool,
    /// Set when the device cannot create zeros.
    plain: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The device is unchanged.
    Claimed,
    /// The head is zeroed.
    Ready,
    /// The head is being changed: its content is undefined.
    Torn,
    Published,
    Discarded,
}

impl BlockDeviceSink {
    /// Checks whether the device `path` may be written, and changes nothing. Allows a refusal before a source is
    /// opened. [`create`](Self::create) checks again.
    ///
    /// # Errors
    /// Errors of [`create`](Self::create).
    pub async fn admit(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref().to_owned();
        blocking(move |stop| {
            // Read-only, since closing a descriptor that is open for writing makes udev probe the device again.
            claim(&path, OFlags::RDONLY, stop)?;
            rustix::fs::accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS)
                .map_err(|errno| failed("writing to", &path.display().to_string(), errno))
        })
        .await
    }

    /// Claims the device `path`. Symbolic links (`/dev/disk/by-id/…`) are followed. The device is not changed yet.
    ///
    /// # Errors
    /// `destination_busy` if it is mounted or in use; `destination_forbidden` without write permission, or if it is
    /// read-only; `destination_unsuitable` if it is not a block device, or has length 0; `destination_unavailable`.
    pub async fn create(path: impl AsRef<Path>, options: DeviceSinkOptions) -> Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move |stop| {
            let (file, len) = claim(&path, OFlags::RDWR, stop)?;
            let head_len = len.min(DEVICE_HEAD_BYTES);
            let inner = Inner {
                direct: open_direct(&path, &file),
                file: Arc::new(file),
                url: path.display().to_string(),
                ring: options.io.ring(),
                options,
                len,
                head: Mutex::new(vec![0; head_len as usize]),
                head_len,
                end: AtomicU64::new(0),
                written: AtomicU64::new(0),
                unsynced: AtomicU64::new(0),
                cached: AtomicBool::new(false),
                plain: AtomicBool::new(false),
                state: Mutex::new(State::Claimed),
            };
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// Length of the device in bytes.
    pub fn device_bytes(&self) -> u64 {
        self.inner.len
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error for a write that would end after the last address.
fn beyond(url: &str, at: TargetOffset, len: u64) -> Error {
    unsuitable(format!("{len} bytes at {at} of {url} end after the last address"))
}

/// A stop check for work that must complete even if the caller is gone.
fn to_its_end() -> Result<()> {
    Ok(())
}

impl Inner {
    fn ready(&self) -> Result<()> {
        self.must_be(*locked(&self.state), State::Ready)
    }

    fn must_be(&self, state: State, wanted: State) -> Result<()> {
        match state {
            state if state == wanted => Ok(()),
            State::Torn | State::Discarded => {
                Err(Error::new(ErrorKind::Cancelled, format!("{} was aborted", self.url)))
            }
            state => Err(Error::internal(format!("{} is {state:?}, expected {wanted:?}", self.url))),
        }
    }

    /// Checks that a target that ends at `end` fits the device.
    fn fits(&self, end: u64, exact: bool) -> Result<()> {
        if end <= self.len {
            return Ok(());
        }
        let least = if exact { "" } else { "at least " };
        let message =
            format!("the target needs {least}{end} bytes, and the device {} has {}", self.url, self.len);
        Err(unsuitable(message).hint("choose a larger device, or a format that needs less space"))
    }

    /// Records bytes that are written or zeroed.
    fn reach(&self, at: TargetOffset, len: u64) -> Result<()> {
        self.ready()?;
        let end = at.checked_add(len).ok_or_else(|| beyond(&self.url, at, len))?.get();
        self.fits(end, false)?;
        self.end.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    fn prepare(&self, expected: SinkHint) -> Result<()> {
        let mut state = locked(&self.state);
        self.must_be(*state, State::Claimed)?;
        if let Some(bytes) = expected.most_bytes.filter(|_| expected.exact) {
            self.fits(bytes, true)?;
        }
        *state = State::Torn;
        self.blank(self.options.sync)?;
        *state = State::Ready;
        Ok(())
    }

    fn write(&self, at: TargetOffset, pieces: &[Bytes], stop: &Stop) -> Result<()> {
        let done = self.keep_head(at, pieces)?;
        self.put_on(at, pieces, done, stop)
    }

    async fn write_by(self: &Arc<Self>, ring: &Ring, at: TargetOffset, mut pieces: Vec<Bytes>) -> Result<()> {
        let head = self.keep_head(at, &pieces)?;
        // The end of the pieces was checked, so these sums fit.
        let at = TargetOffset::new(at.get() + head as u64);
        let mut skip = head;
        pieces.retain_mut(|piece| {
            let of_head = piece.split_to(skip.min(piece.len()));
            skip -= of_head.len();
            !piece.is_empty()
        });
        let Moved { data, done } = ring.write(&self.file, at.get(), pieces).await?;
        self.written.fetch_add(done as u64, Ordering::Relaxed);
        let whole = done == data.iter().map(Bytes::len).sum();
        if whole && !self.owes_sync(done) {
            return Ok(());
        }
        let inner = Arc::clone(self);
        blocking(move |stop| if whole { inner.sync() } else { inner.put_on(at, &data, done, stop) }).await
    }

    /// Writes pieces whose first `done` bytes are written already.
    fn put_on(&self, at: TargetOffset, pieces: &[Bytes], done: usize, stop: &Stop) -> Result<()> {
        let mut rest = Gather::new(pieces);
        rest.advance(done);
        self.put(rest, at.get() + done as u64, &self.written, || stop.check())
    }

    /// Records the pieces, and stores the part that is in the head. Returns the length of that part.
    fn keep_head(&self, at: TargetOffset, pieces: &[Bytes]) -> Result<usize> {
        let len = pieces.iter().map(Bytes::len).sum::<usize>();
        self.reach(at, len as u64)?;
        let mut done = 0;
        if let Ok(start) = usize::try_from(at.get())
            && let Some(mut room) = locked(&self.head).get_mut(start..)
        {
            for piece in pieces {
                let (now, later) = room.split_at_mut(piece.len().min(room.len()));
                now.copy_from_slice(piece.split_at(now.len()).0);
                done += now.len();
                room = later;
            }
        }
        Ok(done)
    }

    /// Records bytes that were written to the kernel. True if it is time for a sync.
    fn owes_sync(&self, wrote: usize) -> bool {
        let unsynced = self.unsynced.fetch_add(wrote as u64, Ordering::Relaxed) + wrote as u64;
        self.options.sync && unsynced >= BACKLOG
    }

    fn zero(&self, range: TargetRange, stop: &Stop) -> Result<()> {
        self.reach(range.start(), range.len())?;
        // The rest was not written before, and the head starts as zeros.
        let rest = range.skip(self.head_len.saturating_sub(range.start().get()));
        self.clear(rest.start().get(), rest.end().get(), &self.written, || stop.check())
    }

    /// Writes the rest of a list to the device.
    fn put(
        &self,
        mut rest: Gather<'_>,
        mut at: u64,
        count: &AtomicU64,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        while !rest.is_empty() {
            check()?;
            let direct = self.direct.as_ref().filter(|_| !self.cached.load(Ordering::Relaxed));
            let direct = direct.map(|file| (file, rest.aligned(at, PAGE, LEAST_DIRECT)));
            let direct = direct.filter(|(_, slices)| !slices.is_empty());
            let wrote = match &direct {
                Some((file, slices)) => rustix::io::pwritev(file, slices, at),
                None => rustix::io::pwritev(&self.file, &rest.slices(None), at),
            };
            let wrote = match wrote {
                Ok(0) => return Err(failed("writing to", &self.url, Errno::IO)),
                Ok(wrote) => wrote,
                Err(Errno::INTR) => continue,
                // Its blocks are larger than a page, or a layer below does not support direct writes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) if direct.is_some() => {
                    self.cached.store(true, Ordering::Relaxed);
                    continue;
                }
                Err(errno) => return Err(failed(&format!("writing at {at} to"), &self.url, errno)),
            };
            at += wrote as u64;
            count.fetch_add(wrote as u64, Ordering::Relaxed);
            rest.advance(wrote);
            if self.owes_sync(wrote) {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Makes the bytes from `at` to `end` read as zeros, and counts those that had to be written.
    fn clear(
        &self,
        mut at: u64,
        end: u64,
        count: &AtomicU64,
        check: impl Fn() -> Result<()> + Copy,
    ) -> Result<()> {
        /// The device is asked to zero multiples of this. No block and no page of memory is larger, so no adjacent
        /// byte is touched, not even in the page cache.
        const GRAIN: u64 = 64 << 10;
        /// The most that is zeroed at once, so that cancellation is noticed.
        const MOST: u64 = 256 << 20;
        // The kernel reports success only if the bytes then read as zeros; otherwise it reports that it cannot do it.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let last = end - end % GRAIN;
        let first = at.checked_next_multiple_of(GRAIN).filter(|first| *first < last);
        if let Some(first) = first
            && !self.plain.load(Ordering::Relaxed)
        {
            self.put_zeros(at, first, count, check)?;
            at = first;
            while at < last {
                check()?;
                let len = MOST.min(last - at);
                match rustix::fs::fallocate(&self.file, flags, at, len) {
                    Ok(()) => at += len,
                    Err(Errno::INTR) => {}
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                        self.plain.store(true, Ordering::Relaxed);
                        break;
                    }
                    Err(errno) => return Err(failed(&format!("zeroing at {at}"), &self.url, errno)),
                }
            }
        }
        self.put_zeros(at, end, count, check)
    }

    fn put_zeros(
        &self,
        mut at: u64,
        end: u64,
        count: &AtomicU64,
        check: impl Fn() -> Result<()> + Copy,
    ) -> Result<()> {
        while at < end {
            let len = MOST_ZEROS.min(end - at);
            self.put(Gather::new(&zeros(len)), at, count, check)?;
            at += len;
        }
        Ok(())
    }

    /// Zeroes the head on the device. The caller holds the state, so that nothing else changes the head meanwhile.
    fn blank(&self, sync: bool) -> Result<()> {
        self.clear(0, self.head_len, &AtomicU64::new(0), to_its_end)?;
        if sync { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        // Reset first, so that of several writers one syncs and the others continue.
        self.unsynced.store(0, Ordering::Relaxed);
        retry_on_intr(|| rustix::fs::fsync(&self.file)).map_err(|errno| failed("syncing", &self.url, errno))
    }

    fn finish(&self, len: u64, stop: &Stop) -> Result<Receipt> {
        self.ready()?;
        self.fits(len, true)?;
        let end = self.end.load(Ordering::Relaxed);
        if end > len {
            let message = format!("{} was written up to {end}, but its length is {len} bytes", self.url);
            return Err(Error::internal(message));
        }
        if self.options.sync {
            self.sync()?;
        }
        // Held while publishing, so that an abort comes before or after it and never in between.
        let mut state = locked(&self.state);
        stop.check()?;
        self.must_be(*state, State::Ready)?;
        *state = State::Torn;
        if let Err(error) = self.publish(len) {
            // If this fails, aborting tries it once more.
            if self.blank(self.options.sync).is_ok() {
                *state = State::Discarded;
            }
            return Err(error);
        }
        *state = State::Published;
        let written = self.written.load(Ordering::Relaxed);
        Ok(Receipt { url: self.url.clone(), bytes: len, written, etag: None, warnings: Vec::new() })
    }

    fn publish(&self, len: u64) -> Result<()> {
        let mut head = Bytes::from(std::mem::take(&mut *locked(&self.head)));
        head.truncate(len.min(head.len() as u64) as usize);
        self.put(Gather::new(&[head]), 0, &self.written, to_its_end)?;
        if self.options.sync { self.sync() } else { Ok(()) }
    }

    /// Undoes a target that is not published. Returns false if it is published.
    fn discard(&self) -> bool {
        self.discard_in(&mut locked(&self.state))
    }

    fn discard_in(&self, state: &mut State) -> bool {
        if *state == State::Torn
            && let Err(error) = self.blank(self.options.sync)
        {
            tracing::warn!(%error, "the start of an aborted device could not be zeroed");
        }
        if *state != State::Published {
            *state = State::Discarded;
        }
        *state != State::Published
    }

    fn read_back(&self, len: u64) -> Result<Arc<dyn Source>> {
        self.must_be(*locked(&self.state), State::Published)?;
        self.fits(len, true)?;
        // Stable data is then read from the device and not from memory. If the kernel refuses, it reads what it has
        // cached.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        let file = self.file.try_clone().map_err(|error| failed_io("reading back", &self.url, &error))?;
        let inner = Arc::new(FileSource::of_file(file, self.url.clone())?);
        Ok(Arc::new(Front { inner, len }))
    }

    fn retract(&self) -> Result<bool> {
        let mut state = locked(&self.state);
        if *state != State::Published {
            return Ok(false);
        }
        *state = State::Torn;
        self.blank(true)?;
        *state = State::Discarded;
        Ok(true)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // There is something to do only if changing the head failed.
        self.discard();
    }
}

impl Drop for BlockDeviceSink {
    fn drop(&mut self) {
        // Stops all writers. A change of the head that is in progress completes, and is not awaited here.
        match self.inner.state.try_lock() {
            Ok(mut state) => drop(self.inner.discard_in(&mut state)),
            Err(TryLockError::Poisoned(state)) => drop(self.inner.discard_in(&mut state.into_inner())),
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

impl Sink for BlockDeviceSink {
    fn url(&self) -> &str {
        &self.inner.url
    }

    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            order: WriteOrder::Any,
            sparse: false,
            buffers: false,
            in_flight: 4,
            read_back: ReadBack::After,
        }
    }

    fn written(&self) -> Option<u64> {
        Some(self.inner.written.load(Ordering::Relaxed))
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| inner.prepare(expected)))
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match &inner.ring {
                Some(ring) => inner.write_by(ring, at, pieces).await,
                None => {
                    let written = Arc::clone(&inner);
                    blocking(move |stop| written.write(at, &pieces, stop)).await
                }
            }
        })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |stop| inner.zero(range, stop)))
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |stop| inner.finish(len, stop)))
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let again = Arc::clone(&inner);
            // Fails only if the runtime is shutting down: then it is done here.
            blocking(move |_| Ok(inner.discard())).await.unwrap_or_else(|_| again.discard())
        })
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| inner.read_back(len)))
    }

    fn retract(&self, _receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        // The device was held exclusively since, so it is still what was published.
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| inner.retract()))
    }
}

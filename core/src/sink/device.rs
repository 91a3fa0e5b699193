//! A block device as a target: written in place, and recognisable only when whole.
//!
//! ```text
//! prepare  first MiB zeroed, flushed             from here on the old content is gone, and looks gone:
//! write    after the first MiB: to the device   no partition table, no file system, no image header
//!          in the first MiB: kept in memory
//! finish   flush, first MiB written, flush
//! ```
//!
//! What is whole pages in memory and on the device goes past the kernel's cache (`O_DIRECT`), which saves a copy of every
//! byte and leaves nothing to wait for at the end; the rest goes through it. The kernel keeps the two apart by pages.

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

/// What is zeroed first and written last, in bytes: partition tables, boot sectors, superblocks and image headers lie
/// in it.
pub const DEVICE_HEAD_BYTES: u64 = 1 << 20;

/// The most bytes that may wait in the kernel's memory, about: closing the device waits for all of them, and so does
/// giving up. A failing device also shows by then and not only at the end.
const BACKLOG: u64 = 256 << 20;

/// No logical block of a device is longer, and no page of memory shorter.
const PAGE: usize = 4096;

/// What goes past the cache is waited for: with less than this at once a device is not kept busy.
const LEAST_DIRECT: usize = 64 << 10;

/// How a block device is written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeviceSinkOptions {
    /// Wait for stable storage: after the old start is gone, before the new one is written, and after. Without it the
    /// kernel still writes everything when the device is closed, and a failure of that is told to nobody.
    pub sync: bool,
    /// How its bytes are written, but for the first [`DEVICE_HEAD_BYTES`] and zeros: these are written by plain calls.
    pub io: FileIo,
}

setters!(DeviceSinkOptions { sync: bool, io: FileIo });

impl Default for DeviceSinkOptions {
    fn default() -> Self {
        Self { sync: true, io: FileIo::default() }
    }
}

/// True if `path` is a block device, or a link that leads to one: then a target is written with [`BlockDeviceSink`].
pub fn is_block_device(path: impl AsRef<Path>) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// A block device being written, in place.
///
/// Naming a device says that it is to be overwritten: nothing else asks for leave. It is this process's own from
/// creation until the sink and the sources of [`read_back`](Sink::read_back) are dropped: one that is mounted, part of a
/// volume, or held by another process is `destination_busy`. [`prepare`](Sink::prepare) refuses a device that is
/// too small before it changes anything; then it zeroes the first [`DEVICE_HEAD_BYTES`] bytes, which are written last, so that a run
/// that fails or is killed leaves a device that looks empty. What was on it before is not brought back.
///
/// Zeros are made by the device where it can (which may free their room), and written where it cannot; they
/// are never taken for granted. What lies after the target's length on a larger device, and after the first
/// [`DEVICE_HEAD_BYTES`] bytes, stays as it was. The partitions that the kernel knows of are those of before until somebody has it look
/// again (`blockdev --rereadpt`).
///
/// Its methods need a tokio runtime; dropping a write leaves at most the one system call that it is in, and the
/// device is claimed until that ends.
#[derive(Debug)]
pub struct BlockDeviceSink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    url: String,
    options: DeviceSinkOptions,
    /// None if it is written by plain calls.
    ring: Option<Arc<Ring>>,
    /// Length of the device in bytes.
    len: u64,
    /// The target's first bytes, zeros until they are written: [`DEVICE_HEAD_BYTES`] of them, or all of a device that is shorter.
    head: Mutex<Vec<u8>>,
    head_len: u64,
    /// After the last byte that was told of.
    end: AtomicU64,
    written: AtomicU64,
    /// Bytes written since the device was last asked to store them.
    unsynced: AtomicU64,
    /// The device once more, past the kernel's cache; none if it does not do that.
    direct: Option<File>,
    /// It refused what went past the cache: everything goes through it.
    cached: AtomicBool,
    /// The device makes no zeros.
    plain: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The device is as it was.
    Claimed,
    /// Its head is zeroed.
    Ready,
    /// Its head is being changed: anything may be there.
    Torn,
    Published,
    Discarded,
}

impl BlockDeviceSink {
    /// Looks whether the device `path` may be written, and changes nothing: to refuse before a source is even opened.
    /// [`create`](Self::create) looks again.
    ///
    /// # Errors
    /// Those of [`create`](Self::create).
    pub async fn admit(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref().to_owned();
        blocking(move |stop| {
            // Not open for writing: closing such a descriptor has udev look at the device again.
            claim(&path, OFlags::RDONLY, stop)?;
            rustix::fs::accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS)
                .map_err(|errno| failed("writing to", &path.display().to_string(), errno))
        })
        .await
    }

    /// Claims the device `path`; symbolic links (`/dev/disk/by-id/…`) are followed. It is not changed yet.
    ///
    /// # Errors
    /// `destination_busy` if it is mounted or otherwise in use; `destination_forbidden` without the permission to
    /// write, or where it is read-only; `destination_unsuitable` for what is no block device, or one of no length;
    /// `destination_unavailable`.
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
                head: Mutex::new(vec![0; usize::try_from(head_len).unwrap_or_default()]),
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

/// A write that would end after the last address.
fn beyond(url: &str, at: TargetOffset, len: u64) -> Error {
    unsuitable(format!("{len} bytes at {at} of {url} end after the last address"))
}

/// For what is done to its end whoever waits for it.
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
                Err(Error::new(ErrorKind::Cancelled, format!("{} was given up", self.url)))
            }
            state => Err(Error::internal(format!("{} is {state:?} and was to be {wanted:?}", self.url))),
        }
    }

    /// Whether a target that ends at `end` fits the device.
    fn fits(&self, end: u64, exact: bool) -> Result<()> {
        if end <= self.len {
            return Ok(());
        }
        let least = if exact { "" } else { "at least " };
        let message =
            format!("the target takes {least}{end} bytes and the device {} has {}", self.url, self.len);
        Err(unsuitable(message).hint("choose a larger device, or a format that takes less"))
    }

    /// Records bytes that are told of.
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
        let at = TargetOffset::new(at.get().saturating_add(head as u64));
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

    /// Writes pieces of which `done` bytes are written.
    fn put_on(&self, at: TargetOffset, pieces: &[Bytes], done: usize, stop: &Stop) -> Result<()> {
        let mut rest = Gather::new(pieces);
        rest.advance(done);
        self.put(rest, at.get().saturating_add(done as u64), &self.written, || stop.check())
    }

    /// Records what is written, and keeps what lies in the head. Returns how many bytes that is.
    fn keep_head(&self, at: TargetOffset, pieces: &[Bytes]) -> Result<usize> {
        let len = pieces.iter().map(Bytes::len).sum::<usize>();
        self.reach(at, len as u64)?;
        let mut done = 0;
        if let Ok(start) = usize::try_from(at.get())
            && let Some(mut room) = locked(&self.head).get_mut(start..)
        {
            for piece in pieces {
                let (now, later) = room.split_at_mut(piece.len().min(room.len()));
                now.copy_from_slice(&piece[..now.len()]);
                done += now.len();
                room = later;
            }
        }
        Ok(done)
    }

    /// Records bytes that the kernel was given. True if it is time to have the device store them.
    fn owes_sync(&self, wrote: usize) -> bool {
        let unsynced = self.unsynced.fetch_add(wrote as u64, Ordering::Relaxed).saturating_add(wrote as u64);
        self.options.sync && unsynced >= BACKLOG
    }

    fn zero(&self, range: TargetRange, stop: &Stop) -> Result<()> {
        self.reach(range.start(), range.len())?;
        // Nothing was written there before, and the head begins as zeros.
        let rest = range.skip(self.head_len.saturating_sub(range.start().get()));
        self.clear(rest.start().get(), rest.end().get(), &self.written, || stop.check())
    }

    /// Writes what remains of a list to the device.
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
                None => rustix::io::pwritev(&self.file, &rest.slices(usize::MAX), at),
            };
            let wrote = match wrote {
                Ok(0) => return Err(failed("writing to", &self.url, Errno::IO)),
                Ok(wrote) => wrote,
                Err(Errno::INTR) => continue,
                // Its blocks are longer than a page, or what lies below it does without.
                Err(Errno::INVAL | Errno::OPNOTSUPP) if direct.is_some() => {
                    self.cached.store(true, Ordering::Relaxed);
                    continue;
                }
                Err(errno) => return Err(failed(&format!("writing at {at} to"), &self.url, errno)),
            };
            at = at.saturating_add(wrote as u64);
            count.fetch_add(wrote as u64, Ordering::Relaxed);
            rest.advance(wrote);
            if self.owes_sync(wrote) {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Makes the bytes from `at` up to `end` read as zeros, and counts those that had to be written.
    fn clear(
        &self,
        mut at: u64,
        end: u64,
        count: &AtomicU64,
        check: impl Fn() -> Result<()> + Copy,
    ) -> Result<()> {
        /// The device is asked for multiples of this: no block and no page of memory is longer, so that no byte beside is
        /// touched, not even in the kernel's cache.
        const GRAIN: u64 = 64 << 10;
        /// The most that is asked for at once, so that giving up is noticed.
        const MOST: u64 = 256 << 20;
        // The kernel answers only when the bytes read as zeros, and otherwise that it cannot do it.
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

    /// Zeroes the head on the device. The caller holds the state, so that nothing else changes it meanwhile.
    fn blank(&self, sync: bool) -> Result<()> {
        self.clear(0, self.head_len, &AtomicU64::new(0), to_its_end)?;
        if sync { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        // Before, so that of several writers one waits and the others go on.
        self.unsynced.store(0, Ordering::Relaxed);
        retry_on_intr(|| rustix::fs::fsync(&self.file)).map_err(|errno| failed("syncing", &self.url, errno))
    }

    fn finish(&self, len: u64, stop: &Stop) -> Result<Receipt> {
        self.ready()?;
        self.fits(len, true)?;
        let end = self.end.load(Ordering::Relaxed);
        if end > len {
            let message = format!("{} was written up to {end} and is to be {len} bytes", self.url);
            return Err(Error::internal(message));
        }
        if self.options.sync {
            self.sync()?;
        }
        // Held while publishing, so that giving up comes before or after it and never between.
        let mut state = locked(&self.state);
        stop.check()?;
        self.must_be(*state, State::Ready)?;
        *state = State::Torn;
        if let Err(error) = self.publish(len) {
            // Giving up tries once more where this fails.
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
        head.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.put(Gather::new(&[head]), 0, &self.written, to_its_end)?;
        if self.options.sync { self.sync() } else { Ok(()) }
    }

    /// Gives up what is not published. False if it is.
    fn discard(&self) -> bool {
        self.discard_in(&mut locked(&self.state))
    }

    fn discard_in(&self, state: &mut State) -> bool {
        if *state == State::Torn
            && let Err(error) = self.blank(self.options.sync)
        {
            tracing::warn!(%error, "the start of a device that was given up could not be zeroed");
        }
        if *state != State::Published {
            *state = State::Discarded;
        }
        *state != State::Published
    }

    fn read_back(&self, len: u64) -> Result<Arc<dyn Source>> {
        self.must_be(*locked(&self.state), State::Published)?;
        self.fits(len, true)?;
        // What is stable is read from the device and not from memory; a kernel that does not want to gives what it has.
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
        // Only where changing the head failed is there something to do.
        self.discard();
    }
}

impl Drop for BlockDeviceSink {
    fn drop(&mut self) {
        // Ends what still writes. A head that is being changed at this moment comes to its end, and nobody waits for it here.
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
            // The error says only that the runtime ends: then it is done here.
            blocking(move |_| Ok(inner.discard())).await.unwrap_or_else(|_| again.discard())
        })
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| inner.read_back(len)))
    }

    fn retract(&self, _receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        // Held since, it is what it was.
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| inner.retract()))
    }
}

//! A file as a target. It is written under a temporary name, and published when it is complete.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{FileIo, Gather, Moved, Ring, SerialQueue, Stop, blocking};
use crate::sink::journal::{Journal, SavedCheckpoint};
use crate::sink::place::{Place, failed, failed_io};
use crate::sink::sink::Sink;
use crate::sink::types::{ReadBack, Receipt, SinkCapabilities, SinkHint, WriteOrder};
use crate::source::{BoxFuture, FileSource, Source};

/// The longest journal that is read.
const MOST_JOURNAL: u64 = 64 << 20;

/// Whether disk space is allocated in advance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preallocation {
    /// Zeros become holes.
    #[default]
    Off,
    /// The whole length is allocated with `fallocate`: a full disk is reported at the start.
    Falloc,
}

/// Options for writing a file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FileSinkOptions {
    /// Replace an existing file, atomically, when the new one is complete. The new file gets the permissions of the
    /// old one. A symbolic link is replaced itself, not its target.
    pub force: bool,
    /// Wait for stable storage before the file is published, and after.
    pub sync: bool,
    /// Whether disk space is allocated in advance.
    pub preallocation: Preallocation,
    /// How the file is written.
    pub io: FileIo,
    /// Continue the partial target of an interrupted run ([`crate::conversion::Conversion::resume`]), and keep the
    /// partial target and its journal if this run is aborted.
    pub resume: bool,
}

setters!(FileSinkOptions { force: bool, sync: bool, preallocation: Preallocation, io: FileIo, resume: bool });

impl Default for FileSinkOptions {
    fn default() -> Self {
        Self {
            force: false,
            sync: true,
            preallocation: Preallocation::Off,
            io: FileIo::default(),
            resume: false,
        }
    }
}

/// A file that is being written.
///
/// Bytes that are never written are holes. Until [`finish`](Sink::finish), the file is `.NAME.diskferry.partial` in
/// the same directory, locked by this process: a second sink for the same name is `destination_busy`. The journal,
/// `.NAME.diskferry.journal`, is next to it. The next run removes the partial file of a killed process, or continues
/// it if [`FileSinkOptions::resume`] is set. Its methods need a tokio runtime. After a write is dropped, at most its
/// current system call continues, on a file that is removed with the sink.
///
/// ```
/// use bytes::Bytes;
/// use diskferry_core::{FileSink, FileSinkOptions, Sink, SinkHint, TargetOffset};
///
/// # #[tokio::main]
/// # async fn main() -> diskferry_core::Result<()> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let path = dir.path().join("disk.raw");
/// let sink = FileSink::create(&path, FileSinkOptions::default()).await?;
/// sink.prepare(SinkHint::default()).await?;
/// sink.write(TargetOffset::new(4096), vec![Bytes::from("after a hole")]).await?;
/// assert!(!path.exists());
///
/// sink.finish(1 << 20).await?;
/// assert_eq!(path.metadata().expect("the file").len(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileSink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    place: Place,
    options: FileSinkOptions,
    /// `None` if the file is written by plain calls.
    ring: Option<Arc<Ring>>,
    /// The kernel serializes writes to one file.
    queue: Arc<SerialQueue>,
    /// The end of the last byte that was written.
    end: AtomicU64,
    written: AtomicU64,
    state: Mutex<State>,
    /// True while the file contains the bytes of an interrupted run that no run has resumed yet.
    left: AtomicBool,
    /// True if there is a journal, so that another run can continue.
    journal: AtomicBool,
    /// The number of saves that were requested, and the number of the last one that was written.
    saves: AtomicU64,
    saved: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Published,
    Discarded,
}

impl FileSink {
    /// Checks whether a file may be created as `path`, and creates nothing. Allows a refusal before a source is
    /// opened. [`create`](Self::create) checks again.
    ///
    /// # Errors
    /// Errors of [`create`](Self::create) that depend on the name alone.
    pub async fn admit(path: impl AsRef<Path>, force: bool) -> Result<()> {
        let path = path.as_ref().to_owned();
        blocking(move |_| Place::find(&path)?.admit(force).map(drop)).await
    }

    /// Starts a file that will be published as `path`.
    ///
    /// # Errors
    /// `destination_exists` (without `force`), `destination_busy`, `destination_forbidden`, `destination_full`,
    /// `destination_unavailable`; `destination_unsuitable` for a directory, a device or the like.
    pub async fn create(path: impl AsRef<Path>, options: FileSinkOptions) -> Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move |stop| {
            let place = Place::find(&path)?;
            let mode = place.admit(options.force)?;
            stop.check()?;
            let left = if options.resume { place.claim_left()? } else { None };
            let taken_up = left.is_some();
            let file = left.map_or_else(|| place.claim(), Ok)?;
            let inner = Inner {
                file: Arc::new(file),
                place,
                ring: options.io.ring(),
                options,
                queue: Arc::default(),
                end: AtomicU64::new(0),
                written: AtomicU64::new(0),
                state: Mutex::new(State::Open),
                left: AtomicBool::new(taken_up),
                journal: AtomicBool::new(taken_up),
                saves: AtomicU64::new(0),
                saved: AtomicU64::new(0),
            };
            // From here on, dropping the sink removes the file.
            let sink = Self { inner: Arc::new(inner) };
            let inner = &sink.inner;
            // Another run may have published the file since the first check: refuse now and not after all the work.
            inner.place.admit(inner.options.force)?;
            if let Some(mode) = mode {
                let changed = inner.file.set_permissions(Permissions::from_mode(mode));
                changed
                    .map_err(|error| failed_io("setting the permissions of", inner.place.url(), &error))?;
            }
            Ok(sink)
        })
        .await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<()> {
        match *self.state() {
            State::Open => Ok(()),
            State::Published => Err(Error::internal(format!("{} is already finished", self.place.url()))),
            State::Discarded => {
                Err(Error::new(ErrorKind::Cancelled, format!("{} was aborted", self.place.url())))
            }
        }
    }

    fn give_length(&self, len: u64) -> Result<()> {
        let url = self.place.url();
        retry(|| rustix::fs::ftruncate(&self.file, len))
            .map_err(|errno| match errno {
                // Some file systems return this for a length that their files cannot have.
                Errno::INVAL => Errno::FBIG,
                errno => errno,
            })
            .map_err(|errno| failed(&format!("setting the length of {len} bytes of"), url, errno))?;
        if self.options.preallocation == Preallocation::Falloc && len > 0 {
            let taken = retry(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len));
            taken.map_err(|errno| match errno {
                Errno::OPNOTSUPP | Errno::NOSYS => Error::new(
                    ErrorKind::DestinationUnsuitable,
                    format!("the file system of {url} cannot allocate space in advance"),
                )
                .hint("use preallocation=off"),
                errno => failed(&format!("allocating {len} bytes for"), url, errno),
            })?;
        }
        Ok(())
    }

    async fn write_by(self: &Arc<Self>, ring: &Ring, at: TargetOffset, pieces: Vec<Bytes>) -> Result<()> {
        self.open()?;
        let Moved { data, done } = ring.write(&self.file, at.get(), pieces).await?;
        self.count(at.get(), done);
        if done == data.iter().map(Bytes::len).sum() {
            return Ok(());
        }
        let inner = Arc::clone(self);
        self.queue.run(move |stop| inner.write(at, &data, done, stop)).await
    }

    /// Records `wrote` bytes at `at`.
    fn count(&self, at: u64, wrote: usize) {
        self.written.fetch_add(wrote as u64, Ordering::Relaxed);
        if wrote > 0 {
            // The kernel accepted these bytes, so their end fits.
            self.end.fetch_max(at + wrote as u64, Ordering::Relaxed);
        }
    }

    /// Writes pieces whose first `done` bytes are written already.
    fn write(&self, at: TargetOffset, pieces: &[Bytes], done: usize, stop: &Stop) -> Result<()> {
        self.open()?;
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        if TargetRange::new(at, len).is_none() {
            let message = format!("{len} bytes at {at} of {} end after the last address", self.place.url());
            return Err(Error::new(ErrorKind::DestinationUnsuitable, message));
        }
        // Cannot overflow: `done` is a part of `len`.
        let mut at = at.get() + done as u64;
        let mut rest = Gather::new(pieces);
        rest.advance(done);
        while !rest.is_empty() {
            stop.check()?;
            let wrote = match rustix::io::pwritev(&self.file, &rest.slices(None), at) {
                // A file accepts bytes or fails. This avoids an endless loop on a broken file system.
                Ok(0) => return Err(failed("writing to", self.place.url(), Errno::IO)),
                Ok(wrote) => wrote,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed(&format!("writing at {at} to"), self.place.url(), errno)),
            };
            self.count(at, wrote);
            at += wrote as u64;
            rest.advance(wrote);
        }
        Ok(())
    }

    fn finish(&self, len: u64, stop: &Stop) -> Result<Receipt> {
        self.open()?;
        let end = self.end.load(Ordering::Relaxed);
        let url = self.place.url();
        if end > len {
            return Err(Error::internal(format!(
                "{url} was written up to {end}, but its length is {len} bytes"
            )));
        }
        self.give_length(len)?;
        stop.check()?;
        if self.options.sync {
            retry(|| rustix::fs::fsync(&self.file)).map_err(|errno| failed("syncing", url, errno))?;
        }
        {
            // Held while publishing, so that an abort comes before or after it and never in between.
            let mut state = self.state();
            stop.check()?;
            if *state != State::Open {
                return Err(Error::new(ErrorKind::Cancelled, format!("{url} was aborted")));
            }
            self.place.publish(&self.file, self.options.force)?;
            *state = State::Published;
            // Without its partial file a journal is meaningless; the next run removes one that remains.
            let _ = self.place.remove_journal();
        }
        // A published file is not locked any more.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        if self.options.sync {
            self.place.sync(&self.file, self.options.force)?;
        }
        let written = self.written.load(Ordering::Relaxed);
        Ok(Receipt { url: url.to_owned(), bytes: len, written, etag: None, warnings: Vec::new() })
    }

    /// Whether the partial file is kept, so that another run can continue it.
    fn stays(&self) -> bool {
        self.options.resume && self.journal.load(Ordering::Relaxed)
    }

    /// Starts over: bytes that are never written must read as zeros.
    fn drop_saved(&self) -> Result<()> {
        self.journal.store(false, Ordering::Relaxed);
        self.left.store(false, Ordering::Relaxed);
        self.place.remove_journal()?;
        self.end.store(0, Ordering::Relaxed);
        let emptied = retry(|| rustix::fs::ftruncate(&self.file, 0));
        emptied.map_err(|errno| failed("emptying", self.place.url(), errno))
    }

    /// Undoes a target that is not published. Returns false if it is published.
    fn discard(&self) -> bool {
        let mut state = self.state();
        if *state == State::Open {
            *state = State::Discarded;
            if self.stays() {
                // The file is kept for the run that continues it.
                let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
                return true;
            }
            // The journal first: it is meaningful only while the file exists.
            let removed = self.place.remove_journal().and_then(|()| self.place.remove(&self.file));
            if let Err(error) = removed {
                tracing::warn!(%error, "a partial file could not be removed");
            }
            // The disk space is released now, not when the last write under way closes the file. A file that still
            // has a name is not truncated: it may have been published by a call whose result was lost.
            if self.file.metadata().is_ok_and(|meta| meta.nlink() == 0) {
                let _ = rustix::fs::ftruncate(&self.file, 0);
            }
        }
        *state != State::Published
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Needed for a sink that was created but never returned, since the future that created it was dropped.
        self.discard();
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.inner.discard();
    }
}

impl Journal for FileSink {
    fn load(&self) -> BoxFuture<'_, Result<Option<SavedCheckpoint>>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| {
            if !inner.left.swap(false, Ordering::Relaxed) {
                return Ok(None);
            }
            let len = inner
                .file
                .metadata()
                .map_err(|error| failed_io("looking at", inner.place.url(), &error))?
                .len();
            // A missing journal is an empty one, which no run can continue.
            let state = inner.place.read_journal(MOST_JOURNAL)?.unwrap_or_default();
            inner.end.store(len, Ordering::Relaxed);
            Ok(Some(SavedCheckpoint { state: state.into(), target: 0..len }))
        }))
    }

    fn drop_saved(&self) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| inner.drop_saved()))
    }

    fn save(&self, _at: u64, state: Bytes) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        let turn = inner.saves.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(blocking(move |stop| {
            if inner.options.sync {
                retry(|| rustix::fs::fdatasync(&inner.file))
                    .map_err(|errno| failed("syncing", inner.place.url(), errno))?;
            }
            // Held, so that no journal appears next to a file that is published or aborted meanwhile.
            let held = inner.state();
            stop.check()?;
            // A later save contains everything that this one does.
            if *held != State::Open || inner.saved.load(Ordering::Relaxed) > turn {
                return Ok(());
            }
            inner.place.write_journal(&state, inner.options.sync)?;
            inner.saved.store(turn, Ordering::Relaxed);
            inner.journal.store(true, Ordering::Relaxed);
            Ok(())
        }))
    }

    fn stays(&self) -> bool {
        self.inner.stays()
    }
}

impl Sink for FileSink {
    fn url(&self) -> &str {
        self.inner.place.url()
    }

    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            order: WriteOrder::Any,
            sparse: true,
            buffers: false,
            in_flight: 4,
            read_back: ReadBack::Before,
        }
    }

    fn written(&self) -> Option<u64> {
        Some(self.inner.written.load(Ordering::Relaxed))
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move |_| {
            if inner.left.load(Ordering::Relaxed) {
                // The caller did not ask to resume.
                inner.drop_saved()?;
            }
            // A length that is only an upper bound may be far from the real one.
            match expected.most_bytes {
                Some(len) if expected.exact => inner.give_length(len),
                _ => Ok(()),
            }
        }))
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match &inner.ring {
                Some(ring) => inner.write_by(ring, at, pieces).await,
                None => {
                    let written = Arc::clone(&inner);
                    inner.queue.run(move |stop| written.write(at, &pieces, 0, stop)).await
                }
            }
        })
    }

    fn zero(&self, _range: TargetRange) -> BoxFuture<'_, Result<()>> {
        // Bytes that are never written are holes, and read as zeros.
        Box::pin(async { self.inner.open() })
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
        Box::pin(blocking(move |_| {
            inner.open()?;
            inner.give_length(len)?;
            let url = inner.place.url();
            let file = inner.file.try_clone().map_err(|error| failed_io("reading back", url, &error))?;
            Ok(Arc::new(FileSource::of_file(file, url.to_owned())?) as Arc<dyn Source>)
        }))
    }

    fn retract(&self, _receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        // The target was read back before it was published.
        Box::pin(async { Ok(false) })
    }
}

fn retry(call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(call)
}

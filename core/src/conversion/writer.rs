//! Connects the pipeline to the sink: parts go to the layout, and the layout's writes go to the sink.
//!
//! ```text
//! part ──▶ layout ──▶ waiting writes (bounded) ──▶ writes in flight ──▶ sink
//!                           └── head and tail are recorded, to check the target before it is published
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::address::GuestRange;
use crate::conversion::checkpointer::Checkpointer;
use crate::conversion::head_tail::HeadTailRecorder;
use crate::conversion::watchdog::Watchdog;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result, Warning};
use crate::layout::{Layout, LayoutFacts, LayoutInput, Part, Write, Writes, allocation};
use crate::sink::{Sink, SinkHint};
use crate::source::BoxFuture;

/// The most bytes that wait for the sink before reading pauses: enough to keep the sink busy, few enough to stay in
/// the CPU caches.
pub(super) const BACKLOG_BYTES: u64 = 8 << 20;

/// If a target may become larger than this and the sink collects parts, its map is walked first. All parts have the
/// same size and there are at most 10,000, so their size follows from the largest possible target.
const WORTH_A_WALK: u64 = 10_000 * (8 << 20);

/// Writes one target: a layout and the sink below it.
pub(super) struct Writer<'a> {
    layout: Box<dyn Layout>,
    sink: &'a dyn Sink,
    /// The layout's first writes, issued one at a time.
    first: Writes,
    waiting: VecDeque<Write>,
    /// Bytes in `waiting`.
    backlog: u64,
    /// The bound on `backlog`.
    most: u64,
    in_flight: FuturesUnordered<BoxFuture<'a, Result<()>>>,
    ends: HeadTailRecorder,
    /// Bytes of the target that were zeroed. A device may spend long on zeroing, which it does not count as written.
    zeroed: Arc<AtomicU64>,
    /// Bytes of completed writes, for a sink that does not count bytes itself.
    answered: Arc<AtomicU64>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(layout: Box<dyn Layout>, sink: &'a dyn Sink) -> Self {
        Self {
            layout,
            sink,
            first: Box::new(std::iter::empty()),
            waiting: VecDeque::new(),
            backlog: 0,
            most: BACKLOG_BYTES,
            in_flight: FuturesUnordered::new(),
            ends: HeadTailRecorder::default(),
            zeroed: Arc::default(),
            answered: Arc::default(),
        }
    }

    pub(super) fn layout(&self) -> &dyn Layout {
        &*self.layout
    }

    pub(super) fn sink(&self) -> &'a dyn Sink {
        self.sink
    }

    /// Bytes that the target accepted.
    pub(super) fn written(&self) -> u64 {
        written(self.sink, &self.answered)
    }

    /// Bytes of the target that were zeroed.
    pub(super) fn zeroed(&self) -> u64 {
        self.zeroed.load(Ordering::Relaxed)
    }

    /// Head and tail of the bytes written so far.
    pub(super) fn ends(&self) -> &HeadTailRecorder {
        &self.ends
    }

    /// Resumes with the head and tail that an interrupted run wrote.
    pub(super) fn resume(&mut self, ends: HeadTailRecorder) {
        self.ends = ends;
    }

    /// Prepares layout and sink, which may hold `memory` bytes. A stream has no `disk`, and a raw stream has no
    /// `known` size.
    pub(super) async fn begin(
        &mut self,
        disk: Option<&Disk>,
        known: Option<u64>,
        fingerprint: [u8; 32],
        memory: u64,
        most: u64,
    ) -> Result<()> {
        let layout = &mut self.layout;
        let virtual_bytes = known.map(|bytes| layout.virtual_bytes(bytes)).transpose()?;
        let mut facts = LayoutFacts { virtual_bytes, fingerprint, map: None };
        let can = self.sink.capabilities();
        let walk = layout.needs_map()
            || (can.buffers && layout.output_size(&facts)?.is_some_and(|output| output.bytes > WORTH_A_WALK));
        if let (true, Some(unit)) = (walk, layout.unit()) {
            facts.map = match disk {
                Some(disk) => allocation(disk, Some(unit)).await?.1,
                None if layout.needs_map() => return Err(no_map(&**layout)),
                None => None,
            };
        }
        let output = layout.output_size(&facts)?;
        // `prepare` changes a device, so the layout must refuse before it.
        self.first = layout.begin(&facts)?;
        self.most = most;
        self.sink
            .prepare(SinkHint {
                most_bytes: output.map(|output| output.bytes),
                exact: output.is_some_and(|output| output.exact),
                memory,
            })
            .await
    }

    /// Starts waiting writes, as many as the sink recommends in flight.
    ///
    /// # Errors
    /// `internal` if a write ends after the last address.
    pub(super) fn start_writes(&mut self) -> Result<()> {
        let most = self.sink.capabilities().in_flight.max(1);
        while self.in_flight.len() < most
            && let Some(write) = self.first.next().or_else(|| {
                let write = self.waiting.pop_front()?;
                self.backlog -= write.bytes();
                Some(write)
            })
        {
            self.ends.note(&write)?;
            let applied = self.apply(write);
            self.in_flight.push(applied);
        }
        Ok(())
    }

    /// True if every write is complete and none waits.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    /// Writes under way.
    pub(super) fn writes(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that wait for the sink.
    pub(super) fn backlog(&self) -> u64 {
        self.backlog
    }

    /// True if more may be placed now.
    pub(super) fn has_room(&self) -> bool {
        self.backlog < self.most
    }

    /// Waits for one of the writes under way. Dropping the future loses nothing.
    pub(super) async fn next_written(&mut self) -> Result<()> {
        match self.in_flight.next().await {
            Some(written) => written,
            None => std::future::pending().await,
        }
    }

    /// Gives a part to the layout.
    pub(super) fn place(&mut self, part: Part, checkpointer: Option<&mut Checkpointer<'_>>) -> Result<()> {
        let Some(checkpointer) = checkpointer else {
            let writes = self.layout.place(part)?;
            return self.queue(writes);
        };
        checkpointer.note(&part);
        let writes = self.layout.place(part)?;
        checkpointer.reach(&writes)?;
        self.queue(writes)
    }

    /// Gives the layout again what an interrupted run placed. Its bytes are in the target.
    pub(super) fn replay(
        &mut self,
        done: GuestRange,
        checkpointer: Option<&mut Checkpointer<'_>>,
    ) -> Result<()> {
        match checkpointer {
            Some(checkpointer) => checkpointer.replay(done, &mut *self.layout),
            None => Err(Error::internal("a run continues without a checkpoint")),
        }
    }

    /// Makes the layout write its buffered data, so that everything that was placed is written.
    pub(super) fn flush(&mut self, checkpointer: Option<&mut Checkpointer<'_>>) -> Result<()> {
        let writes = self.layout.flush();
        if let Some(checkpointer) = checkpointer {
            checkpointer.reach(&writes)?;
        }
        self.queue(writes)
    }

    fn apply(&self, write: Write) -> BoxFuture<'a, Result<()>> {
        Box::pin(apply(self.sink, write, Arc::clone(&self.answered), Arc::clone(&self.zeroed)))
    }

    fn queue(&mut self, writes: Vec<Write>) -> Result<()> {
        for write in writes {
            self.ends.foresee(&write)?;
            self.backlog += write.bytes();
            self.waiting.push_back(write);
        }
        Ok(())
    }

    /// Zeros after the end of a disk of `source` bytes, if the target's disk is larger and the layout takes bytes.
    pub(super) fn zeros_after(&self, source: u64) -> Result<Option<Part>> {
        let written = self.layout.virtual_bytes(source)?;
        let zeros = GuestRange::first(written).skip(source);
        Ok((!zeros.is_empty() && matches!(self.layout.input(), LayoutInput::Bytes(_)))
            .then_some(Part::Zero(zeros)))
    }

    /// Completes the target of a disk of `virtual_bytes`: issues the last writes one after the other and checks the
    /// target. Returns its length and the warnings of the check.
    pub(super) async fn complete(
        &mut self,
        virtual_bytes: u64,
        stall: Option<Duration>,
    ) -> Result<(u64, Vec<Warning>)> {
        let (writes, len) = self.layout.finish(virtual_bytes)?;
        let mut watch = stall.map(Watchdog::new);
        for write in writes {
            self.ends.note(&write)?;
            let mut writing = self.apply(write);
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => break written?,
                    watch = Watchdog::tick(&mut watch) => {
                        watch.look(None, Some(written(self.sink, &self.answered)), 0, self.zeroed.load(Ordering::Relaxed))?;
                    }
                }
            }
        }
        let looks = self.layout.recognise(&std::mem::take(&mut self.ends).finish(self.sink.url(), len)?)?;
        Ok((len, looks))
    }
}

fn no_map(layout: &dyn Layout) -> Error {
    Error::new(
        ErrorKind::DestinationUnsuitable,
        format!(
            "a {} {} in one pass needs the block map of the source, and a stream has none",
            layout.variant(),
            layout.format()
        ),
    )
    .hint("name the source by its path or URL, or write raw or streamOptimized VMDK")
}

/// Bytes that `sink` accepted, or the bytes of its completed writes if it does not count.
fn written(sink: &dyn Sink, answered: &AtomicU64) -> u64 {
    sink.written().unwrap_or_else(|| answered.load(Ordering::Relaxed))
}

/// Performs one step, and counts the bytes that it wrote and zeroed.
async fn apply(
    sink: &dyn Sink,
    write: Write,
    answered: Arc<AtomicU64>,
    zeroed: Arc<AtomicU64>,
) -> Result<()> {
    /// The most bytes zeroed at once. A slow disk does this in seconds, so the run is not mistaken for a stalled one.
    const AT_ONCE: u64 = 1 << 30;
    match write {
        Write::Bytes(at, pieces) => {
            let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
            sink.write(at, pieces).await?;
            answered.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        }
        Write::Zero(mut rest) => {
            while !rest.is_empty() {
                let (now, later) = rest.split_at(AT_ONCE);
                sink.zero(now).await?;
                zeroed.fetch_add(now.len(), Ordering::Relaxed);
                rest = later;
            }
            Ok(())
        }
    }
}

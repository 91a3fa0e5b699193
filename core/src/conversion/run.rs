//! One run of a conversion, from what the facts forbid to what is published.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use crate::address::{GuestOffset, GuestRange};
use crate::conversion::checkpoint::{Checkpoint, Placeholder};
use crate::conversion::checkpointer::Checkpointer;
use crate::conversion::content_meter::ContentMeter;
use crate::conversion::conversion::Input;
use crate::conversion::head_tail::WrittenEnds;
use crate::conversion::metrics::{QueueDepths, RunMetrics, RunSnapshot};
use crate::conversion::report::{Report, TransferStats};
use crate::conversion::resources::Resources;
use crate::conversion::timing::{TimingClock, WaitReason};
use crate::conversion::verify;
use crate::conversion::watchdog::Watchdog;
use crate::digest::{Digest, DigestTree, Hash, sha256};
use crate::disk::{Disk, ImageInfo};
use crate::engine::{Encoding, Pipeline, PipelineEvent, Transfer, TransferOptions};
use crate::error::{Error, ErrorKind, Result, Warning};
use crate::layout::{Layout, LayoutFacts, LayoutInput, Order, Part, Write, Writes, allocation};
use crate::limits::{Limits, Sizes};
use crate::progress::{Phase, Progress};
use crate::ranges::are_sound;
use crate::sink::{ReadBack, Receipt, Sink, SinkHint, memory_of};
use crate::source::BoxFuture;

/// Bytes that may wait for the sink before nothing more is taken from the source: enough to keep it busy, few enough to
/// be in the caches still when their turn comes.
const WAITING: u64 = 8 << 20;

/// A target that may become larger than this has its map walked first, where the sink gathers parts: they are equal, at most
/// 10,000, and as small as the largest that the target can be allows.
const WORTH_A_WALK: u64 = 10_000 * (8 << 20);

pub(super) struct Run<'a> {
    layout: Option<Box<dyn Layout>>,
    sink: Option<&'a dyn Sink>,
    limits: Limits,
    progress: Option<Sender<Progress>>,
    digest: bool,
    verify: bool,
    resume: bool,
    stall: Option<Duration>,
    started: Instant,
    written: WrittenEnds,
    /// Bytes of the target that were zeroed: a device may take long over what it does not count as written.
    zeroed: Arc<AtomicU64>,
    keeper: Option<Checkpointer<'a>>,
    clock: TimingClock,
    meters: RunMetrics,
    /// Cancelled where the run is to stop. What was not published by then is undone from outside.
    cancel: Option<CancellationToken>,
}

/// What is asked of a run.
#[derive(Clone)]
pub(super) struct RunOptions {
    pub(super) digest: bool,
    pub(super) verify: bool,
    pub(super) resume: bool,
    pub(super) stall: Option<Duration>,
    pub(super) cancel: Option<CancellationToken>,
}

/// What is shown of the source while a run goes on.
#[derive(Clone, Copy, Default)]
struct Shown {
    done: u64,
    total: Option<u64>,
    fetched: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        layout: Option<Box<dyn Layout>>,
        sink: Option<&'a dyn Sink>,
        limits: Limits,
        progress: Option<Sender<Progress>>,
        how: RunOptions,
    ) -> Self {
        let RunOptions { digest, verify, resume, stall, cancel } = how;
        Self {
            layout,
            sink,
            limits,
            progress,
            digest: digest || verify,
            verify: verify && sink.is_some(),
            resume,
            stall,
            started: Instant::now(),
            written: WrittenEnds::default(),
            zeroed: Arc::default(),
            keeper: None,
            clock: TimingClock::new(),
            meters: RunMetrics::new(),
            cancel,
        }
    }

    pub(super) async fn go(mut self, input: Input, resources: &Resources) -> Result<Report> {
        let mut geometry = self.admit(&input)?;
        self.show(Phase::Plan, Shown::default());
        let takes = self.layout.as_ref().map(|layout| layout.takes());
        let order = match &takes {
            None => Order::Any,
            Some(LayoutInput::Bytes(order)) => *order,
            Some(LayoutInput::Units(_)) => Order::Guest,
        };
        let mut options = resources.transfer(order, self.digest)?;
        let budget = options.budget.clone();
        let keeps = Keeps::of(budget.total(), takes.as_ref(), self.sink);
        let room = if keeps.all() > 0 { Some(budget.keep(keeps.all()).await?) } else { None };
        let (disk, known) = match &input {
            Input::Disk(disk) => (Some(Arc::clone(disk)), Some(disk.virtual_bytes())),
            Input::Stream(stream) => (None, stream.virtual_bytes_known().then_some(geometry.virtual_bytes)),
        };
        let (saved, started_over) = self.saved(disk.as_deref(), order).await?;
        let first = self.begin(disk, known, geometry.fingerprint, keeps.sink).await?;
        let mut encoding = None;
        if let Some(LayoutInput::Units(encoder)) = takes {
            encoding = Some(Encoding::new(encoder, Arc::clone(&options.pool), keeps.encoded / 2));
        }
        options.carry = encoding.as_ref().and_then(Encoding::carry);
        options.kept = keeps.all();
        let waiting = if encoding.is_some() { keeps.encoded / 2 } else { WAITING };
        let done = saved.as_ref().map_or_else(Vec::new, |saved| saved.done.clone());
        options.done = done.into();
        let transfer = match input {
            Input::Disk(disk) => Transfer::of_disk(disk, options.clone()),
            Input::Stream(stream) => Transfer::of_stream(stream, options.clone()),
        };
        let account = ContentMeter::new(self.digest.then(DigestTree::new), self.limits.image);
        let mut flow = Pipeline::new(transfer, account, encoding);
        let resumed_bytes = saved.map_or(Ok(0), |saved| self.go_on(saved, order, &mut flow))?;
        self.clock.was(|spent| &mut spent.plan);
        let workers = options.pool.threads();
        let moved = self.move_all(first, &mut flow, waiting, workers).await;
        self.clock.was(|spent| &mut spent.cpu);
        self.tell(&flow, QueueDepths::default());
        moved?;

        let virtual_bytes = flow.transfer.virtual_bytes().unwrap_or(0);
        geometry.virtual_bytes = virtual_bytes;
        let written_as =
            self.layout.as_ref().map_or(Ok(virtual_bytes), |layout| layout.virtual_bytes(virtual_bytes))?;
        let digest = flow.meter.digest(written_as)?;
        let mut sizes = Sizes {
            object_bytes: flow.transfer.object_bytes(),
            virtual_bytes: Some(virtual_bytes),
            allocated_bytes: Some(flow.transfer.allocated_bytes()),
            content_bytes: Some(flow.meter.content_bytes),
            content_end: Some(flow.meter.content_end),
            output_bytes: None,
        };
        self.clock.was(|spent| &mut spent.finish);
        let verdict = self.limits.judge(&sizes);
        // A stream shows its sizes only now.
        verdict.enforce()?;
        let shown = Shown::of(&flow);
        let (warnings, source) = (flow.transfer.warnings(), flow.transfer.traffic());
        drop(flow);
        let (target, looks) = self.publish(written_as, digest, shown, &options).await?;
        drop(room);
        self.meters.wrote(target.as_ref().map_or(0, |(.., receipt)| receipt.written));
        sizes.output_bytes = target.as_ref().map(|(.., receipt)| receipt.bytes);
        let warnings = started_over
            .into_iter()
            .chain(warnings)
            .chain(looks)
            .chain(verdict.warnings.iter().cloned())
            .collect();
        let movement = TransferStats {
            source,
            bytes_written: target.as_ref().map_or(0, |(.., receipt)| receipt.written),
            resumed_bytes,
            peak_budget_bytes: budget.peak(),
            seconds: self.started.elapsed().as_secs_f64(),
            spent: self.clock.spent(),
        };
        Ok(Report { geometry, sizes, verdict, warnings, target, digest, movement })
    }

    /// What can be decided before a byte of data is read.
    fn admit(&self, input: &Input) -> Result<ImageInfo> {
        let (geometry, sizes) = match input {
            Input::Disk(disk) => {
                disk.admit()?;
                let sizes = Sizes {
                    object_bytes: disk.object_bytes(),
                    virtual_bytes: Some(disk.virtual_bytes()),
                    ..Sizes::default()
                };
                (disk.geometry(), sizes)
            }
            Input::Stream(stream) => {
                let virtual_bytes = stream.virtual_bytes_known().then(|| stream.geometry().virtual_bytes);
                (stream.geometry(), Sizes { virtual_bytes, ..Sizes::default() })
            }
        };
        self.limits.judge(&sizes).enforce()?;
        if self.verify && self.sink.is_some_and(|sink| sink.capabilities().read_back == ReadBack::Never) {
            return Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                "what is written there cannot be read back",
            )
            .hint("convert to a file, a device or S3, or do without --verify"));
        }
        Ok(geometry.clone())
    }

    /// Holds a stream to the limits while it comes. What is read by a map showed its sizes before.
    fn admit_so_far(&self, flow: &Pipeline<ContentMeter>) -> Result<()> {
        if flow.transfer.is_stream() {
            self.limits.admit_so_far(flow.transfer.object_bytes(), flow.meter.seen_bytes)?;
        }
        Ok(())
    }

    /// Prepares layout and sink, which may hold `memory` bytes; gives the first writes. A stream has no `disk`, and a raw
    /// one no `known` size.
    async fn begin(
        &mut self,
        disk: Option<Arc<Disk>>,
        known: Option<u64>,
        fingerprint: [u8; 32],
        memory: u64,
    ) -> Result<Writes> {
        let (Some(layout), Some(sink)) = (&mut self.layout, self.sink) else {
            return Ok(Box::new(std::iter::empty()));
        };
        let virtual_bytes = known.map(|bytes| layout.virtual_bytes(bytes)).transpose()?;
        let mut facts = LayoutFacts { virtual_bytes, fingerprint, map: None };
        let can = sink.capabilities();
        let walk = layout.needs_map()
            || (can.buffers && layout.output(&facts)?.is_some_and(|output| output.bytes > WORTH_A_WALK));
        if let (true, Some(unit)) = (walk, layout.unit()) {
            facts.map = match &disk {
                Some(disk) => allocation(disk, Some(unit)).await?.1,
                None if layout.needs_map() => return Err(no_map(&**layout)),
                None => None,
            };
        }
        let output = layout.output(&facts)?;
        // A device is changed from here on: what the layout refuses, it refuses before.
        let writes = layout.begin(&facts)?;
        sink.prepare(SinkHint {
            most_bytes: output.map(|output| output.bytes),
            exact: output.is_some_and(|output| output.exact),
            memory,
        })
        .await?;
        Ok(writes)
    }

    /// What an interrupted run left, where it was for the same; begins to keep what this one needs to be gone on with.
    async fn saved(
        &mut self,
        disk: Option<&Disk>,
        order: Order,
    ) -> Result<(Option<Resumed>, Option<Warning>)> {
        let (Some(layout), Some(sink), Some(disk)) = (&self.layout, self.sink, disk) else {
            return Ok((None, None));
        };
        let Some(journal) = sink.journal() else { return Ok((None, None)) };
        let key = key(disk, &**layout, self.digest);
        self.keeper =
            key.map(|key| Checkpointer::new(journal, key, order == Order::Guest, layout.unit(), disk));
        if !self.resume {
            return Ok((None, None));
        }
        let Some(saved) = journal.load().await? else { return Ok((None, None)) };
        let why = match Checkpoint::decode(&saved.state) {
            _ if key.is_none() => "nothing tells whether the source is still the same",
            None => "its journal cannot be read",
            Some(state) if Some(state.key) != key => {
                "it was of another source, of other options, or made by another version"
            }
            Some(state) => {
                let done = state.placed.done(&saved.target);
                if !done.is_empty() && are_sound(&done, disk.virtual_bytes()) {
                    return Ok((Some(Resumed { state, done }), None));
                }
                "too little of it is left"
            }
        };
        journal.drop_saved().await?;
        let message =
            format!("{} is converted from the start: what was left of it is dropped, {why}", sink.url());
        Ok((None, Some(Warning::new("resume_started_over", message))))
    }

    /// LayoutInput up the state of an interrupted run. Gives how many bytes of content it had.
    fn go_on(&mut self, saved: Resumed, order: Order, flow: &mut Pipeline<ContentMeter>) -> Result<u64> {
        let Resumed { state, done } = saved;
        let content = state.counted.content_bytes;
        if !flow.meter.go_on(state.counted) {
            return Err(Error::internal("a journal has another digest than its options"));
        }
        self.written = state.written.into_owned();
        if let (Order::Guest, Some(done)) = (order, done.first()) {
            flow.go_on_behind(*done);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.go_on(state.placed.into_owned(), content);
        }
        Ok(content)
    }

    /// Places once more what an interrupted run placed: its bytes are there.
    fn place_again(&mut self, done: GuestRange) -> Result<()> {
        let (Some(layout), Some(keeper)) = (&mut self.layout, &mut self.keeper) else {
            return Err(Error::internal("a run goes on without what it goes on from"));
        };
        let end = keeper.placed.target_end();
        let unit = layout.unit();
        let dummy = Placeholder::new(unit);
        let mut place = |write: &Write| match write.end() > end {
            true => Err(Error::internal(format!("what was placed up to {end} now ends at {}", write.end()))),
            false => Ok(()),
        };
        for replayed in keeper.placed.parts(done, unit) {
            for part in dummy.parts(replayed, unit) {
                layout.place(part)?.iter().try_for_each(&mut place)?;
            }
        }
        layout.flush().iter().try_for_each(&mut place)?;
        keeper.behind = true;
        Ok(())
    }

    /// Everything from the source to the target: reading and writing go on side by side.
    /// No more than `most` bytes wait for the sink.
    async fn move_all(
        &mut self,
        mut first: Writes,
        flow: &mut Pipeline<ContentMeter>,
        most: u64,
        workers: usize,
    ) -> Result<()> {
        let sink = self.sink;
        let mut saving: FuturesUnordered<BoxFuture<'a, Result<()>>> = FuturesUnordered::new();
        // Where a mark is, when all that was written before it was answered.
        let mut settling: Option<GuestOffset> = None;
        let in_flight = sink.map_or(0, |sink| sink.capabilities().in_flight.max(1));
        let mut waiting: VecDeque<Write> = VecDeque::new();
        let mut backlog = 0u64;
        let mut writes = FuturesUnordered::new();
        let mut watch = self.stall.map(Watchdog::new);
        let mut reading = true;
        loop {
            while writes.len() < in_flight
                && let Some(sink) = sink
                && let Some(write) = first.next().or_else(|| waiting.pop_front())
            {
                backlog = backlog.saturating_sub(write.bytes());
                self.written.note(&write);
                writes.push(apply(sink, write, Arc::clone(&self.zeroed)));
            }
            if writes.is_empty() && waiting.is_empty() {
                if !reading {
                    break;
                }
                if let (Some(at), Some(keeper)) = (settling.take(), &mut self.keeper) {
                    saving.extend(keeper.save(at, flow, &self.written));
                }
            }
            if let Some(keeper) = self.keeper.as_mut().filter(|_| reading)
                && keeper.wants_mark(flow, saving.len())
            {
                flow.pause();
            }
            let takes = reading && backlog < most && settling.is_none();
            let queues = QueueDepths::of(flow, writes.len(), backlog);
            if self.meters.is_due() {
                self.tell(flow, queues);
            }
            let wait = if takes { queues.wait(workers) } else { WaitReason::Destination };
            self.clock.was(|spent| &mut spent.cpu);
            tokio::select! {
                biased;
                Some(written) = writes.next(), if !writes.is_empty() => {
                    self.clock.waited(wait);
                    written?;
                },
                Some(saved) = saving.next(), if !saving.is_empty() => {
                    self.clock.waited(wait);
                    if let Some(keeper) = &mut self.keeper {
                        keeper.saved(saved);
                    }
                },
                next = flow.next(), if takes => {
                    self.clock.waited(wait);
                    let next = next?;
                    self.admit_so_far(flow)?;
                    let taken = match next {
                        PipelineEvent::Part(part) => self.place(part)?,
                        PipelineEvent::Done(range) => {
                            self.place_again(range)?;
                            Vec::new()
                        }
                        PipelineEvent::Paused(at) => {
                            settling = Some(at);
                            self.flush()
                        }
                        PipelineEvent::End => {
                            reading = false;
                            self.behind(flow)?.map_or_else(|| Ok(Vec::new()), |part| self.place(part))?
                        }
                    };
                    backlog += taken.iter().map(Write::bytes).sum::<u64>();
                    taken.iter().for_each(|write| self.written.foresee(write));
                    waiting.extend(taken);
                },
                watch = Watchdog::tick(&mut watch) => {
                    self.clock.waited(wait);
                    // A stream may go on without end and hold nothing.
                    self.admit_so_far(flow)?;
                    let writing = sink.filter(|_| !writes.is_empty());
                    let zeroed = self.zeroed.load(Ordering::Relaxed);
                    watch.look(Some(&flow.transfer), writing, flow.meter.seen_bytes, zeroed)?;
                }
            }
            self.show(Phase::Transfer, Shown::of(flow));
        }
        Ok(())
    }

    /// What the layout gathers, so that all that was placed is written.
    fn flush(&mut self) -> Vec<Write> {
        let writes = self.layout.as_mut().map_or_else(Vec::new, |layout| layout.flush());
        self.keeper.iter_mut().for_each(|keeper| keeper.reach(&writes));
        writes
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        let Some(layout) = &mut self.layout else { return Ok(Vec::new()) };
        if let Some(keeper) = &mut self.keeper {
            keeper.note(&part);
        }
        let writes = layout.place(part)?;
        if let Some(keeper) = &mut self.keeper {
            keeper.reach(&writes);
        }
        Ok(writes)
    }

    /// The zeros that the disk is written with behind its end, where the target is to be larger.
    fn behind(&self, flow: &mut Pipeline<ContentMeter>) -> Result<Option<Part>> {
        let (Some(layout), Some(source)) = (&self.layout, flow.transfer.virtual_bytes()) else {
            return Ok(None);
        };
        let written = layout.virtual_bytes(source)?;
        flow.meter.lengthen(source, written);
        let zeros = GuestRange::between(GuestOffset::new(source), GuestOffset::new(written));
        Ok((written > source && matches!(layout.takes(), LayoutInput::Bytes(_))).then_some(Part::Zero(zeros)))
    }

    /// Completes the target: its end, a look at it, and its name.
    async fn publish(
        &mut self,
        virtual_bytes: u64,
        digest: Option<Digest>,
        shown: Shown,
        options: &TransferOptions,
    ) -> Result<(Option<(&'static str, String, Receipt)>, Vec<Warning>)> {
        self.show(Phase::Finish, shown);
        let (Some(mut layout), Some(sink)) = (self.layout.take(), self.sink) else {
            return Ok((None, Vec::new()));
        };
        let (writes, len) = layout.finish(virtual_bytes)?;
        self.write_end(sink, writes).await?;
        let layout = &*layout;
        let looks = layout.recognise(&std::mem::take(&mut self.written).of(sink.url(), len))?;
        let when = sink.capabilities().read_back;
        self.clock.was(|spent| &mut spent.finish);
        if self.verify && when == ReadBack::Before {
            self.show(Phase::Verify, shown);
            verify::check(layout, sink, len, digest, options, self.stall).await?;
            self.clock.was(|spent| &mut spent.verify);
        }
        let receipt = sink.finish(len).await?;
        self.clock.was(|spent| &mut spent.finish);
        if self.verify && when == ReadBack::After {
            self.show(Phase::Verify, shown);
            let check = verify::check(layout, sink, len, digest, options, self.stall);
            if let Err(error) = unless(self.cancel.as_ref(), check).await {
                return Err(verify::taken_back(error, sink, &receipt).await);
            }
            self.clock.was(|spent| &mut spent.verify);
        }
        self.show(Phase::Finish, shown);
        Ok((Some((layout.format(), layout.variant(), receipt)), looks))
    }

    /// What a layout leaves to the end, one write after the other.
    async fn write_end(&mut self, sink: &dyn Sink, writes: Writes) -> Result<()> {
        let mut watch = self.stall.map(Watchdog::new);
        for write in writes {
            self.written.note(&write);
            let mut writing = pin!(apply(sink, write, Arc::clone(&self.zeroed)));
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => break written?,
                    watch = Watchdog::tick(&mut watch) => {
                        watch.look(None, Some(sink), 0, self.zeroed.load(Ordering::Relaxed))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells whoever watches how the run stands.
    fn tell(&mut self, flow: &Pipeline<ContentMeter>, queues: QueueDepths) {
        self.meters.tell(RunSnapshot {
            source: flow.transfer.traffic(),
            written: self.sink.map_or(0, Sink::written),
            guest: flow.meter.seen_bytes,
            queues,
        });
    }

    /// Tells how far it is.
    fn show(&self, phase: Phase, shown: Shown) {
        let Some(progress) = &self.progress else { return };
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let Shown { done, total, fetched } = shown;
        let eta_s = total.filter(|_| done > 0).map(|total| {
            let left = total.saturating_sub(done) as f64;
            elapsed_s * left / done as f64
        });
        progress.send_replace(Progress {
            phase,
            done_bytes: done,
            total_bytes: total,
            fetched_bytes: fetched,
            written_bytes: self.sink.map_or(0, Sink::written),
            elapsed_s,
            eta_s,
        });
    }
}

/// What a journal has of an interrupted run.
struct Resumed {
    state: Checkpoint<'static>,
    done: Vec<GuestRange>,
}

/// What a run goes on with has in common with the one before: source, target, options and build, as one hash. `None`
/// where a source does not show whether it changed.
fn key(disk: &Disk, layout: &dyn Layout, digest: bool) -> Option<Hash> {
    let mut text = format!(
        "{} {} {} {} {} {} {digest}",
        env!("CARGO_PKG_VERSION"),
        layout.format(),
        layout.variant(),
        layout.options(),
        disk.virtual_bytes(),
        disk.files().len(),
    );
    for file in disk.files() {
        let identity = file.identity();
        if identity.etag.is_none() && identity.version_id.is_none() && identity.file.is_none() {
            return None;
        }
        text += &format!(" {} {identity:?}", file.len());
    }
    Some(sha256(&[text.as_bytes(), &disk.geometry().fingerprint]))
}

/// What a run keeps of the budget to its end, in bytes.
struct Keeps {
    /// Buffers of the sink.
    sink: u64,
    /// Encoded units on their way to the sink.
    encoded: u64,
}

impl Keeps {
    fn of(total: u64, takes: Option<&LayoutInput>, sink: Option<&dyn Sink>) -> Self {
        let buffers = sink.is_some_and(|sink| sink.capabilities().buffers);
        let encodes = matches!(takes, Some(LayoutInput::Units(_)));
        Self {
            sink: if buffers { memory_of(total) } else { 0 },
            encoded: if encodes { WAITING.min(total / 8) } else { 0 },
        }
    }

    fn all(&self) -> u64 {
        self.sink + self.encoded
    }
}

impl QueueDepths {
    fn of(flow: &Pipeline<ContentMeter>, writes: usize, backlog: u64) -> Self {
        let (reads, jobs) = flow.under_way();
        Self { reads, jobs, writes, backlog, waits_for_room: flow.transfer.waits_for_room() }
    }

    /// What a run waits for that would take more than it has.
    fn wait(&self, workers: usize) -> WaitReason {
        match self {
            _ if self.jobs >= workers => WaitReason::Cpu,
            _ if self.reads > 0 => WaitReason::Source,
            _ if self.jobs > 0 => WaitReason::Cpu,
            // Room that is missed then is held by what is being written.
            _ if self.writes > 0 => WaitReason::Destination,
            _ if self.waits_for_room => WaitReason::Memory,
            _ => WaitReason::Source,
        }
    }
}

impl Shown {
    fn of(flow: &Pipeline<ContentMeter>) -> Self {
        let fetched = flow.transfer.traffic().bytes;
        Self { done: flow.meter.seen_bytes, total: flow.transfer.virtual_bytes(), fetched }
    }
}

fn no_map(layout: &dyn Layout) -> Error {
    Error::new(
        ErrorKind::DestinationUnsuitable,
        format!(
            "a {} {} in one pass needs the source's map first, and a stream has none",
            layout.variant(),
            layout.format()
        ),
    )
    .hint("name the source by its path or URL, or write raw or streamOptimized VMDK")
}

/// Awaits `work`, or ends where `cancel` is cancelled.
async fn unless<T>(cancel: Option<&CancellationToken>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match cancel {
        None => work.await,
        Some(cancel) => cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(cancelled())),
    }
}

/// The error of a run that was told to stop.
pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped before it was done")
}

/// Does one step, counting what it zeroes.
async fn apply(sink: &dyn Sink, write: Write, zeroed: Arc<AtomicU64>) -> Result<()> {
    /// Zeroed at once: what a slow disk does in seconds, so that a run is not taken for one that stands still.
    const AT_ONCE: u64 = 1 << 30;
    match write {
        Write::Bytes(at, pieces) => sink.write(at, pieces).await,
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

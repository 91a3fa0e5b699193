//! A conversion from end to end: measured and limited on the way, published only when whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::account::Account;
use crate::budget::Budget;
use crate::digest::{Digest, Tree};
use crate::disk::{Disk, Geometry};
use crate::error::{Error, ErrorKind, Result, Warning};
use crate::limits::{Limits, Sizes, Verdict};
use crate::pool::CpuPool;
use crate::progress::{Phase, Progress};
use crate::sink::{Receipt, Sink};
use crate::source::Traffic;
use crate::stream::ImageStream;
use crate::target::{Target, Write};
use crate::transfer::{Item, Order, Transfer, TransferOptions};

/// Bytes that may wait for the sink before nothing more is taken from the source: enough to keep it busy, few enough to
/// be in the caches still when their turn comes.
const WAITING: u64 = 8 << 20;

/// What is read: an opened disk, or an image that comes in one pass.
pub enum Input {
    /// Random access: planned from its map.
    Disk(Arc<Disk>),
    /// One pass.
    Stream(Box<dyn ImageStream>),
}

impl From<Disk> for Input {
    fn from(disk: Disk) -> Self {
        Self::Disk(Arc::new(disk))
    }
}

impl From<Arc<Disk>> for Input {
    fn from(disk: Arc<Disk>) -> Self {
        Self::Disk(disk)
    }
}

impl From<Box<dyn ImageStream>> for Input {
    fn from(stream: Box<dyn ImageStream>) -> Self {
        Self::Stream(stream)
    }
}

/// What the parts of a run share: parameters that an embedder decides.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// The bound on bytes in flight; share one between conversions to bound them together.
    pub budget: Option<Budget>,
    /// The CPU workers; share one between conversions.
    pub pool: Option<Arc<CpuPool>>,
    /// Most requests in flight; where not said, what the source finds worth having.
    pub connections: Option<usize>,
}

impl Resources {
    pub(crate) fn transfer(&self, order: Order, hash: bool) -> Result<TransferOptions> {
        let pool = match &self.pool {
            Some(pool) => Arc::clone(pool),
            None => Arc::new(CpuPool::new(0)?),
        };
        Ok(TransferOptions {
            order,
            zero_leaf: hash.then(|| Tree::new().zero_block()),
            connections: self.connections,
            budget: self.budget.clone().unwrap_or_else(|| Budget::new(Budget::DEFAULT)),
            pool,
        })
    }
}

/// What moved.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Movement {
    /// What was asked of the source, opening included.
    pub source: Traffic,
    /// Bytes written to the target.
    pub bytes_written: u64,
    /// Bytes that an earlier, interrupted run had done.
    pub resumed_bytes: u64,
    /// The most bytes in flight at any time: the high-water mark of the budget.
    pub peak_budget_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What a conversion, or a reading without a target, found out.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The facts of the source.
    pub geometry: Geometry,
    /// The sizes, all known but `output_bytes` where nothing was written.
    pub sizes: Sizes,
    /// The rules, with the content as measured.
    pub verdict: Verdict,
    /// All that was remarkable.
    pub warnings: Vec<Warning>,
    /// Format and variant of the target, and what was published.
    pub target: Option<(&'static str, String, Receipt)>,
    /// The digest of the guest disk, unless it was not wanted.
    pub digest: Option<Digest>,
    /// What moved.
    pub movement: Movement,
}

/// Reads a disk to its end, and writes it to a target if there is one.
///
/// Nothing runs before [`run`](Self::run) is awaited, and nothing runs on after its future is dropped: the requests
/// under way are dropped with it, and the target is undone.
pub struct Conversion {
    input: Input,
    target: Option<Target>,
    limits: Limits,
    resources: Resources,
    progress: Option<watch::Sender<Progress>>,
    cancel: Option<CancellationToken>,
    digest: bool,
    stall: Option<Duration>,
}

impl Conversion {
    /// Converts `input` to `target`.
    pub fn new(input: impl Into<Input>, target: Target) -> Self {
        Self { target: Some(target), ..Self::reading(input) }
    }

    /// Reads `input` without writing it: for its digest and its real content.
    pub fn reading(input: impl Into<Input>) -> Self {
        Self {
            input: input.into(),
            target: None,
            limits: Limits::default(),
            resources: Resources::default(),
            progress: None,
            cancel: None,
            digest: true,
            stall: Some(Duration::from_secs(60)),
        }
    }

    /// What the image is measured against; by default the image limit of the service, and no capacity. A rule that fails
    /// ends the conversion as soon as the facts allow.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Budget, CPU workers and connections.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Where to show how far it is.
    #[must_use]
    pub fn on_progress(mut self, progress: watch::Sender<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Cancelling the token ends the run with `cancelled`, the target undone; or, where that was being published at this
    /// moment, with its report.
    #[must_use]
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// Whether to compute the digest of the guest disk; by default it is.
    #[must_use]
    pub fn digest(mut self, wanted: bool) -> Self {
        self.digest = wanted;
        self
    }

    /// How long to go on without any progress; by default 60 seconds. Needs a tokio runtime with its timers on.
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.stall = timeout;
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Any kind of the contract but those of opening. On an error the target is undone before it is answered.
    pub async fn run(self) -> Result<Report> {
        let Self { input, target, limits, resources, progress, cancel, digest, stall } = self;
        let (layout, sink) = match target {
            Some(Target { layout, sink }) => (Some(layout), Some(sink)),
            None => (None, None),
        };
        let order = layout.as_ref().map_or(Order::Any, |layout| layout.order());
        let run = async {
            let options = resources.transfer(order, digest)?;
            let mut run = Run {
                sink: sink.as_deref(),
                layout,
                account: Account::new(digest.then(Tree::new), limits.image),
                limits,
                progress,
                started: Instant::now(),
                budget: options.budget.clone(),
            };
            let geometry = run.admit(&input)?;
            let transfer = match input {
                Input::Disk(disk) => Transfer::of_disk(disk, options),
                Input::Stream(stream) => Transfer::of_stream(stream, options),
            };
            run.go(transfer, geometry, stall).await
        };
        let ended = match &cancel {
            None => run.await,
            Some(token) => {
                let mut run = std::pin::pin!(run);
                match (token.run_until_cancelled(run.as_mut()).await, &sink) {
                    (Some(ended), _) => ended,
                    // It came too late: the target is published, and an error beside it would be a lie.
                    (None, Some(sink)) if !sink.abort().await => run.await,
                    (None, _) => Err(Error::new(ErrorKind::Cancelled, "stopped before it was done")),
                }
            }
        };
        if let (Err(error), Some(sink)) = (&ended, &sink) {
            debug!(%error, "undoing the target");
            sink.abort().await;
        }
        ended
    }
}

struct Run<'a> {
    sink: Option<&'a dyn Sink>,
    layout: Option<Box<dyn crate::target::Layout>>,
    account: Account,
    limits: Limits,
    progress: Option<watch::Sender<Progress>>,
    started: Instant,
    budget: Budget,
}

impl Run<'_> {
    /// What can be decided before a byte of data is read.
    fn admit(&self, input: &Input) -> Result<Geometry> {
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
        Ok(geometry.clone())
    }

    async fn go(
        &mut self,
        mut transfer: Transfer,
        mut geometry: Geometry,
        stall: Option<Duration>,
    ) -> Result<Report> {
        self.show(Phase::Plan, &transfer);
        self.move_all(&mut transfer, stall).await?;
        let virtual_bytes = transfer.virtual_bytes().unwrap_or(0);
        geometry.virtual_bytes = virtual_bytes;
        let digest = self.account.digest(virtual_bytes)?;
        let mut sizes = Sizes {
            object_bytes: transfer.object_bytes(),
            virtual_bytes: Some(virtual_bytes),
            allocated_bytes: Some(transfer.allocated_bytes()),
            content_bytes: Some(self.account.content_bytes),
            content_end: Some(self.account.content_end),
            output_bytes: None,
        };
        let verdict = self.limits.judge(&sizes);
        // A stream shows its sizes only now.
        verdict.enforce()?;
        self.show(Phase::Finish, &transfer);
        let target = self.publish(virtual_bytes).await?;
        sizes.output_bytes = target.as_ref().map(|(.., receipt)| receipt.bytes);
        self.show(Phase::Finish, &transfer);
        let mut warnings = transfer.warnings();
        warnings.extend(verdict.warnings.iter().cloned());
        let movement = Movement {
            source: transfer.traffic(),
            bytes_written: target.as_ref().map_or(0, |(.., receipt)| receipt.written),
            resumed_bytes: 0,
            peak_budget_bytes: self.budget.peak(),
            seconds: self.started.elapsed().as_secs_f64(),
        };
        Ok(Report { geometry, sizes, verdict, warnings, target, digest, movement })
    }

    /// Everything from the source to the target: reading and writing go on side by side.
    async fn move_all(&mut self, transfer: &mut Transfer, stall: Option<Duration>) -> Result<()> {
        let sink = self.sink;
        let in_flight = sink.map_or(0, |sink| sink.capabilities().in_flight.max(1));
        let mut waiting: VecDeque<Write> = VecDeque::new();
        let mut backlog = 0u64;
        let mut writes = FuturesUnordered::new();
        let mut watch = stall.map(Watch::new);
        let mut reading = true;
        loop {
            while writes.len() < in_flight
                && let (Some(sink), Some(write)) = (sink, waiting.pop_front())
            {
                backlog = backlog.saturating_sub(write.bytes());
                writes.push(apply(sink, write));
            }
            if !reading && writes.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(written) = writes.next(), if !writes.is_empty() => written?,
                item = transfer.next(), if reading && backlog < WAITING => match item? {
                    Some(item) => {
                        let taken = self.take(item)?;
                        backlog += taken.iter().map(Write::bytes).sum::<u64>();
                        waiting.extend(taken);
                    }
                    None => reading = false,
                },
                watch = Watch::tick(&mut watch) => {
                    let writing = sink.filter(|_| !writes.is_empty());
                    watch.look(transfer, writing, self.account.seen_bytes)?;
                }
            }
            self.show(Phase::Transfer, transfer);
        }
        Ok(())
    }

    fn take(&mut self, item: Item) -> Result<Vec<Write>> {
        self.account.add(&item)?;
        self.layout.as_mut().map_or(Ok(Vec::new()), |layout| layout.place(item))
    }

    /// Completes the target.
    async fn publish(&mut self, virtual_bytes: u64) -> Result<Option<(&'static str, String, Receipt)>> {
        let (Some(layout), Some(sink)) = (&mut self.layout, self.sink) else { return Ok(None) };
        let (writes, len) = layout.finish(virtual_bytes)?;
        for write in writes {
            apply(sink, write).await?;
        }
        let receipt = sink.finish(len).await?;
        Ok(Some((layout.format(), layout.variant(), receipt)))
    }

    /// Tells how far it is.
    fn show(&mut self, phase: Phase, transfer: &Transfer) {
        let Some(progress) = &self.progress else { return };
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let (done_bytes, total_bytes) = (self.account.seen_bytes, transfer.virtual_bytes());
        let eta_s = total_bytes.filter(|_| done_bytes > 0).map(|total| {
            let left = total.saturating_sub(done_bytes) as f64;
            elapsed_s * left / done_bytes as f64
        });
        progress.send_replace(Progress {
            phase,
            done_bytes,
            total_bytes,
            fetched_bytes: transfer.traffic().bytes,
            written_bytes: self.sink.map_or(0, Sink::written),
            elapsed_s,
            eta_s,
        });
    }
}

async fn apply(sink: &dyn Sink, write: Write) -> Result<()> {
    match write {
        Write::Bytes(at, pieces) => sink.write(at, pieces).await,
        Write::Zero(range) => sink.zero(range).await,
    }
}

/// Ends a run in which nothing moves any more.
///
/// It counts its own ticks, not the time: a process that was stopped for a while, or got no processor, saw nothing
/// move since it did not look.
struct Watch {
    timeout: Duration,
    ticks: tokio::time::Interval,
    seen: [u64; 4],
    idle: u32,
}

impl Watch {
    /// Ticks without a change that make a stall.
    const TICKS: u32 = 8;

    fn new(timeout: Duration) -> Self {
        let each = (timeout / Self::TICKS).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(each);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick of an interval comes at once, and counts as one with a change.
        Self { timeout, ticks, seen: [u64::MAX; 4], idle: 0 }
    }

    async fn tick(watch: &mut Option<Self>) -> &mut Self {
        match watch {
            Some(watch) => {
                watch.ticks.tick().await;
                watch
            }
            None => std::future::pending().await,
        }
    }

    /// Whether something moved since the last tick. `writing` is the sink where writes are under way, `done` are the
    /// guest bytes that came.
    fn look(&mut self, transfer: &Transfer, writing: Option<&dyn Sink>, done: u64) -> Result<()> {
        let fetched = transfer.traffic().bytes;
        let written = writing.map_or(0, Sink::written);
        let seen = [fetched, transfer.mapped_bytes(), written, done];
        // Whoever holds the room that this one waits for is watched itself.
        let others_turn = writing.is_none() && transfer.waits_for_room();
        if seen != self.seen || others_turn {
            (self.seen, self.idle) = (seen, 0);
            return Ok(());
        }
        self.idle += 1;
        if self.idle < Self::TICKS {
            return Ok(());
        }
        let (kind, what) = match writing {
            Some(_) => (
                ErrorKind::DestinationUnavailable,
                format!("the destination took nothing after {written} bytes"),
            ),
            None => (ErrorKind::SourceUnavailable, format!("the source gave nothing after {fetched} bytes")),
        };
        Err(Error::new(kind, format!("{what}, for {} seconds", self.timeout.as_secs_f64())))
    }
}

//! One run of a conversion: the order of its steps.
//!
//! ```text
//! admit ──▶ load the checkpoint ──▶ begin the target ──▶ transfer ──▶ check ──▶ publish
//! facts        (resume only)        layout, sink         all data     sizes     check, verify, rename
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use crate::conversion::checkpointer::{Checkpointer, Resumed};
use crate::conversion::content_meter::ContentMeter;
use crate::conversion::input::Input;
use crate::conversion::metrics::QueueDepths;
use crate::conversion::report::{Report, TransferStats};
use crate::conversion::resources::Resources;
use crate::conversion::status::{SourceProgress, Status};
use crate::conversion::timing::{TimingClock, WaitReason};
use crate::conversion::verify;
use crate::conversion::watchdog::Watchdog;
use crate::conversion::writer::{BACKLOG_BYTES, Writer};
use crate::digest::{Digest, DigestTree};
use crate::disk::{Disk, ImageInfo};
use crate::engine::{Encoding, Pipeline, PipelineEvent, Transfer, TransferOptions};
use crate::error::{Error, ErrorKind, Result, Warning};
use crate::layout::{Layout, LayoutInput, Order};
use crate::limits::{Limits, Sizes};
use crate::progress::{Phase, Progress};
use crate::sink::{ReadBack, Receipt, Sink, memory_of};

pub(super) struct Run<'a> {
    writer: Option<Writer<'a>>,
    checkpointer: Option<Checkpointer<'a>>,
    limits: Limits,
    options: RunOptions,
    status: Status,
    clock: TimingClock,
}

/// The options of a run.
#[derive(Clone)]
pub(super) struct RunOptions {
    pub(super) digest: bool,
    pub(super) verify: bool,
    pub(super) resume: bool,
    pub(super) stall: Option<Duration>,
    /// Cancelled to stop the run. The caller undoes a target that is not published by then.
    pub(super) cancel: Option<CancellationToken>,
}

/// A published target: format, variant and receipt.
type Published = (&'static str, String, Receipt);

impl<'a> Run<'a> {
    pub(super) fn new(
        target: Option<(Box<dyn Layout>, &'a dyn Sink)>,
        limits: Limits,
        progress: Option<Sender<Progress>>,
        options: RunOptions,
    ) -> Self {
        let options = RunOptions {
            digest: options.digest || options.verify,
            verify: options.verify && target.is_some(),
            ..options
        };
        Self {
            writer: target.map(|(layout, sink)| Writer::new(layout, sink)),
            checkpointer: None,
            limits,
            options,
            status: Status::new(progress),
            clock: TimingClock::new(),
        }
    }

    pub(super) async fn go(mut self, input: Input, resources: &Resources) -> Result<Report> {
        let mut image = self.admit(&input)?;
        self.show(Phase::Plan, SourceProgress::default());
        let wants = self.writer.as_ref().map(|writer| writer.layout().input());
        let order = match &wants {
            None => Order::Any,
            Some(LayoutInput::Bytes(order)) => *order,
            Some(LayoutInput::Units(_)) => Order::Guest,
        };
        let mut options = resources.transfer(order, self.options.digest)?;
        let budget = options.budget.clone();
        let shares = MemoryShares::of(budget.total(), wants.as_ref(), self.writer.as_ref().map(Writer::sink));
        let reserved =
            if shares.all() > 0 { Some(budget.reserve_for_run(shares.all()).await?) } else { None };
        let (disk, known) = match &input {
            Input::Disk(disk) => (Some(Arc::clone(disk)), Some(disk.virtual_bytes())),
            Input::Stream(stream) => (None, stream.virtual_bytes_known().then_some(image.virtual_bytes)),
        };
        let (resumed, started_over) = self.load_checkpoint(disk.as_deref(), order).await?;
        let encodes = matches!(wants, Some(LayoutInput::Units(_)));
        let backlog = if encodes { shares.encoded / 2 } else { BACKLOG_BYTES };
        if let Some(writer) = &mut self.writer {
            writer.begin(disk.as_deref(), known, image.fingerprint, shares.sink, backlog).await?;
        }
        let mut encoding = None;
        if let Some(LayoutInput::Units(encoder)) = wants {
            encoding = Some(Encoding::new(encoder, Arc::clone(&options.pool), shares.encoded / 2));
        }
        options.passthrough = encoding.as_ref().and_then(Encoding::passthrough);
        options.reserved = shares.all();
        options.done = resumed.as_ref().map_or_else(Vec::new, |resumed| resumed.done.clone()).into();
        let transfer = match input {
            Input::Disk(disk) => Transfer::of_disk(disk, options.clone()),
            Input::Stream(stream) => Transfer::of_stream(stream, options.clone()),
        };
        let meter = ContentMeter::new(self.options.digest.then(DigestTree::new), self.limits.image);
        let mut pipeline = Pipeline::new(transfer, meter, encoding);
        let resumed_bytes = resumed.map_or(Ok(0), |resumed| self.resume(resumed, &mut pipeline))?;
        self.clock.charge(|timing| &mut timing.plan);
        let moved = self.transfer(&mut pipeline, options.pool.threads()).await;
        self.clock.charge(|timing| &mut timing.cpu);
        self.status.tell(&pipeline, self.written(), QueueDepths::default());
        moved?;

        let virtual_bytes = pipeline.transfer.virtual_bytes().unwrap_or(0);
        image.virtual_bytes = virtual_bytes;
        let written_as = match &self.writer {
            Some(writer) => writer.layout().virtual_bytes(virtual_bytes)?,
            None => virtual_bytes,
        };
        let digest = pipeline.meter.digest(written_as)?;
        let mut sizes = Sizes {
            object_bytes: pipeline.transfer.object_bytes(),
            virtual_bytes: Some(virtual_bytes),
            allocated_bytes: Some(pipeline.transfer.allocated_bytes()),
            content_bytes: Some(pipeline.meter.content_bytes),
            content_end: Some(pipeline.meter.content_end),
            output_bytes: None,
        };
        self.clock.charge(|timing| &mut timing.finish);
        let verdict = self.limits.judge(&sizes);
        // The sizes of a stream are known only now.
        verdict.enforce()?;
        let shown = SourceProgress::of(&pipeline);
        let (warnings, source) = (pipeline.transfer.warnings(), pipeline.transfer.traffic());
        drop(pipeline);
        let (target, looks) = self.publish(written_as, digest, shown, &options).await?;
        drop(reserved);
        let bytes_written = target.as_ref().map_or(0, |(.., receipt)| receipt.written);
        self.status.wrote(bytes_written);
        sizes.output_bytes = target.as_ref().map(|(.., receipt)| receipt.bytes);
        let warnings = started_over
            .into_iter()
            .chain(warnings)
            .chain(looks)
            .chain(verdict.warnings.iter().cloned())
            .collect();
        let stats = TransferStats {
            source,
            bytes_written,
            resumed_bytes,
            peak_budget_bytes: budget.peak(),
            seconds: self.status.elapsed(),
            timing: self.clock.timing(),
        };
        Ok(Report { image, sizes, verdict, warnings, target, digest, stats })
    }

    /// Checks everything that can be decided before any data is read.
    fn admit(&self, input: &Input) -> Result<ImageInfo> {
        let (image, sizes) = match input {
            Input::Disk(disk) => {
                disk.admit()?;
                let sizes = Sizes {
                    object_bytes: disk.object_bytes(),
                    virtual_bytes: Some(disk.virtual_bytes()),
                    ..Sizes::default()
                };
                (disk.info(), sizes)
            }
            Input::Stream(stream) => {
                let virtual_bytes = stream.virtual_bytes_known().then(|| stream.info().virtual_bytes);
                (stream.info(), Sizes { virtual_bytes, ..Sizes::default() })
            }
        };
        self.limits.judge(&sizes).enforce()?;
        let read_back = self.writer.as_ref().map(|writer| writer.sink().capabilities().read_back);
        if self.options.verify && read_back == Some(ReadBack::Never) {
            return Err(Error::new(ErrorKind::DestinationUnsuitable, "the destination cannot be read back")
                .hint("convert to a file, a device or S3, or omit --verify"));
        }
        Ok(image.clone())
    }

    /// Loads the checkpoint of an interrupted run, if it is for the same conversion. From here on this run saves
    /// checkpoints too.
    async fn load_checkpoint(
        &mut self,
        disk: Option<&Disk>,
        order: Order,
    ) -> Result<(Option<Resumed>, Option<Warning>)> {
        let (Some(writer), Some(disk)) = (&self.writer, disk) else { return Ok((None, None)) };
        let Some(journal) = writer.sink().journal() else { return Ok((None, None)) };
        self.checkpointer = Checkpointer::new(journal, disk, writer.layout(), order, self.options.digest);
        if !self.options.resume {
            return Ok((None, None));
        }
        let (key, sink) = (self.checkpointer.as_ref().map(Checkpointer::key), writer.sink());
        Checkpointer::load(key, journal, sink, disk).await
    }

    /// Resumes from the state of an interrupted run. Returns the bytes of content that it had processed.
    fn resume(&mut self, resumed: Resumed, pipeline: &mut Pipeline<ContentMeter>) -> Result<u64> {
        let (Some(writer), Some(checkpointer)) = (&mut self.writer, &mut self.checkpointer) else {
            return Err(Error::internal("a run continues without a checkpoint"));
        };
        let continued = checkpointer.resume(resumed);
        let content = continued.content.content_bytes;
        if !pipeline.meter.resume(continued.content) {
            return Err(Error::internal("the digest of the journal does not match its options"));
        }
        writer.resume(continued.ends);
        if let Some(done) = continued.done {
            pipeline.resume_after(done);
        }
        Ok(content)
    }

    /// Transfers everything from the source to the target. Reading and writing overlap.
    async fn transfer(&mut self, pipeline: &mut Pipeline<ContentMeter>, workers: usize) -> Result<()> {
        let mut watch = self.options.stall.map(Watchdog::new);
        let mut reading = true;
        loop {
            self.writer.iter_mut().try_for_each(Writer::start_writes)?;
            if self.writer.as_ref().is_none_or(Writer::is_idle) {
                if !reading {
                    return Ok(());
                }
                if let (Some(writer), Some(checkpointer)) = (&self.writer, &mut self.checkpointer) {
                    checkpointer.settled(&pipeline.meter, writer.ends());
                }
            }
            let checkpointer = self.checkpointer.as_ref();
            if reading && checkpointer.is_some_and(|checkpointer| checkpointer.is_due(&pipeline.meter)) {
                pipeline.pause();
            }
            let wants = reading
                && self.writer.as_ref().is_none_or(Writer::has_room)
                && !checkpointer.is_some_and(Checkpointer::is_settling);
            let is_saving = checkpointer.is_some_and(Checkpointer::is_saving);
            let queues = self.queues(pipeline);
            if self.status.is_due() {
                self.status.tell(pipeline, self.written(), queues);
            }
            let wait = if wants { queues.wait(workers) } else { WaitReason::Destination };
            self.clock.charge(|timing| &mut timing.cpu);
            tokio::select! {
                biased;
                written = next_written(&mut self.writer), if queues.writes > 0 => {
                    self.clock.charge_wait(wait);
                    written?;
                },
                () = Checkpointer::next_saved(&mut self.checkpointer), if is_saving => {
                    self.clock.charge_wait(wait);
                },
                event = pipeline.next(), if wants => {
                    self.clock.charge_wait(wait);
                    let event = event?;
                    self.admit_so_far(pipeline)?;
                    reading = self.take(event, pipeline)?;
                },
                watch = Watchdog::tick(&mut watch) => {
                    self.clock.charge_wait(wait);
                    // A stream may be endless and contain no data.
                    self.admit_so_far(pipeline)?;
                    let writing = self.writer.as_ref().filter(|_| queues.writes > 0).map(Writer::written);
                    let zeroed = self.writer.as_ref().map_or(0, Writer::zeroed);
                    watch.look(Some(&pipeline.transfer), writing, pipeline.meter.seen_bytes, zeroed)?;
                }
            }
            self.show(Phase::Transfer, SourceProgress::of(pipeline));
        }
    }

    /// Passes on an event of the pipeline. Returns false at its end.
    fn take(&mut self, event: PipelineEvent, pipeline: &mut Pipeline<ContentMeter>) -> Result<bool> {
        let checkpointer = self.checkpointer.as_mut();
        let Some(writer) = &mut self.writer else {
            return Ok(!matches!(event, PipelineEvent::End));
        };
        match event {
            PipelineEvent::Part(part) => writer.place(part, checkpointer)?,
            PipelineEvent::Done(range) => writer.replay(range, checkpointer)?,
            PipelineEvent::Paused(at) => {
                if let Some(checkpointer) = checkpointer {
                    checkpointer.settle(at);
                    writer.flush(Some(checkpointer))?;
                }
            }
            PipelineEvent::End => {
                if let Some(source) = pipeline.transfer.virtual_bytes() {
                    pipeline.meter.lengthen(source, writer.layout().virtual_bytes(source)?)?;
                    if let Some(zeros) = writer.zeros_after(source)? {
                        writer.place(zeros, checkpointer)?;
                    }
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks a stream against the limits while it is read. An image with a map was checked before.
    fn admit_so_far(&self, pipeline: &Pipeline<ContentMeter>) -> Result<()> {
        if pipeline.transfer.is_stream() {
            self.limits.admit_so_far(pipeline.transfer.object_bytes(), pipeline.meter.seen_bytes)?;
        }
        Ok(())
    }

    /// Completes the target: writes its end, checks it, and publishes it.
    async fn publish(
        &mut self,
        virtual_bytes: u64,
        digest: Option<Digest>,
        shown: SourceProgress,
        options: &TransferOptions,
    ) -> Result<(Option<Published>, Vec<Warning>)> {
        self.show(Phase::Finish, shown);
        let stall = self.options.stall;
        let Some(writer) = &mut self.writer else { return Ok((None, Vec::new())) };
        let (len, mut looks) = writer.complete(virtual_bytes, stall).await?;
        let Some(writer) = &self.writer else { return Ok((None, Vec::new())) };
        let (layout, sink) = (writer.layout(), writer.sink());
        let when = sink.capabilities().read_back;
        self.clock.charge(|timing| &mut timing.finish);
        if self.options.verify && when == ReadBack::Before {
            self.show(Phase::Verify, shown);
            verify::check(layout, sink, len, digest, options, stall).await?;
            self.clock.charge(|timing| &mut timing.verify);
        }
        let receipt = sink.finish(len).await?;
        looks.extend(receipt.warnings.iter().cloned());
        self.clock.charge(|timing| &mut timing.finish);
        if self.options.verify && when == ReadBack::After {
            self.show(Phase::Verify, shown);
            let check = verify::check(layout, sink, len, digest, options, stall);
            if let Err(error) = unless(self.options.cancel.as_ref(), check).await {
                return Err(verify::taken_back(error, sink, &receipt).await);
            }
            self.clock.charge(|timing| &mut timing.verify);
        }
        self.show(Phase::Finish, shown);
        Ok((Some((layout.format(), layout.variant(), receipt)), looks))
    }

    /// Bytes that the target accepted.
    fn written(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::written)
    }

    fn show(&self, phase: Phase, source: SourceProgress) {
        self.status.show(phase, source, self.written());
    }

    fn queues(&self, pipeline: &Pipeline<ContentMeter>) -> QueueDepths {
        let (reads, jobs) = pipeline.under_way();
        QueueDepths {
            reads,
            jobs,
            writes: self.writer.as_ref().map_or(0, Writer::writes),
            backlog: self.writer.as_ref().map_or(0, Writer::backlog),
            waits_for_memory: pipeline.transfer.waits_for_memory(),
        }
    }
}

async fn next_written(writer: &mut Option<Writer<'_>>) -> Result<()> {
    match writer {
        Some(writer) => writer.next_written().await,
        None => std::future::pending().await,
    }
}

/// The memory that a run reserves from the budget until its end, in bytes.
struct MemoryShares {
    /// Buffers of the sink.
    sink: u64,
    /// Encoded units on their way to the sink.
    encoded: u64,
}

impl MemoryShares {
    fn of(total: u64, wants: Option<&LayoutInput>, sink: Option<&dyn Sink>) -> Self {
        let buffers = sink.is_some_and(|sink| sink.capabilities().buffers);
        let encodes = matches!(wants, Some(LayoutInput::Units(_)));
        Self {
            sink: if buffers { memory_of(total) } else { 0 },
            encoded: if encodes { BACKLOG_BYTES.min(total / 8) } else { 0 },
        }
    }

    fn all(&self) -> u64 {
        self.sink + self.encoded
    }
}

impl QueueDepths {
    /// The reason why a run waits for memory.
    fn wait(&self, workers: usize) -> WaitReason {
        match self {
            _ if self.jobs >= workers => WaitReason::Cpu,
            _ if self.reads > 0 => WaitReason::Source,
            _ if self.jobs > 0 => WaitReason::Cpu,
            // The missing memory is held by the writes under way.
            _ if self.writes > 0 => WaitReason::Destination,
            _ if self.waits_for_memory => WaitReason::Memory,
            _ => WaitReason::Source,
        }
    }
}

/// Awaits `work`, or ends when `cancel` is cancelled.
async fn unless<T>(cancel: Option<&CancellationToken>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match cancel {
        None => work.await,
        Some(cancel) => cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(cancelled())),
    }
}

/// The error of a run that was cancelled.
pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the conversion was cancelled")
}

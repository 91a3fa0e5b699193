//! Everything between the source and the layout: items are metered as they arrive, and encoded if the target
//! compresses.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use crate::address::{GuestOffset, GuestRange};
use crate::digest::BLOCK;
use crate::engine::encode::Encoding;
use crate::engine::transfer::Transfer;
use crate::engine::types::GuestItem;
use crate::error::Result;
use crate::layout::Part;

/// Observes every item before it is passed on, in the order of arrival.
pub(crate) trait ItemMeter {
    /// Takes an item into account.
    ///
    /// # Errors
    /// Errors that end the transfer, such as `content_too_large`.
    fn add(&mut self, item: &GuestItem) -> Result<()>;
}

/// The parts of a disk, in the form that a layout takes.
pub(crate) struct Pipeline<M> {
    pub(crate) transfer: Transfer,
    pub(crate) meter: M,
    encoding: Option<Encoding>,
    ready: VecDeque<Part>,
    ended: bool,
    /// An item that was taken from the transfer and must wait; `Some(None)` is the end of the transfer.
    held: Option<Option<GuestItem>>,
    /// The address after the last item: in guest order, the progress on the disk.
    at: u64,
    /// The range that an earlier run placed and that is not read. It is reported before the next item after it.
    done: Option<GuestRange>,
    /// Everything before this address was counted by an earlier run.
    counted_to: u64,
    /// If set, everything before the next item must come out first.
    draining: Option<Draining>,
    wants_pause: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Draining {
    Pause,
    Done(GuestRange),
}

/// The next event of a pipeline.
pub(crate) enum PipelineEvent {
    /// A part for the layout.
    Part(Part),
    /// Here is the range that an earlier run placed, which is not read.
    Done(GuestRange),
    /// The requested pause: everything that was taken has come out, in guest order up to this address.
    Paused(GuestOffset),
    /// The disk is complete.
    End,
}

impl<M: ItemMeter> Pipeline<M> {
    pub(crate) fn new(transfer: Transfer, meter: M, encoding: Option<Encoding>) -> Self {
        Self {
            transfer,
            meter,
            encoding,
            ready: VecDeque::new(),
            ended: false,
            held: None,
            at: 0,
            done: None,
            counted_to: 0,
            draining: None,
            wants_pause: false,
        }
    }

    /// In guest order: `done` was placed by an earlier run, and everything before its end was counted.
    pub(crate) fn resume_after(&mut self, done: GuestRange) {
        self.counted_to = done.end().get();
        self.done = Some(done);
    }

    /// The next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Errors of the transfer; `content_too_large`.
    pub(crate) async fn next(&mut self) -> Result<PipelineEvent> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Requests [`PipelineEvent::Paused`], soon, unless the pipeline ends before. After the pause, a new unit begins.
    pub(crate) fn pause(&mut self) {
        self.wants_pause = true;
    }

    /// Requests to the source and CPU jobs that are under way.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let (reads, jobs) = self.transfer.under_way();
        (reads, jobs + self.encoding.as_ref().map_or(0, Encoding::jobs))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<PipelineEvent>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Poll::Ready(Ok(PipelineEvent::Part(part)));
            }
            if self.wants_pause && self.draining.is_none() && self.done.is_none() && self.begins_unit() {
                self.drain(Draining::Pause);
            }
            let mut moved = false;
            let takes = !self.ended
                && self.draining.is_none()
                && self.encoding.as_ref().is_none_or(|encoding| !encoding.is_full());
            if takes {
                let next = match self.held.take() {
                    Some(item) => Poll::Ready(item),
                    None => self.transfer.poll_next(cx)?,
                };
                match next {
                    Poll::Ready(item) => {
                        moved = true;
                        self.take(item)?;
                    }
                    // A partial batch holds memory that the transfer may be waiting for.
                    Poll::Pending => self.encoding.iter_mut().for_each(Encoding::flush),
                }
            }
            let mut empty = true;
            if let Some(encoding) = &mut self.encoding {
                match encoding.poll_next(cx)? {
                    Poll::Ready(Some(units)) => {
                        moved = true;
                        self.ready.extend(units.into_iter().map(Part::Unit));
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => empty = false,
                }
            }
            if empty && self.ready.is_empty() {
                match self.draining.take() {
                    Some(Draining::Pause) => {
                        self.wants_pause = false;
                        return Poll::Ready(Ok(PipelineEvent::Paused(GuestOffset::new(self.at))));
                    }
                    Some(Draining::Done(range)) => {
                        self.at = range.end().get();
                        return Poll::Ready(Ok(PipelineEvent::Done(range)));
                    }
                    None if self.ended => return Poll::Ready(Ok(PipelineEvent::End)),
                    None => {}
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Lets everything come out before the next item is taken.
    fn drain(&mut self, why: Draining) {
        self.encoding.iter_mut().for_each(Encoding::finish);
        self.draining = Some(why);
    }

    fn unit(&self) -> u64 {
        self.encoding.as_ref().map_or(1, Encoding::unit)
    }

    /// True if no unit has arrived in part.
    fn begins_unit(&self) -> bool {
        self.at.is_multiple_of(self.unit())
    }

    fn take(&mut self, item: Option<GuestItem>) -> Result<()> {
        let reached =
            |done: &mut GuestRange| item.as_ref().is_none_or(|item| item.guest().start() >= done.start());
        if let Some(done) = self.done.take_if(reached) {
            self.held = Some(item);
            self.drain(Draining::Done(done));
            return Ok(());
        }
        let Some(mut item) = item else {
            self.ended = true;
            self.wants_pause = false;
            self.encoding.iter_mut().for_each(Encoding::finish);
            return Ok(());
        };
        let guest = item.guest();
        if self.wants_pause && self.done.is_none() {
            let edge = GuestOffset::new(guest.end().get() - guest.end().get() % self.unit().max(BLOCK));
            if edge > guest.start() && edge < guest.end() {
                self.held = Some(Some(item.part(GuestRange::between(edge, guest.end()))));
                item = item.part(GuestRange::between(guest.start(), edge));
            }
        }
        self.at = item.guest().end().get();
        if self.at > self.counted_to || self.counted_to == 0 {
            self.meter.add(&item)?;
        }
        match (&mut self.encoding, item) {
            (Some(encoding), item) => encoding.push(item)?,
            (None, GuestItem::Zero(range)) => self.ready.push_back(Part::Zero(range)),
            (None, GuestItem::Data(data)) => self.ready.push_back(Part::Bytes(data)),
        }
        Ok(())
    }
}

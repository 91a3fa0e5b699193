//! The transfer: guest bytes of a disk are fetched once, decoded on all cores, scanned, and returned in whole blocks.
//!
//! ```text
//! map ──window──▶ plan ──group──▶ memory ──▶ reads ──▶ jobs ──▶ blocks ──▶ (guest order) ──▶ items
//!       1 ahead                in order    in flight  CPU pool  assembled   if requested
//! ```
//!
//! The whole transfer is one state machine that is polled. It spawns no task, so dropping it drops every request
//! under way. The [`Budget`] bounds the memory: a group of fetches starts once memory is reserved for its input and
//! its decoded output, and the memory is released as the items made of it are dropped. For items in any order, a
//! group is one fetch. For items in guest order, it is a whole window, since data that arrives early must wait for
//! the data before it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};

use crate::disk::{Codec, Disk, ImageStream, Tally};
use crate::engine::blocks::{Blocks, InOrder};
use crate::engine::decode;
use crate::engine::mapped_feed::MappedFeed;
use crate::engine::stream_feed::StreamFeed;
use crate::engine::types::{Fed, Fetched, GuestItem, TransferOptions};
use crate::error::{Result, Warning};
use crate::layout::Order;
use crate::ranges::without;
use crate::source::{BoxFuture, Traffic};

/// Jobs per worker that may wait before reading pauses. Waiting data should still be in the CPU caches, and reading
/// faster than decoding gains nothing.
const BACKLOG: usize = 8;

/// The part that delivers the stored bytes.
enum Feed {
    Mapped(MappedFeed),
    Stream(StreamFeed),
}

/// The guest bytes of a disk, as a stream of [`GuestItem`]s that cover it exactly once.
///
/// After an error there are no more items. When it ends, the sources have confirmed that they did not change.
pub struct Transfer {
    feed: Feed,
    jobs: FuturesUnordered<BoxFuture<'static, Result<decode::Decoded>>>,
    blocks: Blocks,
    in_order: Option<InOrder>,
    ready: VecDeque<GuestItem>,
    remarks: Option<(Arc<dyn Codec>, Tally)>,
    options: TransferOptions,
    done: bool,
}

impl Transfer {
    /// The guest bytes of `disk`.
    pub fn of_disk(disk: Arc<Disk>, options: TransferOptions) -> Self {
        let end = Some(disk.virtual_bytes());
        Self::new(Feed::Mapped(MappedFeed::new(disk, &options)), end, options)
    }

    /// The guest bytes of an image that is read in one pass, in stored order.
    pub fn of_stream(stream: Box<dyn ImageStream>, options: TransferOptions) -> Self {
        let end = stream.virtual_bytes_known().then(|| stream.info().virtual_bytes);
        Self::new(Feed::Stream(StreamFeed::new(stream, &options)), end, options)
    }

    fn new(feed: Feed, end: Option<u64>, options: TransferOptions) -> Self {
        Self {
            feed,
            jobs: FuturesUnordered::new(),
            blocks: Blocks::new(end, options.zero_leaf),
            in_order: (options.order == Order::Guest).then(|| InOrder::new(Arc::clone(&options.done))),
            ready: VecDeque::new(),
            remarks: None,
            options,
            done: false,
        }
    }

    /// The next item, or `None` when the disk is complete. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Errors of the map, the sources and the codecs.
    pub async fn next(&mut self) -> Result<Option<GuestItem>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Size of the disk in bytes, if it is known.
    pub fn virtual_bytes(&self) -> Option<u64> {
        self.blocks.end()
    }

    /// Guest bytes that the image maps to stored data, in the part of the map that was walked: all of them at the
    /// end.
    pub fn allocated_bytes(&self) -> u64 {
        match &self.feed {
            Feed::Mapped(mapped) => mapped.allocated_bytes(),
            Feed::Stream(stream) => stream.allocated_bytes(),
        }
    }

    /// Guest bytes whose mapping is known so far.
    pub fn mapped_bytes(&self) -> u64 {
        match &self.feed {
            Feed::Mapped(mapped) => mapped.mapped_bytes(),
            Feed::Stream(stream) => stream.allocated_bytes(),
        }
    }

    /// True if the transfer only waits for memory, which is held by others or by the items returned so far.
    pub(crate) fn waits_for_memory(&self) -> bool {
        self.jobs.is_empty()
            && match &self.feed {
                Feed::Mapped(mapped) => mapped.waits_for_memory(),
                Feed::Stream(stream) => stream.waits_for_memory(),
            }
    }

    /// Requests to the source that are under way (those for tables count as one), and jobs of the CPU workers.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let reads = match &self.feed {
            Feed::Mapped(mapped) => mapped.under_way(),
            Feed::Stream(stream) => stream.under_way(),
        };
        (reads, self.jobs.len())
    }

    /// Stored bytes of the image: of all its files together, or read from the stream so far.
    pub fn object_bytes(&self) -> u64 {
        match &self.feed {
            Feed::Mapped(mapped) => mapped.disk().object_bytes(),
            Feed::Stream(stream) => stream.traffic().bytes,
        }
    }

    /// True if the image is read in one pass. Its size may be known only at its end.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.feed, Feed::Stream(_))
    }

    /// Traffic of the sources so far.
    pub fn traffic(&self) -> Traffic {
        match &self.feed {
            Feed::Mapped(mapped) => mapped.disk().traffic(),
            Feed::Stream(stream) => stream.traffic(),
        }
    }

    /// Warnings so far.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = match &self.feed {
            Feed::Mapped(mapped) => mapped.disk().warnings().list(),
            Feed::Stream(stream) => stream.warnings(),
        };
        warnings.extend(self.remarks.as_ref().and_then(|(codec, tally)| codec.warning(tally)));
        warnings
    }

    /// Polls for the next item, see [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<GuestItem>>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Ok(Some(item)));
            }
            if self.done {
                return Poll::Ready(Ok(None));
            }
            match self.advance(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    self.done = true;
                    self.ready.clear();
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// One round over all work under way; true if something progressed.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let mut moved = false;
        let mut fetched = Vec::new();
        let mut zeros = Vec::new();
        let backlog = self.jobs.len() >= self.options.pool.threads() * BACKLOG;
        let fed = match &mut self.feed {
            Feed::Mapped(mapped) => mapped.advance(cx, &mut fetched, &mut zeros, backlog)?,
            Feed::Stream(stream) => stream.advance(cx, &mut fetched, &mut zeros)?,
        };
        moved |= fed == Fed::Moved;
        for fetched in fetched {
            self.start_jobs(fetched);
        }
        for range in zeros {
            self.blocks.zeros(range, &mut self.ready);
        }
        while let Poll::Ready(Some(decoded)) = Pin::new(&mut self.jobs).poll_next(cx) {
            moved = true;
            let decoded = decoded?;
            self.remark(decoded.remarks);
            for (guest, bytes) in decoded.fragments {
                self.blocks.fragment(guest, &bytes, &mut self.ready);
            }
            self.ready.extend(decoded.scanned.into_iter().map(GuestItem::Data));
        }
        if fed == Fed::Ended && self.jobs.is_empty() {
            if let Feed::Stream(stream) = &self.feed {
                self.blocks.set_end(stream.virtual_bytes());
            }
            self.blocks.finish(&mut self.ready)?;
            self.done = true;
            moved = true;
        }
        if !self.options.done.is_empty() {
            // A unit is decoded whole if any part of it is needed.
            let items = std::mem::take(&mut self.ready);
            let done = &self.options.done;
            let left =
                items.iter().flat_map(|item| without(item.guest(), done).map(|range| item.part(range)));
            self.ready = left.collect();
        }
        if let Some(in_order) = &mut self.in_order {
            in_order.sort(&mut self.ready);
            if self.done {
                in_order.finish()?;
            }
        }
        Ok(moved)
    }

    fn start_jobs(&mut self, fetched: Fetched) {
        for job in decode::cut(fetched) {
            let (end, zero_leaf, passthrough) =
                (self.blocks.end(), self.options.zero_leaf, self.options.passthrough);
            self.jobs.push(Box::pin(self.options.pool.run(move || job.run(end, zero_leaf, passthrough))));
        }
    }

    fn remark(&mut self, remarks: Vec<(Arc<dyn Codec>, Tally)>) {
        for (codec, tally) in remarks {
            match &mut self.remarks {
                Some((_, sum)) => sum.merge(&tally),
                None => self.remarks = Some((codec, tally)),
            }
        }
    }
}

//! Everything between the source and the layout: items are counted as they come, and encoded where the target compresses.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use crate::account::Account;
use crate::encode::Encoding;
use crate::error::Result;
use crate::limits::Limits;
use crate::target::Part;
use crate::transfer::{Item, Transfer};

/// The parts of a disk as a layout takes them.
pub(crate) struct Flow {
    pub(crate) transfer: Transfer,
    pub(crate) account: Account,
    encoding: Option<Encoding>,
    ready: VecDeque<Part>,
    ended: bool,
}

impl Flow {
    pub(crate) fn new(transfer: Transfer, account: Account, encoding: Option<Encoding>) -> Self {
        Self { transfer, account, encoding, ready: VecDeque::new(), ended: false }
    }

    /// The next part, or `None` when the disk is covered. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Those of the transfer; `content_too_large`.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Holds a stream to the limits while it comes. What is read by a map showed its sizes before.
    ///
    /// # Errors
    /// `object_too_large` or `capacity_exceeded`.
    pub(crate) fn admit(&self, limits: &Limits) -> Result<()> {
        if self.transfer.is_stream() {
            limits.admit_so_far(self.transfer.object_bytes(), self.account.seen_bytes)?;
        }
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Poll::Ready(Ok(Some(part)));
            }
            let mut moved = false;
            if !self.ended && self.encoding.as_ref().is_none_or(|encoding| !encoding.is_full()) {
                match self.transfer.poll_next(cx)? {
                    Poll::Ready(item) => {
                        moved = true;
                        self.take(item)?;
                    }
                    // What waits for more would hold the room that it waits for.
                    Poll::Pending => self.encoding.iter_mut().for_each(Encoding::flush),
                }
            }
            if let Some(encoding) = &mut self.encoding {
                match encoding.poll_next(cx)? {
                    Poll::Ready(Some(units)) => {
                        moved = true;
                        self.ready.extend(units.into_iter().map(Part::Unit));
                    }
                    Poll::Ready(None) if self.ended => return Poll::Ready(Ok(None)),
                    Poll::Ready(None) | Poll::Pending => {}
                }
            } else if self.ended && self.ready.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn take(&mut self, item: Option<Item>) -> Result<()> {
        let Some(item) = item else {
            self.ended = true;
            self.encoding.iter_mut().for_each(Encoding::finish);
            return Ok(());
        };
        self.account.add(&item)?;
        match (&mut self.encoding, item) {
            (Some(encoding), item) => encoding.push(item)?,
            (None, Item::Zero(range)) => self.ready.push_back(Part::Zero(range)),
            (None, Item::Data(data)) => self.ready.push_back(Part::Bytes(data)),
        }
        Ok(())
    }
}

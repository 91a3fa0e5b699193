//! Whether two disks have the same guest bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::address::GuestRange;
use crate::conversion::Resources;
use crate::disk::Disk;
use crate::engine::{GuestItem, Transfer, is_zero};
use crate::error::{Error, Result};
use crate::layout::Order;
use crate::memory::Budget;

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Comparison {
    /// True if size and every byte agree.
    pub equal: bool,
    /// Guest offset of the first byte that differs. `None` for equal disks, and for disks of different size, of which
    /// no data is read.
    pub first_difference: Option<u64>,
    /// The sizes in bytes.
    pub virtual_bytes: [u64; 2],
}

/// Compares two disks, reading both side by side and skipping what both know to be zero. It stops at the first
/// difference.
///
/// # Errors
/// A disk's refusal; those of maps, sources and codecs.
pub async fn compare(a: &Arc<Disk>, b: &Arc<Disk>, resources: &Resources) -> Result<Comparison> {
    a.admit()?;
    b.admit()?;
    let virtual_bytes = [a.virtual_bytes(), b.virtual_bytes()];
    if a.virtual_bytes() != b.virtual_bytes() {
        return Ok(Comparison { equal: false, first_difference: None, virtual_bytes });
    }
    let mut options = resources.transfer(Order::Guest, false)?;
    // Each side has a budget of its own: one that holds what the other must be compared with cannot starve it.
    let halves = options.budget.halves();
    let mut side = |disk: &Arc<Disk>, half: Budget| {
        options.budget = half;
        Side {
            transfer: Transfer::of_disk(Arc::clone(disk), options.clone()),
            items: VecDeque::new(),
            ended: false,
        }
    };
    let [left, right] = halves;
    let (mut a, mut b) = (side(a, left), side(b, right));
    let first_difference = std::future::poll_fn(|cx| poll_difference(&mut a, &mut b, cx)).await?;
    Ok(Comparison { equal: first_difference.is_none(), first_difference, virtual_bytes })
}

/// One of the two, with what came and was not compared yet.
struct Side {
    transfer: Transfer,
    items: VecDeque<GuestItem>,
    ended: bool,
}

impl Side {
    /// Takes what is there. What it holds is bounded by its budget.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<()> {
        while !self.ended
            && let Poll::Ready(item) = self.transfer.poll_next(cx)
        {
            match item? {
                Some(item) => self.items.push_back(item),
                None => self.ended = true,
            }
        }
        Ok(())
    }

    /// Drops what was compared.
    fn skip(&mut self, len: u64) {
        let Some(item) = self.items.pop_front() else { return };
        let rest = item.guest().skip(len);
        if rest.is_empty() {
            return;
        }
        self.items.push_front(match item {
            GuestItem::Zero(_) => GuestItem::Zero(rest),
            GuestItem::Data(mut scanned) => {
                scanned.bytes = scanned.slice(rest);
                scanned.guest = rest;
                GuestItem::Data(scanned)
            }
        });
    }
}

fn poll_difference(a: &mut Side, b: &mut Side, cx: &mut Context<'_>) -> Poll<Result<Option<u64>>> {
    if let Err(error) = a.fill(cx).and_then(|()| b.fill(cx)) {
        return Poll::Ready(Err(error));
    }
    while let (Some(left), Some(right)) = (a.items.front(), b.items.front()) {
        let range = left.guest().intersection(right.guest());
        let Some(range) = range.filter(|range| range.start() == left.guest().start()) else {
            return Poll::Ready(Err(Error::internal("two walks in guest order came apart")));
        };
        if let Some(at) = difference(left, right, range) {
            return Poll::Ready(Ok(Some(range.start().get() + at as u64)));
        }
        a.skip(range.len());
        b.skip(range.len());
        // Room came free: what waits for it is polled again.
        if let Err(error) = a.fill(cx).and_then(|()| b.fill(cx)) {
            return Poll::Ready(Err(error));
        }
    }
    if a.ended && b.ended { Poll::Ready(Ok(None)) } else { Poll::Pending }
}

/// Where, from the start of `range`, the two first differ.
fn difference(a: &GuestItem, b: &GuestItem, range: GuestRange) -> Option<usize> {
    let first_set =
        |bytes: &[u8]| if is_zero(bytes) { None } else { bytes.iter().position(|byte| *byte != 0) };
    match (a, b) {
        (GuestItem::Zero(_), GuestItem::Zero(_)) => None,
        (GuestItem::Zero(_), GuestItem::Data(data)) | (GuestItem::Data(data), GuestItem::Zero(_)) => {
            first_set(&data.slice(range))
        }
        (GuestItem::Data(a), GuestItem::Data(b)) => {
            let (a, b) = (a.slice(range), b.slice(range));
            if a == b { None } else { a.iter().zip(&b).position(|(a, b)| a != b) }
        }
    }
}

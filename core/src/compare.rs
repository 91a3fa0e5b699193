//! Compares the guest bytes of two disks.

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

/// The result of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Comparison {
    /// True if the sizes and all bytes are equal.
    pub equal: bool,
    /// Guest offset of the first byte that differs. `None` if the disks are equal, or if their sizes differ: then no
    /// data is read.
    pub first_difference: Option<u64>,
    /// The sizes in bytes.
    pub virtual_bytes: [u64; 2],
}

/// Compares two disks. Reads both side by side, skips ranges that both maps report as zero, and stops at the first
/// difference.
///
/// # Errors
/// Returns the disk's refusal, and errors of maps, sources and codecs.
pub async fn compare(a: &Arc<Disk>, b: &Arc<Disk>, resources: &Resources) -> Result<Comparison> {
    a.admit()?;
    b.admit()?;
    let virtual_bytes = [a.virtual_bytes(), b.virtual_bytes()];
    if a.virtual_bytes() != b.virtual_bytes() {
        return Ok(Comparison { equal: false, first_difference: None, virtual_bytes });
    }
    let mut options = resources.transfer(Order::Guest, false)?;
    // Each side has its own budget. With a shared one, a side that holds data for comparison could starve the other.
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

/// One of the two disks, with the items that have arrived and are not compared yet.
struct Side {
    transfer: Transfer,
    items: VecDeque<GuestItem>,
    ended: bool,
}

impl Side {
    /// Takes the items that are ready. The budget bounds the memory that they hold.
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

    /// Drops `len` bytes that have been compared.
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
            return Poll::Ready(Err(Error::internal("the two disks are at different guest offsets")));
        };
        if let Some(at) = difference(left, right, range) {
            return Poll::Ready(Ok(Some(range.start().get() + at as u64)));
        }
        a.skip(range.len());
        b.skip(range.len());
        // Memory was released: polls both sides again, since one may be waiting for it.
        if let Err(error) = a.fill(cx).and_then(|()| b.fill(cx)) {
            return Poll::Ready(Err(error));
        }
    }
    if a.ended && b.ended { Poll::Ready(Ok(None)) } else { Poll::Pending }
}

/// Distance from the start of `range` to the first difference, if there is one.
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

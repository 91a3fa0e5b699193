//! Assembles runs of guest bytes into whole 4 KiB blocks, and sorts them into guest order.
//!
//! Units that are smaller than a block, or not aligned to one, produce fragments, which are assembled here. Most
//! images never produce one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{GuestOffset, GuestRange};
use crate::digest::{BLOCK, Hash};
use crate::engine::types::GuestItem;
use crate::error::{Error, Result};
use crate::layout::Scanned;

/// Blocks that have arrived in part.
pub(super) struct Blocks {
    partial: BTreeMap<u64, Partial>,
    end: Option<u64>,
    zero_leaf: Option<Hash>,
}

struct Partial {
    bytes: Vec<u8>,
    filled: u64,
}

impl Blocks {
    pub(super) fn new(end: Option<u64>, zero_leaf: Option<Hash>) -> Self {
        Self { partial: BTreeMap::new(), end, zero_leaf }
    }

    /// Size of the disk, if it is known.
    pub(super) fn end(&self) -> Option<u64> {
        self.end
    }

    /// Sets the size of the disk, which has become known.
    pub(super) fn set_end(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// Adds guest bytes that are less than a block.
    pub(super) fn fragment(&mut self, guest: GuestRange, bytes: &[u8], ready: &mut VecDeque<GuestItem>) {
        let (start, _) = block_of(guest.start());
        let partial = self
            .partial
            .entry(start)
            .or_insert_with(|| Partial { bytes: vec![0; BLOCK as usize], filled: 0 });
        let skip = (guest.start().get() - start) as usize;
        // A fragment is within its block. Otherwise the block would remain incomplete, which is an error at the end.
        if let Some(part) = partial.bytes.get_mut(skip..skip + bytes.len()) {
            part.copy_from_slice(bytes);
            partial.filled += bytes.len() as u64;
        }
        debug_assert!(self.end.is_none_or(|end| guest.end().get() <= end), "bytes after the end of the disk");
        // The last block ends with the disk.
        let size = self.end.map_or(BLOCK, |end| BLOCK.min(end.saturating_sub(start)));
        if partial.filled >= size {
            self.emit(start, size, ready);
        }
    }

    /// Adds a run of zeros from the map.
    pub(super) fn zeros(&mut self, range: GuestRange, ready: &mut VecDeque<GuestItem>) {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        let (head, body, tail) = split(range, self.end);
        if !body.is_empty() {
            ready.push_back(GuestItem::Zero(body));
        }
        for fragment in [head, tail] {
            if let Some(zeros) = ZEROS.get(..fragment.len() as usize).filter(|zeros| !zeros.is_empty()) {
                self.fragment(fragment, zeros, ready);
            }
        }
    }

    /// Ends the disk. Its last block may be short, which may only be known now.
    pub(super) fn finish(&mut self, ready: &mut VecDeque<GuestItem>) -> Result<()> {
        let end = self.end.unwrap_or(0);
        let whole: Vec<u64> = self.partial.keys().copied().collect();
        for start in whole {
            // A block after the end of the disk has size 0, and is an error since it is not empty.
            let size = BLOCK.min(end.saturating_sub(start));
            let filled = self.partial.get(&start).map_or(0, |partial| partial.filled);
            if filled != size {
                return Err(Error::internal(format!(
                    "block {start:#x} of the disk has {filled} bytes of {size}"
                )));
            }
            self.emit(start, size, ready);
        }
        Ok(())
    }

    fn emit(&mut self, start: u64, size: u64, ready: &mut VecDeque<GuestItem>) {
        if let Some(mut partial) = self.partial.remove(&start) {
            partial.bytes.truncate(size as usize);
            let bytes = Bytes::from(partial.bytes);
            ready.push_back(GuestItem::Data(Scanned::new(GuestOffset::new(start), bytes, self.zero_leaf)));
        }
    }
}

/// Splits `range` into its whole blocks, and the fragments before and after them. The last block of the disk counts
/// as whole even if it is short.
pub(super) fn split(range: GuestRange, end: Option<u64>) -> (GuestRange, GuestRange, GuestRange) {
    let aligned = |at: GuestOffset| at.is_aligned(BLOCK);
    let head = if aligned(range.start()) { 0 } else { block_of(range.start()).1 - range.start().get() };
    let (head, rest) = range.split_at(head);
    if aligned(rest.end()) || end == Some(rest.end().get()) {
        return (head, rest, rest.skip(rest.len()));
    }
    let (tail_start, _) = block_of(rest.end());
    // The tail's block may begin before `rest` if that is empty.
    let (body, tail) = rest.split_at(tail_start.saturating_sub(rest.start().get()));
    (head, body, tail)
}

/// Holds items back until everything before them has arrived.
#[derive(Default)]
pub(super) struct InOrder {
    waiting: BTreeMap<GuestOffset, GuestItem>,
    frontier: u64,
    /// Ranges that never arrive.
    done: Arc<[GuestRange]>,
}

impl InOrder {
    pub(super) fn new(done: Arc<[GuestRange]>) -> Self {
        Self { done, ..Self::default() }
    }

    /// Takes items in any order from `ready`, and leaves those that are next in guest order.
    pub(super) fn sort(&mut self, ready: &mut VecDeque<GuestItem>) {
        for item in ready.drain(..) {
            self.waiting.insert(item.guest().start(), item);
        }
        loop {
            let at = GuestOffset::new(self.frontier);
            if let Some(item) = self.waiting.remove(&at) {
                self.frontier = item.guest().end().get();
                ready.push_back(item);
            } else if let Ok(index) = self.done.binary_search_by_key(&at, |range| range.start())
                && let Some(done) = self.done.get(index)
            {
                self.frontier = done.end().get();
            } else {
                return;
            }
        }
    }

    /// Ends the disk: no item may be left.
    pub(super) fn finish(&self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format!("the disk has a gap at {:#x}", self.frontier)))
    }
}

/// The start of the block that contains `at`, and its end, at most that of the address space.
pub(super) fn block_of(at: GuestOffset) -> (u64, u64) {
    let start = at.get() - at.get() % crate::digest::BLOCK;
    (start, start.saturating_add(crate::digest::BLOCK))
}

//! Counts the content that passes through, and computes the digest.

use serde::{Deserialize, Serialize};

use crate::digest::{BLOCK, Digest, DigestTree, OpenTree};
use crate::engine::{GuestItem, ItemMeter};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{HumanBytes, ImageLimit};

/// Computes digest and real content of a disk from its items, which may come in any order.
pub(crate) struct ContentMeter {
    tree: Option<DigestTree>,
    limit: ImageLimit,
    pub(crate) content_bytes: u64,
    pub(crate) content_end: u64,
    pub(crate) seen_bytes: u64,
}

/// The state of the counters, as a journal stores it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct ContentState {
    tree: Option<OpenTree>,
    pub(crate) content_bytes: u64,
    content_end: u64,
    seen_bytes: u64,
}

impl ContentMeter {
    /// The state so far.
    pub(crate) fn counted(&self) -> ContentState {
        ContentState {
            tree: self.tree.as_ref().map(DigestTree::open),
            content_bytes: self.content_bytes,
            content_end: self.content_end,
            seen_bytes: self.seen_bytes,
        }
    }

    /// Resumes from the state `counted`, including its digest if this meter computes one. Returns false if it does
    /// not fit.
    pub(crate) fn resume(&mut self, counted: ContentState) -> bool {
        let tree = counted.tree.and_then(DigestTree::reopen);
        // A journal is untrusted: no more content than guest bytes was seen.
        if tree.is_some() != self.tree.is_some() || counted.content_bytes > counted.seen_bytes {
            return false;
        }
        *self = Self {
            tree,
            limit: self.limit,
            content_bytes: counted.content_bytes,
            content_end: counted.content_end,
            seen_bytes: counted.seen_bytes,
        };
        true
    }

    /// Counts content against `limit`, and computes the digest if `tree` is given.
    pub(crate) fn new(tree: Option<DigestTree>, limit: ImageLimit) -> Self {
        Self { tree, limit, content_bytes: 0, content_end: 0, seen_bytes: 0 }
    }

    /// Adds zeros from `from` to `to`, if the target's disk is larger than the source's.
    ///
    /// # Errors
    /// `internal` if it is smaller.
    pub(crate) fn lengthen(&mut self, from: u64, to: u64) -> Result<()> {
        let seen = to.checked_sub(from).and_then(|more| self.seen_bytes.checked_add(more));
        self.seen_bytes = seen.ok_or_else(|| {
            Error::internal(format!("a layout writes a disk of {from} bytes with {to} bytes"))
        })?;
        let (first, end) = (from.div_ceil(BLOCK), to.div_ceil(BLOCK));
        if let (Some(tree), true) = (&mut self.tree, end > first) {
            tree.add_zeros(first, end - first);
        }
        Ok(())
    }

    /// The digest of a disk of `virtual_bytes`, all of which was counted.
    ///
    /// # Errors
    /// `internal` if a part of the disk was not seen, or seen twice.
    pub(crate) fn digest(&mut self, virtual_bytes: u64) -> Result<Option<Digest>> {
        if self.seen_bytes != virtual_bytes {
            return Err(Error::internal(format!(
                "{} of {virtual_bytes} guest bytes were counted",
                self.seen_bytes
            )));
        }
        self.tree.take().map(|tree| tree.finish(virtual_bytes)).transpose()
    }
}

impl ItemMeter for ContentMeter {
    /// Counts an item.
    ///
    /// # Errors
    /// `content_too_large` as soon as the content reaches the limit.
    fn add(&mut self, item: &GuestItem) -> Result<()> {
        let guest = item.guest();
        let first = guest.start().get() / BLOCK;
        // Only a disk whose parts come more than once has more bytes than the address space.
        let seen = self.seen_bytes.checked_add(guest.len());
        self.seen_bytes =
            seen.ok_or_else(|| Error::internal(format!("guest bytes {guest} were read twice")))?;
        let GuestItem::Data(scanned) = item else {
            if let Some(tree) = &mut self.tree {
                tree.add_zeros(first, guest.len().div_ceil(BLOCK));
            }
            return Ok(());
        };
        if let Some(tree) = &mut self.tree {
            tree.add(first, &scanned.leaves);
        }
        for (range, zero) in scanned.ranges() {
            if !zero {
                // Cannot overflow: at most the bytes seen, which were added above.
                self.content_bytes += range.len();
                self.content_end = self.content_end.max(range.end().get());
            }
        }
        match self.limit.bytes() {
            Some(limit) if self.content_bytes >= limit => Err(Error::new(
                ErrorKind::ContentTooLarge,
                format!(
                    "the disk has at least {} of real content and must have less than {}",
                    HumanBytes(self.content_bytes),
                    HumanBytes(limit)
                ),
            )),
            _ => Ok(()),
        }
    }
}

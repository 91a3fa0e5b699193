//! What flows by is counted: the digest, and the real content.

use crate::digest::{BLOCK, Digest, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{Human, ImageLimit};
use crate::transfer::Item;

/// Digest and content of a disk, from its items in any order.
pub(crate) struct Account {
    tree: Option<Tree>,
    limit: ImageLimit,
    pub(crate) content_bytes: u64,
    pub(crate) content_end: u64,
    pub(crate) seen_bytes: u64,
}

impl Account {
    /// Counts content against `limit`, and makes the digest where asked.
    pub(crate) fn new(tree: Option<Tree>, limit: ImageLimit) -> Self {
        Self { tree, limit, content_bytes: 0, content_end: 0, seen_bytes: 0 }
    }

    /// Takes an item into account.
    ///
    /// # Errors
    /// `content_too_large` as soon as the content reaches the limit.
    pub(crate) fn add(&mut self, item: &Item) -> Result<()> {
        let guest = item.guest();
        let first = guest.start().get() / BLOCK;
        self.seen_bytes = self.seen_bytes.saturating_add(guest.len());
        let Item::Data(scanned) = item else {
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
                self.content_bytes = self.content_bytes.saturating_add(range.len());
                self.content_end = self.content_end.max(range.end().get());
            }
        }
        match self.limit.bytes() {
            Some(limit) if self.content_bytes >= limit => Err(Error::new(
                ErrorKind::ContentTooLarge,
                format!(
                    "the disk has at least {} of real content and must have less than {}",
                    Human(self.content_bytes),
                    Human(limit)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The disk is written longer than it was read, with zeros.
    pub(crate) fn lengthen(&mut self, from: u64, to: u64) {
        let (first, end) = (from.div_ceil(BLOCK), to.div_ceil(BLOCK));
        if let (Some(tree), true) = (&mut self.tree, end > first) {
            tree.add_zeros(first, end - first);
        }
        self.seen_bytes = self.seen_bytes.saturating_add(to.saturating_sub(from));
    }

    /// The digest of a disk of that size, all of which was counted.
    ///
    /// # Errors
    /// `internal` where a part of the disk was not seen, or seen twice.
    pub(crate) fn digest(&mut self, virtual_bytes: u64) -> Result<Option<Digest>> {
        if self.seen_bytes != virtual_bytes {
            return Err(Error::internal(format!("{} bytes of {virtual_bytes} came", self.seen_bytes)));
        }
        self.tree.take().map(|tree| tree.finish(virtual_bytes)).transpose()
    }
}

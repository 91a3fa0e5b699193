//! Checks that all blocks of a dynamic disk are present if the footer at its end is missing.
//!
//! The footer is the last thing in the object, so it shows that everything before it is there. Without it the copy at
//! the start is used. In an unfinished download into a preallocated file the footer and the last blocks are zeros, and
//! a sector bitmap of zeros means "never written": such blocks would read as zeros without an error. So one of these
//! must show that the last block is present:
//!
//! * the object ends before or at the end of that block: it was cut, not filled with zeros;
//! * bytes after the block that are not zero: a damaged footer;
//! * a last sector of the block that is not all zeros.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskferry_core::internal::is_zero;
use diskferry_core::{Error, HeadTailSource, Result, Source, StoredOffset, StoredRange, Warnings};

use super::bat::Bat;
use super::footer::SECTOR;
use crate::zero_tail::{ZeroTail, warn_zero_tail, zero_tail_len};

/// Looks for evidence once, before the first block is mapped.
pub(super) struct TailCheck {
    file: Arc<HeadTailSource>,
    warnings: Warnings,
    found: AtomicBool,
}

impl TailCheck {
    /// The initial state: nothing was checked yet.
    pub(super) fn new(file: Arc<HeadTailSource>, warnings: Warnings) -> Self {
        Self { file, warnings, found: AtomicBool::new(false) }
    }

    /// Checks that the block with the highest address is present. This reads the whole table.
    ///
    /// # Errors
    /// `truncated` if the object ends in zeros from within that block on; those of [`Bat::load`].
    pub(super) async fn check(&self, bat: &Bat) -> Result<()> {
        if self.found.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A disk without blocks is all zeros, and its table is present.
        if let Some(end) = bat.end().await? {
            self.check_end(end.needed, end.whole).await?;
        }
        self.found.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The disk needs the last block up to `needed`; a whole block ends at `whole`. The footer follows one of the two.
    async fn check_end(&self, needed: u64, whole: u64) -> Result<()> {
        if self.file.len() <= needed {
            // A truncated block is refused when it is mapped.
            warn_zero_tail(&self.warnings, zero_tail_len(&self.file));
            return Ok(());
        }
        let tail = ZeroTail::of(&self.file);
        if tail.start_known && tail.start > needed {
            return Ok(());
        }
        for at in [needed, whole, needed.saturating_sub(SECTOR)] {
            if !self.sector_is_zero(at).await? {
                return Ok(());
            }
        }
        Err(Error::truncated(format!(
            "the footer at the end is missing, and the object of {} bytes ends in zeros from {} on, within the block \
             that ends at {needed}: nothing shows that the block was stored",
            self.file.len(),
            tail.start.min(needed)
        ))
        .at(tail.start.min(needed))
        .hint("an unfinished download looks like this: fetch the image again"))
    }

    /// True if the sector at `at`, up to the end of the object, is zeros.
    async fn sector_is_zero(&self, at: u64) -> Result<bool> {
        let end = at.saturating_add(SECTOR).min(self.file.len());
        let range = StoredRange::between(StoredOffset::new(at.min(end)), StoredOffset::new(end));
        Ok(range.is_empty() || is_zero(&self.file.read(range).await?))
    }
}

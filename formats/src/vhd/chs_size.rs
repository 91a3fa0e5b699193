//! The bytes between the size by CHS geometry and `current_size`.
//!
//! Virtual PC and old versions of QEMU use the geometry, which may cover less than `current_size`. Readers that use
//! `current_size` show the bytes after it. So a warning says how many bytes are left out, and how many are in sectors
//! that are not zeros.

use std::sync::atomic::{AtomicBool, Ordering};

use diskferry_core::internal::is_zero;
use diskferry_core::{BlockMap, BoxFuture, Disk, Extent, GuestOffset, GuestRange, Result, Warning, Warnings};

use super::footer::SECTOR;

const CODE: &str = "chs_size_drops_bytes";
/// Most bytes that are checked. A valid geometry is less than a cylinder short, about 2 MiB.
const MOST_SEEN: u64 = 8 << 20;

/// Sizes of the disk in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// By geometry.
    pub(super) virtual_bytes: u64,
    /// The field.
    pub(super) current_size: u64,
}

/// A map of the disk by geometry. It checks the bytes after the disk once a walk reaches the end.
pub(super) struct ChsSizedMap {
    map: Box<dyn BlockMap>,
    sizes: Sizes,
    /// The disk by `current_size`, limited to the bytes that are stored.
    larger: Disk,
    warnings: Warnings,
    counted: AtomicBool,
}

impl ChsSizedMap {
    /// `map` maps fewer bytes than `larger` has. The warning is added at once, without a read.
    pub(super) fn new(map: Box<dyn BlockMap>, sizes: Sizes, larger: Disk, warnings: Warnings) -> Self {
        let map = Self { map, sizes, larger, warnings, counted: AtomicBool::new(false) };
        map.warnings.add(Warning::new(CODE, map.said()));
        map
    }

    fn said(&self) -> String {
        let Sizes { virtual_bytes, current_size } = self.sizes;
        let dropped = self.larger.virtual_bytes().saturating_sub(virtual_bytes);
        format!(
            "the size is taken from the geometry, as the creator of the image intends: {virtual_bytes} bytes, and \
             current_size is {current_size}; the last {dropped} bytes that the image has are left out"
        )
    }

    /// Adds to the warning how many of the bytes are in non-zero sectors.
    async fn count(&self) {
        let all = GuestRange::between(
            GuestOffset::new(self.sizes.virtual_bytes),
            GuestOffset::new(self.larger.virtual_bytes()),
        );
        let seen = all.split_at(MOST_SEEN).0;
        let least = if seen.len() < all.len() { "at least " } else { "" };
        let what = match self.larger.read(seen).await {
            Ok(bytes) => {
                let sector = usize::try_from(SECTOR).unwrap_or(usize::MAX);
                let held = bytes.chunks(sector).filter(|sector| !is_zero(sector)).map(<[u8]>::len);
                let held = held.fold(0usize, usize::saturating_add);
                format!("{least}{held} of them are in sectors that are not all zeros")
            }
            Err(error) => format!("their contents cannot be read ({})", error.message()),
        };
        self.warnings.replace(Warning::new(CODE, format!("{}; {what}", self.said())));
    }
}

impl BlockMap for ChsSizedMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let extents = self.map.extents(window).await?;
            let at_end =
                extents.last().is_some_and(|last| last.guest.end().get() >= self.sizes.virtual_bytes);
            if at_end && !self.counted.swap(true, Ordering::Relaxed) {
                self.count().await;
            }
            Ok(extents)
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        self.map.allocated_without_tables()
    }
}

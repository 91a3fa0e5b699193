//! Guest bytes that a file contains verbatim: RAW, the fixed VHD, the flat extents of VMDK.

use std::sync::Arc;

use diskferry_core::{
    BlockMap, BoxFuture, Error, Extent, ExtentKind, Extents, FileIndex, GuestRange, Result, Source, Stored,
    StoredOffset, StoredRange,
};

/// The map of a disk that a file contains verbatim, from its first byte on.
pub(crate) struct FlatMap {
    /// The file.
    pub(crate) source: Arc<dyn Source>,
    /// Size of the disk in bytes, at most the file's.
    pub(crate) virtual_bytes: u64,
}

impl BlockMap for FlatMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let mut extents = Extents::new();
            let start = StoredOffset::new(window.start().get());
            push_flat(&mut extents, &*self.source, FileIndex(0), window, start).await?;
            Ok(extents.into_vec())
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        Some(self.virtual_bytes)
    }
}

/// Appends the extents of `guest`, which `file` stores from `start` on, up to the end of one query for holes. This adds
/// at least one extent and may end before `guest` does.
///
/// # Errors
/// `truncated` if the stored bytes would exceed the 64-bit address space; the `source_*` codes.
pub(crate) async fn push_flat(
    extents: &mut Extents,
    source: &dyn Source,
    file: FileIndex,
    guest: GuestRange,
    start: StoredOffset,
) -> Result<()> {
    let range = StoredRange::new(start, guest.len())
        .ok_or_else(|| Error::truncated("flat data extends past the end of the address space").at(start))?;
    for segment in source.segments(range).await? {
        let skip = segment.range.start().get().saturating_sub(start.get());
        let stored = Stored { file, range: segment.range };
        let kind = if segment.hole { ExtentKind::Sparse(stored) } else { ExtentKind::Data(stored) };
        extents.push(Extent::new(guest.skip(skip).split_at(segment.range.len()).0, kind));
    }
    Ok(())
}

//! Guest bytes that lie in a file as they are: RAW, the fixed VHD, the flat extents of VMDK.

use std::sync::Arc;

use diskferry_core::{
    BlockMap, BoxFuture, Error, Extent, ExtentKind, Extents, FileIndex, GuestRange, Result, Source, Stored,
    StoredOffset, StoredRange,
};

/// The map of a disk that lies in one file as it is, from its first byte on.
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

/// Appends the extents of `guest`, which lies in `file` from `start` on, as far as one look at the file's holes goes:
/// at least one extent, possibly not to the end of `guest`.
///
/// # Errors
/// `truncated` where the stored bytes would pass the 64-bit space; the `source_*` codes.
pub(crate) async fn push_flat(
    extents: &mut Extents,
    source: &dyn Source,
    file: FileIndex,
    guest: GuestRange,
    start: StoredOffset,
) -> Result<()> {
    let range = StoredRange::new(start, guest.len())
        .ok_or_else(|| Error::truncated("flat data passes the end of the address space").at(start))?;
    for segment in source.segments(range).await? {
        let skip = segment.range.start().get().saturating_sub(start.get());
        let stored = Stored { file, range: segment.range };
        let kind = if segment.hole { ExtentKind::Sparse(stored) } else { ExtentKind::Data(stored) };
        extents.push(Extent::new(guest.skip(skip).split_at(segment.range.len()).0, kind));
    }
    Ok(())
}

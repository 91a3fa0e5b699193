//! Disks to write: pieces of data on a disk of any size. The rest is holes or zeros.

use std::sync::Arc;

use diskferry_core::{
    BlockMap, BoxFuture, Disk, Extent, ExtentKind, Extents, FileIndex, GuestOffset, GuestRange, ImageInfo,
    MemorySource, Result, Source, Stored, StoredOffset, StoredRange, Warnings,
};

/// A disk whose map has its pieces.
pub(crate) fn sparse(virtual_bytes: u64, pieces: &[(u64, Vec<u8>)]) -> Disk {
    let mut stored = Vec::new();
    let mut extents = Extents::new();
    let mut at = GuestOffset::ZERO;
    for (start, bytes) in pieces {
        let start = GuestOffset::new(*start);
        extents.push(Extent::new(GuestRange::between(at, start), ExtentKind::Hole));
        let guest = GuestRange::new(start, bytes.len() as u64).unwrap();
        let range = StoredRange::new(StoredOffset::new(stored.len() as u64), bytes.len() as u64).unwrap();
        extents.push(Extent::new(guest, ExtentKind::Data(Stored { file: FileIndex(0), range })));
        stored.extend_from_slice(bytes);
        at = guest.end();
    }
    extents.push(Extent::new(GuestRange::between(at, GuestOffset::new(virtual_bytes)), ExtentKind::Hole));
    let geometry = ImageInfo::default().format("test").virtual_bytes(virtual_bytes);
    let source: Arc<dyn Source> = Arc::new(MemorySource::new("pieces", stored));
    Disk::new(geometry, vec![source], Box::new(List(extents.into_vec())), Warnings::new(), Vec::new())
}

/// A disk with one piece.
pub(crate) fn flat(guest: &[u8]) -> Disk {
    sparse(guest.len() as u64, &[(0, guest.to_vec())])
}

struct List(Vec<Extent>);

impl BlockMap for List {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(self.0.iter().filter_map(|extent| extent.clip(window)).collect()) })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

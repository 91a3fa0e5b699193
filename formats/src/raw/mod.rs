//! RAW: the guest's bytes as they are.
//!
//! There is no map: everything is allocated, but for the holes that the source knows of. Any length is kept as it is.

mod write;

use std::sync::Arc;

use diskferry_core::address::{FileIndex, GuestRange, StoredOffset};
use diskferry_core::disk::{BlockMap, Disk, Geometry, Warnings};
use diskferry_core::error::Result;
use diskferry_core::extent::{Extent, Extents};
use diskferry_core::source::{BoxFuture, Source};

use crate::flat::push_flat;
use crate::{Format, Opening};

pub(crate) use write::RawLayout;

/// Opens a raw disk. Nothing can be wrong with one.
#[allow(clippy::unused_async)]
pub(crate) async fn open(opening: Opening) -> Result<Disk> {
    let source: Arc<dyn Source> = opening.file;
    let geometry = Geometry {
        format: Format::Raw.name(),
        variant: "raw".to_owned(),
        virtual_bytes: source.len(),
        cluster_bytes: None,
        features: Vec::new(),
    };
    let map = Box::new(RawMap(Arc::clone(&source)));
    Ok(Disk::new(geometry, vec![source], map, Warnings::new(), Vec::new()))
}

struct RawMap(Arc<dyn Source>);

impl BlockMap for RawMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let mut extents = Extents::new();
            let start = StoredOffset::new(window.start().get());
            push_flat(&mut extents, &*self.0, FileIndex(0), window, start).await?;
            Ok(extents.into_vec())
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        Some(self.0.len())
    }
}

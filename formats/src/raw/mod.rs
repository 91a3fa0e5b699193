//! RAW: the guest's bytes as they are.
//!
//! There is no map: everything is allocated, but for the holes that the source knows of. Any length is kept as it is.

pub(crate) mod stream;
pub(crate) mod write;

use std::sync::Arc;

use diskferry_core::{ClosedGate, Disk, HeadTailSource, ImageInfo, Result, Source, Warning, Warnings};

use crate::detect::foreign;
use crate::flat::FlatMap;
use crate::{Format, Opening};

/// Opens what is a raw disk because it was written as one.
pub(crate) async fn open_as_raw(source: Arc<dyn Source>) -> Result<Disk> {
    let file = Arc::new(HeadTailSource::open(source).await?);
    open(Opening { file, gate: Arc::new(ClosedGate) }).await
}

/// Opens a raw disk. Nothing can be wrong with one; that it looks like a file which is not a disk is a warning.
#[allow(clippy::unused_async)]
pub(crate) async fn open(opening: Opening) -> Result<Disk> {
    let warnings = looks(opening.file.head());
    let source: Arc<dyn Source> = opening.file;
    let geometry =
        ImageInfo::default().format(Format::Raw.name()).variant("raw".to_owned()).virtual_bytes(source.len());
    let map = Box::new(FlatMap { source: Arc::clone(&source), virtual_bytes: source.len() });
    Ok(Disk::new(geometry, vec![source], map, warnings, Vec::new()))
}

/// What there is to say of a raw disk that begins with `head`.
fn looks(head: &[u8]) -> Warnings {
    let warnings = Warnings::new();
    if let Some(name) = foreign(head) {
        warnings.add(Warning::new(
            "content_looks_like",
            format!("the raw disk looks like {name}: it is read as it is"),
        ));
    }
    warnings
}

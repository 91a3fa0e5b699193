//! Opens a raw disk.

use std::sync::Arc;

use diskferry_core::{Disk, ImageInfo, Result, Source, Warning, Warnings};

use crate::flat::FlatMap;
use crate::format::Format;
use crate::open_input::OpenInput;
use crate::probe::foreign;

/// Opens a raw disk. Every object is a valid one; if it looks like another kind of file, there is a warning.
pub(crate) fn open(input: OpenInput) -> Result<Disk> {
    let warnings = content_warnings(input.file.head());
    let source: Arc<dyn Source> = input.file;
    let info =
        ImageInfo::default().format(Format::Raw.name()).variant("raw".to_owned()).virtual_bytes(source.len());
    let map = Box::new(FlatMap { source: Arc::clone(&source), virtual_bytes: source.len() });
    Ok(Disk::new(info, vec![source], map, warnings, Vec::new()))
}

/// The warnings about a raw disk that begins with `head`.
pub(super) fn content_warnings(head: &[u8]) -> Warnings {
    let warnings = Warnings::new();
    if let Some(name) = foreign(head) {
        warnings.add(Warning::new(
            "content_looks_like",
            format!("the raw disk looks like {name}: it is read verbatim"),
        ));
    }
    warnings
}

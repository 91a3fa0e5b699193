//! The arithmetic of a stream's markers.

use diskferry_core::{Error, Result};

use super::header::{GRAIN_MARKER_LEN, Sectors, SparseHeader, most_compressed};

/// Checks the marker of a grain against the extent, and returns the number of the grain.
///
/// # Errors
/// `malformed`; the caller adds the offset.
pub(crate) fn grain_number(header: &SparseHeader, lba: Sectors, size: u32) -> Result<u64> {
    if lba.0 >= header.capacity.0 || !lba.0.is_multiple_of(header.grain.0) {
        return Err(Error::malformed(format!(
            "a grain's marker says sector {}, which is not the start of a grain of {} sectors on {}",
            lba.0, header.grain.0, header.capacity.0
        )));
    }
    if u64::from(size) > most_compressed(header.grain_bytes()) {
        return Err(Error::malformed(format!(
            "a grain's marker says {size} compressed bytes, more than twice a grain of {}",
            header.grain_bytes()
        )));
    }
    Ok(lba.0.checked_div(header.grain.0).unwrap_or_default())
}

/// Length of a grain with its marker, without the padding of the last sector.
pub(crate) fn grain_len(size: u32) -> u64 {
    u64::from(size).saturating_add(GRAIN_MARKER_LEN as u64)
}

/// Length from a metadata marker to the next marker.
///
/// # Errors
/// `malformed` if the count of sectors in the marker is too large; the caller adds the offset.
pub(crate) fn metadata_len(sectors: Sectors) -> Result<u64> {
    let len = sectors.0.checked_add(1).and_then(|sectors| Sectors(sectors).bytes());
    len.ok_or_else(|| {
        Error::malformed(format!("a marker says that {} sectors of metadata follow", sectors.0))
    })
}

/// The error that data follows the end marker; the caller adds the offset.
pub(crate) fn after_the_end() -> Error {
    Error::malformed("bytes other than zeros follow the end marker of the stream")
}

/// The lowest offset of the first marker: after the metadata that the header describes.
pub(crate) fn first_marker(header: &SparseHeader) -> u64 {
    let descriptor = header.descriptor.and_then(|(offset, size)| offset.0.checked_add(size.0)).unwrap_or(1);
    Sectors(header.overhead.0.max(descriptor).max(1)).bytes().unwrap_or(u64::MAX)
}

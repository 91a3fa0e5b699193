//! The footer of a stream: the header once more, with the address of the directory that was not known in front.
//!
//! ```text
//! … │ directory │ marker of the footer │ footer │ end marker │
//!                 end-1536               end-1024 end-512
//! ```

use bytes::Bytes;
use diskferry_core::{StoredOffset, StoredRange};

use diskferry_core::HeadTail;

use super::header::{DirectoryAt, HEADER_LEN, Marker, SECTOR, Sectors, SparseHeader, field};

/// What a usable footer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Footer {
    /// The grain directory.
    pub(crate) directory: Sectors,
    /// The redundant one.
    pub(crate) redundant: Option<Sectors>,
    /// Byte address of the field that says where the directory is.
    pub(crate) field: u64,
    /// Byte address of the footer's marker: behind everything else that the image uses.
    pub(crate) offset: u64,
    /// It is not where it belongs: zeros follow, or the end marker is missing.
    pub(crate) padded: bool,
}

/// Looks for the footer of the stream that begins with `header`, in the object's tail alone: at its place, or with
/// nothing but zeros behind it. `bytes` is the length of the extent.
pub(crate) fn find(file: &HeadTail, header: &SparseHeader, bytes: u64) -> Option<Footer> {
    let sectors = file.len().checked_div(SECTOR)?;
    let mut last = sectors.checked_sub(1)?;
    while sector(file, last)?.iter().all(|byte| *byte == 0) {
        last = last.checked_sub(1)?;
    }
    let marker = sector(file, last.checked_sub(1)?)?;
    let footer = usable(&marker, &sector(file, last)?, last, header, bytes)?;
    let padded = file.len() != last.checked_add(2)?.checked_mul(SECTOR)?;
    Some(Footer { padded, ..footer })
}

/// The footer of the stream that begins with `header`, in the last of its sectors that is not blank, which has the number
/// `last`, behind its marker in the sector before it. One that contradicts the header, or whose directory does not lie
/// before it, is not usable.
pub(crate) fn usable(
    marker: &[u8],
    footer: &[u8],
    last: u64,
    header: &SparseHeader,
    bytes: u64,
) -> Option<Footer> {
    if !matches!(Marker::parse(marker), Ok(Marker::Footer(_))) {
        return None;
    }
    let footer = SparseHeader::parse(footer).ok()?;
    let DirectoryAt::Sector(directory) = footer.directory else { return None };
    let same = footer.capacity == header.capacity
        && footer.grain == header.grain
        && footer.table_entries == header.table_entries
        && footer.grains == header.grains
        && footer.zeroed_grains == header.zeroed_grains;
    let offset = last.checked_sub(1)?.checked_mul(SECTOR)?;
    let span = header.grain_bytes().checked_mul(u64::from(header.table_entries))?;
    let size = bytes.div_ceil(span.max(1)).checked_mul(4)?;
    let fits = directory.bytes()?.checked_add(size)? <= offset && (directory.0 != 0 || size == 0);
    let field = offset.checked_add(SECTOR)?.checked_add(field::DIRECTORY)?;
    (same && fits).then_some(Footer { directory, redundant: footer.redundant, field, offset, padded: false })
}

/// A sector of the object's head or tail.
fn sector(file: &HeadTail, number: u64) -> Option<Bytes> {
    let range = StoredRange::new(StoredOffset::new(number.checked_mul(SECTOR)?), SECTOR)?;
    let within = |bytes: &Bytes, base: u64| {
        let start = usize::try_from(range.start().get().checked_sub(base)?).ok()?;
        let end = start.checked_add(HEADER_LEN)?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    };
    within(file.head(), 0).or_else(|| within(file.tail(), file.tail_start().get()))
}

//! The footer of a stream: a second copy of the header, with the address of the directory.
//!
//! ```text
//! … │ directory │ marker of the footer │ footer │ end marker │
//!                 end-1536               end-1024 end-512
//! ```

use bytes::Bytes;
use diskferry_core::{Error, Result, StoredOffset, StoredRange, Warning, Warnings};

use diskferry_core::HeadTail;

use super::header::{DirectoryAt, HEADER_LEN, Marker, SECTOR, Sectors, SparseHeader, field};

/// The contents of a usable footer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Footer {
    /// The grain directory.
    pub(crate) directory: Sectors,
    /// The redundant one.
    pub(crate) redundant: Option<Sectors>,
    /// Byte address of the field with the directory's address.
    pub(crate) field: u64,
    /// Byte address of the footer's marker, after everything else that the image uses.
    pub(crate) offset: u64,
    /// It is not at its regular offset: zeros follow, or the end marker is missing.
    pub(crate) padded: bool,
    /// Fields that differ from the header and do not decide how grains are found.
    differs: Vec<&'static str>,
}

impl Footer {
    /// Warnings about the footer.
    pub(crate) fn warn(&self, warnings: &Warnings) {
        if self.padded {
            warnings.add(Warning::new(
                "recovered_footer",
                format!(
                    "the footer is not at the object's end but at {}, followed only by zeros",
                    self.offset
                ),
            ));
        }
        if !self.differs.is_empty() {
            warnings.add(Warning::new(
                "footer_differs",
                format!("the footer and the header differ in {}", self.differs.join(", ")),
            ));
        }
    }
}

/// The warning that there is no usable footer.
pub(crate) fn recovered_by_scan() -> Warning {
    Warning::new(
        "recovered_by_scan",
        "the image has no usable footer: its grains are found by reading all of it",
    )
}

/// Searches the object's tail for the footer of the stream that begins with `header`. The footer is at its regular
/// offset, or only zeros follow it. `bytes` is the length of the extent.
///
/// # Errors
/// See [`usable`].
pub(crate) fn find(file: &HeadTail, header: &SparseHeader, bytes: u64) -> Result<Option<Footer>> {
    let Some((last, marker, footer)) = last_sectors(file) else { return Ok(None) };
    usable(&marker, &footer, last, header, bytes, file.len())
}

/// Number of the last non-blank sector, the sector before it, and that sector.
fn last_sectors(file: &HeadTail) -> Option<(u64, Bytes, Bytes)> {
    let mut last = file.len().checked_div(SECTOR)?.checked_sub(1)?;
    while sector(file, last)?.iter().all(|byte| *byte == 0) {
        last = last.checked_sub(1)?;
    }
    Some((last, sector(file, last.checked_sub(1)?)?, sector(file, last)?))
}

/// True if [`find`] searches sector `number` of an object of `len` bytes.
pub(crate) fn in_reach(number: u64, len: u64) -> bool {
    let head_meets_tail = len <= HeadTail::HEAD.saturating_add(HeadTail::TAIL);
    head_meets_tail || number.saturating_mul(SECTOR) >= len.saturating_sub(HeadTail::TAIL)
}

/// Validates the footer of the stream that begins with `header`. It is in the last non-blank sector, number `last`,
/// after its marker in the sector before. A damaged footer, or one whose directory is not before it, is not usable.
/// `object` is the length of the stream.
///
/// # Errors
/// `malformed` if it is intact and contradicts the header in a field that decides how grains are found.
pub(crate) fn usable(
    marker: &[u8],
    footer: &[u8],
    last: u64,
    header: &SparseHeader,
    bytes: u64,
    object: u64,
) -> Result<Option<Footer>> {
    if !matches!(Marker::parse(marker), Ok(Marker::Footer(_))) {
        return Ok(None);
    }
    let Ok(footer) = SparseHeader::parse(footer) else { return Ok(None) };
    let DirectoryAt::Sector(directory) = footer.directory else { return Ok(None) };
    let Some(place) = last.checked_mul(SECTOR) else { return Ok(None) };
    let flags = |header: &SparseHeader| (header.grains, header.zeroed_grains);
    let contradictions = [
        ("capacity", footer.capacity != header.capacity, field::CAPACITY),
        ("grainSize", footer.grain != header.grain, field::GRAIN_SIZE),
        ("numGTEsPerGT", footer.table_entries != header.table_entries, field::TABLE_ENTRIES),
        ("flags", flags(&footer) != flags(header), field::FLAGS),
    ];
    if let Some((name, _, at)) = contradictions.iter().find(|(_, differs, _)| *differs) {
        return Err(Error::malformed(format!(
            "the footer and the header contradict each other: {name} is not the same"
        ))
        .at(place.saturating_add(*at)));
    }
    let descriptor = |header: &SparseHeader| header.descriptor.unwrap_or((Sectors(0), Sectors(0)));
    let differs = [
        ("version", footer.version != header.version),
        ("descriptorOffset", descriptor(&footer).0 != descriptor(header).0),
        ("descriptorSize", descriptor(&footer).1 != descriptor(header).1),
    ];
    let offset = place.saturating_sub(SECTOR);
    let span = header.grain_bytes().saturating_mul(u64::from(header.table_entries)).max(1);
    let size = bytes.div_ceil(span).saturating_mul(4);
    let end = directory.bytes().and_then(|start| start.checked_add(size));
    if end.is_none_or(|end| end > offset) || (directory.0 == 0 && size != 0) {
        return Ok(None);
    }
    Ok(Some(Footer {
        directory,
        redundant: footer.redundant,
        field: place.saturating_add(field::DIRECTORY),
        offset,
        padded: last.checked_add(2).and_then(|sectors| sectors.checked_mul(SECTOR)) != Some(object),
        differs: differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect(),
    }))
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

//! Detection of VHD: the cookie `conectix` at the end of the object, or at its start if the end is lost.

use diskferry_core::{Error, HeadTail, Result, StoredOffset, StoredRange};

use super::footer::{self, Candidate, Kind, Located, SizeFrom};
use super::header::{self, Header};
use crate::probe::{Probe, buffered};

/// The name of the dynamic disk header in messages.
pub(super) const HEADER: &str = "the dynamic disk header";

/// True if `head` begins as a dynamic or differencing disk does. A fixed disk begins with the guest's bytes.
pub(crate) fn has_magic(head: &[u8]) -> bool {
    footer::has_cookie(head)
}

/// Checks for a footer in the head and in the tail of the object, and for what the footer promises.
pub(crate) fn probe(file: &HeadTail) -> Probe {
    match examine(file) {
        Ok(None) => Probe::NoMatch,
        Ok(Some(_)) => Probe::Valid,
        Err(error) => Probe::Invalid(error),
    }
}

/// Checks all that the head and the tail of the object show: the footer, and the header if it is in one of them.
/// `None` if the object has no cookie of a VHD.
///
/// # Errors
/// Those that opening it would return: `malformed`, `truncated` and `unsupported_feature`.
pub(super) fn examine(file: &HeadTail) -> Result<Option<Located>> {
    let len = footer::TAIL_LEN.min(file.len());
    let start = file.len().saturating_sub(len);
    let range = StoredRange::between(StoredOffset::new(start), StoredOffset::new(file.len()));
    let tail = buffered(file, range).unwrap_or_default();
    let tail = Candidate::at_tail(&tail, StoredOffset::new(start));
    let Some(located) = footer::locate(Candidate::at_head(file.head()), tail)? else { return Ok(None) };
    match located.footer.kind {
        Kind::Fixed => check_fixed(&located)?,
        Kind::Dynamic(at) | Kind::Differencing(at) => {
            let range = header_range(file, &located, at)?;
            if let Some(bytes) = buffered(file, range) {
                parse_header(file, &located, range, &bytes)?;
            }
        }
    }
    Ok(Some(located))
}

/// Checks that all bytes of a fixed disk are stored.
///
/// # Errors
/// `truncated` if fewer bytes are stored before the footer than the disk has.
fn check_fixed(located: &Located) -> Result<()> {
    let Some(end) = located.tail_at else { return Ok(()) };
    if located.footer.virtual_bytes > end.get() {
        let (name, place) = match located.footer.size_from {
            SizeFrom::CurrentSize => ("current_size", footer::field::CURRENT_SIZE),
            SizeFrom::Chs(..) => ("geometry", footer::field::GEOMETRY),
        };
        return Err(Error::truncated(format!(
            "the footer says that the disk has {} bytes ({name}), and {end} are stored before it",
            located.footer.virtual_bytes
        ))
        .at(end.checked_add(place).unwrap_or(end))
        .hint("if the disk is split into several files, join them first"));
    }
    Ok(())
}

/// Where the header is stored.
///
/// # Errors
/// `malformed` if the header would overlap a footer, `truncated` if the object ends before it.
pub(super) fn header_range(file: &HeadTail, located: &Located, at: StoredOffset) -> Result<StoredRange> {
    let footer_at = located.tail_at.unwrap_or(StoredOffset::ZERO);
    let place = footer_at.checked_add(footer::field::DATA_OFFSET).unwrap_or(footer_at);
    let wrong =
        || Error::malformed(format!("the footer's data_offset is {at}, where no header can be")).at(place);
    let range = StoredRange::new(at, header::LEN).ok_or_else(wrong)?;
    let footers = footers(file, located);
    if footers.iter().any(|(footer, _)| footer.intersection(range).is_some()) {
        return Err(wrong());
    }
    if range.end().get() > file.len() {
        return Err(Error::truncated(format!(
            "the footer's data_offset is {at}: the dynamic disk header takes bytes {range} and the object ends at {}",
            file.len()
        ))
        .at(place));
    }
    Ok(range)
}

/// Parses the header in `bytes`, which are stored at `range`, and checks where its table is.
///
/// # Errors
/// Those of [`Header::parse`]; `unsupported_feature` for the last file of a split disk; `malformed` if the table
/// overlaps other metadata; `truncated` if it passes the end of the object.
pub(super) fn parse_header(
    file: &HeadTail,
    located: &Located,
    range: StoredRange,
    bytes: &[u8],
) -> Result<Header> {
    if !located.head_marked && !header::has_cookie(bytes) {
        return Err(Error::unsupported(
            "the object ends with the footer of a dynamic disk and does not begin as one: it is the last file of a split disk, or its start is lost",
        )
        .at(StoredOffset::ZERO)
        .hint("if the disk is split into several files, join them first"));
    }
    let at = range.start();
    let header = Header::parse(bytes, at, located.footer.virtual_bytes)?;
    let field = at.checked_add(16).unwrap_or(at);
    if header.table.end().get() > file.len() {
        return Err(Error::truncated(format!(
            "table_offset is {} and max_table_entries {}: the block allocation table takes bytes {} and the object ends \
             at {}",
            header.table.start(),
            header.table.len() / 4,
            header.table,
            file.len()
        ))
        .at(field));
    }
    let mut others = footers(file, located);
    others.push((range, HEADER));
    match others.iter().find(|(range, _)| range.intersection(header.table).is_some()) {
        Some((range, name)) => Err(Error::malformed(format!(
            "table_offset is {}: the block allocation table takes bytes {}, where it overlaps {name} at {range}",
            header.table.start(),
            header.table
        ))
        .at(field)),
        None => Ok(header),
    }
}

/// A part of the object that metadata occupies, and the name of that metadata.
pub(super) type Occupied = (StoredRange, &'static str);

/// The footer, with the padding after it, and its copy.
pub(super) fn footers(file: &HeadTail, located: &Located) -> Vec<Occupied> {
    let end = StoredOffset::new(file.len());
    let tail = located.tail_at.map(|at| (StoredRange::between(at, end), "the footer"));
    let copy = (StoredRange::first(footer::LEN as u64), "the copy of the footer");
    [Some(copy), tail].into_iter().flatten().collect()
}

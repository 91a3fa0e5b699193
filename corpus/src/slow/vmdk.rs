//! VMDK: one or several files, with consecutive extents.

use super::Files;
use super::bytes::{slice, up_to};
use super::descriptor::{self, Line};
use super::esx;
use super::hosted::{self, Header};

/// Maximum length of a descriptor.
const MOST_TEXT: u64 = 1 << 20;

enum Part<'a> {
    Zeros,
    Flat { file: &'a [u8], start: u64 },
    Hosted(hosted::Extent<'a>),
    Esx(esx::Extent<'a>),
}

pub(super) struct Image<'a> {
    pub(super) size: u64,
    /// The end of each part on the disk.
    parts: Vec<(u64, Part<'a>)>,
}

pub(super) fn open<'a>(files: Files<'a>) -> Option<Image<'a>> {
    let (_, first) = *files.first()?;
    if first.starts_with(b"KDMV") {
        let header = Header::parse(first)?;
        let len = match embedded(first, &header)? {
            Some(text) => match descriptor::parse(text, true)?.as_slice() {
                [line] => line.sectors.checked_mul(512)?,
                _ => return None,
            },
            // Without a descriptor it is one file of a set, unless it is a stream.
            None if header.compressed => header.capacity.checked_mul(512)?,
            None => return None,
        };
        let part = Part::Hosted(hosted::Extent::open(first, header, len)?);
        return Some(Image { size: len, parts: vec![(len, part)] });
    }
    if esx::is_cowd(first) {
        let extent = esx::cowd(first, None)?;
        return Some(Image { size: extent.len(), parts: vec![(extent.len(), Part::Esx(extent))] });
    }
    let text = up_to(first, 0, MOST_TEXT);
    if !text.get(..17)?.eq_ignore_ascii_case(b"# Disk Descriptor") {
        return None;
    }
    let mut parts = Vec::new();
    let mut end = 0u64;
    for line in descriptor::parse(text, false)? {
        let len = line.sectors.checked_mul(512)?;
        end = end.checked_add(len)?;
        parts.push((end, part(files, &line, len)?));
    }
    Some(Image { size: end, parts })
}

/// Returns the embedded descriptor, if there is one.
fn embedded<'a>(file: &'a [u8], header: &Header) -> Option<Option<&'a [u8]>> {
    let Some((at, len)) = header.text else { return Some(None) };
    let text = slice(file, at, len.min(MOST_TEXT))?;
    Some((text.first() != Some(&0)).then_some(text))
}

fn part<'a>(files: Files<'a>, line: &Line, len: u64) -> Option<Part<'a>> {
    if line.kind == "ZERO" {
        return Some(Part::Zeros);
    }
    let (_, file) = *files.iter().find(|(name, _)| name.as_bytes() == line.name)?;
    match line.kind.as_str() {
        "FLAT" | "VMFS" => {
            let start = line.offset.checked_mul(512)?;
            slice(file, start, len)?;
            Some(Part::Flat { file, start })
        }
        "VMFSSPARSE" | "SPARSE" if esx::is_cowd(file) => esx::cowd(file, Some(len)).map(Part::Esx),
        "SPARSE" => hosted::Extent::open(file, Header::parse(file)?, len).map(Part::Hosted),
        "SESPARSE" => esx::se_sparse(file, len).map(Part::Esx),
        _ => None,
    }
}

impl Image<'_> {
    /// Returns the unit that contains the guest byte `at`, and its start.
    pub(super) fn unit(&self, at: u64) -> Option<(u64, Vec<u8>)> {
        let mut base = 0;
        for (end, part) in &self.parts {
            if at >= *end {
                base = *end;
                continue;
            }
            let inside = at - base;
            let start = inside - inside % 512;
            let len = 512.min(end - base - start);
            let (start, bytes) = match part {
                Part::Zeros => (start, vec![0; usize::try_from(len).ok()?]),
                Part::Flat { file, start: from } => {
                    (start, slice(file, from.checked_add(start)?, len)?.to_vec())
                }
                Part::Hosted(extent) => extent.unit(inside)?,
                Part::Esx(extent) => extent.unit(inside)?,
            };
            return Some((base.checked_add(start)?, bytes));
        }
        None
    }
}

//! Detection of VMDK: the magic of each kind of file that belongs to the format.

use diskferry_core::{HeadTail, Result};

use super::descriptor::{Descriptor, DescriptorLocation, is_descriptor};
use super::embedded::{descriptor_range, is_blank};
use super::esx::{COWD_MAGIC, SE_MAGIC, parse_cowd, parse_se};
use super::header::{MAGIC, SparseHeader};
use crate::probe::Probe;
use crate::vhd::{FOOTER_LEN, ends_with_footer};

/// The kinds of file that belong to the format, by their first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileKind {
    /// A sparse extent of hosted products.
    Hosted,
    /// The text of a descriptor.
    Descriptor,
    /// A sparse extent of ESX: `vmfsSparse`.
    Cowd,
    /// A space-efficient sparse extent of ESX.
    SeSparse,
}

/// The kind of a file that begins with `head`.
pub(super) fn file_kind(head: &[u8]) -> Option<FileKind> {
    if head.starts_with(&MAGIC) {
        Some(FileKind::Hosted)
    } else if is_descriptor(head) {
        Some(FileKind::Descriptor)
    } else if head.starts_with(&COWD_MAGIC) {
        Some(FileKind::Cowd)
    } else if head.starts_with(&SE_MAGIC) {
        Some(FileKind::SeSparse)
    } else {
        None
    }
}

/// True if `head` begins as a file of the format does.
pub(crate) fn has_magic(head: &[u8]) -> bool {
    file_kind(head).is_some()
}

/// Checks for the magic of any kind of file, and for a header or descriptor that is valid as far as the head shows.
pub(crate) fn probe(file: &HeadTail) -> Probe {
    let head = file.head();
    let Some(kind) = file_kind(head) else { return Probe::NoMatch };
    let checked = match kind {
        FileKind::Hosted => check_hosted(file),
        // A descriptor that is longer than the head is parsed when it is opened.
        FileKind::Descriptor if file.len() > HeadTail::HEAD && !head.contains(&0) => Ok(()),
        FileKind::Descriptor => {
            Descriptor::parse(before_footer(head), 0, DescriptorLocation::Detached).map(drop)
        }
        FileKind::Cowd => parse_cowd(head).map(drop),
        FileKind::SeSparse => parse_se(head).map(drop),
    };
    match checked {
        Ok(()) => Probe::Valid,
        Err(error) => Probe::Invalid(error),
    }
}

/// The text of an object without the footer of a VHD at its end. Such an object is valid as both formats.
fn before_footer(object: &[u8]) -> &[u8] {
    match object.split_last_chunk::<FOOTER_LEN>() {
        Some((text, footer)) if ends_with_footer(footer) => text,
        _ => object,
    }
}

fn check_hosted(file: &HeadTail) -> Result<()> {
    let header = SparseHeader::parse(file.head())?;
    let Some(range) = descriptor_range(&header, file.len())? else { return Ok(()) };
    let bounds = usize::try_from(range.start().get()).ok().zip(usize::try_from(range.end().get()).ok());
    match bounds.and_then(|(start, end)| file.head().get(start..end)) {
        Some(text) if !is_blank(text) => {
            Descriptor::parse(text, range.start().get(), DescriptorLocation::Embedded).map(drop)
        }
        _ => Ok(()),
    }
}

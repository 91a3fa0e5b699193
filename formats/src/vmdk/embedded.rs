//! The descriptor that is embedded in a hosted sparse extent, and whether it agrees with the extent's header.

use diskferry_core::{Error, Result, StoredOffset, StoredRange, Warning, Warnings};

use super::descriptor::{Descriptor, DescriptorLocation, ExtentLine, ExtentType, Kind, LONGEST};
use super::header::{Grains, SparseHeader, field};

/// Parses the embedded descriptor with its one extent; `None` if there is no text. The header decides how the grains
/// are stored. If the descriptor contradicts it, there is a warning.
///
/// # Errors
/// `malformed`, `unsupported_feature`.
pub(crate) fn parse_embedded(
    text: &[u8],
    range: StoredRange,
    header: &SparseHeader,
    warnings: &Warnings,
) -> Result<Option<(Descriptor, ExtentLine)>> {
    if is_blank(text) {
        return Ok(None);
    }
    let found = Descriptor::parse(text, range.start().get(), DescriptorLocation::Embedded)?;
    if found.kind == Kind::Device {
        return Err(Error::malformed(format!(
            "createType {:?} is that of a device, and the file is a sparse extent",
            found.create_type
        ))
        .at(range.start()));
    }
    let line = match found.extents.as_slice() {
        [line] if !matches!(line.kind, ExtentType::Zero | ExtentType::Device) => line.clone(),
        lines => {
            return Err(Error::malformed(format!(
                "the embedded descriptor has {} extents; exactly one that is stored in a file is valid",
                lines.len()
            ))
            .at(range.start()));
        }
    };
    if let Some(warning) = contradiction(&found, header, DescriptorLocation::Embedded) {
        warnings.add(warning);
    }
    Ok(Some((found, line)))
}

/// The warning that a descriptor contradicts the header of a hosted sparse extent.
pub(crate) fn contradiction(
    descriptor: &Descriptor,
    header: &SparseHeader,
    location: DescriptorLocation,
) -> Option<Warning> {
    let plain = header.grains == Grains::Plain;
    let agrees = match descriptor.kind {
        Kind::MonolithicSparse => plain,
        Kind::SplitSparse => plain && location == DescriptorLocation::Detached,
        Kind::StreamOptimized => !plain,
        Kind::Custom => true,
        Kind::Flat | Kind::VmfsSparse | Kind::SeSparse | Kind::Device => false,
    };
    let grains = if plain { "plain" } else { "compressed" };
    let name = &descriptor.create_type;
    let other = descriptor.extents.iter().find(|line| line.kind != ExtentType::Sparse);
    let message = match other {
        _ if !agrees => format!("createType is {name:?}, and the header says sparse with {grains} grains"),
        Some(line) if descriptor.extents.len() == 1 => {
            format!(
                "the extent type is {}, and the header says sparse with {grains} grains",
                line.kind.name()
            )
        }
        _ => return None,
    };
    Some(Warning::new("descriptor_contradicts", format!("{message}: the header is used")))
}

/// The range of the embedded descriptor in an object of `object` bytes, if the header names one.
///
/// # Errors
/// `truncated` if the range passes the end of the object, `malformed` if it is too long.
pub(crate) fn descriptor_range(header: &SparseHeader, object: u64) -> Result<Option<StoredRange>> {
    let Some((offset, size)) = header.descriptor else { return Ok(None) };
    let beyond = || {
        Error::truncated(format!(
            "descriptorOffset is sector {} and descriptorSize {} sectors, and the object ends at {object}",
            offset.0, size.0
        ))
        .at(field::DESCRIPTOR_OFFSET)
    };
    let (start, len) = offset.bytes().zip(size.bytes()).ok_or_else(beyond)?;
    if len > LONGEST {
        return Err(Error::malformed(format!(
            "descriptorSize is {} sectors, {len} bytes: more than {}",
            size.0, LONGEST
        ))
        .at(field::DESCRIPTOR_SIZE));
    }
    let range = StoredRange::new(StoredOffset::new(start), len).ok_or_else(beyond)?;
    if range.end().get() > object { Err(beyond()) } else { Ok(Some(range)) }
}

/// True if there is no text.
pub(super) fn is_blank(text: &[u8]) -> bool {
    text.first().is_none_or(|byte| *byte == 0)
}

//! Opens an image from any of its kinds of file.

use std::sync::Arc;

use diskferry_core::{
    Disk, Error, FileIndex, GuestRange, HeadTailSource, ImageInfo, Result, Source, Warning, Warnings,
};

use super::descriptor::{Descriptor, ExtentLine, refusals};
use super::embedded::{descriptor_range, parse_embedded};
use super::esx::{cowd_child, parse_cowd, parse_se};
use super::extent_file::{esx_extent, extent_size, features, hosted_extent};
use super::header::{Grains, SparseHeader, field};
use super::map::disk;
use super::multi_extent;
use super::probe::{FileKind, file_kind};
use super::sparse::Shared;
use crate::format::Format;
use crate::open_input::OpenInput;

/// Opens an image. The files that its descriptor names are opened through the gate.
///
/// # Errors
/// See [`crate::open_with`].
pub(crate) async fn open(input: OpenInput) -> Result<Disk> {
    let head = input.file.head();
    match file_kind(head) {
        Some(FileKind::Hosted) => open_hosted(input).await,
        Some(FileKind::Descriptor) => multi_extent::open(input).await,
        Some(FileKind::Cowd) => open_cowd(&input),
        Some(FileKind::SeSparse) => {
            parse_se(head)?;
            Err(needs_descriptor(input.file.url(), "a seSparse extent"))
        }
        None => Err(Error::malformed("no magic of a VMDK was found").at(0u64)),
    }
}

async fn open_hosted(input: OpenInput) -> Result<Disk> {
    let file = input.file;
    let header = SparseHeader::parse(file.head())?;
    let warnings = Warnings::new();
    let described = match embedded(&file, &header, &warnings).await? {
        Some(descriptor) => Some(descriptor),
        None if header.grains == Grains::Plain => {
            let error = needs_descriptor(file.url(), "a sparse extent without a descriptor");
            return Err(error.at(field::DESCRIPTOR_OFFSET));
        }
        None => {
            warnings.add(Warning::new(
                "no_descriptor",
                "the image has no descriptor: nothing says whether it is a difference to another disk",
            ));
            None
        }
    };
    let size = match &described {
        Some((_, line)) => extent_size(line, header.capacity, header.grain, field::CAPACITY)?,
        None => header.capacity.bytes().unwrap_or_default(),
    };
    if header.unclean {
        warnings.add(Warning::new("unclean_shutdown", "the image was not closed when it was last written"));
    }
    let fallback = if header.grains == Grains::Plain { "monolithicSparse" } else { "streamOptimized" };
    let mut info = ImageInfo::default()
        .format(Format::Vmdk.name())
        .variant(described.as_ref().map_or(fallback, |(found, _)| found.create_type.as_str()).to_owned())
        .virtual_bytes(size)
        .cluster_bytes(Some(header.grain_bytes()))
        .features(features(&header));
    let refusals =
        described.iter().flat_map(|(found, line)| refusals(found, std::slice::from_ref(line))).collect();
    let source: Arc<dyn Source> = Arc::clone(&file) as _;
    let shared = Shared { warnings, ..Shared::default() };
    let opened = hosted_extent(FileIndex(0), &source, &file, &header, GuestRange::first(size), &shared)?;
    info.features.extend(opened.features);
    Ok(disk(info, vec![source], vec![opened.extent], shared.warnings, refusals))
}

async fn embedded(
    file: &HeadTailSource,
    header: &SparseHeader,
    warnings: &Warnings,
) -> Result<Option<(Descriptor, ExtentLine)>> {
    let Some(range) = descriptor_range(header, file.len())? else { return Ok(None) };
    let text = file.read(range).await?;
    parse_embedded(&text, range, header, warnings)
}

fn open_cowd(input: &OpenInput) -> Result<Disk> {
    let file = &input.file;
    let parsed = parse_cowd(file.head())?;
    let warnings = Warnings::new();
    warnings.add(Warning::new(
        "no_descriptor",
        "a COWD extent without its descriptor: only its own header says that it is not a difference to another disk",
    ));
    let size = parsed.capacity.bytes().unwrap_or_default();
    let info = ImageInfo::default()
        .format(Format::Vmdk.name())
        .variant("vmfsSparse".to_owned())
        .virtual_bytes(size)
        .cluster_bytes(Some(parsed.layout.grain_bytes));
    let refusals = if parsed.child { vec![cowd_child()] } else { Vec::new() };
    let source: Arc<dyn Source> = Arc::clone(file) as _;
    let shared = Shared { warnings, ..Shared::default() };
    let extent = esx_extent(FileIndex(0), &source, file, parsed, GuestRange::first(size), &shared)?;
    Ok(disk(info, vec![source], vec![extent], shared.warnings, refusals))
}

/// The error that one file of a multi-file image was opened. The hint names the file to open instead.
fn needs_descriptor(url: &str, what: &str) -> Error {
    let error = Error::unsupported(format!("{what} is one part of a disk and needs the descriptor"));
    match descriptor_name(url) {
        Some(name) => error.hint(format!("open the descriptor beside it, probably {name}")),
        None => error.hint("open the descriptor beside it, the small .vmdk file of text"),
    }
}

/// The usual name of the descriptor beside an extent: `disk.vmdk` for `disk-s001.vmdk`.
fn descriptor_name(url: &str) -> Option<String> {
    let name = url.rsplit(['/', ':']).next()?;
    let stem = name.strip_suffix(".vmdk")?;
    let (disk, suffix) = stem.rsplit_once('-')?;
    let numbered = suffix
        .strip_prefix(['s', 'f'])
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
    let known = numbered || matches!(suffix, "flat" | "delta" | "sesparse");
    (known && !disk.is_empty()).then(|| format!("{disk}.vmdk"))
}

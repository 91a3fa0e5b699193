//! Opening: from the head of a file, whatever kind it is, to a disk.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    Disk, Error, ErrorKind, FileIndex, GuestRange, HeadTail, HeadTailSource, ImageInfo, MAX_UNIT_BYTES,
    Refusal, Result, Source, StoredOffset, StoredRange, Warning, Warnings,
};

use super::descriptor::{self, Access, Descriptor, ExtentLine, ExtentType, Kind, Place, is_descriptor};
use super::directory::{Entries, Layout, Markers};
use super::esx::{
    COWD_FLAGS, COWD_MAGIC, EsxExtent, SE_MAGIC, VOLATILE_AT, check_se_volatile, parse_cowd, parse_se,
};
use super::footer;
use super::header::{DirectoryAt, Grains, HEADER_LEN, MAGIC, SECTOR, Sectors, SparseHeader, field};
use super::map::{Part, PartMap, VmdkMap};
use super::scan::{ScanMap, first_marker};
use super::set;
use super::sparse::{Compressed, Shared, SparseMap};
use super::tail::{Arrangement, Tail, Used};
use crate::detect::Recognised;
use crate::vhd::{self, FOOTER_LEN};
use crate::{Format, Opening};

/// What a file of the format begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begins {
    Hosted,
    Descriptor,
    Cowd,
    SeSparse,
}

fn begins(head: &[u8]) -> Option<Begins> {
    if head.starts_with(&MAGIC) {
        Some(Begins::Hosted)
    } else if is_descriptor(head) {
        Some(Begins::Descriptor)
    } else if head.starts_with(&COWD_MAGIC) {
        Some(Begins::Cowd)
    } else if head.starts_with(&SE_MAGIC) {
        Some(Begins::SeSparse)
    } else {
        None
    }
}

/// True where bytes begin as a file of the format does.
pub(crate) fn has_marks(head: &[u8]) -> bool {
    begins(head).is_some()
}

/// Whether the object is one, as far as its head shows.
pub(crate) fn recognise(file: &HeadTail) -> Recognised {
    let head = file.head();
    let Some(begins) = begins(head) else { return Recognised::No };
    let checked = match begins {
        Begins::Hosted => recognise_hosted(file),
        // One that is longer than the head is parsed when it is opened.
        Begins::Descriptor if file.len() > HeadTail::HEAD && !head.contains(&0) => Ok(()),
        Begins::Descriptor => Descriptor::parse(before_footer(head), 0, Place::Detached).map(drop),
        Begins::Cowd => parse_cowd(head).map(drop),
        Begins::SeSparse => parse_se(head).map(drop),
    };
    match checked {
        Ok(()) => Recognised::Sound,
        Err(error) => Recognised::Unsound(error),
    }
}

/// The text of a whole object, without the footer of a VHD that it ends with: then it is valid as both.
fn before_footer(object: &[u8]) -> &[u8] {
    match object.split_last_chunk::<FOOTER_LEN>() {
        Some((text, footer)) if vhd::ends_as_one(footer) => text,
        _ => object,
    }
}

fn recognise_hosted(file: &HeadTail) -> Result<()> {
    let header = SparseHeader::parse(file.head())?;
    let Some(range) = descriptor_range(&header, file.len())? else { return Ok(()) };
    let bounds = usize::try_from(range.start().get()).ok().zip(usize::try_from(range.end().get()).ok());
    match bounds.and_then(|(start, end)| file.head().get(start..end)) {
        Some(text) if !is_blank(text) => {
            Descriptor::parse(text, range.start().get(), Place::Embedded).map(drop)
        }
        _ => Ok(()),
    }
}

/// Opens an image: the file itself, and by its gate those beside it that its descriptor names.
///
/// # Errors
/// See [`crate::open_with`].
pub(crate) async fn open(opening: Opening) -> Result<Disk> {
    let head = opening.file.head();
    match begins(head) {
        Some(Begins::Hosted) => open_hosted(opening).await,
        Some(Begins::Descriptor) => set::open(opening).await,
        Some(Begins::Cowd) => open_cowd(&opening),
        Some(Begins::SeSparse) => {
            parse_se(head)?;
            Err(alone(opening.file.url(), "a seSparse extent"))
        }
        None => Err(Error::malformed("none of the marks of a VMDK is there").at(0u64)),
    }
}

async fn open_hosted(opening: Opening) -> Result<Disk> {
    let file = opening.file;
    let header = SparseHeader::parse(file.head())?;
    let warnings = Warnings::new();
    let described = match embedded(&file, &header, &warnings).await? {
        Some(descriptor) => Some(descriptor),
        None if header.grains == Grains::Plain => {
            let error = alone(file.url(), "a sparse extent without a descriptor");
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
    let mut geometry = ImageInfo::default()
        .format(Format::Vmdk.name())
        .variant(described.as_ref().map_or(fallback, |(found, _)| found.create_type.as_str()).to_owned())
        .virtual_bytes(size)
        .cluster_bytes(Some(header.grain_bytes()))
        .features(features(&header));
    let refusals =
        described.iter().flat_map(|(found, line)| refusals(found, std::slice::from_ref(line))).collect();
    let source: Arc<dyn Source> = Arc::clone(&file) as _;
    let shared = Shared { warnings, ..Shared::default() };
    let opened = sparse_part(FileIndex(0), &source, &file, &header, GuestRange::first(size), &shared)?;
    geometry.features.extend(opened.features);
    Ok(finish(geometry, vec![source], vec![opened.part], shared.warnings, refusals))
}

/// A disk of these parts, or one that is only described where it is refused.
pub(crate) fn finish(
    geometry: ImageInfo,
    files: Vec<Arc<dyn Source>>,
    parts: Vec<Part>,
    warnings: Warnings,
    refusals: Vec<Refusal>,
) -> Disk {
    if refusals.is_empty() {
        Disk::new(geometry, files, Box::new(VmdkMap::new(parts)), warnings, refusals)
    } else {
        Disk::refused(geometry, files, warnings, refusals)
    }
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

/// The embedded descriptor and its one extent; `None` if there is no text. The header decides how the grains are stored: a
/// descriptor that says otherwise is a warning.
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
    let found = Descriptor::parse(text, range.start().get(), Place::Embedded)?;
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
    if let Some(warning) = contradiction(&found, header, Place::Embedded) {
        warnings.add(warning);
    }
    Ok(Some((found, line)))
}

/// The warning that a descriptor says something else of a hosted sparse extent than its header.
pub(crate) fn contradiction(
    descriptor: &Descriptor,
    header: &SparseHeader,
    stored: Place,
) -> Option<Warning> {
    let plain = header.grains == Grains::Plain;
    let agrees = match descriptor.kind {
        Kind::MonolithicSparse => plain,
        Kind::SplitSparse => plain && stored == Place::Detached,
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

/// Where the embedded descriptor lies in an object of `object` bytes.
///
/// # Errors
/// `truncated` where it does not lie in it, `malformed` where it is too long.
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
    if len > descriptor::LONGEST {
        return Err(Error::malformed(format!(
            "descriptorSize is {} sectors, {len} bytes: more than {}",
            size.0,
            descriptor::LONGEST
        ))
        .at(field::DESCRIPTOR_SIZE));
    }
    let range = StoredRange::new(StoredOffset::new(start), len).ok_or_else(beyond)?;
    if range.end().get() > object { Err(beyond()) } else { Ok(Some(range)) }
}

fn is_blank(text: &[u8]) -> bool {
    text.first().is_none_or(|byte| *byte == 0)
}

/// The size of an extent on the disk: what its line says. The capacity in its own header is the same, or the same
/// rounded up to a whole grain, as some writers leave it; it stands there at byte address `at`.
///
/// # Errors
/// `malformed` where the two contradict each other.
pub(crate) fn extent_size(line: &ExtentLine, capacity: Sectors, grain: Sectors, at: u64) -> Result<u64> {
    let rounded = line.size.0.checked_next_multiple_of(grain.0);
    if capacity != line.size && Some(capacity.0) != rounded {
        return Err(Error::malformed(format!(
            "the descriptor gives the extent {} sectors, and the capacity in its header is {}",
            line.size.0, capacity.0
        ))
        .at(at));
    }
    let bytes = line.size.bytes();
    bytes.ok_or_else(|| Error::malformed("an extent is longer than the address space").at(line.at))
}

/// What a header tells of the use that an extent makes of the format.
pub(crate) fn features(header: &SparseHeader) -> Vec<String> {
    let mut features = vec![format!("header version {}", header.version)];
    if let Grains::Compressed { markers } = header.grains {
        features.push("compressed grains".to_owned());
        if markers {
            features.push("markers".to_owned());
        }
    }
    if header.redundant.is_some() {
        features.push("redundant directory".to_owned());
    }
    if header.zeroed_grains {
        features.push("zeroed grains".to_owned());
    }
    features
}

/// What the descriptor says that stops every command but `info`.
pub(crate) fn refusals(descriptor: &Descriptor, lines: &[ExtentLine]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let parent = match (&descriptor.parent_hint, &descriptor.parent_cid) {
        (Some(hint), _) => Some(format!("the image is a difference to the disk {hint:?}")),
        (None, Some(cid)) => Some(format!("the image is a difference to the disk with the content ID {cid}")),
        (None, None) => None,
    };
    if let Some(message) = parent {
        refusals.push(
            Refusal::new(ErrorKind::ParentDiskRefused, message)
                .hint("consolidate its snapshots where it was made, or clone it, and take the result")
                .at(descriptor.parent_at),
        );
    }
    if let Some(line) = lines.iter().find(|line| line.access == Access::None) {
        let message =
            format!("an extent of {} sectors has the access NOACCESS: its bytes are not known", line.size.0);
        refusals.push(Refusal::new(ErrorKind::UnsupportedFeature, message).at(line.at));
    }
    refusals
}

/// A part of a disk, opened.
pub(crate) struct Opened {
    /// The part.
    pub(crate) part: Part,
    /// What is remarkable of it, beside what its header says.
    pub(crate) features: Vec<String>,
}

/// Opens the hosted sparse extent in `source`, whose head and tail are in `file`, as the guest bytes `guest`.
///
/// # Errors
/// `malformed`, `truncated`, `unsupported_feature`.
pub(crate) fn sparse_part(
    index: FileIndex,
    source: &Arc<dyn Source>,
    file: &HeadTail,
    header: &SparseHeader,
    guest: GuestRange,
    shared: &Shared,
) -> Result<Opened> {
    let warnings = &shared.warnings;
    let source = Arc::clone(source);
    if let Grains::Compressed { .. } = header.grains
        && header.grain_bytes() > MAX_UNIT_BYTES
    {
        return Err(Error::unsupported(format!(
            "grainSize makes compressed grains of {} bytes; up to {MAX_UNIT_BYTES} are read",
            header.grain_bytes()
        ))
        .at(20u64));
    }
    let mut features = Vec::new();
    let (directory, redundant, footer_at, field) = match header.directory {
        DirectoryAt::Sector(sector) => (sector, header.redundant, None, field::DIRECTORY),
        DirectoryAt::Footer => match footer::find(file, header, guest.len())? {
            Some(footer) => {
                footer.warn(warnings);
                features.push("directory at the end".to_owned());
                (footer.directory, footer.redundant, Some(footer.offset), footer.field)
            }
            None if header.grains == (Grains::Compressed { markers: true }) => {
                warnings.add(footer::recovered_by_scan());
                let map = ScanMap::new(index, source, header.clone(), guest);
                features.push("no footer".to_owned());
                return Ok(Opened { part: Part { guest, map: PartMap::Scanned(map) }, features });
            }
            None => {
                return Err(Error::malformed(
                    "gdOffset says that the directory is at the end, and there is no footer",
                )
                .at(field::DIRECTORY));
            }
        },
    };
    let mut taken = vec![(StoredRange::first(SECTOR), "the header")];
    if let Ok(Some(range)) = descriptor_range(header, source.len()) {
        taken.push((range, "the descriptor"));
    }
    let layout = Layout {
        directory: directory.bytes().unwrap_or(u64::MAX),
        redundant: redundant.and_then(Sectors::bytes),
        grain_bytes: header.grain_bytes(),
        table_entries: u64::from(header.table_entries),
        entries: Entries::Sectors { zeroed: header.zeroed_grains },
        field: ("gdOffset", field),
        taken,
        markers: (header.grains == (Grains::Compressed { markers: true }))
            .then(|| Markers { after: first_marker(header), by_header: footer_at.is_none() }),
    };
    let compressed = match header.grains {
        Grains::Plain => None,
        Grains::Compressed { markers } => {
            Some(Compressed::new(guest.start().get(), layout.grain_bytes, markers, footer_at))
        }
    };
    let tail = if footer_at.is_some() || layout.directory_is_marked() {
        None
    } else {
        let used = Used {
            arrangement: Arrangement::TablesFirst(header.overhead.bytes().unwrap_or_default()),
            end: u64::MAX,
            tables: None,
            compressed: header.grains != Grains::Plain,
        };
        Tail::suspect(file, Arc::clone(&source), used, warnings.clone())
    };
    let map = SparseMap::new(index, source, guest, layout, compressed, tail, shared.clone())?;
    Ok(Opened { part: Part { guest, map: PartMap::Sparse(Box::new(map)) }, features })
}

/// Opens the ESX extent in `source`, whose head and tail are in `file`, as the guest bytes `guest`.
///
/// # Errors
/// `malformed`, `truncated`.
pub(crate) fn esx_part(
    index: FileIndex,
    source: &Arc<dyn Source>,
    file: &HeadTailSource,
    extent: EsxExtent,
    guest: GuestRange,
    shared: &Shared,
) -> Result<Part> {
    let source = Arc::clone(source);
    let tail = Tail::suspect(file, Arc::clone(&source), extent.used, shared.warnings.clone());
    let map = SparseMap::new(index, source, guest, extent.layout, None, tail, shared.clone())?;
    Ok(Part { guest, map: PartMap::Sparse(Box::new(map)) })
}

/// The seSparse extent in `file`, with its volatile header checked.
///
/// # Errors
/// `malformed`, `truncated`, `unsupported_feature`; the `source_*` codes.
pub(crate) async fn open_se(file: &HeadTailSource) -> Result<EsxExtent> {
    let (mut extent, volatile) = parse_se(file.head())?;
    let range = StoredRange::new(StoredOffset::new(volatile), SECTOR)
        .filter(|range| range.end().get() <= file.len())
        .ok_or_else(|| {
            Error::truncated(format!(
                "the volatile header of a seSparse extent is at {volatile} and the object ends at {}",
                file.len()
            ))
            .at(VOLATILE_AT)
        })?;
    let header: Bytes = file.read(range).await?;
    extent.used.tables = Some(check_se_volatile(&header, volatile)?);
    Ok(extent)
}

fn open_cowd(opening: &Opening) -> Result<Disk> {
    let file = &opening.file;
    let extent = parse_cowd(file.head())?;
    let warnings = Warnings::new();
    warnings.add(Warning::new(
        "no_descriptor",
        "a COWD extent without its descriptor: only its own header says that it is not a difference to another disk",
    ));
    let size = extent.capacity.bytes().unwrap_or_default();
    let geometry = ImageInfo::default()
        .format(Format::Vmdk.name())
        .variant("vmfsSparse".to_owned())
        .virtual_bytes(size)
        .cluster_bytes(Some(extent.layout.grain_bytes));
    let refusals = if extent.child { vec![cowd_child()] } else { Vec::new() };
    let source: Arc<dyn Source> = Arc::clone(file) as _;
    let shared = Shared { warnings, ..Shared::default() };
    let part = esx_part(FileIndex(0), &source, file, extent, GuestRange::first(size), &shared)?;
    Ok(finish(geometry, vec![source], vec![part], shared.warnings, refusals))
}

/// The refusal of a COWD extent that says that it is a difference.
pub(crate) fn cowd_child() -> Refusal {
    Refusal::new(
        ErrorKind::ParentDiskRefused,
        "the flags of a COWD extent say that it is a difference to another disk",
    )
    .at(COWD_FLAGS)
}

/// What opening one file of a set answers: which file to open instead.
fn alone(url: &str, what: &str) -> Error {
    let error =
        Error::unsupported(format!("{what} is one part of a disk, which only its descriptor describes"));
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

const _: () = assert!(HEADER_LEN as u64 == SECTOR);

//! Disks in several files: a descriptor, and its extent files beside it.
//!
//! Only plain file names are opened, through the gate that the caller supplied, and only after the whole set was
//! validated.

use std::collections::HashMap;
use std::sync::Arc;

use diskferry_core::internal::read_up_to;
use diskferry_core::{
    Disk, Error, ErrorKind, FileIndex, GuestOffset, GuestRange, HeadTailSource, ImageInfo, Refusal, Result,
    SiblingName, Source, StoredOffset,
};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::descriptor::{Descriptor, DescriptorLocation, ExtentLine, ExtentType, Kind, LONGEST, refusals};
use super::embedded::contradiction;
use super::esx::{COWD_MAGIC, cowd_child, parse_cowd};
use super::extent_file::{esx_extent, extent_size, features, hosted_extent, open_se};
use super::header::{SECTOR, Sectors, SparseHeader, field};
use super::map::{DiskExtent, ExtentMap, disk};
use super::sparse::Shared;
use crate::format::Format;
use crate::open_input::OpenInput;

/// Siblings that are opened at once. A disk of 50 GiB in the usual pieces of 2 GiB has 25. Each waits for two requests.
const AT_ONCE: usize = 32;
/// Head and tail are cached for this many siblings, 193 KiB each. A disk of 4096 pieces would take 800 MiB.
const HEADS_KEPT: usize = 32;

/// Opens the disk of a descriptor.
///
/// # Errors
/// See [`crate::open_with`].
pub(crate) async fn open(input: OpenInput) -> Result<Disk> {
    let text = read_up_to(&*input.file, StoredOffset::ZERO, LONGEST).await?;
    if input.file.len() > LONGEST && !text.contains(&0) {
        return Err(
            Error::malformed(format!("the descriptor has more than {LONGEST} bytes of text")).at(LONGEST)
        );
    }
    let descriptor = Descriptor::parse(&text, 0, DescriptorLocation::Detached)?;
    let places = places(&descriptor)?;
    let virtual_bytes = places.last().map_or(0, |guest| guest.end().get());
    let mut info = ImageInfo::default()
        .format(Format::Vmdk.name())
        .variant(descriptor.create_type.clone())
        .virtual_bytes(virtual_bytes)
        .cluster_bytes(None)
        .features(vec![format!("extents: {}", descriptor.extents.len())]);
    let shared = Shared::default();
    let mut files: Vec<Arc<dyn Source>> = vec![Arc::clone(&input.file) as _];
    let mut refused = refusals(&descriptor, &descriptor.extents);
    let names = match names(&descriptor)? {
        Ok(names) => names,
        Err(refusal) => {
            refused.push(refusal);
            Vec::new()
        }
    };
    if !refused.is_empty() {
        return Ok(disk(info, files, Vec::new(), shared.warnings, refused));
    }

    let (indices, wanted) = wanted(&descriptor.extents, &names)?;
    let keep_heads = wanted.len() <= HEADS_KEPT;
    let open = |wanted| open_sibling(&input, wanted, keep_heads);
    let mut siblings = stream::iter(wanted.into_iter().map(open)).buffered(AT_ONCE);
    let mut extents = Vec::new();
    let mut grains = Vec::new();
    for ((line, guest), index) in descriptor.extents.iter().zip(places).zip(indices) {
        let Some(index) = index else {
            extents.push(DiskExtent { guest, map: ExtentMap::Zero });
            continue;
        };
        // Siblings are numbered in the order in which extents first name them.
        let mut head = None;
        if files.len() == index {
            let sibling = siblings.try_next().await?;
            let sibling = sibling.ok_or_else(|| Error::internal("a sibling was not opened"))?;
            files.push(sibling.source);
            head = sibling.head;
        }
        let source = files.get(index).ok_or_else(|| Error::internal("a sibling was not opened"))?;
        let index = FileIndex(u32::try_from(index).unwrap_or(u32::MAX));
        let opened = member(&descriptor, line, guest, index, source, head.as_deref(), &shared).await;
        let opened = opened.map_err(|error| in_file(&String::from_utf8_lossy(&line.name), error))?;
        for feature in opened.features {
            if !info.features.contains(&feature) {
                info.features.push(feature);
            }
        }
        refused.extend(opened.refusal);
        grains.extend(opened.grain_bytes);
        extents.push(opened.extent);
    }
    drop(siblings);
    grains.dedup();
    if let [grain] = grains.as_slice() {
        info.cluster_bytes = Some(*grain);
    }
    Ok(disk(info, files, extents, shared.warnings, refused))
}

/// The guest range of each extent.
fn places(descriptor: &Descriptor) -> Result<Vec<GuestRange>> {
    if descriptor.extents.is_empty() {
        return Err(Error::malformed("the descriptor has no extents").at(0u64));
    }
    let single = matches!(descriptor.kind, Kind::MonolithicSparse | Kind::StreamOptimized);
    if single && descriptor.extents.len() > 1 {
        return Err(Error::malformed(format!(
            "createType {:?} and {} extents contradict each other",
            descriptor.create_type,
            descriptor.extents.len()
        ))
        .at(descriptor.create_type_at));
    }
    let mut at = GuestOffset::ZERO;
    let mut places = Vec::new();
    for line in &descriptor.extents {
        let guest = line.size.bytes().and_then(|len| GuestRange::new(at, len));
        let guest = guest.ok_or_else(|| {
            Error::malformed("the extents together are longer than the address space").at(line.at)
        })?;
        at = guest.end();
        places.push(guest);
    }
    Ok(places)
}

/// The name of the sibling of each extent that has one, or the reason why the disk is refused.
///
/// # Errors
/// Those of [`Descriptor::name`].
fn names(descriptor: &Descriptor) -> Result<Result<Vec<Option<SiblingName>>, Refusal>> {
    let device = descriptor.extents.iter().find(|line| line.kind == ExtentType::Device);
    if device.is_some() || descriptor.kind == Kind::Device {
        return Ok(Err(Refusal::new(
            ErrorKind::ExternalDataRefused,
            format!(
                "createType {:?}: the disk is a physical device or a mapping of one",
                descriptor.create_type
            ),
        )
        .at(device.map_or(descriptor.create_type_at, |line| line.at))));
    }
    let mut names = Vec::new();
    for line in &descriptor.extents {
        let name = match line.kind {
            ExtentType::Zero => None,
            _ => match SiblingName::new(&descriptor.name(line)?) {
                Ok(name) => Some(name),
                Err(error) => {
                    return Ok(Err(Refusal::new(error.kind(), error.message())
                        .hint("only files in the same directory or under the same prefix are opened")
                        .at(line.at)));
                }
            },
        };
        names.push(name);
    }
    Ok(Ok(names))
}

/// A file of the set to open, and whether its bytes are guest bytes or it has a header.
struct Wanted {
    name: SiblingName,
    flat: bool,
}

/// Returns the files to open, in the order in which extents first name them, and for each extent the number of its
/// file, counted from 1, if it has one.
///
/// # Errors
/// `malformed` if a file with a header is named twice.
fn wanted(lines: &[ExtentLine], names: &[Option<SiblingName>]) -> Result<(Vec<Option<usize>>, Vec<Wanted>)> {
    let mut known: HashMap<&SiblingName, (usize, bool)> = HashMap::new();
    let mut wanted = Vec::new();
    let mut indices = Vec::new();
    for (line, name) in lines.iter().zip(names) {
        let Some(name) = name else {
            indices.push(None);
            continue;
        };
        let flat = matches!(line.kind, ExtentType::Flat | ExtentType::Vmfs);
        let before = known.get(name).copied();
        let (index, as_flat) = *known.entry(name).or_insert_with(|| {
            wanted.push(Wanted { name: name.clone(), flat });
            (wanted.len(), flat)
        });
        if before.is_some() && !(flat && as_flat) {
            return Err(Error::malformed(format!(
                "the descriptor names the extent {:?} twice",
                name.as_str()
            ))
            .at(line.at));
        }
        indices.push(Some(index));
    }
    Ok((indices, wanted))
}

/// An opened file of the set.
struct Sibling {
    source: Arc<dyn Source>,
    /// Its head and tail, if it has a header.
    head: Option<Arc<HeadTailSource>>,
}

/// Opens one file of the set. With `keep_head`, its head and tail are cached and not read again.
async fn open_sibling(input: &OpenInput, wanted: Wanted, keep_head: bool) -> Result<Sibling> {
    let source = input.gate.open(&wanted.name).await?;
    if wanted.flat {
        return Ok(Sibling { source, head: None });
    }
    let head = HeadTailSource::open(Arc::clone(&source)).await;
    let head = Arc::new(head.map_err(|error| in_file(wanted.name.as_str(), error))?);
    let source = if keep_head { Arc::clone(&head) as _ } else { source };
    Ok(Sibling { source, head: Some(head) })
}

/// Adds the name of a file of the set to its error.
fn in_file(name: &str, error: Error) -> Error {
    error.context(name)
}

struct OpenedMember {
    extent: DiskExtent,
    features: Vec<String>,
    grain_bytes: Option<u64>,
    refusal: Option<Refusal>,
}

async fn member(
    descriptor: &Descriptor,
    line: &ExtentLine,
    guest: GuestRange,
    index: FileIndex,
    source: &Arc<dyn Source>,
    head: Option<&HeadTailSource>,
    shared: &Shared,
) -> Result<OpenedMember> {
    let Some(file) = head else {
        let extent = flat(line, guest, index, source)?;
        return Ok(OpenedMember { extent, features: Vec::new(), grain_bytes: None, refusal: None });
    };
    let esx = match line.kind {
        ExtentType::SeSparse => Some(open_se(file).await?),
        _ if file.head().starts_with(&COWD_MAGIC) => Some(parse_cowd(file.head())?),
        ExtentType::VmfsSparse => Some(parse_cowd(file.head())?),
        _ => None,
    };
    if let Some(parsed) = esx {
        let grain_bytes = parsed.layout.grain_bytes;
        let grain = Sectors(grain_bytes.checked_div(SECTOR).unwrap_or_default());
        extent_size(line, parsed.capacity, grain, parsed.capacity_at)?;
        let refusal = parsed.child.then(cowd_child);
        let extent = esx_extent(index, source, file, parsed, guest, shared)?;
        return Ok(OpenedMember { extent, features: Vec::new(), grain_bytes: Some(grain_bytes), refusal });
    }
    let header = SparseHeader::parse(file.head())?;
    if let Some(warning) = contradiction(descriptor, &header, DescriptorLocation::Detached) {
        // With one extent, the header decides. With several, one of them may be the wrong file.
        if descriptor.extents.len() == 1 {
            shared.warnings.add(warning);
        } else {
            return Err(Error::malformed(format!(
                "createType {:?} and the flags in the extent's header contradict each other",
                descriptor.create_type
            ))
            .at(field::FLAGS));
        }
    }
    extent_size(line, header.capacity, header.grain, field::CAPACITY)?;
    let opened = hosted_extent(index, source, file, &header, guest, shared)?;
    let mut features = features(&header);
    features.extend(opened.features);
    Ok(OpenedMember {
        extent: opened.extent,
        features,
        grain_bytes: Some(header.grain_bytes()),
        refusal: None,
    })
}

fn flat(
    line: &ExtentLine,
    guest: GuestRange,
    file: FileIndex,
    source: &Arc<dyn Source>,
) -> Result<DiskExtent> {
    let end = line.offset.bytes().and_then(|start| start.checked_add(guest.len()));
    match (line.offset.bytes(), end) {
        (Some(start), Some(end)) if end <= source.len() => {
            let start = StoredOffset::new(start);
            Ok(DiskExtent { guest, map: ExtentMap::Flat { file, source: Arc::clone(source), start } })
        }
        _ => Err(Error::truncated(format!(
            "the descriptor gives the extent {} sectors from sector {} on, and the file ends at {}",
            line.size.0,
            line.offset.0,
            source.len()
        ))
        .at(source.len())),
    }
}

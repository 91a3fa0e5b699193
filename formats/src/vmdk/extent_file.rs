//! Opening one extent that is stored in a file of its own format: hosted sparse, COWD or seSparse.
//!
//! An image of one file and an image of several files are opened from the same extents.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    Error, FileIndex, GuestRange, HeadTail, HeadTailSource, MAX_UNIT_BYTES, Result, Source, StoredOffset,
    StoredRange,
};

use super::descriptor::ExtentLine;
use super::directory::{DirectoryLayout, Entries, Markers};
use super::embedded::descriptor_range;
use super::esx::{EsxExtent, VOLATILE_AT, check_se_volatile, parse_se};
use super::footer;
use super::header::{DirectoryAt, Grains, HEADER_LEN, SECTOR, Sectors, SparseHeader, field};
use super::map::{DiskExtent, ExtentMap};
use super::marker::first_marker;
use super::scan::ScanMap;
use super::sparse::{Compressed, Shared, SparseMap};
use super::tail_check::{Arrangement, StorageUse, TailCheck};

/// The size of an extent on the disk, which its line in the descriptor gives. The capacity in the extent's header, at
/// offset `at`, must be the same; some writers round it up to a whole grain.
///
/// # Errors
/// `malformed` if the two contradict each other.
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

/// The features of the format that an extent uses, according to its header.
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

/// An extent that was opened.
pub(crate) struct OpenedExtent {
    /// The extent.
    pub(crate) extent: DiskExtent,
    /// Features that are not in its header.
    pub(crate) features: Vec<String>,
}

/// Opens the hosted sparse extent in `source`, whose head and tail are in `file`, as the guest bytes `guest`.
///
/// # Errors
/// `malformed`, `truncated`, `unsupported_feature`.
pub(crate) fn hosted_extent(
    index: FileIndex,
    source: &Arc<dyn Source>,
    file: &HeadTail,
    header: &SparseHeader,
    guest: GuestRange,
    shared: &Shared,
) -> Result<OpenedExtent> {
    let warnings = &shared.warnings;
    let source = Arc::clone(source);
    if let Grains::Compressed { .. } = header.grains
        && header.grain_bytes() > MAX_UNIT_BYTES
    {
        return Err(Error::unsupported(format!(
            "compressed grains have {} bytes (grainSize); at most {MAX_UNIT_BYTES} are supported",
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
                return Ok(OpenedExtent {
                    extent: DiskExtent { guest, map: ExtentMap::Scanned(map) },
                    features,
                });
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
    let layout = DirectoryLayout {
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
        let used = StorageUse {
            arrangement: Arrangement::TablesFirst(header.overhead.bytes().unwrap_or_default()),
            end: u64::MAX,
            tables: None,
            compressed: header.grains != Grains::Plain,
        };
        TailCheck::suspect(file, Arc::clone(&source), used, warnings.clone())
    };
    let map = SparseMap::new(index, source, guest, layout, compressed, tail, shared.clone())?;
    Ok(OpenedExtent { extent: DiskExtent { guest, map: ExtentMap::Sparse(Box::new(map)) }, features })
}

/// Opens the ESX extent in `source`, whose head and tail are in `file`, as the guest bytes `guest`.
///
/// # Errors
/// `malformed`, `truncated`.
pub(crate) fn esx_extent(
    index: FileIndex,
    source: &Arc<dyn Source>,
    file: &HeadTailSource,
    extent: EsxExtent,
    guest: GuestRange,
    shared: &Shared,
) -> Result<DiskExtent> {
    let source = Arc::clone(source);
    let tail = TailCheck::suspect(file, Arc::clone(&source), extent.used, shared.warnings.clone());
    let map = SparseMap::new(index, source, guest, extent.layout, None, tail, shared.clone())?;
    Ok(DiskExtent { guest, map: ExtentMap::Sparse(Box::new(map)) })
}

/// Parses the seSparse extent in `file`, and checks its volatile header.
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

const _: () = assert!(HEADER_LEN as u64 == SECTOR);

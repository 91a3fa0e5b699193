//! Opens a VHD, and its block maps.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BATCH_EXTENTS, BlockMap, BoxFuture, Codec, Coded, Disk, Error, ErrorKind, Extent, ExtentKind, Extents,
    FileIndex, GuestRange, ImageInfo, MAX_UNIT_BYTES, Refusal, Result, Source, Stored, StoredOffset,
    StoredRange, Warning, Warnings,
};

use super::bat::{Bat, Blocks};
use super::bitmap::{PrefixBitmap, SeparateBitmap, check_stored};
use super::chs_size::{ChsSizedMap, Sizes};
use super::footer::{self, Footer, Kind, Located, SECTOR, SizeFrom};
use super::probe::{HEADER, examine, footers, header_range, parse_header};
use super::tail_check::TailCheck;
use crate::flat::FlatMap;
use crate::format::Format;
use crate::open_input::OpenInput;

/// Guest bytes of the units into which a block longer than [`MAX_UNIT_BYTES`] is split.
const UNIT_BYTES: u64 = 2 << 20;
/// Most bytes of the bitmaps of such blocks in one result: those of 16 GiB of disk.
const BITMAPS_AT_ONCE: u64 = 4 << 20;
/// Opens a VHD.
///
/// # Errors
/// Those of [`examine`] and the `source_*` codes.
pub(crate) async fn open(input: OpenInput) -> Result<Disk> {
    let file = input.file;
    let Some(located) = examine(&file)? else {
        return Err(Error::malformed("neither its end nor its start has the cookie \"conectix\" of a VHD"));
    };
    let source: Arc<dyn Source> = Arc::clone(&file) as _;
    let warnings = Warnings::new();
    for warning in &located.warnings {
        warnings.add(warning.clone());
    }
    describe_state(&located, &warnings);
    let footer = &located.footer;
    let mut info = image_info(footer);
    let files = vec![Arc::clone(&source)];
    let at = match footer.kind {
        Kind::Fixed => {
            let flat = |virtual_bytes| FlatMap { source: Arc::clone(&source), virtual_bytes };
            let stored = located.tail_at.map_or(0, StoredOffset::get);
            let map = Box::new(flat(footer.virtual_bytes));
            let map = with_dropped(map, footer, stored, &files, &warnings, |size| Box::new(flat(size)));
            return Ok(Disk::new(info, files, map, warnings, Vec::new()));
        }
        Kind::Dynamic(at) | Kind::Differencing(at) => at,
    };
    let footer_at = located.tail_at.unwrap_or(StoredOffset::ZERO);
    let range = header_range(&file, &located, at)?;
    let bytes = file.read(range).await?;
    let header = parse_header(&file, &located, range, &bytes)?;
    info.cluster_bytes = Some(u64::from(header.block_bytes));
    if matches!(footer.kind, Kind::Differencing(_)) {
        let refusal = Refusal::new(
            ErrorKind::ParentDiskRefused,
            format!("the disk is a difference to its parent {:?}, which is not opened", header.parent_name),
        )
        .hint("merge the disk into its parent first")
        .at(footer_at.checked_add(footer::field::DISK_TYPE).unwrap_or(footer_at));
        return Ok(Disk::refused(info, files, warnings, vec![refusal]));
    }
    let mut reserved = footers(&file, &located);
    reserved.push((range, HEADER));
    reserved.push((header.table, "the block allocation table"));
    let recovered = located.tail_at.is_none();
    let dynamic = |virtual_bytes, warnings: &Warnings| {
        let blocks = Blocks::new(&header, virtual_bytes);
        DynamicMap {
            bat: Bat::new(Arc::clone(&source), &header, blocks, reserved.clone()),
            blocks,
            codec: Arc::new(PrefixBitmap { bitmap_bytes: blocks.bitmap_bytes, recovered }),
            tail_check: recovered.then(|| TailCheck::new(Arc::clone(&file), warnings.clone())),
        }
    };
    let map = Box::new(dynamic(footer.virtual_bytes, &warnings));
    let mapped = header.mapped_bytes();
    let map = with_dropped(map, footer, mapped, &files, &warnings, |size| {
        Box::new(dynamic(size, &Warnings::new()))
    });
    Ok(Disk::new(info, files, map, warnings, Vec::new()))
}

/// Returns `map`, with a warning if the size by geometry omits some of the first `stored` bytes of the image. `larger`
/// maps a disk of more bytes.
fn with_dropped(
    map: Box<dyn BlockMap>,
    footer: &Footer,
    stored: u64,
    files: &[Arc<dyn Source>],
    warnings: &Warnings,
    larger: impl FnOnce(u64) -> Box<dyn BlockMap>,
) -> Box<dyn BlockMap> {
    let size = footer.current_size.min(stored);
    if size <= footer.virtual_bytes {
        return map;
    }
    let info = image_info(footer).virtual_bytes(size);
    let larger = Disk::new(info, files.to_vec(), larger(size), Warnings::new(), Vec::new());
    let sizes = Sizes { virtual_bytes: footer.virtual_bytes, current_size: footer.current_size };
    Box::new(ChsSizedMap::new(map, sizes, larger, warnings.clone()))
}

fn image_info(footer: &Footer) -> ImageInfo {
    let size = match footer.size_from {
        SizeFrom::CurrentSize => "size from current_size".to_owned(),
        SizeFrom::Chs(cylinders, heads, sectors) => {
            format!("size from CHS {cylinders}/{heads}/{sectors} (current_size {})", footer.current_size)
        }
    };
    let mut features = vec![size, format!("creator {:?}", footer.creator)];
    if footer.temporary {
        features.push("temporary".to_owned());
    }
    if footer.saved_state {
        features.push("saved state".to_owned());
    }
    ImageInfo::default()
        .format(Format::Vhd.name())
        .variant(footer.kind.name().to_owned())
        .virtual_bytes(footer.virtual_bytes)
        .cluster_bytes(None)
        .features(features)
}

fn describe_state(located: &Located, warnings: &Warnings) {
    let footer = &located.footer;
    if footer.saved_state {
        warnings.add(Warning::new(
            "saved_state",
            "the disk belongs to a machine in a saved state: data that the guest had not written yet is missing",
        ));
    }
    let used = footer.virtual_bytes.max(footer.current_size).div_ceil(SECTOR).saturating_mul(SECTOR);
    if let (Kind::Fixed, Some(end)) = (footer.kind, located.tail_at)
        && end.get() > used
    {
        warnings.add(Warning::new(
            "trailing_data",
            format!(
                "the disk ends at {} and its footer begins at {end}: the bytes between are not part of the disk",
                footer.virtual_bytes
            ),
        ));
    }
}

/// Blocks with an allocation table.
struct DynamicMap {
    bat: Bat,
    blocks: Blocks,
    /// The codec of all blocks that are fetched with their bitmap.
    codec: Arc<dyn Codec>,
    /// Present if the footer at the end is missing.
    tail_check: Option<TailCheck>,
}

impl BlockMap for DynamicMap {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            if let Some(tail_check) = &self.tail_check {
                tail_check.check(&self.bat).await?;
            }
            if self.blocks.bytes > MAX_UNIT_BYTES {
                self.large(window).await
            } else {
                self.whole(window).await
            }
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

impl DynamicMap {
    /// Numbers of the first and the last block in the window.
    fn range(&self, window: GuestRange) -> (u64, u64) {
        let last = window.end().get().saturating_sub(1);
        (self.blocks.index(window.start().get()), self.blocks.index(last))
    }

    fn push_hole(&self, extents: &mut Extents, index: u64, window: GuestRange) {
        if let Some(guest) = self.blocks.guest(index).intersection(window) {
            extents.push(Extent::new(guest, ExtentKind::Hole));
        }
    }

    /// Maps block by block. Each block is fetched with its bitmap.
    async fn whole(&self, window: GuestRange) -> Result<Vec<Extent>> {
        let (first, last) = self.range(window);
        let entries = self.bat.load(first, last).await?;
        let mut extents = Extents::new();
        for (index, sector) in entries.iter() {
            if extents.len() >= BATCH_EXTENTS {
                break;
            }
            let Some(sector) = sector else {
                self.push_hole(&mut extents, index, window);
                continue;
            };
            let stored = Stored { file: FileIndex(0), range: self.bat.stored(index, sector)? };
            let coded = Coded { stored, codec: Arc::clone(&self.codec) };
            extents.push(Extent::new(self.blocks.guest(index), ExtentKind::Coded(coded)));
        }
        Ok(extents.into_vec())
    }

    /// Maps blocks longer than the largest unit: their bitmaps are loaded, and each unit gets its bits.
    async fn large(&self, window: GuestRange) -> Result<Vec<Extent>> {
        let (first, last) = self.range(window);
        let entries = self.bat.load(first, last).await?;
        let most = BITMAPS_AT_ONCE.checked_div(self.blocks.bitmap_bytes).unwrap_or_default().max(1);
        let most = usize::try_from(most).unwrap_or(1);
        let mut chosen = Vec::new();
        let mut bitmaps = Vec::new();
        for (index, sector) in entries.iter() {
            let Some(sector) = sector else {
                chosen.push((index, None));
                continue;
            };
            if bitmaps.len() >= most {
                break;
            }
            let (bitmap, data) = self.bat.stored(index, sector)?.split_at(self.blocks.bitmap_bytes);
            bitmaps.push(bitmap);
            chosen.push((index, Some(data)));
        }
        let mut bitmaps = self.bat.tables().load(&bitmaps).await?.into_iter();
        let mut extents = Extents::new();
        for (index, data) in chosen {
            if extents.len() >= BATCH_EXTENTS {
                break;
            }
            let Some(data) = data else {
                self.push_hole(&mut extents, index, window);
                continue;
            };
            let bitmap = bitmaps.next().ok_or_else(|| Error::internal("a bitmap was not loaded"))?;
            if self.tail_check.is_some() {
                check_stored(&bitmap, self.blocks.guest(index)).map_err(|error| error.at(data.start()))?;
            }
            self.push_units(&mut extents, index, window, data, &bitmap)?;
        }
        Ok(extents.into_vec())
    }

    fn push_units(
        &self,
        extents: &mut Extents,
        index: u64,
        window: GuestRange,
        data: StoredRange,
        bitmap: &Bytes,
    ) -> Result<()> {
        let guest = self.blocks.guest(index);
        let before = window.start().get().saturating_sub(guest.start().get());
        let mut skip = before.saturating_sub(before % UNIT_BYTES);
        loop {
            let unit = guest.skip(skip).split_at(UNIT_BYTES).0;
            if unit.intersection(window).is_none() {
                return Ok(());
            }
            let bits = bits(bitmap, skip, unit.len())
                .ok_or_else(|| Error::internal(format!("the bitmap of block {index} is too short")))?;
            let range = data.skip(skip).split_at(unit.len()).0;
            let stored = Stored { file: FileIndex(0), range };
            let codec: Arc<dyn Codec> = Arc::new(SeparateBitmap(bits));
            extents.push(Extent::new(unit, ExtentKind::Coded(Coded { stored, codec })));
            skip = skip.saturating_add(UNIT_BYTES);
        }
    }
}

/// The bits of `len` bytes from `skip` on in a block. Both are at a whole byte of the bitmap.
fn bits(bitmap: &Bytes, skip: u64, len: u64) -> Option<Bytes> {
    let start = usize::try_from(skip / SECTOR / 8).ok()?;
    let end = start.checked_add(usize::try_from(len.div_ceil(SECTOR).div_ceil(8)).ok()?)?;
    (end <= bitmap.len()).then(|| bitmap.slice(start..end))
}

//! Streams without a usable footer: their grains are found by reading the markers from front to back.
//!
//! ```text
//! header, descriptor │ grain, grain, … │ table │ grain, … │ table │ … │ directory │ footer │ end
//!                      └ each thing behind a marker that says how long it is
//! ```
//!
//! The scan reads the whole object once, in long requests, when the map is first asked. What it keeps is bounded.
//! A stream that breaks off before its directory has lost grains that would read as zeros: that is `truncated`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use diskferry_core::{
    BATCH_EXTENTS, Codec, Coded, Error, Extent, ExtentKind, Extents, FileIndex, GuestOffset, GuestRange,
    Result, Source, Stored, StoredOffset, StoredRange,
};
use futures_util::lock::Mutex;
use futures_util::stream::{FuturesOrdered, TryStreamExt};

use super::grain::{Bound, GrainCodec};
use super::header::{GRAIN_MARKER_LEN, Marker, SECTOR, Sectors, SparseHeader, most_compressed};

/// Bytes of one request of a scan.
const REQUEST: u64 = 8 << 20;
/// Requests under way at once.
const AT_ONCE: usize = 2;
/// Most grains that a scan keeps: 24 MiB of memory, and 128 GiB of content in grains of the usual 64 KiB.
const MOST_GRAINS: usize = 2 << 20;

/// Checks the marker of a grain against the extent: gives the grain's number.
///
/// # Errors
/// `malformed`; the caller adds the place.
pub(crate) fn grain_number(header: &SparseHeader, lba: Sectors, size: u32) -> Result<u64> {
    if lba.0 >= header.capacity.0 || !lba.0.is_multiple_of(header.grain.0) {
        return Err(Error::malformed(format!(
            "a grain's marker says sector {}, which is not the start of a grain of {} sectors on {}",
            lba.0, header.grain.0, header.capacity.0
        )));
    }
    if u64::from(size) > most_compressed(header.grain_bytes()) {
        return Err(Error::malformed(format!(
            "a grain's marker says {size} compressed bytes, more than twice a grain of {}",
            header.grain_bytes()
        )));
    }
    Ok(lba.0.checked_div(header.grain.0).unwrap_or_default())
}

/// Bytes of a grain with its marker, without the zeros up to the sector.
pub(crate) fn grain_len(size: u32) -> u64 {
    u64::from(size).saturating_add(GRAIN_MARKER_LEN as u64)
}

/// Bytes from a metadata marker to the next marker.
///
/// # Errors
/// `malformed` where the marker's number cannot be; the caller adds the place.
pub(crate) fn metadata_len(sectors: Sectors) -> Result<u64> {
    let len = sectors.0.checked_add(1).and_then(|sectors| Sectors(sectors).bytes());
    len.ok_or_else(|| {
        Error::malformed(format!("a marker says that {} sectors of metadata follow", sectors.0))
    })
}

/// Where the first marker may stand: behind what the header says of its own metadata.
pub(crate) fn first_marker(header: &SparseHeader) -> u64 {
    let descriptor = header.descriptor.and_then(|(offset, size)| offset.0.checked_add(size.0)).unwrap_or(1);
    Sectors(header.overhead.0.max(descriptor).max(1)).bytes().unwrap_or(u64::MAX)
}

/// Where one grain is.
#[derive(Clone, Copy)]
struct Place {
    number: u32,
    sector: u32,
    size: u32,
}

/// The map of a stream by its markers.
pub(crate) struct ScanMap {
    file: FileIndex,
    source: Arc<dyn Source>,
    header: SparseHeader,
    guest: GuestRange,
    codec: Arc<dyn Codec>,
    found: Mutex<Option<Arc<[Place]>>>,
}

impl ScanMap {
    /// The map of the extent of `guest` in `file`. Nothing is read yet.
    pub(crate) fn new(
        file: FileIndex,
        source: Arc<dyn Source>,
        header: SparseHeader,
        guest: GuestRange,
    ) -> Self {
        let codec = Arc::new(GrainCodec {
            base: guest.start().get(),
            grain_bytes: header.grain_bytes(),
            markers: true,
            bound: Bound::Used,
        });
        Self { file, source, header, guest, codec, found: Mutex::new(None) }
    }

    /// Appends extents that cover `window`, a part of the disk inside this extent, from its start on.
    ///
    /// # Errors
    /// `malformed`, `truncated`, `unsupported_feature` where there are more grains than are kept; the `source_*` codes.
    pub(crate) async fn extents(&self, window: GuestRange, out: &mut Extents) -> Result<()> {
        let places = {
            let mut found = self.found.lock().await;
            match &*found {
                Some(places) => Arc::clone(places),
                None => {
                    let places: Arc<[Place]> = self.scan().await?.into();
                    *found = Some(Arc::clone(&places));
                    places
                }
            }
        };
        let grain = self.header.grain_bytes();
        let local = |at: GuestOffset| at.get().saturating_sub(self.guest.start().get());
        let mut at = window.start();
        let first = local(at).checked_div(grain).unwrap_or_default();
        let first = places.partition_point(|place| u64::from(place.number) < first);
        for place in places.iter().skip(first) {
            let start = self.at(u64::from(place.number).saturating_mul(grain));
            if start >= window.end() || out.len() >= BATCH_EXTENTS {
                break;
            }
            out.push(Extent::new(GuestRange::between(at, start), ExtentKind::Hole));
            let end = self
                .at(u64::from(place.number).saturating_add(1).saturating_mul(grain))
                .min(self.guest.end());
            let stored = StoredOffset::new(u64::from(place.sector).saturating_mul(SECTOR));
            let range = StoredRange::new(stored, grain_len(place.size))
                .ok_or_else(|| Error::internal("a grain was found beyond the address space"))?;
            let coded = Coded { stored: Stored { file: self.file, range }, codec: Arc::clone(&self.codec) };
            out.push(Extent::new(GuestRange::between(start, end), ExtentKind::Coded(coded)));
            at = end;
        }
        if out.len() < BATCH_EXTENTS {
            out.push(Extent::new(GuestRange::between(at, window.end()), ExtentKind::Hole));
        }
        Ok(())
    }

    fn at(&self, local: u64) -> GuestOffset {
        GuestOffset::new(self.guest.start().get().saturating_add(local))
    }

    /// Reads all markers. Of several grains for one address the last wins.
    async fn scan(&self) -> Result<Vec<Place>> {
        let start = first_marker(&self.header);
        let mut reader = Reader::new(&*self.source, start);
        let mut places: Vec<Place> = Vec::new();
        let mut at = start;
        let mut whole = false;
        loop {
            let Some(bytes) = reader.sector(at).await? else { break };
            let marker = Marker::parse(&bytes).map_err(|error| error.at(at))?;
            let len = match marker {
                Marker::End if places.is_empty() && !whole && bytes.iter().all(|byte| *byte == 0) => SECTOR,
                Marker::End => {
                    whole = true;
                    break;
                }
                Marker::Grain { lba, size } => {
                    let place = self.place(at, lba, size).map_err(|error| error.at(at))?;
                    if places.len() == MOST_GRAINS {
                        return Err(Error::unsupported(format!(
                            "the image has no usable footer and more than {MOST_GRAINS} grains"
                        ))
                        .at(at));
                    }
                    places.push(place);
                    grain_len(size)
                }
                Marker::Table(sectors) => metadata_len(sectors).map_err(|error| error.at(at))?,
                // All grains are written once the directory is.
                Marker::Directory(sectors) | Marker::Footer(sectors) => {
                    whole = true;
                    metadata_len(sectors).map_err(|error| error.at(at))?
                }
            };
            at = at.saturating_add(len).checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        }
        if !whole {
            return Err(Error::truncated(format!(
                "the image has no usable footer, and its stream ends at {} without a grain directory",
                self.source.len()
            ))
            .at(at.min(self.source.len())));
        }
        places.reverse();
        places.sort_by_key(|place| place.number);
        places.dedup_by_key(|place| place.number);
        Ok(places)
    }

    fn place(&self, at: u64, lba: Sectors, size: u32) -> Result<Place> {
        let number = grain_number(&self.header, lba, size)?;
        if at.saturating_add(grain_len(size)) > self.source.len() {
            return Err(Error::truncated(format!(
                "a grain of {size} compressed bytes passes the end of the object at {}",
                self.source.len()
            )));
        }
        let sector = at.checked_div(SECTOR).and_then(|sector| u32::try_from(sector).ok());
        match (u32::try_from(number).ok(), sector) {
            (Some(number), Some(sector)) => Ok(Place { number, sector, size }),
            _ => Err(Error::unsupported(
                "a stream without a usable footer has more than 2^32 sectors or grains",
            )),
        }
    }
}

/// Reads an object from front to back in long requests, a few at once, and hands out the sectors that are asked for in
/// rising order.
struct Reader<'a> {
    source: &'a dyn Source,
    next: u64,
    waiting: FuturesOrdered<diskferry_core::BoxFuture<'a, Result<Bytes>>>,
    block: Bytes,
    block_at: u64,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn Source, start: u64) -> Self {
        Self { source, next: start, waiting: FuturesOrdered::new(), block: Bytes::new(), block_at: start }
    }

    /// The sector at byte address `at`, shorter where the object ends in it, or `None` at its end.
    async fn sector(&mut self, at: u64) -> Result<Option<Bytes>> {
        let end = at.saturating_add(SECTOR).min(self.source.len());
        if at >= end {
            return Ok(None);
        }
        let mut sector = BytesMut::new();
        let mut from = at;
        while from < end {
            let block_end = self.block_at.saturating_add(self.block.len() as u64);
            if from < block_end {
                let to = end.min(block_end);
                let cut = |at: u64| usize::try_from(at.saturating_sub(self.block_at)).unwrap_or(usize::MAX);
                sector.extend_from_slice(self.block.get(cut(from)..cut(to)).unwrap_or_default());
                from = to;
                continue;
            }
            while self.waiting.len() < AT_ONCE && self.next < self.source.len() {
                let stop = self.next.saturating_add(REQUEST).min(self.source.len());
                let range = StoredRange::between(StoredOffset::new(self.next), StoredOffset::new(stop));
                self.waiting.push_back(self.source.read(range));
                self.next = stop;
            }
            let block = self.waiting.try_next().await?;
            self.block = block.ok_or_else(|| Error::internal("a scan read behind the object's end"))?;
            self.block_at = block_end;
        }
        Ok(Some(sector.freeze()))
    }
}

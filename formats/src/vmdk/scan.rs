//! Streams without a usable footer. Their grains are found by reading the markers sequentially.
//!
//! ```text
//! header, descriptor │ grain, grain, … │ table │ grain, … │ table │ … │ directory │ footer │ end
//!                      └ each after a marker with its length
//! ```
//!
//! The scan reads the whole object once, with long requests, when the map is first used. Its memory is bounded.
//! If a part of the stream is missing, its grains would read as zeros. So the stream must be shown to be complete: see
//! `completeness`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use diskferry_core::internal::is_zero;
use diskferry_core::{
    BATCH_EXTENTS, Codec, Coded, Error, Extent, ExtentKind, Extents, FileIndex, GuestOffset, GuestRange,
    Result, Source, Stored, StoredOffset, StoredRange,
};
use futures_util::lock::Mutex;
use futures_util::stream::{FuturesOrdered, TryStreamExt};

use super::completeness::Completeness;
use super::grain::{Bound, GrainCodec};
use super::header::{Marker, SECTOR, Sectors, SparseHeader};
use super::marker::{after_the_end, first_marker, grain_len, grain_number, metadata_len};

/// Bytes of one request of a scan.
const REQUEST: u64 = 8 << 20;
/// Concurrent requests.
const AT_ONCE: usize = 2;
/// Most grains that a scan stores: 24 MiB of memory, and 128 GiB of content in grains of the usual 64 KiB.
const MOST_GRAINS: usize = 2 << 20;
/// Bytes of a directory that are read at once.
const DIRECTORY_PART: u64 = 64 << 10;
/// Bytes after the end marker that are checked at once.
const PADDING_PART: u64 = 64 << 10;

/// The location of one grain.
#[derive(Clone, Copy)]
struct GrainLocation {
    number: u32,
    sector: u32,
    size: u32,
}

/// The map of a stream, built from its markers.
pub(crate) struct ScanMap {
    file: FileIndex,
    source: Arc<dyn Source>,
    header: SparseHeader,
    guest: GuestRange,
    codec: Arc<dyn Codec>,
    found: Mutex<Option<Arc<[GrainLocation]>>>,
}

impl ScanMap {
    /// Creates the map of the extent `guest` in `file`. Nothing is read yet.
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

    /// Appends extents that cover `window`, a part of the disk inside this extent, in order from its start.
    ///
    /// # Errors
    /// `malformed`, `truncated`, `unsupported_feature` if there are too many grains; the `source_*` codes.
    pub(crate) async fn extents(&self, window: GuestRange, out: &mut Extents) -> Result<()> {
        let places = {
            let mut found = self.found.lock().await;
            match &*found {
                Some(places) => Arc::clone(places),
                None => {
                    let places: Arc<[GrainLocation]> = self.scan().await?.into();
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

    /// Reads all markers, tables and directories, and checks that nothing is missing. See [`Completeness`].
    async fn scan(&self) -> Result<Vec<GrainLocation>> {
        let start = first_marker(&self.header);
        let mut reader = Reader::new(&*self.source, start);
        let mut completeness = Completeness::new(&self.header, self.guest.len());
        let mut places: Vec<GrainLocation> = Vec::new();
        let mut at = start;
        // The start of the current range of zeros before the first grain.
        let mut room = None;
        loop {
            let bytes = reader.read(at, SECTOR).await?;
            if bytes.is_empty() {
                break;
            }
            let marker = Marker::parse(&bytes).map_err(|error| error.at(at))?;
            if marker != Marker::End {
                room = None;
            }
            let len = match marker {
                Marker::End if completeness.has_directory() => {
                    self.check_padding(&mut reader, at.saturating_add(SECTOR)).await?;
                    break;
                }
                // Padding that the writer left between its metadata and the first grain.
                Marker::End if places.is_empty() && is_zero(&bytes) => {
                    room.get_or_insert(at);
                    SECTOR
                }
                Marker::End => return Err(completeness.no_directory(at)),
                Marker::Grain { lba, size } => {
                    let place = self.location(at, lba, size).map_err(|error| error.at(at))?;
                    if places.len() == MOST_GRAINS {
                        return Err(Error::unsupported(format!(
                            "the image has no usable footer and more than {MOST_GRAINS} grains"
                        ))
                        .at(at));
                    }
                    places.push(place);
                    completeness.add_grain(u64::from(place.number), u64::from(place.sector));
                    grain_len(size)
                }
                Marker::Table(sectors) => {
                    let len = metadata_len(sectors).map_err(|error| error.at(at))?;
                    let used = completeness.table_bytes().min(len.saturating_sub(SECTOR));
                    let table = reader.read(at.saturating_add(SECTOR), used).await?;
                    completeness
                        .add_table((at / SECTOR).saturating_add(1), &table)
                        .map_err(|error| error.at(at))?;
                    len
                }
                Marker::Directory(sectors) => {
                    let len = metadata_len(sectors).map_err(|error| error.at(at))?;
                    let used = completeness.directory_bytes().min(len.saturating_sub(SECTOR));
                    let first = at.saturating_add(SECTOR);
                    let mut directory = completeness.directory();
                    let mut done = 0;
                    while done < used {
                        let part = used.saturating_sub(done).min(DIRECTORY_PART);
                        let bytes = reader.read(first.saturating_add(done), part).await?;
                        if bytes.is_empty() {
                            break;
                        }
                        directory.read(&completeness, &bytes);
                        done = done.saturating_add(part);
                    }
                    completeness
                        .add_directory((at / SECTOR).saturating_add(1), &directory)
                        .map_err(|error| error.at(at))?;
                    len
                }
                Marker::Footer(sectors) => metadata_len(sectors).map_err(|error| error.at(at))?,
            };
            at = at.saturating_add(len).checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        }
        places.sort_by_key(|place| place.number);
        let twice = places.windows(2).find_map(|two| match two {
            [first, second] if first.number == second.number => Some(*second),
            _ => None,
        });
        if let Some(place) = twice {
            return Err(Error::malformed(format!(
                "grain {} occurs twice in a stream without a usable footer",
                place.number
            ))
            .at(u64::from(place.sector).saturating_mul(SECTOR)));
        }
        completeness.check(room.unwrap_or(at).min(self.source.len()))?;
        Ok(places)
    }

    /// Checks that only zeros follow the end marker.
    async fn check_padding(&self, reader: &mut Reader<'_>, from: u64) -> Result<()> {
        let mut at = from;
        loop {
            let bytes = reader.read(at, PADDING_PART).await?;
            if let Some(place) = bytes.iter().position(|byte| *byte != 0) {
                return Err(after_the_end().at(at.saturating_add(place as u64)));
            }
            if bytes.is_empty() {
                return Ok(());
            }
            at = at.saturating_add(bytes.len() as u64);
        }
    }

    fn location(&self, at: u64, lba: Sectors, size: u32) -> Result<GrainLocation> {
        let number = grain_number(&self.header, lba, size)?;
        if at.saturating_add(grain_len(size)) > self.source.len() {
            return Err(Error::truncated(format!(
                "a grain of {size} compressed bytes extends past the end of the object at {}",
                self.source.len()
            )));
        }
        let sector = at.checked_div(SECTOR).and_then(|sector| u32::try_from(sector).ok());
        match (u32::try_from(number).ok(), sector) {
            (Some(number), Some(sector)) => Ok(GrainLocation { number, sector, size }),
            _ => Err(Error::unsupported(
                "a stream without a usable footer has more than 2^32 sectors or grains",
            )),
        }
    }
}

/// Reads an object sequentially in long requests, a few at once. It returns ranges that the caller requests in
/// ascending order.
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

    /// Returns `len` bytes at byte address `at`. The result is shorter at the end of the object and empty after it.
    async fn read(&mut self, at: u64, len: u64) -> Result<Bytes> {
        let end = at.saturating_add(len).min(self.source.len());
        if at >= end {
            return Ok(Bytes::new());
        }
        let mut out = BytesMut::new();
        let mut from = at;
        while from < end {
            let block_end = self.block_at.saturating_add(self.block.len() as u64);
            if from < block_end {
                let to = end.min(block_end);
                let cut = |at: u64| usize::try_from(at.saturating_sub(self.block_at)).unwrap_or(usize::MAX);
                out.extend_from_slice(self.block.get(cut(from)..cut(to)).unwrap_or_default());
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
            self.block = block.ok_or_else(|| Error::internal("a scan read past the object's end"))?;
            self.block_at = block_end;
        }
        Ok(out.freeze())
    }
}

//! Reads a streamOptimized image in one pass, by its markers.
//!
//! The stream itself supplies what random access reads from the tables. A grain that occurs twice is an error, because
//! the first one has already been passed on. A stream that breaks off is an error too. The stream is complete if its
//! tables name exactly the grains that were read, each at its address. These are either the tables that the directory
//! after all grains names (see `completeness`), or the tables before the grains, where qemu-img writes them. Random
//! access yields the same disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::internal::sha256;
use diskferry_core::{
    BoxFuture, Codec, Error, ErrorKind, GuestOffset, GuestRange, ImageInfo, ImageStream, MAX_UNIT_BYTES,
    Piece, Result, StoredRange, Warning, Warnings,
};

use super::completeness::{Completeness, MOST_TABLES};
use super::descriptor::{Descriptor, ExtentLine, refusals};
use super::embedded::{descriptor_range, parse_embedded};
use super::extent_file::{extent_size, features};
use super::footer;
use super::grain::{Bound, GrainCodec};
use super::grain_digest::{GrainDigest, GrainHasher, LastSectors, TableDigest};
use super::header::{DirectoryAt, Grains, HEADER_LEN, MAGIC, Marker, SECTOR, Sectors, SparseHeader, field};
use super::marker::{after_the_end, first_marker, grain_len, grain_number, metadata_len};
use crate::feed::{Feed, MAX_REQUEST};
use crate::format::Format;

/// Most runs of grains that are tracked: 64 MiB of memory. An ascending stream has one run for each gap.
const MOST_RUNS: usize = 1 << 20;
/// Most bytes that may follow the end marker. Copies made in whole blocks add such padding.
const MOST_BEHIND: u64 = 64 << 20;
const SECTOR_LEN: usize = HEADER_LEN;
/// Bytes at the start of the stream that the fingerprint covers: header and descriptor.
const FINGERPRINT: usize = 64 << 10;

/// Opens a stream that begins with the magic of a VMDK.
///
/// # Errors
/// `usage` if it is not streamOptimized; `malformed`, `truncated`, `unsupported_feature`, `parent_disk_refused`;
/// the `source_*` codes.
pub(crate) async fn open_stream(feed: Feed) -> Result<Box<dyn ImageStream>> {
    let mut feed = Watched { feed, tail: LastSectors::new() };
    let one_way = |what: &str| {
        Error::new(
            ErrorKind::Usage,
            format!("{what} cannot be read from standard input, which is not seekable"),
        )
        .hint("only streamOptimized VMDKs can be read from standard input; give a path or a URL")
    };
    if !feed.look(MAGIC.len()).await?.starts_with(&MAGIC) {
        return Err(one_way("a descriptor, or an ESX extent,"));
    }
    let fingerprint = sha256(&[feed.look(FINGERPRINT).await?]);
    let header = SparseHeader::parse(&feed.take(HEADER_LEN).await?)?;
    if header.grains != (Grains::Compressed { markers: true }) {
        return Err(one_way("a VMDK without markers"));
    }
    if header.grain_bytes() > MAX_UNIT_BYTES {
        return Err(Error::unsupported(format!(
            "compressed grains have {} bytes (grainSize); at most {MAX_UNIT_BYTES} are supported",
            header.grain_bytes()
        ))
        .at(20u64));
    }
    let warnings = Warnings::new();
    let mut variant = "streamOptimized".to_owned();
    let mut size = header.capacity.bytes().unwrap_or_default();
    let described = match descriptor_range(&header, u64::MAX)? {
        Some(range) => embedded(&mut feed, range, &header, &warnings).await?,
        None => None,
    };
    match described {
        Some((descriptor, line)) => {
            size = extent_size(&line, header.capacity, header.grain, field::CAPACITY)?;
            if let Some(refusal) = refusals(&descriptor, std::slice::from_ref(&line)).first() {
                return Err(refusal.into());
            }
            variant = descriptor.create_type;
        }
        None => warnings.add(Warning::new(
            "no_descriptor",
            "the image has no descriptor: nothing says whether it is a difference to another disk",
        )),
    }
    let completeness = Completeness::new(&header, size);
    let mut front = FrontTables::all(&header, size)?;
    pass_front(&mut feed, &header, completeness.hasher(), &mut front).await?;
    let info = ImageInfo::default()
        .format(Format::Vmdk.name())
        .variant(variant)
        .virtual_bytes(size)
        .cluster_bytes(Some(header.grain_bytes()))
        .features(features(&header))
        .fingerprint(fingerprint);
    let codec = Arc::new(GrainCodec {
        base: 0,
        grain_bytes: header.grain_bytes(),
        markers: true,
        bound: Bound::Object,
    });
    Ok(Box::new(VmdkStream {
        feed,
        header,
        info,
        warnings,
        codec,
        seen: Seen::default(),
        completeness,
        front,
        room: None,
        done: false,
    }))
}

/// The stream, and its last sectors.
struct Watched {
    feed: Feed,
    tail: LastSectors,
}

impl Watched {
    fn position(&self) -> u64 {
        self.feed.position()
    }

    async fn look(&mut self, len: usize) -> Result<&[u8]> {
        self.feed.look(len).await
    }

    async fn take(&mut self, len: usize) -> Result<Bytes> {
        let bytes = self.feed.take(len).await?;
        self.tail.pass(&bytes);
        Ok(bytes)
    }
}

type Described = Option<(Descriptor, ExtentLine)>;

async fn embedded(
    feed: &mut Watched,
    range: StoredRange,
    header: &SparseHeader,
    warnings: &Warnings,
) -> Result<Described> {
    if range.start().get() < feed.position() {
        return Err(Error::malformed("the descriptor overlaps the header").at(28u64));
    }
    if range.start().get() > MAX_REQUEST as u64 {
        return Err(Error::unsupported(format!(
            "the descriptor is at {}, too far after the header",
            range.start()
        ))
        .at(28u64));
    }
    let gap = range.start().get().saturating_sub(feed.position());
    feed.take(usize::try_from(gap).unwrap_or(MAX_REQUEST)).await?;
    let text = feed.take(usize::try_from(range.len()).unwrap_or(MAX_REQUEST)).await?;
    if (text.len() as u64) < range.len() {
        return Err(Error::truncated("the stream ends inside the descriptor").at(feed.position()));
    }
    parse_embedded(&text, range, header, warnings)
}

/// Reads up to the first marker. If there are tables before the grains, `front` receives the bytes.
async fn pass_front(
    feed: &mut Watched,
    header: &SparseHeader,
    hasher: &GrainHasher,
    front: &mut [FrontTables],
) -> Result<()> {
    let end = first_marker(header);
    while feed.position() < end {
        let at = feed.position();
        let rest = usize::try_from(end.saturating_sub(at)).unwrap_or(MAX_REQUEST).min(MAX_REQUEST);
        let bytes = feed.take(rest).await?;
        if bytes.len() < rest {
            return Err(Error::truncated(format!("the stream ends before its first grain, at {end}"))
                .at(feed.position()));
        }
        for tables in &mut *front {
            for (number, sector) in (0u64..).zip(bytes.chunks(SECTOR_LEN)) {
                tables.pass(hasher, at.saturating_add(number.saturating_mul(SECTOR)), sector)?;
            }
        }
    }
    front.iter().try_for_each(|tables| tables.complete(end))
}

/// The tables of a directory before the grains. Their entries are summed while they are read.
struct FrontTables {
    directory_at: u64,
    directory_len: u64,
    directory: Vec<u8>,
    /// Byte addresses of the tables with their numbers, sorted. Known once the directory was read.
    tables: Vec<(u64, u64)>,
    table_entries: u64,
    zeroed: bool,
    named: GrainDigest,
}

impl FrontTables {
    /// The directory and its redundant copy, if they are before the grains.
    fn all(header: &SparseHeader, size: u64) -> Result<Vec<Self>> {
        let DirectoryAt::Sector(sector) = header.directory else { return Ok(Vec::new()) };
        let span = header.grain_bytes().saturating_mul(u64::from(header.table_entries)).max(1);
        let entries = size.div_ceil(span);
        if entries > MOST_TABLES {
            return Err(Error::unsupported(format!(
                "the directory before the grains has {entries} entries; at most {MOST_TABLES} are supported in one pass"
            ))
            .hint("give a path or a URL"));
        }
        let redundant = header.redundant.filter(|redundant| *redundant != sector);
        let one = |sector: Sectors| Self {
            directory_at: sector.bytes().unwrap_or(u64::MAX),
            directory_len: entries.saturating_mul(4),
            directory: Vec::new(),
            tables: Vec::new(),
            table_entries: u64::from(header.table_entries),
            zeroed: header.zeroed_grains,
            named: GrainDigest::default(),
        };
        Ok([Some(sector), redundant].into_iter().flatten().map(one).collect())
    }

    fn missing(&self) -> u64 {
        self.directory_len.saturating_sub(self.directory.len() as u64)
    }

    fn pass(&mut self, hasher: &GrainHasher, at: u64, sector: &[u8]) -> Result<()> {
        let expected = self.directory_at.saturating_add(self.directory.len() as u64);
        if self.missing() > 0 {
            if at == expected {
                let len = sector.len().min(usize::try_from(self.missing()).unwrap_or(usize::MAX));
                self.directory.extend_from_slice(sector.get(..len).unwrap_or_default());
                if self.missing() == 0 {
                    self.locate(at)?;
                }
            }
            return Ok(());
        }
        let index = self.tables.partition_point(|(start, _)| *start <= at);
        let Some((start, number)) = index.checked_sub(1).and_then(|index| self.tables.get(index)) else {
            return Ok(());
        };
        let passed = at.saturating_sub(*start) / 4;
        let rest = usize::try_from(self.table_entries.saturating_sub(passed)).unwrap_or(usize::MAX);
        let mut table = TableDigest::default();
        let len = rest.saturating_mul(4).min(sector.len());
        table.read(hasher, sector.get(..len).unwrap_or_default(), self.zeroed);
        self.named.add_table(&table, number.saturating_mul(self.table_entries).saturating_add(passed));
        Ok(())
    }

    /// Reads the addresses of the tables from the directory whose last sector is at `at`.
    fn locate(&mut self, at: u64) -> Result<()> {
        let (entries, _) = self.directory.as_chunks::<4>();
        let starts = entries.iter().map(|entry| u64::from(u32::from_le_bytes(*entry)).saturating_mul(SECTOR));
        self.tables = starts.zip(0..).filter(|(start, _)| *start != 0).collect();
        self.tables.sort_unstable();
        if self.tables.first().is_some_and(|(first, _)| *first <= at) {
            return Err(Error::unsupported("a stream with grain tables before their directory")
                .at(at)
                .hint("give a path or a URL"));
        }
        Ok(())
    }

    fn complete(&self, end: u64) -> Result<()> {
        let table_bytes = self.table_entries.saturating_mul(4);
        let last = self.tables.last().map_or(0, |(last, _)| last.saturating_add(table_bytes));
        if self.missing() > 0 || last > end {
            return Err(Error::unsupported(format!(
                "the directory and grain tables of the stream are not all before its first grain, at {end}"
            ))
            .at(self.directory_at)
            .hint("give a path or a URL"));
        }
        Ok(())
    }
}

/// The grains that were read, as runs of their numbers, so that an ascending stream needs little memory.
#[derive(Default)]
struct Seen {
    /// First number of each run, and the number after its last.
    runs: BTreeMap<u64, u64>,
    count: u64,
}

impl Seen {
    fn add(&mut self, number: u64) -> Result<()> {
        let after = number.saturating_add(1);
        let before = self.runs.range(..=number).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| number < end) {
            return Err(Error::malformed(format!("grain {number} occurs twice in the stream"))
                .hint("give a path or a URL, so that its tables show which of the two is valid"));
        }
        let end = self.runs.remove(&after).unwrap_or(after);
        match before {
            Some((start, joined)) if joined == number => self.runs.insert(start, end),
            _ => self.runs.insert(number, end),
        };
        self.count = self.count.saturating_add(1);
        if self.runs.len() > MOST_RUNS {
            return Err(Error::unsupported(format!(
                "the grains of the stream form more than {MOST_RUNS} runs"
            ))
            .hint("give a path or a URL"));
        }
        Ok(())
    }
}

struct VmdkStream {
    feed: Watched,
    header: SparseHeader,
    info: ImageInfo,
    warnings: Warnings,
    codec: Arc<dyn Codec>,
    seen: Seen,
    /// The grains, tables and directories with markers that were read.
    completeness: Completeness,
    /// The directories before the grains.
    front: Vec<FrontTables>,
    /// The start of the current range of zeros before the first grain.
    room: Option<u64>,
    done: bool,
}

impl VmdkStream {
    async fn piece(&mut self) -> Result<Option<Piece>> {
        loop {
            let at = self.feed.position();
            let sector = self.feed.look(SECTOR_LEN).await?;
            if sector.is_empty() {
                return self.end(self.room.unwrap_or(at)).map(|()| None);
            }
            let blank = sector.iter().all(|byte| *byte == 0);
            let marker = Marker::parse(sector).map_err(|error| error.at(at))?;
            if marker != Marker::End {
                self.room = None;
            }
            match marker {
                Marker::End if self.front.is_empty() && !self.completeness.has_directory() => {
                    // Padding that the writer left between its metadata and the first grain.
                    if !blank || self.seen.count > 0 {
                        return Err(self.completeness.no_directory(at));
                    }
                    self.room.get_or_insert(at);
                    self.feed.take(SECTOR_LEN).await?;
                }
                Marker::End => {
                    self.feed.take(SECTOR_LEN).await?;
                    self.padding().await?;
                    return self.end(at).map(|()| None);
                }
                Marker::Grain { lba, size } => return self.grain(at, lba, size).await.map(Some),
                Marker::Table(sectors) => self.table(at, sectors).await?,
                Marker::Directory(sectors) => self.directory(at, sectors).await?,
                Marker::Footer(sectors) => {
                    let len = metadata_len(sectors).map_err(|error| error.at(at))?;
                    self.skip(len).await?;
                }
            }
        }
    }

    async fn grain(&mut self, at: u64, lba: Sectors, size: u32) -> Result<Piece> {
        let number = grain_number(&self.header, lba, size).map_err(|error| error.at(at))?;
        self.seen.add(number).map_err(|error| error.at(at))?;
        self.completeness.add_grain(number, at / SECTOR);
        let len = usize::try_from(grain_len(size)).unwrap_or(usize::MAX);
        let bytes = self.feed.take(len).await?;
        if bytes.len() < len {
            return Err(Error::truncated(format!(
                "the stream ends inside a grain of {size} compressed bytes"
            ))
            .at(at));
        }
        let padding = len.next_multiple_of(SECTOR_LEN).saturating_sub(len);
        self.feed.take(padding).await?;
        let start = lba.bytes().map(GuestOffset::new);
        let disk = GuestRange::first(self.info.virtual_bytes);
        let guest = start.and_then(|start| GuestRange::new(start, self.header.grain_bytes()));
        let guest = guest.and_then(|guest| guest.intersection(disk)).ok_or_else(|| {
            Error::malformed(format!("a grain's marker says sector {}, after the end of the disk", lba.0))
                .at(at)
        })?;
        Ok(Piece { guest, bytes, codec: Some(Arc::clone(&self.codec)), stored_at: at })
    }

    /// Reads `len` bytes, or fewer at the end of the stream.
    async fn skip(&mut self, len: u64) -> Result<()> {
        let mut rest = len;
        while rest > 0 {
            let bytes = self.feed.take(usize::try_from(rest).unwrap_or(MAX_REQUEST).min(MAX_REQUEST)).await?;
            if bytes.is_empty() {
                break;
            }
            rest = rest.saturating_sub(bytes.len() as u64);
        }
        Ok(())
    }

    /// Reads a table of `sectors` sectors, with its marker at `at`.
    async fn table(&mut self, at: u64, sectors: Sectors) -> Result<()> {
        let len = metadata_len(sectors).map_err(|error| error.at(at))?;
        self.feed.take(SECTOR_LEN).await?;
        let room = len.saturating_sub(SECTOR);
        let used = self.completeness.table_bytes().min(room);
        let bytes = self.feed.take(usize::try_from(used).unwrap_or(MAX_REQUEST)).await?;
        self.skip(room.saturating_sub(bytes.len() as u64)).await?;
        self.completeness
            .add_table((at / SECTOR).saturating_add(1), &bytes)
            .map_err(|error| error.at(at).hint("give a path or a URL"))
    }

    /// Reads a directory of `sectors` sectors, with its marker at `at`.
    async fn directory(&mut self, at: u64, sectors: Sectors) -> Result<()> {
        let len = metadata_len(sectors).map_err(|error| error.at(at))?;
        self.feed.take(SECTOR_LEN).await?;
        let mut rest = len.saturating_sub(SECTOR);
        let mut directory = self.completeness.directory();
        while rest > 0 {
            let bytes = self.feed.take(usize::try_from(rest).unwrap_or(MAX_REQUEST).min(MAX_REQUEST)).await?;
            if bytes.is_empty() {
                break;
            }
            rest = rest.saturating_sub(bytes.len() as u64);
            directory.read(&self.completeness, &bytes);
        }
        self.completeness
            .add_directory((at / SECTOR).saturating_add(1), &directory)
            .map_err(|error| error.at(at).hint("give a path or a URL"))
    }

    /// Reads the zeros after the end marker.
    async fn padding(&mut self) -> Result<()> {
        let start = self.feed.position();
        let end = start.saturating_add(MOST_BEHIND);
        while self.feed.position() < end {
            let at = self.feed.position();
            let bytes = self.feed.take(MAX_REQUEST).await?;
            if let Some(place) = bytes.iter().position(|byte| *byte != 0) {
                return Err(after_the_end().at(at.saturating_add(place as u64)));
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
        Err(Error::unsupported(format!("more than {MOST_BEHIND} bytes follow the end marker of the stream"))
            .at(start))
    }

    /// The stream has ended: checks that it is complete, and that its tables name no other grains. `at` is the offset
    /// where the end was found.
    fn end(&mut self, at: u64) -> Result<()> {
        if let Some(front) = self.front.first() {
            return self.end_by_front(front.named, at);
        }
        let footer = self.feed.tail.footer(&self.header, self.info.virtual_bytes)?;
        let Some(footer) = footer else {
            // A file without a footer is read by its markers too, with the same warning.
            self.completeness.check(at)?;
            self.warnings.add(footer::recovered_by_scan());
            return Ok(());
        };
        footer.warn(&self.warnings);
        if self.info.virtual_bytes == 0 {
            return Ok(());
        }
        if !self.completeness.has_directory() {
            return Err(self.completeness.no_directory(at));
        }
        let came = self.completeness.came();
        for directory in std::iter::once(footer.directory).chain(footer.redundant) {
            self.compare(came, self.completeness.named_by(directory.0), at)?;
        }
        Ok(())
    }

    /// Checks that the tables before the grains name the grains that were read. `named` is the digest of the first
    /// copy.
    fn end_by_front(&self, named: GrainDigest, at: u64) -> Result<()> {
        let came = self.completeness.came();
        // A truncated download looks like this: the tables are zeros and only zeros follow.
        if came.count == 0 && self.feed.position() > first_marker(&self.header) {
            return Err(Error::truncated(
                "the grain tables name no grains, and nothing but zeros follows them",
            )
            .at(at));
        }
        self.compare(came, Some(named), at)?;
        self.front.iter().try_for_each(|front| self.compare(came, Some(front.named), at))
    }

    /// Compares the grains that were read with the grains that tables in the stream name.
    fn compare(&self, came: GrainDigest, named: Option<GrainDigest>, at: u64) -> Result<()> {
        let seen = came.count;
        let replaced = |what: String| {
            Err(Error::unsupported(what)
                .hint("give a path or a URL, so that its tables show which grains are valid")
                .at(at))
        };
        match named {
            Some(named) if named == came => Ok(()),
            Some(GrainDigest { count, .. }) if count > seen => Err(Error::truncated(format!(
                "the stream ends after {seen} grains and its tables name {count}"
            ))
            .at(at)),
            Some(GrainDigest { count, .. }) if count < seen => replaced(format!(
                "the stream has {seen} grains and its tables name {count}: some have been replaced"
            )),
            _ => replaced(format!(
                "the stream has {seen} grains and its tables name others, or the same at other offsets"
            )),
        }
    }
}

impl ImageStream for VmdkStream {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn virtual_bytes_known(&self) -> bool {
        true
    }

    fn stored_bytes(&self) -> u64 {
        self.feed.feed.received()
    }

    fn warnings(&self) -> Vec<Warning> {
        self.warnings.list()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<Piece>>> {
        Box::pin(async move {
            if self.done {
                return Ok(None);
            }
            self.done = true;
            let piece = self.piece().await?;
            self.done = piece.is_none();
            Ok(piece)
        })
    }
}

//! An opened image: its info, its warnings and its block map.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::address::{FileIndex, GuestRange};
use crate::disk::extent::{Coded, Extent, ExtentKind, MAX_UNIT_BYTES, Tally};
use crate::error::{Error, Refusal, Result, Warning};
use crate::source::{BoxFuture, Source, Traffic};

/// The most extents in one answer of [`BlockMap::extents`]. It bounds the memory of a walk over a fragmented image.
pub const BATCH_EXTENTS: usize = 16_384;

/// The most guest bytes in one answer that may be mapped to stored bytes which the same answer maps more than once.
/// No known writer stores two parts of a disk in one place. A small crafted object could otherwise be read for hours.
const MOST_REPEATED: u64 = 128 << 20;

/// Maps guest bytes to stored bytes. Every format implements this trait.
///
/// A map loads its tables lazily and in bulk: all tables that a window needs at once, with adjacent ones in one
/// request. It caches a bounded part of them, and never reads data. Its methods take `&self`, so that several walks
/// can run at once.
pub trait BlockMap: Send + Sync {
    /// Returns extents in guest order that cover `window` from its start on.
    ///
    /// * The first extent contains `window.start()`. Extents follow each other without gap or overlap, and adjacent
    ///   extents that can be merged are merged ([`Extents`](crate::disk::extent::Extents)).
    /// * Extents are clipped to the window, except coded units, which stay whole: the first may begin before the
    ///   window and the last may end after it.
    /// * An answer may stop before the window's end, after at least one extent, to bound its memory: at about
    ///   [`BATCH_EXTENTS`] extents. A map does no extra I/O to extend the last extent.
    ///
    /// The window is within the disk and is not empty: [`Disk::extents`] checks that.
    ///
    /// # Errors
    /// `malformed` or `truncated` with the offset of the invalid entry; the `source_*` codes.
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>>;

    /// The guest bytes that are mapped to stored data, if that is known without reading a table: all of them in
    /// formats without tables.
    fn allocated_without_tables(&self) -> Option<u64>;
}

/// The facts of an opened image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Name of the format as the command line spells it: `raw`, `vhd`, `qcow2`, `vmdk`.
    pub format: &'static str,
    /// The variant, in the format's own words, such as `dynamic`, `v3` or `streamOptimized`.
    pub variant: String,
    /// Size of the disk that the guest sees, in bytes.
    pub virtual_bytes: u64,
    /// Size of the format's unit (cluster, block, grain) in bytes, if it has one.
    pub cluster_bytes: Option<u64>,
    /// Features that the image uses, in the format's own words.
    pub features: Vec<String>,
    /// SHA-256 over the source's length, head and tail as read at open (for a stream: over its head). Identifiers of
    /// targets are derived from it.
    pub fingerprint: [u8; 32],
}

setters!(ImageInfo {
   format: &'static str,
   variant: String,
   virtual_bytes: u64,
   cluster_bytes: Option<u64>,
   features: Vec<String>,
   fingerprint: [u8; 32],
});

/// A list of warnings that can grow while an image is read. Each code appears once, with the first message.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<Warning>>>);

impl Warnings {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a warning, unless the list has one with its code.
    pub fn add(&self, warning: Warning) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.iter().all(|known| known.code != warning.code) {
            all.push(warning);
        }
    }

    /// Replaces the warning with the same code, or adds it: the same fact, with more detail.
    pub fn replace(&self, warning: Warning) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|known| known.code == warning.code) {
            Some(known) => *known = warning,
            None => all.push(warning),
        }
    }

    /// All warnings so far.
    pub fn list(&self) -> Vec<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An opened image.
///
/// The readers of `diskferry-formats` create disks. This one maps every guest byte to the stored byte with the same
/// address, as a raw image does:
///
/// ```
/// use std::sync::Arc;
///
/// use diskferry_core::{
///     BlockMap, BoxFuture, Disk, Extent, ExtentKind, FileIndex, GuestRange, ImageInfo, MemorySource, Result, Source,
///     Stored, StoredOffset, StoredRange, Warnings,
/// };
///
/// struct Flat;
///
/// impl BlockMap for Flat {
///     fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
///         let start = StoredOffset::new(window.start().get());
///         Box::pin(async move {
///             let range = StoredRange::new(start, window.len()).expect("as long as the window");
///             let stored = Stored { file: FileIndex(0), range };
///             Ok(vec![Extent::new(window, ExtentKind::Data(stored))])
///         })
///     }
///
///     fn allocated_without_tables(&self) -> Option<u64> {
///         None
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<()> {
/// let source = Arc::new(MemorySource::new("disk.raw", vec![7; 8192]));
/// let info = ImageInfo::default().format("raw").virtual_bytes(source.len());
/// let disk = Disk::new(info, vec![source], Box::new(Flat), Warnings::new(), Vec::new());
///
/// let sector = disk.read(GuestRange::first(512)).await?;
/// assert_eq!(&sector[..], &[7; 512]);
/// # Ok(())
/// # }
/// ```
pub struct Disk {
    info: ImageInfo,
    files: Vec<Arc<dyn Source>>,
    map: Box<dyn BlockMap>,
    warnings: Warnings,
    refusals: Vec<Refusal>,
}

impl Disk {
    /// A disk of `files`, mapped by `map`. The first file is the one that was opened.
    ///
    /// `warnings` is shared with the map, which may add warnings during a walk.
    pub fn new(
        info: ImageInfo,
        files: Vec<Arc<dyn Source>>,
        map: Box<dyn BlockMap>,
        warnings: Warnings,
        refusals: Vec<Refusal>,
    ) -> Self {
        Self { info, files, map, warnings, refusals }
    }

    /// A disk that is described but cannot be read: every read or walk fails with the first of `refusals`.
    pub fn refused(
        info: ImageInfo,
        files: Vec<Arc<dyn Source>>,
        warnings: Warnings,
        refusals: Vec<Refusal>,
    ) -> Self {
        Self::new(info, files, Box::new(Unmapped), warnings, refusals)
    }

    /// Sets the fingerprint of the object that the disk was opened from.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: [u8; 32]) -> Self {
        self.info.fingerprint = fingerprint;
        self
    }

    /// The facts of the image.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// Size of the disk that the guest sees, in bytes.
    pub fn virtual_bytes(&self) -> u64 {
        self.info.virtual_bytes
    }

    /// Stored size of all its files together, in bytes.
    pub fn object_bytes(&self) -> u64 {
        // Lengths come from servers, so the sum saturates: 2⁶⁴ - 1 is above every limit.
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.len()))
    }

    /// The files of the image. The first is the one that was opened.
    pub fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    /// The file with that index.
    ///
    /// # Errors
    /// `internal` if there is none: the block map returned an index that it did not get.
    pub fn file(&self, index: FileIndex) -> Result<&Arc<dyn Source>> {
        let position = usize::try_from(index.0).ok();
        position.and_then(|position| self.files.get(position)).ok_or_else(|| {
            Error::internal(format!("the block map refers to file {} of {}", index.0, self.files.len()))
        })
    }

    /// Warnings so far. Walking the map or reading data may add more.
    pub fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// The errors that reading this image fails with. Empty for an image that can be read.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The first refusal as an error.
    ///
    /// # Errors
    /// That refusal.
    pub fn admit(&self) -> Result<()> {
        match self.refusals.first() {
            Some(refusal) => Err(refusal.into()),
            None => Ok(()),
        }
    }

    /// The guest bytes that are mapped to stored data, if that is known without reading a table.
    pub fn allocated_without_tables(&self) -> Option<u64> {
        self.map.allocated_without_tables()
    }

    /// Traffic of all files so far, opening included.
    pub fn traffic(&self) -> Traffic {
        self.files.iter().fold(Traffic::default(), |sum, file| sum + file.traffic())
    }

    /// Returns extents that cover `window` from its start on, as [`BlockMap::extents`] specifies. The part of the
    /// window after the end of the disk is left out; an empty window has no extents.
    ///
    /// # Errors
    /// The disk's refusal; those of [`BlockMap::extents`]; `internal` if the map breaks its contract.
    pub async fn extents(&self, window: GuestRange) -> Result<Vec<Extent>> {
        self.admit()?;
        let Some(window) = window.intersection(GuestRange::first(self.virtual_bytes())) else {
            return Ok(Vec::new());
        };
        let extents = self.map.extents(window).await?;
        let mut at = match extents.first() {
            Some(first) if first.guest.start() <= window.start() => first.guest.start(),
            _ => {
                return Err(Error::internal(format!(
                    "the block map's answer for {window:?} does not begin there"
                )));
            }
        };
        for extent in &extents {
            if extent.guest.start() != at || extent.guest.is_empty() {
                return Err(Error::internal(format!("the block map has a gap or an overlap at {at:?}")));
            }
            let agrees = match &extent.kind {
                ExtentKind::Data(stored) | ExtentKind::Sparse(stored) => {
                    stored.range.len() == extent.guest.len()
                }
                ExtentKind::Coded(_) => extent.guest.len() <= MAX_UNIT_BYTES,
                ExtentKind::Zero | ExtentKind::Hole => true,
            };
            if !agrees {
                return Err(Error::internal(format!(
                    "the block map's extent {:?} has a wrong length",
                    extent.guest
                )));
            }
            at = extent.guest.end();
        }
        self.check_repeated(&extents)?;
        if at <= window.start() || at.get() > self.virtual_bytes() {
            return Err(Error::internal(format!("the block map of {window:?} ends at {at:?}")));
        }
        Ok(extents)
    }

    /// Checks that an answer does not map too many guest bytes to the same stored bytes.
    fn check_repeated(&self, extents: &[Extent]) -> Result<()> {
        let lengths = |wanted: fn(&ExtentKind) -> bool| {
            let chosen = extents.iter().filter(move |extent| wanted(&extent.kind));
            // Extents do not overlap, so the sum fits.
            chosen.map(|extent| extent.guest.len()).sum::<u64>()
        };
        let object = self.object_bytes();
        let repeated = |bytes: u64| {
            Error::malformed(format!(
                "{bytes} bytes of the disk are mapped to stored bytes that other parts of it are mapped to, in an object of \
                 {object} bytes"
            ))
        };
        // Data takes as many stored bytes as guest bytes.
        let data = lengths(|kind| matches!(kind, ExtentKind::Data(_)));
        if let Some(more) = data.checked_sub(object).filter(|more| *more > MOST_REPEATED) {
            return Err(repeated(more));
        }
        // The stored size of coded units is not known in advance. They are checked if there is much more of them than
        // stored bytes.
        let coded = lengths(|kind| matches!(kind, ExtentKind::Coded(_)));
        if coded <= MOST_REPEATED || coded.div_ceil(8) <= object {
            return Ok(());
        }
        let mut named = HashSet::new();
        let mut bytes = 0u64;
        for extent in extents {
            let ExtentKind::Coded(Coded { stored, .. }) = &extent.kind else { continue };
            if !named.insert((stored.file, stored.range.start())) {
                bytes += extent.guest.len();
            }
            if bytes > MOST_REPEATED {
                return Err(repeated(bytes).at(stored.range.start()));
            }
        }
        Ok(())
    }

    /// Reads the guest bytes of `range` into one buffer. Meant for partition tables, file-system signatures and
    /// tests, not for bulk data.
    ///
    /// # Errors
    /// `usage` if the range is longer than 16 MiB or passes the end of the disk; errors of the map, the source and
    /// the codecs.
    pub async fn read(&self, range: GuestRange) -> Result<Bytes> {
        const LONGEST: u64 = 16 << 20;
        if range.len() > LONGEST || range.end().get() > self.virtual_bytes() {
            return Err(Error::new(
                crate::error::ErrorKind::Usage,
                format!(
                    "cannot read guest bytes {range}: the disk has {} bytes, and one read is at most {LONGEST}",
                    self.virtual_bytes()
                ),
            ));
        }
        let mut out = BytesMut::zeroed(in_memory(range.len())?);
        let mut at = range.start();
        while at < range.end() {
            for extent in self.extents(GuestRange::between(at, range.end())).await? {
                let Some(wanted) = extent.guest.intersection(range) else { continue };
                at = extent.guest.end();
                let Some(stored) = extent.to_fetch() else { continue };
                let bytes = self.file(stored.file)?.read(stored.range).await?;
                let unit = match &extent.kind {
                    ExtentKind::Coded(coded) => {
                        let mut unit = BytesMut::zeroed(in_memory(extent.guest.len())?);
                        coded
                            .codec
                            .decode(extent.guest, &bytes, &mut unit, &mut Tally::default())
                            .map_err(|error| error.at(stored.range.start()))?;
                        unit.freeze()
                    }
                    _ => bytes,
                };
                let from = distance(extent.guest, wanted)?;
                let to = distance(range, wanted)?;
                let len = in_memory(wanted.len())?;
                match (out.get_mut(to..to + len), unit.get(from..from + len)) {
                    (Some(out), Some(unit)) => out.copy_from_slice(unit),
                    _ => return Err(Error::internal("an extent is shorter than its range")),
                }
            }
        }
        Ok(out.freeze())
    }
}

/// Converts a length that is far below the address space: [`Disk::read`] and [`MAX_UNIT_BYTES`] bound it.
fn in_memory(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::out_of_memory(bytes))
}

/// The offset of `part` in `whole`, which contains it.
fn distance(whole: GuestRange, part: GuestRange) -> Result<usize> {
    let offset = whole.offset_of(part.start());
    in_memory(offset.ok_or_else(|| Error::internal(format!("guest bytes {part} are not in {whole}")))?)
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("info", &self.info).field("files", &self.files).finish_non_exhaustive()
    }
}

/// The map of a refused disk.
struct Unmapped;

impl BlockMap for Unmapped {
    fn extents(&self, _window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async { Err(Error::internal("a refused disk was walked")) })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

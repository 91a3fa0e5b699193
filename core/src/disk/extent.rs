//! Extents: where a block map says that runs of guest bytes are stored.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{FileIndex, GuestOffset, GuestRange, StoredRange};
use crate::error::{Result, Warning};

/// The most guest bytes of one coded unit. The largest units in practice are QCOW2 clusters of 2 MiB and VHD blocks
/// of 4 MiB. A reader refuses larger units, or splits them into units of this size if it can. This bounds the memory
/// for one unit, whatever a header claims.
pub const MAX_UNIT_BYTES: u64 = 4 << 20;

/// A location of stored bytes: the object, and the range in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stored {
    /// The file of the disk.
    pub file: FileIndex,
    /// The bytes of that file.
    pub range: StoredRange,
}

/// A run of the guest's disk and where its bytes are.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The guest bytes; never empty.
    pub guest: GuestRange,
    /// Where they are stored.
    pub kind: ExtentKind,
}

/// Where the bytes of an extent are stored.
#[derive(Clone, Debug)]
pub enum ExtentKind {
    /// Stored verbatim, in a range as long as the extent.
    Data(Stored),
    /// Like [`Data`](Self::Data), but the source reports the range as a hole of a sparse file: zeros that need not be
    /// read. The image maps the bytes, so they count as allocated.
    Sparse(Stored),
    /// A unit that must be decoded as a whole.
    Coded(Coded),
    /// The image marks the bytes as zero.
    Zero,
    /// Not mapped by the image; reads as zeros.
    Hole,
}

/// A stored unit that must be decoded as a whole: a compressed cluster or grain, a VHD block with its sector bitmap.
///
/// The guest range of its extent is the whole unit, clipped to the disk, and at most [`MAX_UNIT_BYTES`] long.
#[derive(Clone, Debug)]
pub struct Coded {
    /// The stored bytes that the codec decodes.
    pub stored: Stored,
    /// How to decode them.
    pub codec: Arc<dyn Codec>,
}

/// How the stored bytes of a [`Coded`] unit represent its guest bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Verbatim, after a prefix of this many bytes. Masked parts read as zero.
    Plain {
        /// Length of the prefix in bytes.
        prefix: u64,
    },
    /// Compressed.
    Compressed,
}

/// The compression of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Raw deflate (RFC 1951), without a zlib or gzip wrapper.
    Deflate,
    /// One or more zstd frames (RFC 8878).
    Zstd,
}

/// The compressed stream of a unit within its stored bytes: the exact range from its first byte to its last, end
/// marker included. The stream decodes to exactly the unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompressedStream {
    /// The compression of the stream.
    pub compression: Compression,
    /// The range of the stored bytes.
    pub bytes: Range<usize>,
    /// See [`SourceStream::window_bits`].
    pub window_bits: Option<u8>,
}

/// The compressed stream of a unit in the source, for a target that stores it unchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStream {
    /// The exact bytes of the stream, end marker included.
    pub bytes: Bytes,
    /// The window that the stream declares, as its power of two: matches reach back at most `1 << window_bits` bytes.
    /// `None` if the source does not declare it.
    pub window_bits: Option<u8>,
}

/// Turns the stored bytes of a unit into its guest bytes.
///
/// Pure and cheap to share: one instance serves all units of its kind, from many threads at once.
pub trait Codec: Send + Sync + fmt::Debug {
    /// How the stored bytes represent the guest bytes.
    fn payload(&self) -> Payload;

    /// Decodes `stored` and fills all of `out`, which is as long as `guest`. The initial content of `out` is
    /// undefined.
    ///
    /// Findings are counted in `tally`, which the caller sums up over all units. If the unit is a self-contained
    /// compressed stream, its range is returned, so that a target can store the stream unchanged.
    ///
    /// # Errors
    /// `malformed` if the unit does not decode to exactly the requested guest bytes. An offset in the error is of the
    /// stored object, and set only if the codec knows it. Otherwise the caller adds the offset of the unit.
    fn decode(
        &self,
        guest: GuestRange,
        stored: &[u8],
        out: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Option<CompressedStream>>;

    /// Returns the range of `stored` that contains the guest bytes of a unit of `len` bytes verbatim, if there is one. The
    /// engine then uses that range and does not call [`decode`](Self::decode).
    fn verbatim_range(&self, stored: &[u8], len: usize) -> Option<Range<usize>>;

    /// The warning for a tally over many units, if any.
    fn warning(&self, tally: &Tally) -> Option<Warning>;
}

/// Findings of decoding: the number, and the first address. The sum of tallies does not depend on their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// The number of findings (for a VHD: sectors whose bitmap bit hides data).
    pub count: u64,
    /// The lowest guest address of a finding.
    pub first: Option<GuestOffset>,
}

impl Tally {
    /// Counts one more finding, at `place`.
    pub fn add(&mut self, place: GuestOffset) {
        self.merge(&Self { count: 1, first: Some(place) });
    }

    /// Adds the findings of another tally.
    pub fn merge(&mut self, other: &Self) {
        // Findings are sectors of one disk, so their number fits.
        self.count += other.count;
        self.first = match (self.first, other.first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl Extent {
    /// An extent of `kind` over `guest`.
    pub fn new(guest: GuestRange, kind: ExtentKind) -> Self {
        Self { guest, kind }
    }

    /// True if the guest bytes are known to be zero without reading anything.
    pub fn is_zero(&self) -> bool {
        matches!(self.kind, ExtentKind::Zero | ExtentKind::Hole | ExtentKind::Sparse(_))
    }

    /// True if the image maps the guest bytes to stored bytes. `allocated_bytes` counts these.
    pub fn is_allocated(&self) -> bool {
        matches!(self.kind, ExtentKind::Data(_) | ExtentKind::Sparse(_) | ExtentKind::Coded(_))
    }

    /// The stored bytes that must be fetched for the extent.
    pub fn to_fetch(&self) -> Option<Stored> {
        match &self.kind {
            ExtentKind::Data(stored) => Some(*stored),
            ExtentKind::Coded(coded) => Some(coded.stored),
            ExtentKind::Sparse(_) | ExtentKind::Zero | ExtentKind::Hole => None,
        }
    }

    /// The part of the extent inside `window`; a coded unit stays whole. `None` if they do not intersect.
    pub fn clip(&self, window: GuestRange) -> Option<Self> {
        let guest = self.guest.intersection(window)?;
        let skip = self.guest.offset_of(guest.start())?;
        let cut = |stored: &Stored| Stored {
            file: stored.file,
            range: stored.range.skip(skip).split_at(guest.len()).0,
        };
        Some(match &self.kind {
            ExtentKind::Coded(_) => self.clone(),
            ExtentKind::Data(stored) => Self::new(guest, ExtentKind::Data(cut(stored))),
            ExtentKind::Sparse(stored) => Self::new(guest, ExtentKind::Sparse(cut(stored))),
            ExtentKind::Zero => Self::new(guest, ExtentKind::Zero),
            ExtentKind::Hole => Self::new(guest, ExtentKind::Hole),
        })
    }

    /// Merges `next` into this extent if possible: both must be adjacent, of one kind, and have adjacent stored
    /// bytes, if any. Coded units are never merged.
    fn merge(&mut self, next: &Self) -> bool {
        if self.guest.end() != next.guest.start() {
            return false;
        }
        let one = match (&mut self.kind, &next.kind) {
            (ExtentKind::Data(a), ExtentKind::Data(b)) | (ExtentKind::Sparse(a), ExtentKind::Sparse(b)) => {
                let follows = a.file == b.file && a.range.end() == b.range.start();
                if follows {
                    a.range = StoredRange::between(a.range.start(), b.range.end());
                }
                follows
            }
            (ExtentKind::Zero, ExtentKind::Zero) | (ExtentKind::Hole, ExtentKind::Hole) => true,
            _ => false,
        };
        if one {
            self.guest = GuestRange::between(self.guest.start(), next.guest.end());
        }
        one
    }
}

/// Collects extents in guest order and merges adjacent ones.
#[derive(Debug, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an extent that begins at the end of the last one. An empty extent is left out.
    pub fn push(&mut self, extent: Extent) {
        if extent.guest.is_empty() {
            return;
        }
        debug_assert!(self.0.last().is_none_or(|last| last.guest.end() == extent.guest.start()));
        if !self.0.last_mut().is_some_and(|last| last.merge(&extent)) {
            self.0.push(extent);
        }
    }

    /// The number of extents.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no extents.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address after the last extent.
    pub fn end(&self) -> Option<GuestOffset> {
        self.0.last().map(|last| last.guest.end())
    }

    /// The extents in guest order.
    pub fn into_vec(self) -> Vec<Extent> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::StoredOffset;

    fn data(guest: u64, stored: u64, len: u64) -> Extent {
        let guest = GuestRange::new(GuestOffset::new(guest), len).unwrap();
        let range = StoredRange::new(StoredOffset::new(stored), len).unwrap();
        Extent::new(guest, ExtentKind::Data(Stored { file: FileIndex(0), range }))
    }

    #[test]
    fn adjacent_extents_of_one_kind_are_merged() {
        let mut extents = Extents::new();
        extents.push(data(0, 100, 10));
        extents.push(data(10, 110, 10));
        extents.push(data(20, 130, 10));
        let extents = extents.into_vec();
        assert_eq!(extents.len(), 2);
        assert_eq!(extents[0].guest, GuestRange::first(20));
    }

    #[test]
    fn clipping_also_cuts_the_stored_bytes() {
        let window = GuestRange::new(GuestOffset::new(4), 3).unwrap();
        let cut = data(0, 100, 10).clip(window).unwrap();
        assert_eq!(cut.guest, window);
        assert_eq!(cut.to_fetch().unwrap().range, StoredRange::new(StoredOffset::new(104), 3).unwrap());
        assert!(data(7, 100, 10).clip(window).is_none());
    }
}

//! Extents: what a block map says of a run of guest bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{FileIndex, GuestOffset, GuestRange, StoredRange};
use crate::error::{Result, Warning};

/// The most guest bytes of one coded unit. The largest that exists in the wild is a QCOW2 cluster of 2 MiB and a
/// VHD block of 4 MiB; a reader refuses larger ones, or cuts them into units of this size where it can. It bounds
/// what must be in memory at once, whatever a header claims.
pub const MAX_UNIT_BYTES: u64 = 4 << 20;

/// Where bytes lie: which stored object, and where in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stored {
    /// Which of the disk's files.
    pub file: FileIndex,
    /// Which bytes of it.
    pub range: StoredRange,
}

/// A run of the guest's disk and where its bytes are.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Which guest bytes; never empty.
    pub guest: GuestRange,
    /// Where they are.
    pub kind: ExtentKind,
}

/// Where the bytes of an extent are.
#[derive(Clone, Debug)]
pub enum ExtentKind {
    /// Stored verbatim, in a range as long as the extent.
    Data(Stored),
    /// As [`Data`](Self::Data), and the source knows that range to be a hole of a sparse file: zeros that need
    /// not be read. The image still maps them: they count as allocated.
    Sparse(Stored),
    /// A unit that must be decoded as a whole.
    Coded(Coded),
    /// Said to be zero by the image.
    Zero,
    /// Not mapped by the image: reads as zeros.
    Hole,
}

/// A stored unit that must be decoded as a whole: a compressed cluster or grain, a VHD block with its sector bitmap.
///
/// The guest range of its extent is at most [`MAX_UNIT_BYTES`] long and is the whole unit, clipped to the disk.
#[derive(Clone, Debug)]
pub struct Coded {
    /// The stored bytes that the codec takes.
    pub stored: Stored,
    /// How to decode them.
    pub codec: Arc<dyn Codec>,
}

/// How the stored bytes of a [`Coded`] unit carry its guest bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// As they are, after a prefix of this many bytes; what is masked out reads zero.
    Plain {
        /// Length of the prefix in bytes.
        prefix: u64,
    },
    /// Compressed.
    Compressed,
}

/// How a stream is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Deflate (RFC 1951), without anything around it.
    Deflate,
    /// One or more zstd frames (RFC 8878).
    Zstd,
}

/// Where a unit's compressed stream lies in its stored bytes: exact from its first byte to its last, end marker
/// included, and it decodes to exactly the unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompressedStream {
    /// How it is compressed.
    pub compression: Compression,
    /// Which of the stored bytes it is.
    pub bytes: Range<usize>,
    /// As [`SourceStream::window_bits`].
    pub window_bits: Option<u8>,
}

/// The compressed stream that a source has for a unit, for a target that stores it unchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStream {
    /// Exact from its first byte to its last, end marker included.
    pub bytes: Bytes,
    /// The window that the stream declares, as its power of two: matches reach back `1 << window_bits` bytes at most. `None` if
    /// the source does not say.
    pub window_bits: Option<u8>,
}

/// Turns the stored bytes of a unit into its guest bytes.
///
/// Pure and cheap to share: one instance serves all units of its kind, from many threads at once.
pub trait Codec: Send + Sync + fmt::Debug {
    /// How the guest bytes are carried.
    fn payload(&self) -> Payload;

    /// Fills all of `out`, which is as long as `guest` and holds anything, from `stored`.
    ///
    /// What was remarkable is counted in `tally`, which a caller sums up over all units. Where the unit is a compressed
    /// stream that stands for itself, the answer says where it lies, so that it can be carried over as it is.
    ///
    /// # Errors
    /// `malformed` if the unit does not decode to exactly the guest bytes asked for. Offsets in the error, if
    /// any, are of the stored object only where the codec knows them; else the caller adds the place of the unit.
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

    /// The warning that a tally over many units amounts to.
    fn warning(&self, tally: &Tally) -> Option<Warning>;
}

/// What decoding found remarkable: how often, and where first. Summing tallies does not depend on their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many (for a VHD: sectors whose bit hides data).
    pub count: u64,
    /// The lowest guest address of one.
    pub first: Option<GuestOffset>,
}

impl Tally {
    /// Counts one more, at `place`.
    pub fn add(&mut self, place: GuestOffset) {
        self.merge(&Self { count: 1, first: Some(place) });
    }

    /// Adds what another tally counted.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
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

    /// True if the guest bytes are zeros without reading anything.
    pub fn is_zero(&self) -> bool {
        matches!(self.kind, ExtentKind::Zero | ExtentKind::Hole | ExtentKind::Sparse(_))
    }

    /// True if the image maps the guest bytes to stored bytes: what `allocated_bytes` counts.
    pub fn is_allocated(&self) -> bool {
        matches!(self.kind, ExtentKind::Data(_) | ExtentKind::Sparse(_) | ExtentKind::Coded(_))
    }

    /// The stored bytes that must be fetched for it.
    pub fn to_fetch(&self) -> Option<Stored> {
        match &self.kind {
            ExtentKind::Data(stored) => Some(*stored),
            ExtentKind::Coded(coded) => Some(coded.stored),
            ExtentKind::Sparse(_) | ExtentKind::Zero | ExtentKind::Hole => None,
        }
    }

    /// The part of the extent inside `window`; a coded unit stays whole. `None` if they do not meet.
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

    /// Takes `next` in if the two are one: neighbours of one kind whose stored bytes, if any, follow each other. Coded
    /// units never are.
    fn take_in(&mut self, next: &Self) -> bool {
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

/// Collects extents in guest order, joining neighbours that are one.
#[derive(Debug, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an extent that begins where the last one ends. An empty one is left out.
    pub fn push(&mut self, extent: Extent) {
        if extent.guest.is_empty() {
            return;
        }
        debug_assert!(self.0.last().is_none_or(|last| last.guest.end() == extent.guest.start()));
        if !self.0.last_mut().is_some_and(|last| last.take_in(&extent)) {
            self.0.push(extent);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Address after the last extent.
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
    fn neighbours_that_are_one_become_one() {
        let mut extents = Extents::new();
        extents.push(data(0, 100, 10));
        extents.push(data(10, 110, 10));
        extents.push(data(20, 130, 10));
        let extents = extents.into_vec();
        assert_eq!(extents.len(), 2);
        assert_eq!(extents[0].guest, GuestRange::first(20));
    }

    #[test]
    fn clipping_cuts_the_stored_bytes_alike() {
        let window = GuestRange::new(GuestOffset::new(4), 3).unwrap();
        let cut = data(0, 100, 10).clip(window).unwrap();
        assert_eq!(cut.guest, window);
        assert_eq!(cut.to_fetch().unwrap().range, StoredRange::new(StoredOffset::new(104), 3).unwrap());
        assert!(data(7, 100, 10).clip(window).is_none());
    }
}

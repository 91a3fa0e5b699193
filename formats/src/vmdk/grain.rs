//! Compressed grains: how their stored bytes become guest bytes.

use std::fmt;
use std::ops::Range;

use diskferry_core::{
    Codec, CompressedStream, Compression, Error, GuestRange, Payload, Result, Tally, Warning,
};

use super::header::{GRAIN_MARKER_LEN, Marker, SECTOR, most_compressed};
use crate::codec::inflate_zlib;

/// What the stored range that a map gives for a grain ends at. A table does not know a grain's length: the map bounds
/// it, and the grain itself says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// At something else that the image uses, or at the most that a grain can take.
    Used,
    /// At the end of the object.
    Object,
}

/// What RFC 1950 puts before the deflate stream: its two header bytes. A dictionary is refused by the inflater.
const ZLIB_HEADER: usize = 2;
/// And behind it: the Adler-32 of what it decodes to.
const ZLIB_TRAILER: usize = 4;

/// Decodes the grains of one extent, each in a zlib stream (RFC 1950).
pub(crate) struct GrainCodec {
    /// Guest address of the extent's first byte.
    pub(crate) base: u64,
    /// Bytes of a grain.
    pub(crate) grain_bytes: u64,
    /// Whether a marker stands before the stream.
    pub(crate) markers: bool,
    /// What the stored ranges end at.
    pub(crate) bound: Bound,
}

impl fmt::Debug for GrainCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vmdk grain, zlib")
    }
}

impl GrainCodec {
    /// The zlib stream of the grain at `guest`.
    fn stream<'a>(&self, guest: GuestRange, stored: &'a [u8]) -> Result<&'a [u8]> {
        if !self.markers {
            return Ok(stored);
        }
        let Marker::Grain { lba, size } = Marker::parse(stored)? else {
            return Err(Error::malformed("a grain table names a marker that is not a grain's"));
        };
        let on_extent = guest.start().get().saturating_sub(self.base);
        if lba.bytes() != Some(on_extent) {
            return Err(Error::malformed(format!(
                "the grain table names the grain of sector {} and its marker says sector {}",
                on_extent.checked_div(SECTOR).unwrap_or_default(),
                lba.0
            )));
        }
        if u64::from(size) > most_compressed(self.grain_bytes) {
            return Err(Error::malformed(format!(
                "a grain's marker says {size} compressed bytes, more than twice a grain of {}",
                self.grain_bytes
            )));
        }
        let data = stored.get(GRAIN_MARKER_LEN..).unwrap_or_default();
        let stream = usize::try_from(size).ok().and_then(|size| data.get(..size));
        stream.ok_or_else(|| match self.bound {
            Bound::Object => Error::truncated(format!(
                "a grain's marker says {size} compressed bytes and the object ends after {}",
                data.len()
            )),
            Bound::Used => Error::malformed(format!(
                "a grain's marker says {size} compressed bytes and other data begins after {}",
                data.len()
            )),
        })
    }
}

/// The window that a zlib stream declares: RFC 1950, 2.2, `CINFO` plus 8.
fn window_bits(stream: &[u8]) -> Option<u8> {
    stream.first().map(|cmf| (cmf >> 4).saturating_add(8))
}

impl Codec for GrainCodec {
    fn payload(&self) -> Payload {
        Payload::Compressed
    }

    fn decode(
        &self,
        guest: GuestRange,
        stored: &[u8],
        out: &mut [u8],
        _: &mut Tally,
    ) -> Result<Option<CompressedStream>> {
        let stream = self.stream(guest, stored)?;
        let whole = usize::try_from(self.grain_bytes).unwrap_or(usize::MAX);
        if out.len() >= whole {
            let taken = inflate_zlib(stream, out)?;
            let start = if self.markers { GRAIN_MARKER_LEN } else { 0 };
            let deflate =
                start.saturating_add(ZLIB_HEADER)..start.saturating_add(taken).saturating_sub(ZLIB_TRAILER);
            return Ok(Some(CompressedStream {
                compression: Compression::Deflate,
                bytes: deflate,
                window_bits: window_bits(stream),
            }));
        }
        // The last grain of a disk that ends inside it: some writers fill it up, some end with the disk.
        let mut full = vec![0; whole];
        match inflate_zlib(stream, &mut full) {
            Ok(_) => {
                out.copy_from_slice(full.get(..out.len()).unwrap_or_default());
                Ok(None)
            }
            Err(error) => inflate_zlib(stream, out).map(|_| None).map_err(|_| error),
        }
    }

    fn verbatim_range(&self, _stored: &[u8], _len: usize) -> Option<Range<usize>> {
        None
    }

    fn warning(&self, _: &Tally) -> Option<Warning> {
        None
    }
}

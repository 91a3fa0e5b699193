//! Compressed grains: decodes their stored bytes to guest bytes.

use std::fmt;
use std::ops::Range;

use diskferry_core::{
    Codec, CompressedStream, Compression, Error, GuestRange, Payload, Result, Tally, Warning,
};

use super::header::{GRAIN_MARKER_LEN, Marker, SECTOR, most_compressed};
use crate::codec::inflate_zlib;

/// What bounds the stored range that a map returns for a grain. A table does not have a grain's length: the map bounds
/// it, and the grain itself has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// Another structure that the image uses, or the largest possible grain.
    Used,
    /// The end of the object.
    Object,
}

/// The two header bytes of RFC 1950 before the deflate stream. The inflater refuses a dictionary.
const ZLIB_HEADER: usize = 2;
/// The Adler-32 of the decoded data, after the deflate stream.
const ZLIB_TRAILER: usize = 4;

/// Decodes the grains of one extent, each in a zlib stream (RFC 1950).
pub(crate) struct GrainCodec {
    /// Guest address of the extent's first byte.
    pub(crate) base: u64,
    /// Bytes of a grain.
    pub(crate) grain_bytes: u64,
    /// Whether a marker precedes the stream.
    pub(crate) markers: bool,
    /// What bounds the stored ranges.
    pub(crate) bound: Bound,
}

impl fmt::Debug for GrainCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vmdk grain, zlib")
    }
}

impl GrainCodec {
    /// Returns the zlib stream of the grain at `guest`.
    fn stream<'a>(&self, guest: GuestRange, stored: &'a [u8]) -> Result<&'a [u8]> {
        if !self.markers {
            return Ok(stored);
        }
        let Marker::Grain { lba, size } = Marker::parse(stored)? else {
            return Err(Error::malformed("a grain table points to a marker that is not of a grain"));
        };
        let on_extent = guest.start().get().saturating_sub(self.base);
        if lba.bytes() != Some(on_extent) {
            return Err(Error::malformed(format!(
                "the grain table entry is for sector {} but the grain's marker says sector {}",
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

/// The window size that a zlib stream declares: RFC 1950, 2.2, `CINFO` plus 8.
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
        // The disk can end inside the last grain. Some writers pad the grain, others cut it.
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

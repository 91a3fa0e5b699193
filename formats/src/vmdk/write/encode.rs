//! Encodes the grains of a stream: marker, zlib stream, zeros to the end of the sector.

use diskferry_core::{Coding, Compression, Encoder, Error, Result, SourceStream};

use super::disk::{GRAIN, GRAIN_SECTORS};
use crate::codec::{deflate_zlib, most_zlib, wrap_zlib};
use crate::vmdk::header::{GRAIN_MARKER_LEN, HEADER_LEN, Marker, Sectors};

/// Bytes of a grain, as a `usize`.
const UNIT: usize = 64 << 10;
/// Bytes of a sector, as a `usize`.
const SECTOR_LEN: usize = HEADER_LEN;

const _: () = assert!(UNIT as u64 == GRAIN);

/// Deflates grains. A stream has no plain grains: incompressible data is stored inside the zlib stream.
#[derive(Debug)]
pub(super) struct GrainEncoder {
    level: u32,
    recompress: bool,
}

impl GrainEncoder {
    /// Deflates at `level`, from 0 to 9. Compressed grains of the source are copied unless `recompress` is set.
    pub(super) fn new(level: u32, recompress: bool) -> Self {
        Self { level, recompress }
    }

    /// Writes the marker before the `len` bytes of a zlib stream and zeros after them.
    fn frame(unit: u64, len: usize, out: &mut [u8]) -> Result<Coding> {
        let wrong = || Error::internal(format!("grain {unit} was encoded to {len} bytes"));
        let lba = Sectors(unit.checked_mul(GRAIN_SECTORS).ok_or_else(wrong)?);
        let marker = Marker::Grain { lba, size: u32::try_from(len).map_err(|_| wrong())? }.to_bytes();
        let (marker, _) = marker.split_at_checked(GRAIN_MARKER_LEN).ok_or_else(wrong)?;
        out.get_mut(..GRAIN_MARKER_LEN).ok_or_else(wrong)?.copy_from_slice(marker);
        let end = GRAIN_MARKER_LEN.saturating_add(len);
        let whole = end.checked_next_multiple_of(SECTOR_LEN).ok_or_else(wrong)?;
        out.get_mut(end..whole).ok_or_else(wrong)?.fill(0);
        Ok(Coding::Coded(whole))
    }
}

impl Encoder for GrainEncoder {
    fn unit_bytes(&self) -> u64 {
        GRAIN
    }

    fn most_bytes(&self) -> usize {
        most_zlib(UNIT).saturating_add(GRAIN_MARKER_LEN).next_multiple_of(SECTOR_LEN)
    }

    fn encode(&self, unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding> {
        let body = out.get_mut(GRAIN_MARKER_LEN..).unwrap_or_default();
        let len = deflate_zlib(self.level, guest, body)?;
        Self::frame(unit, len, out)
    }

    fn passthrough(&self) -> Option<Compression> {
        (!self.recompress).then_some(Compression::Deflate)
    }

    fn pass_through(
        &self,
        unit: u64,
        guest: &[u8],
        stream: &SourceStream,
        out: &mut [u8],
    ) -> Result<Option<Coding>> {
        // Longer than a stored stream, so it is compressed again.
        let body = out.get_mut(GRAIN_MARKER_LEN..).and_then(|body| body.get_mut(..most_zlib(guest.len())));
        match wrap_zlib(&stream.bytes, guest, body.unwrap_or_default()) {
            Some(len) => Self::frame(unit, len, out).map(Some),
            None => Ok(None),
        }
    }
}

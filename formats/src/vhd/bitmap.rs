//! The sector bitmap of a block, applied while the block is decoded.
//!
//! Specification, section "Block Allocation Table and Data Blocks". One bit per sector, the most significant first. A
//! set bit means that the sector was written. In a dynamic disk, a sector with a clear bit reads as zeros, whatever is
//! stored.

use std::ops::Range;

use bytes::Bytes;
use diskferry_core::internal::is_zero;
use diskferry_core::{
    Codec, CompressedStream, Error, GuestOffset, GuestRange, Payload, Result, Tally, Warning,
};

use super::footer::SECTOR;

/// Guest bytes that one byte of the bitmap covers.
const BYTES_A_BYTE: usize = 8 * 512;

/// A block that is fetched together with its bitmap, which is stored directly before it.
#[derive(Debug)]
pub(super) struct PrefixBitmap {
    /// Length of the bitmap in bytes.
    pub(super) bitmap_bytes: u64,
    /// True if the footer was recovered: then a bitmap of zeros does not show that the block was stored.
    pub(super) recovered: bool,
}

impl Codec for PrefixBitmap {
    fn payload(&self) -> Payload {
        Payload::Plain { prefix: self.bitmap_bytes }
    }

    fn decode(
        &self,
        guest: GuestRange,
        stored: &[u8],
        out: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Option<CompressedStream>> {
        let parts = usize::try_from(self.bitmap_bytes).ok().and_then(|len| stored.split_at_checked(len));
        let (bitmap, data) = parts.ok_or_else(|| short(stored))?;
        if self.recovered {
            check_stored(bitmap, guest)?;
        }
        apply(bitmap, data, guest.start(), out, tally).map(|()| None)
    }

    fn verbatim_range(&self, stored: &[u8], len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(self.bitmap_bytes).ok()?;
        let range = start..start.checked_add(len)?;
        (range.end == stored.len() && shows_all(stored.get(..start)?, len)).then_some(range)
    }

    fn warning(&self, tally: &Tally) -> Option<Warning> {
        hidden(tally)
    }
}

/// A piece of a block too large to be fetched at once, with the bits of its sectors.
#[derive(Debug)]
pub(super) struct SeparateBitmap(pub(super) Bytes);

impl Codec for SeparateBitmap {
    fn payload(&self) -> Payload {
        Payload::Plain { prefix: 0 }
    }

    fn decode(
        &self,
        guest: GuestRange,
        stored: &[u8],
        out: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Option<CompressedStream>> {
        apply(&self.0, stored, guest.start(), out, tally).map(|()| None)
    }

    fn verbatim_range(&self, stored: &[u8], len: usize) -> Option<Range<usize>> {
        (len == stored.len() && shows_all(&self.0, len)).then_some(0..len)
    }

    fn warning(&self, tally: &Tally) -> Option<Warning> {
        hidden(tally)
    }
}

fn short(stored: &[u8]) -> Error {
    Error::internal(format!("{} bytes do not hold a block of a VHD and its bitmap", stored.len()))
}

/// Checks the bitmap of the block at `guest` in an object without its last footer. A block exists because one of its
/// sectors was written. So a bitmap of zeros probably means that this part of the object is missing.
///
/// # Errors
/// `truncated` if the bitmap shows no sector.
pub(super) fn check_stored(bitmap: &[u8], guest: GuestRange) -> Result<()> {
    let used = guest.len().div_ceil(BYTES_A_BYTE as u64);
    let used = usize::try_from(used).ok().and_then(|used| bitmap.get(..used)).unwrap_or(bitmap);
    if !is_zero(used) {
        return Ok(());
    }
    Err(Error::truncated(format!(
        "the footer at the end is missing, and the sector bitmap of the block for guest bytes {guest} is all zeros: \
         nothing shows that the block was stored"
    ))
    .hint("an unfinished download looks like this: fetch the image again"))
}

/// True if `bitmap` says that all sectors of `len` bytes were written.
fn shows_all(bitmap: &[u8], len: usize) -> bool {
    let (full, rest) = (len / BYTES_A_BYTE, len % BYTES_A_BYTE);
    let last =
        u8::MAX.checked_shl(8u32.saturating_sub(u32::try_from(rest.div_ceil(512)).unwrap_or(8))).unwrap_or(0);
    bitmap.get(..full).is_some_and(|bits| bits.iter().all(|bits| *bits == 0xff))
        && (rest == 0 || bitmap.get(full).is_some_and(|bits| bits & last == last))
}

/// Copies the written sectors of `data`, which begins at guest offset `start`, to `out`, and zeros for the rest. Counts
/// the sectors that the bitmap hides and that are not zeros.
fn apply(bitmap: &[u8], data: &[u8], start: GuestOffset, out: &mut [u8], tally: &mut Tally) -> Result<()> {
    if data.len() != out.len() || bitmap.len() < out.len().div_ceil(BYTES_A_BYTE) {
        return Err(short(data));
    }
    let mut at = start;
    for (bits, (data, out)) in bitmap.iter().zip(data.chunks(BYTES_A_BYTE).zip(out.chunks_mut(BYTES_A_BYTE)))
    {
        match *bits {
            0xff => out.copy_from_slice(data),
            0 if is_zero(data) => out.fill(0),
            bits => {
                let mut sector = at;
                let sectors = data.chunks(512).zip(out.chunks_mut(512));
                for (bit, (data, out)) in (0..8u32).rev().zip(sectors) {
                    if bits.wrapping_shr(bit) & 1 == 1 {
                        out.copy_from_slice(data);
                    } else {
                        out.fill(0);
                        if !is_zero(data) {
                            tally.add(sector);
                        }
                    }
                    sector = sector.checked_add(SECTOR).unwrap_or(sector);
                }
            }
        }
        at = at.checked_add(BYTES_A_BYTE as u64).unwrap_or(at);
    }
    Ok(())
}

fn hidden(tally: &Tally) -> Option<Warning> {
    let first = tally.first?;
    Some(Warning::new(
        "bitmap_hides_data",
        format!(
            "{} sectors hold data that the sector bitmaps say was never written, the first at guest offset {first}; they read as zeros",
            tally.count
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_significant_bit_is_the_first_sector() {
        let data: Vec<u8> = (0..10u8).flat_map(|sector| [sector + 1; 512]).collect();
        let mut out = vec![0; data.len()];
        let mut tally = Tally::default();
        apply(&[0b1000_0001, 0b0100_0000], &data, GuestOffset::new(4096), &mut out, &mut tally).unwrap();
        let shown: Vec<u8> = out.chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(shown, [1, 0, 0, 0, 0, 0, 0, 8, 0, 10]);
        assert_eq!((tally.count, tally.first), (7, Some(GuestOffset::new(4096 + 512))));
    }

    #[test]
    fn a_hidden_sector_of_zeros_is_not_counted() {
        let mut out = vec![0; 1000];
        let mut tally = Tally::default();
        apply(&[0], &[0; 1000], GuestOffset::ZERO, &mut out, &mut tally).unwrap();
        assert_eq!(tally, Tally::default());
        assert!(hidden(&tally).is_none());
    }

    #[test]
    fn a_unit_of_the_wrong_length_is_an_internal_error() {
        let mut out = vec![0; 8192];
        for (bitmap, data) in [(&[0xff; 1][..], &[0; 8192][..]), (&[0xff; 2][..], &[0; 8191][..])] {
            assert!(apply(bitmap, data, GuestOffset::ZERO, &mut out, &mut Tally::default()).is_err());
        }
    }

    #[test]
    fn a_fully_written_block_has_a_verbatim_range() {
        let codec = PrefixBitmap { bitmap_bytes: 512, recovered: false };
        let mut stored = vec![0xff; 512 + 8192];
        assert_eq!(codec.verbatim_range(&stored, 8192), Some(512..8704));
        assert_eq!(codec.verbatim_range(&stored, 8191), None);
        stored[2] = 0;
        assert_eq!(codec.verbatim_range(&stored, 8192), Some(512..8704), "the bits of no sector");
        stored[1] = 0b1111_1110;
        assert_eq!(codec.verbatim_range(&stored, 8192), None);
        // The disk ends within the block.
        assert_eq!(codec.verbatim_range(&stored[..512 + 7680], 7680), Some(512..8192));
        assert_eq!(codec.verbatim_range(&stored[..512 + 7169], 7169), Some(512..7681));
        assert_eq!(codec.verbatim_range(&stored[..100], 0), None);
        let piece = SeparateBitmap(Bytes::from_static(&[0xff, 0b1100_0000]));
        assert_eq!(piece.verbatim_range(&stored[..4096 + 1024], 4096 + 1024), Some(0..5120));
        assert_eq!(piece.verbatim_range(&stored[..4096 + 1025], 4096 + 1025), None);
        assert_eq!(piece.verbatim_range(&stored, stored.len()), None);
    }
}

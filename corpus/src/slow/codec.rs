//! Decompression of one unit: an inflater that diskferry does not use, and zstd frame by frame.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_COMPUTE_ADLER32, TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::bytes::{le32, slice, up_to};

/// Maximum size of a unit. Writers do not use larger ones, but a malformed header may claim any size.
pub(super) const MOST_UNIT: u64 = 4 << 20;

/// Decodes the first `len` bytes of a raw deflate stream (RFC 1951).
pub fn inflate_raw(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (_, _, made) = decompress(&mut DecompressorOxide::new(), stored, &mut out, 0, flags);
    (made == len).then_some(out)
}

/// Decodes a zlib stream (RFC 1950) of exactly `len` bytes, and verifies its checksum.
pub fn inflate_zlib(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let flags =
        TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_COMPUTE_ADLER32;
    let (status, _, made) = decompress(&mut DecompressorOxide::new(), stored, &mut out, 0, flags);
    (status == TINFLStatus::Done && made == len).then_some(out)
}

/// Decodes a raw deflate stream; fails if a match distance exceeds `1 << window_bits` bytes.
pub fn inflate_windowed(stored: &[u8], window_bits: u8) -> Option<Vec<u8>> {
    // The output is a ring buffer of the window's size, so a longer distance cannot be resolved.
    let mut window = vec![0; 1usize.checked_shl(window_bits.into())?];
    let mut state = DecompressorOxide::new();
    let (mut out, mut rest, mut at) = (Vec::new(), stored, 0);
    loop {
        let (status, taken, made) = decompress(&mut state, rest, &mut window, at, 0);
        out.extend_from_slice(window.get(at..at.checked_add(made)?)?);
        rest = rest.get(taken..)?;
        at = at.checked_add(made)? % window.len();
        match status {
            TINFLStatus::Done => return rest.is_empty().then_some(out),
            TINFLStatus::HasMoreOutput => {}
            _ => return None,
        }
    }
}

/// Decodes zstd frames (RFC 8878) until `len` bytes are complete; ignores trailing data.
pub fn unzstd(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    while out.len() < len {
        let frame = slice(stored, at, frame_len(stored, at)?)?;
        let room = len.checked_sub(out.len())?;
        out.extend(zstd::bulk::decompress(frame, room).ok()?);
        at = at.checked_add(frame.len() as u64)?;
    }
    (out.len() == len).then_some(out)
}

/// Computes the length of the frame at `at` from its blocks: RFC 8878, section 3.1.
fn frame_len(stored: &[u8], at: u64) -> Option<u64> {
    let magic = le32(stored, at)?;
    if magic & !0xf == 0x184d_2a50 {
        return le32(stored, at.checked_add(4)?)?.checked_add(8);
    }
    if magic != 0xfd2f_b528 {
        return None;
    }
    let descriptor = *up_to(stored, at.checked_add(4)?, 1).first()?;
    let single = descriptor & 0x20 != 0;
    let size_field = match descriptor >> 6 {
        0 if single => 1,
        0 => 0,
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied()?;
    let mut next = at.checked_add(5 + u64::from(!single) + dictionary + size_field)?;
    loop {
        let [a, b, c] = *up_to(stored, next, 3) else { return None };
        let block = u32::from_le_bytes([a, b, c, 0]);
        let len = match block >> 1 & 3 {
            1 => 1,
            3 => return None,
            _ => u64::from(block >> 3),
        };
        next = next.checked_add(3)?.checked_add(len)?;
        if block & 1 != 0 {
            break;
        }
    }
    let checksum = if descriptor & 4 != 0 { 4 } else { 0 };
    next.checked_add(checksum)?.checked_sub(at)
}

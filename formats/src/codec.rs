//! Decompression of one unit at a time: deflate, zlib and zstd, each to exactly the bytes asked for.

use std::cell::RefCell;

use diskferry_core::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{self, DCtx};

thread_local! {
    /// One inflater a thread: its window and tables are allocated once.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    /// One zstd context a thread, likewise.
    static UNZSTD: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Inflates a raw deflate stream (RFC 1951) into exactly `out.len()` bytes. Whether an end marker follows is of no
/// matter, nor what lies behind it: that is how QCOW2 readers take a cluster. Gives the number of stored bytes taken.
///
/// # Errors
/// `malformed` where the stream is broken or ends before `out` is full.
pub fn inflate_raw(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    inflate_unit(stored, out).map(|(taken, _)| taken)
}

/// As [`inflate_raw`], and true where the stream has its end marker right behind the last byte wanted.
pub(crate) fn inflate_unit(stored: &[u8], out: &mut [u8]) -> Result<(usize, bool)> {
    inflate(false, stored, out).map(|(taken, status)| (taken, status == Some(Status::StreamEnd)))
}

/// Inflates a zlib stream (RFC 1950) into exactly `out.len()` bytes, and checks its Adler-32.
/// Gives the number of stored bytes taken.
///
/// # Errors
/// `malformed` where the stream is broken, its checksum is wrong, or it holds fewer or more bytes than `out`.
pub fn inflate_zlib(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    match inflate(true, stored, out)? {
        (taken, Some(Status::StreamEnd)) => Ok(taken),
        _ => Err(Error::malformed(format!(
            "a compressed unit does not end, with its checksum right, after {} bytes",
            out.len()
        ))),
    }
}

/// Fills `out`. The status is none where the stream turned out broken behind the last byte wanted.
fn inflate(zlib: bool, stored: &[u8], out: &mut [u8]) -> Result<(usize, Option<Status>)> {
    INFLATER.with_borrow_mut(|state| {
        state.reset(zlib);
        let result = state.decompress(stored, out, FlushDecompress::Finish);
        let made = state.total_out();
        let taken = usize::try_from(state.total_in()).unwrap_or(stored.len());
        match result {
            Ok(status) if made == out.len() as u64 => Ok((taken, Some(status))),
            Err(_) if made == out.len() as u64 => Ok((taken, None)),
            Ok(_) => Err(Error::malformed(format!(
                "a compressed unit ends after {made} bytes and should hold {}",
                out.len()
            ))),
            Err(error) => {
                Err(Error::malformed(format!("a compressed unit is broken after {made} bytes: {error}")))
            }
        }
    })
}

/// Decompresses zstd frames (RFC 8878), one or several, into exactly `out.len()` bytes; what lies behind the frame
/// that fills it is not looked at: that is how QCOW2 readers take a cluster. Gives the number of stored bytes taken.
///
/// A frame is decoded in one call straight into `out`, which is its window: whatever window a frame asks for costs
/// no memory.
///
/// # Errors
/// `malformed` where a frame is broken, its checksum is wrong, or the frames hold fewer bytes than `out`, or the last
/// one more.
pub fn unzstd(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    UNZSTD.with_borrow_mut(|context| {
        let wanted = out.len();
        let (mut frames, mut room) = (stored, out);
        while !room.is_empty() {
            let broken = |code| {
                Error::malformed(format!(
                    "a compressed unit of {wanted} bytes is broken in the zstd frame at byte {}: {}",
                    stored.len().saturating_sub(frames.len()),
                    zstd_safe::get_error_name(code)
                ))
            };
            let length = zstd_safe::find_frame_compressed_size(frames).map_err(broken)?;
            let (frame, behind) = frames
                .split_at_checked(length)
                .ok_or_else(|| Error::internal("a zstd frame is longer than its bytes"))?;
            let made = context.decompress(room, frame).map_err(broken)?;
            room = room
                .get_mut(made..)
                .ok_or_else(|| Error::internal("a zstd frame made more bytes than it had room for"))?;
            frames = behind;
        }
        Ok(stored.len().saturating_sub(frames.len()))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use diskferry_core::error::ErrorKind;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000u32).map(|i| (i * i / 7 % 251) as u8).collect()
    }

    fn deflated() -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&text()).unwrap();
        encoder.finish().unwrap()
    }

    fn zlibbed() -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&text()).unwrap();
        encoder.finish().unwrap()
    }

    fn malformed(result: Result<usize>) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn deflate_fills_a_unit_whatever_follows() {
        let stored = deflated();
        let mut out = vec![0; 20_000];
        assert_eq!(inflate_raw(&stored, &mut out).unwrap(), stored.len());
        assert_eq!(out, text());
        for garbage in [&[0xffu8; 300][..], &[0; 300], b"\x06\x07\x06\x07"] {
            out.fill(0);
            inflate_raw(&[&stored, garbage].concat(), &mut out).unwrap();
            assert_eq!(out, text());
        }
        inflate_raw(&stored, &mut out[..10_000]).unwrap();
    }

    #[test]
    fn deflate_needs_no_end_marker() {
        let mut stored = Vec::with_capacity(30_000);
        let mut encoder = Compress::new(Compression::default(), false);
        encoder.compress_vec(&text(), &mut stored, FlushCompress::Sync).unwrap();
        let mut out = vec![0; 20_000];
        inflate_raw(&stored, &mut out).unwrap();
        assert_eq!(out, text());
        for garbage in [&[0xffu8; 300][..], &[0x07; 300]] {
            out.fill(0);
            inflate_raw(&[&stored, garbage].concat(), &mut out).unwrap();
            assert_eq!(out, text(), "what lies behind the last byte wanted is of no matter");
        }
    }

    #[test]
    fn a_unit_that_ends_early_or_breaks_is_malformed() {
        let stored = deflated();
        let mut out = vec![0; 20_001];
        malformed(inflate_raw(&stored, &mut out));
        malformed(inflate_raw(&stored[..stored.len() / 2], &mut out[..20_000]));
        malformed(inflate_raw(&[0xff; 100], &mut out));
        malformed(inflate_raw(&[], &mut out));
        // A failure leaves nothing behind for the next.
        inflate_raw(&stored, &mut out[..20_000]).unwrap();
        assert_eq!(&out[..20_000], text());
    }

    #[test]
    fn zlib_is_exact_and_checked() {
        let stored = zlibbed();
        let mut out = vec![0; 20_001];
        assert_eq!(inflate_zlib(&[&stored[..], &[1; 9]].concat(), &mut out[..20_000]).unwrap(), stored.len());
        assert_eq!(&out[..20_000], text());
        malformed(inflate_zlib(&stored, &mut out));
        malformed(inflate_zlib(&stored, &mut out[..19_999]));
        malformed(inflate_zlib(&stored[..stored.len() - 1], &mut out[..20_000]));
        let mut wrong = stored;
        *wrong.last_mut().unwrap() ^= 1;
        malformed(inflate_zlib(&wrong, &mut out[..20_000]));
    }

    #[test]
    fn zstd_frames_fill_a_unit_whatever_follows() {
        let frames = [
            zstd::bulk::compress(&text()[..7], 3).unwrap(),
            zstd::bulk::compress(&[], 3).unwrap(),
            // A skippable frame of five bytes.
            vec![0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5],
            zstd::bulk::compress(&text()[7..], 19).unwrap(),
        ]
        .concat();
        let mut out = vec![0; 20_000];
        assert_eq!(unzstd(&frames, &mut out).unwrap(), frames.len());
        assert_eq!(out, text());
        out.fill(0);
        assert_eq!(unzstd(&[&frames[..], &[0xab; 500]].concat(), &mut out).unwrap(), frames.len());
        assert_eq!(out, text());
    }

    #[test]
    fn zstd_frames_that_are_no_unit_are_malformed() {
        let frame = zstd::bulk::compress(&text(), 3).unwrap();
        let mut out = vec![0; 20_001];
        malformed(unzstd(&frame, &mut out));
        malformed(unzstd(&frame, &mut out[..19_999]));
        malformed(unzstd(&frame[..frame.len() - 1], &mut out[..20_000]));
        malformed(unzstd(&[&frame[..], &[0xab; 500]].concat(), &mut out));
        malformed(unzstd(&[], &mut out));
        malformed(unzstd(&[0; 64], &mut out));
        unzstd(&frame, &mut out[..20_000]).unwrap();
        assert_eq!(&out[..20_000], text());
    }

    #[test]
    fn a_zstd_frame_may_ask_for_a_window_larger_than_the_unit() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(&text()).unwrap();
        let mut frame = encoder.finish().unwrap();
        let mut out = vec![0; 20_000];
        unzstd(&frame, &mut out).unwrap();
        assert_eq!(out, text());
        *frame.last_mut().unwrap() ^= 1;
        malformed(unzstd(&frame, &mut out));
    }
}

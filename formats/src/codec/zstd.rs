//! zstd compression and decompression.

use std::cell::RefCell;

use diskferry_core::{Error, Result};
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, ResetDirective};

thread_local! {
    /// One of each per thread: their tables are allocated once.
    static UNZSTD: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static ZSTD: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

/// zstd's error code if the output does not fit.
const ZSTD_DOES_NOT_FIT: usize = (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

/// Decompresses one or several zstd frames (RFC 8878) into exactly `out.len()` bytes. Bytes after the frame that fills
/// `out` are ignored, as in other QCOW2 readers. Returns the number of stored bytes that were consumed.
///
/// A frame is decoded in one call directly into `out`, which serves as its window. So the window size that a frame
/// declares costs no memory.
///
/// # Errors
/// `malformed` if a frame is invalid, its checksum is wrong, the frames have fewer bytes than `out`, or the last one
/// has more.
pub fn unzstd(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    UNZSTD.with_borrow_mut(|context| {
        let wanted = out.len();
        let (mut frames, mut room) = (stored, out);
        while !room.is_empty() {
            let broken = |code| {
                Error::malformed(format!(
                    "a compressed unit of {wanted} bytes is invalid in the zstd frame at byte {}: {}",
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
                .ok_or_else(|| Error::internal("a zstd frame produced more bytes than its buffer holds"))?;
            frames = behind;
        }
        Ok(stored.len().saturating_sub(frames.len()))
    })
}

/// True for one complete zstd frame (RFC 8878, section 3.1.1) with a window that every decoder supports. Decoders that
/// read a cluster in pieces, such as QEMU's, refuse windows of more than 128 MiB. This reader decodes into the cluster
/// itself and supports any window.
pub(crate) fn is_modest_frame(stream: &[u8]) -> bool {
    const MAGIC: [u8; 4] = 0xfd2f_b528u32.to_le_bytes();
    const SINGLE_SEGMENT: u8 = 1 << 5;
    const MOST_WINDOW_LOG: u8 = 27;
    let Some(([magic @ .., descriptor, window], _)) = stream.split_first_chunk::<6>() else { return false };
    let whole = zstd_safe::find_frame_compressed_size(stream) == Ok(stream.len());
    // The mantissa adds up to seven eighths.
    let modest = descriptor & SINGLE_SEGMENT != 0 || (window >> 3) < MOST_WINDOW_LOG - 10;
    *magic == MAGIC && whole && modest
}

/// Compresses `unit` into the beginning of `out` as one zstd frame (RFC 8878) without a checksum, at `level`, 1 to 22.
/// Returns the frame's length; `None` if it does not fit in `out`.
///
/// # Errors
/// `internal` if there is not enough memory.
pub fn zstd(level: u32, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    ZSTD.with_borrow_mut(|context| {
        let failed = |code| {
            let why = zstd_safe::get_error_name(code);
            Error::internal(format!("compressing a unit failed: {why}"))
        };
        // After a frame that did not fit, the state is incomplete.
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        let level = i32::try_from(level).unwrap_or(i32::MAX);
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
        match context.compress2(out, unit) {
            Ok(length) => Ok(Some(length)),
            Err(ZSTD_DOES_NOT_FIT) => Ok(None),
            Err(code) => Err(failed(code)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::made::{malformed, text};
    use super::*;

    #[test]
    fn a_frame_is_modest_if_every_decoder_accepts_it() {
        let frame = zstd::bulk::compress(&text(), 3).unwrap();
        assert!(is_modest_frame(&frame));
        assert!(!is_modest_frame(&[&frame[..], &frame].concat()), "two frames");
        assert!(!is_modest_frame(&frame[..frame.len() - 1]) && !is_modest_frame(b""));
        // An empty raw block after a window descriptor.
        let with_window = |descriptor| [&[0x28, 0xb5, 0x2f, 0xfd, 0, descriptor][..], &[1, 0, 0]].concat();
        assert!(is_modest_frame(&with_window(16 << 3 | 7)));
        assert!(!is_modest_frame(&with_window(17 << 3 | 1)), "more than 128 MiB");
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
    fn zstd_frames_that_are_not_a_unit_are_malformed() {
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

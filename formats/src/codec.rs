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
    inflate(false, stored, out).map(|(taken, _)| taken)
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

//! Decompression of one unit at a time: deflate, zlib and zstd, each to exactly the bytes asked for.

use diskferry_core::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use std::cell::RefCell;

thread_local! {
    /// One inflater a thread: its window and tables are allocated once.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
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
        (taken, Status::StreamEnd) => Ok(taken),
        _ => Err(Error::malformed(format!("a compressed unit does not end after {} bytes", out.len()))),
    }
}

fn inflate(zlib: bool, stored: &[u8], out: &mut [u8]) -> Result<(usize, Status)> {
    INFLATER.with_borrow_mut(|state| {
        state.reset(zlib);
        let status = state
            .decompress(stored, out, FlushDecompress::Finish)
            .map_err(|error| Error::malformed(format!("a compressed unit is broken: {error}")))?;
        let made = state.total_out();
        if made != out.len() as u64 {
            return Err(Error::malformed(format!(
                "a compressed unit ends after {made} bytes and should hold {}",
                out.len()
            )));
        }
        Ok((usize::try_from(state.total_in()).unwrap_or(stored.len()), status))
    })
}

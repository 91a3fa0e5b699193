//! Inflates with zlib-rs.
//!
//! libdeflate takes four fifths of the time for clusters of programs. But it accepts raw streams that zlib refuses:
//! Huffman codes of a single word where either bit is that word, and lengths and distances that RFC 1951 leaves
//! undefined. A raw stream has no checksum, so a damaged stream could then be decoded as content.

use std::cell::RefCell;

use diskferry_core::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};

thread_local! {
    /// One per thread: its tables and window are allocated once.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Inflates a raw deflate stream (RFC 1951) into exactly `out.len()` bytes. The end marker and the bytes after it are
/// ignored, as in other QCOW2 readers. Returns the number of stored bytes that were consumed.
///
/// # Errors
/// `malformed` if the stream is invalid or ends before `out` is full.
pub fn inflate_raw(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    inflate_unit(stored, out).map(|(taken, _)| taken)
}

/// Like [`inflate_raw`], and returns true if the end marker directly follows the last requested byte.
pub(crate) fn inflate_unit(stored: &[u8], out: &mut [u8]) -> Result<(usize, bool)> {
    inflate(false, stored, out).map(|(taken, status)| (taken, status == Some(Status::StreamEnd)))
}

/// Inflates a zlib stream (RFC 1950) into exactly `out.len()` bytes, and checks its Adler-32.
/// Returns the number of stored bytes that were consumed.
///
/// # Errors
/// `malformed` if the stream is invalid, its checksum is wrong, or its length is not that of `out`.
pub fn inflate_zlib(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    match inflate(true, stored, out)? {
        (taken, Some(Status::StreamEnd)) => Ok(taken),
        _ => Err(Error::malformed(format!(
            "a compressed unit does not end, with its checksum right, after {} bytes",
            out.len()
        ))),
    }
}

/// Fills `out`. The status is `None` if the stream is invalid after the last requested byte.
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use flate2::{Compress, Compression, FlushCompress};

    use super::super::made::{malformed, text};
    use super::*;

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
            assert_eq!(out, text(), "bytes after the last requested byte are ignored");
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
        // A failure does not affect later units.
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
}

//! Inflating.
//!
//! Whole streams of the right length, which is what images are made of, go through libdeflate: it was measured to take
//! four fifths of zlib-rs's time. It knows no other streams, and whatever it refuses is given to zlib-rs from its
//! beginning, whose answer counts: a stream without its end marker is as good as another, and what is wrong is told with
//! its place. So hostile streams cost the sum of both.
//!
//! libdeflate takes a few raw streams that zlib refuses: Huffman codes of a single word where either bit is that word,
//! lengths and distances that RFC 1951 leaves undefined. No deflater makes them, they stay within `out`, and a raw stream
//! has no checksum that would tell what was meant.

use std::cell::RefCell;

use diskferry_core::error::{Error, Result};
use diskferry_inflate::{Inflater, Wrapping};
use flate2::{Decompress, FlushDecompress, Status};

thread_local! {
    /// One of each a thread: tables and window are allocated once.
    static WHOLE: RefCell<Option<Inflater>> = RefCell::new(Inflater::new());
    static OTHER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
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
    if let Some(taken) = inflate_whole(Wrapping::Raw, stored, out) {
        return Ok((taken, true));
    }
    inflate_other(Wrapping::Raw, stored, out)
        .map(|(taken, status)| (taken, status == Some(Status::StreamEnd)))
}

/// Inflates a zlib stream (RFC 1950) into exactly `out.len()` bytes, and checks its Adler-32.
/// Gives the number of stored bytes taken.
///
/// # Errors
/// `malformed` where the stream is broken, its checksum is wrong, or it holds fewer or more bytes than `out`.
pub fn inflate_zlib(stored: &[u8], out: &mut [u8]) -> Result<usize> {
    if let Some(taken) = inflate_whole(Wrapping::Zlib, stored, out) {
        return Ok(taken);
    }
    match inflate_other(Wrapping::Zlib, stored, out)? {
        (taken, Some(Status::StreamEnd)) => Ok(taken),
        _ => Err(Error::malformed(format!(
            "a compressed unit does not end, with its checksum right, after {} bytes",
            out.len()
        ))),
    }
}

/// Fills `out` from a stream that ends with it; the bytes that it took.
fn inflate_whole(wrapping: Wrapping, stored: &[u8], out: &mut [u8]) -> Option<usize> {
    WHOLE.with_borrow_mut(|state| state.as_mut()?.inflate(wrapping, stored, out))
}

/// Fills `out`. The status is none where the stream turned out broken behind the last byte wanted.
fn inflate_other(wrapping: Wrapping, stored: &[u8], out: &mut [u8]) -> Result<(usize, Option<Status>)> {
    OTHER.with_borrow_mut(|state| {
        state.reset(wrapping == Wrapping::Zlib);
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
    use proptest::prelude::*;

    use super::super::made::{malformed, noise, text};
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

    /// A unit of text, noise and zeros.
    fn unit() -> impl Strategy<Value = Vec<u8>> {
        let part = (0..3u8, 1..3000usize).prop_map(|(kind, len)| match kind {
            0 => vec![0; len],
            1 => noise(len),
            _ => text().into_iter().skip(len).take(len).collect(),
        });
        prop::collection::vec(part, 1..12).prop_map(|parts| parts.concat())
    }

    /// How a stream comes to us.
    #[derive(Clone, Debug)]
    enum Harm {
        None,
        Followed(usize),
        Cut(prop::sample::Index),
        Flipped(prop::sample::Index, u8),
        Shorter(prop::sample::Index),
        Longer(usize),
    }

    fn harm() -> impl Strategy<Value = Harm> {
        prop_oneof![
            Just(Harm::None),
            (1..600usize).prop_map(Harm::Followed),
            any::<prop::sample::Index>().prop_map(Harm::Cut),
            (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Harm::Flipped(at, bit)),
            any::<prop::sample::Index>().prop_map(Harm::Shorter),
            (1..600usize).prop_map(Harm::Longer),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn both_ways_answer_the_same(unit in unit(), level in 0..10u32, zlib: bool, flush: bool, harm in harm()) {
            let mut stream = vec![0; unit.len() * 2 + 1000];
            let mut deflater = Compress::new(Compression::new(level), zlib);
            let mode = if flush { FlushCompress::Full } else { FlushCompress::Finish };
            deflater.compress(&unit, &mut stream, mode).unwrap();
            stream.truncate(deflater.total_out() as usize);
            let mut wanted = unit.len();
            match &harm {
                Harm::None => {}
                Harm::Followed(len) => stream.extend(noise(*len)),
                Harm::Cut(at) => stream.truncate(at.index(stream.len())),
                Harm::Flipped(at, bit) => {
                    let at = at.index(stream.len());
                    stream[at] ^= 1 << bit;
                }
                Harm::Shorter(len) => wanted = len.index(wanted),
                Harm::Longer(more) => wanted += more,
            }
            let wrapping = if zlib { Wrapping::Zlib } else { Wrapping::Raw };
            let (mut fast, mut slow) = (vec![1; wanted], vec![2; wanted]);
            let whole = inflate_whole(wrapping, &stream, &mut fast);
            let other = inflate_other(wrapping, &stream, &mut slow);
            match (whole, other) {
                (None, _) => {
                    let untouched = matches!(harm, Harm::None | Harm::Followed(_)) && !flush;
                    prop_assert!(!untouched, "what is whole takes the fast way");
                }
                (Some(taken), Ok((same, status))) => {
                    prop_assert_eq!((taken, Some(Status::StreamEnd)), (same, status));
                    prop_assert!(fast == slow);
                }
                // The module says why; no checksum tells either.
                (Some(_), Err(_)) => prop_assert!(!zlib && matches!(harm, Harm::Flipped(..))),
            }
        }
    }
}

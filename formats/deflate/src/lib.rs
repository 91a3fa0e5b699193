//! Deflate with a window smaller than 32 KiB and adjustable search limits.
//!
//! zlib's levels 7 to 9 combine the best match strategy with long searches. Only `deflateTune` sets the length of the
//! searches independently, and zlib-rs offers it only in the interface of zlib's C API. This crate is a safe wrapper
//! around that call and the calls that it needs. It is a separate crate because only this code calls zlib through
//! `unsafe`. The output does not depend on earlier use of a [`Deflater`].

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fmt;

use libz_rs_sys::{
    Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_FINISH, Z_OK, Z_STREAM_END, deflate, deflateEnd, deflateInit2_,
    deflateReset, deflateTune, z_stream, zlibVersion,
};

/// A call of zlib that failed, or invalid parameters. Always a defect of the caller or a lack of memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// The search parameters of a [`Deflater`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeflateEffort {
    /// zlib's level, 0 to 9.
    pub level: u32,
    /// The search limits, if they differ from those of the level.
    pub search: Option<DeflateSearch>,
}

/// The four numbers of zlib's `deflateTune`, lengths in bytes up to 258.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeflateSearch {
    /// With a match of this length, the search for a better one at the next byte is a quarter as long.
    pub good: u16,
    /// With a match of this length, the next byte is not searched.
    pub lazy: u16,
    /// With a match of this length, the search ends.
    pub nice: u16,
    /// Positions that are searched for a match.
    pub chain: u16,
}

/// The state of a deflater of raw streams (RFC 1951), for many successive units.
pub struct Deflater {
    /// Boxed, because zlib's state may contain pointers to it.
    stream: Box<z_stream>,
    effort: DeflateEffort,
    window_bits: u8,
    /// The last unit did not fit in its buffer. After that, zlib-rs 0.6 loses a part of its own buffer with each reset,
    /// until none is left.
    torn: bool,
}

// SAFETY: zlib's state belongs to one stream and not to a thread; `&Deflater` does not give access to it.
unsafe impl Send for Deflater {}

impl Deflater {
    /// Creates a deflater. No match in its streams reaches back further than `1 << window_bits` bytes, 9 to 15 bits.
    ///
    /// # Errors
    /// An [`Error`] if level or bits are out of range, or there is not enough memory (about 256 KiB).
    pub fn new(effort: DeflateEffort, window_bits: u8) -> Result<Self> {
        if effort.level > 9 || !(9..=15).contains(&window_bits) {
            return Err(Error(format!("invalid deflate parameters: {effort:?}, {window_bits} bits")));
        }
        Ok(Self { stream: begin(effort, window_bits)?, effort, window_bits, torn: false })
    }

    /// The parameters that it was created with.
    pub fn effort(&self) -> (DeflateEffort, u8) {
        (self.effort, self.window_bits)
    }

    /// Deflates `unit` into the beginning of `out`, with the end marker. Returns the length of the stream; `None` if it
    /// does not fit with a byte to spare.
    ///
    /// # Errors
    /// An [`Error`] for a unit of 4 GiB or more.
    pub fn deflate(&mut self, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        let too_long = |_| Error(format!("a unit of {} bytes is too long to deflate", unit.len()));
        let avail_in = u32::try_from(unit.len()).map_err(too_long)?;
        // More than 4 GiB is never needed.
        let avail_out = u32::try_from(out.len()).unwrap_or(u32::MAX);
        if self.torn {
            // The new stream is boxed before the old one is dropped, so that one of the two is always complete.
            let fresh = begin(self.effort, self.window_bits)?;
            self.end();
            self.stream = fresh;
            self.torn = false;
        } else {
            // SAFETY: `begin` initialised the stream. Only `end`, before a new stream or in drop, ends it.
            check("resetting", unsafe { deflateReset(&mut *self.stream) })?;
        }
        tune(&mut self.stream, self.effort)?;
        let stream = &mut *self.stream;
        stream.next_in = unit.as_ptr();
        stream.avail_in = avail_in;
        stream.next_out = out.as_mut_ptr();
        stream.avail_out = avail_out;
        // SAFETY: the stream is initialised, and its two areas are the two slices that are borrowed until this returns:
        // it reads `avail_in` bytes of the one, initialised, and writes at most `avail_out` of the other.
        let ended = unsafe { deflate(stream, Z_FINISH) };
        stream.next_in = std::ptr::null();
        stream.next_out = std::ptr::null_mut();
        self.torn = ended != Z_STREAM_END;
        if self.torn {
            return check_stopped(ended).map(|()| None);
        }
        Ok(Some((avail_out - self.stream.avail_out) as usize))
    }

    fn end(&mut self) {
        // SAFETY: the stream is initialised; after this it is replaced or dropped.
        unsafe { deflateEnd(&mut *self.stream) };
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Deflater")
            .field("effort", &self.effort)
            .field("window_bits", &self.window_bits)
            .finish()
    }
}

impl Drop for Deflater {
    fn drop(&mut self) {
        self.end();
    }
}

/// An initialised stream.
fn begin(effort: DeflateEffort, window_bits: u8) -> Result<Box<z_stream>> {
    /// Symbols per block, as zlib's `memLevel`: 2¹³. With more, a block's code fits parts of a unit worse: programs are
    /// 0.2 % longer with zlib's default, 8.
    const MEMORY_LEVEL: c_int = 7;
    let mut stream = Box::new(z_stream::default());
    let level = c_int::try_from(effort.level).unwrap_or(c_int::MAX);
    // SAFETY: the stream is zlib's default, without allocators, so that zlib-rs uses those of Rust. Version and size
    // are those of the called library. Negative bits select a raw stream.
    let begun = unsafe {
        deflateInit2_(
            &mut *stream,
            level,
            Z_DEFLATED,
            -c_int::from(window_bits),
            MEMORY_LEVEL,
            Z_DEFAULT_STRATEGY,
            zlibVersion(),
            size_of::<z_stream>() as c_int,
        )
    };
    check("beginning", begun)?;
    Ok(stream)
}

/// A reset restores the limits of the level.
fn tune(stream: &mut z_stream, effort: DeflateEffort) -> Result<()> {
    let Some(DeflateSearch { good, lazy, nice, chain }) = effort.search else { return Ok(()) };
    // SAFETY: the stream is initialised. The numbers are limits of searches, which zlib bounds by the window besides.
    let tuned = unsafe { deflateTune(stream, good.into(), lazy.into(), nice.into(), chain.into()) };
    check("tuning", tuned)
}

fn check(doing: &str, code: c_int) -> Result<()> {
    if code == Z_OK { Ok(()) } else { Err(Error(format!("{doing} a deflater failed: zlib's code {code}"))) }
}

/// A full output buffer is not an error: zlib reports success, or that it can do nothing more.
fn check_stopped(code: c_int) -> Result<()> {
    if code == libz_rs_sys::Z_BUF_ERROR { Ok(()) } else { check("deflating with", code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..3000).flat_map(|i| format!("line {} of {}\n", i % 97, i * i % 1009).into_bytes()).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn short(level: u32) -> DeflateEffort {
        DeflateEffort { level, search: Some(DeflateSearch { good: 4, lazy: 4, nice: 32, chain: 24 }) }
    }

    #[test]
    fn a_unit_becomes_the_same_bytes_whatever_was_deflated_or_did_not_fit_before() {
        let unit = text();
        let mut first = vec![0; unit.len()];
        let len = Deflater::new(short(9), 12).unwrap().deflate(&unit, &mut first).unwrap().unwrap();
        assert!(len < unit.len() / 3, "{len}");
        let mut deflater = Deflater::new(short(9), 12).unwrap();
        let mut out = vec![0; unit.len()];
        for round in 0..50 {
            let noise = noise(9000 + round);
            assert_eq!(deflater.deflate(&noise, &mut out[..8000]).unwrap(), None);
            assert_eq!(deflater.deflate(&unit, &mut out[..len - 1]).unwrap(), None);
            assert_eq!(deflater.deflate(&unit, &mut []).unwrap(), None);
            assert_eq!(deflater.deflate(&unit, &mut out[..=len]).unwrap(), Some(len));
            assert!(out[..len] == first[..len], "round {round}");
            assert!(deflater.deflate(&noise, &mut out).unwrap().is_some());
            assert_eq!(deflater.deflate(&unit, &mut out).unwrap(), Some(len));
            assert!(out[..len] == first[..len], "round {round}");
        }
    }

    #[test]
    fn the_search_is_what_it_was_tuned_to_for_every_unit() {
        let (unit, mut out) = (text(), vec![0; 100_000]);
        let mut lengths = |effort| {
            let mut deflater = Deflater::new(effort, 12).unwrap();
            [(); 3].map(|()| deflater.deflate(&unit, &mut out).unwrap().unwrap())
        };
        let (plain, tuned) = (lengths(DeflateEffort { level: 9, search: None }), lengths(short(9)));
        assert!(plain[0] < tuned[0], "shorter searches find less: {plain:?}, {tuned:?}");
        assert_eq!((plain, tuned), ([plain[0]; 3], [tuned[0]; 3]));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let effort = |level| DeflateEffort { level, search: None };
        for (effort, bits) in [(effort(10), 12), (effort(9), 8), (effort(9), 16)] {
            assert!(Deflater::new(effort, bits).is_err());
        }
        for level in 0..=9 {
            for bits in 9..=15 {
                let mut out = vec![0; 1000];
                let mut deflater = Deflater::new(effort(level), bits).unwrap();
                assert!(deflater.deflate(b"", &mut out).unwrap().is_some());
            }
        }
    }
}

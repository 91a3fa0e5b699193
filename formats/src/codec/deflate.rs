//! Deflate compression.
//!
//! Streams with a window of 32 KiB come from libdeflate. In measurements its output was shorter than that of zlib-rs,
//! in two thirds of the time. libdeflate has no smaller window, so streams with 4 KiB come from zlib-rs, with search
//! limits set by [`narrow_effort`].

use std::cell::RefCell;

use diskferry_core::{Error, Result};
use diskferry_deflate::{DeflateEffort, DeflateSearch, Deflater};
use libdeflater::{CompressionLvl, Compressor};
use zlib_rs::adler32::adler32;

thread_local! {
    /// One of each per thread, with its parameters: all units of a target are deflated in the same way.
    static WIDE: RefCell<Option<(u32, Compressor)>> = const { RefCell::new(None) };
    static NARROW: RefCell<Option<Deflater>> = const { RefCell::new(None) };
}

/// Most bytes of a stored block of deflate.
const STORED_BLOCK: usize = 65_535;
/// The bytes before a stored block: its type, its length, and the inverted length.
const STORED_HEADER: usize = 5;
/// The header of RFC 1950: a window of 32 KiB, the default level, and a check value.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x9c];
/// The largest window of deflate, 32 KiB.
const MOST_WINDOW_BITS: u8 = 15;
/// The highest level on zlib's scale.
const MOST_LEVEL: u32 = 9;
/// The Adler-32 after the stream.
const ZLIB_TRAILER: usize = 4;

/// The longest output of [`deflate_zlib`] for a unit of `len` bytes: its size if nothing shrinks.
pub const fn most_zlib(len: usize) -> usize {
    let blocks = if len == 0 { 1 } else { len.div_ceil(STORED_BLOCK) };
    len.saturating_add(blocks.saturating_mul(STORED_HEADER))
        .saturating_add(ZLIB_HEADER.len())
        .saturating_add(ZLIB_TRAILER)
}

/// Deflates `unit` into the beginning of `out` as a zlib stream (RFC 1950) with a window of 32 KiB, at `level`, 0 to 9.
/// A unit whose stream would be longer than [`most_zlib`] is stored. Returns the stream's length.
///
/// # Errors
/// `internal` if `out` is shorter than [`most_zlib`], or the level is out of range.
pub fn deflate_zlib(level: u32, unit: &[u8], out: &mut [u8]) -> Result<usize> {
    let most = most_zlib(unit.len());
    let room = out.get_mut(..most).ok_or_else(|| Error::internal("too little room to deflate into"))?;
    // The header is the same for every level, also for streams that are copied.
    let between = ZLIB_HEADER.len()..most.saturating_sub(ZLIB_TRAILER);
    let body = room.get_mut(between).unwrap_or_default();
    let Some(length) = with_compressor(level, |state| state.deflate_compress(unit, body).ok())? else {
        return store_zlib(unit, room);
    };
    let mut frame = || {
        let (header, rest) = room.split_at_mut_checked(ZLIB_HEADER.len())?;
        header.copy_from_slice(&ZLIB_HEADER);
        let end = length.checked_add(ZLIB_TRAILER)?;
        rest.get_mut(length..end)?.copy_from_slice(&adler32(1, unit).to_be_bytes());
        end.checked_add(ZLIB_HEADER.len())
    };
    frame().ok_or_else(|| Error::internal("a deflated unit is longer than its room"))
}

/// Deflates `unit` into the beginning of `out` as a raw stream (RFC 1951) with its end marker. No match reaches back
/// further than `1 << window_bits` bytes, 9 to 15 bits. `level` is 0 to 9. Returns the stream's length; `None` if it
/// does not fit in `out`.
///
/// # Errors
/// `internal` if bits or level are out of range.
pub fn deflate_raw(level: u32, window_bits: u8, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    if window_bits == MOST_WINDOW_BITS {
        return with_compressor(level, |state| state.deflate_compress(unit, out).ok());
    }
    let how = (narrow_effort(level), window_bits);
    NARROW.with_borrow_mut(|kept| {
        let deflater = match kept {
            Some(kept) if kept.effort() == how => kept,
            _ => kept.insert(Deflater::new(how.0, how.1).map_err(failed)?),
        };
        deflater.deflate(unit, out).map_err(failed)
    })
}

/// The error for invalid parameters or a lack of memory.
fn failed(error: diskferry_deflate::Error) -> Error {
    Error::internal(error.to_string()).caused_by(error)
}

/// The search parameters of zlib-rs at `level`. Levels 6 to 8 use the match strategy of zlib's level 9, which is the
/// best and costs no time itself, with shorter searches. Level 6 then takes the time of zlib's level 6, and streams are
/// 1.4 % shorter (see PERFORMANCE.md). The other levels are zlib's.
fn narrow_effort(level: u32) -> DeflateEffort {
    let search = |good, lazy, nice, chain| DeflateEffort {
        level: MOST_LEVEL,
        search: Some(DeflateSearch { good, lazy, nice, chain }),
    };
    match level {
        6 => search(4, 4, 32, 24),
        7 => search(8, 16, 64, 64),
        8 => search(32, 128, 258, 256),
        level => DeflateEffort { level, search: None },
    }
}

/// Borrows this thread's libdeflate of that level. It only refuses output that does not fit.
fn with_compressor<T>(level: u32, work: impl FnOnce(&mut Compressor) -> T) -> Result<T> {
    let lvl = i32::try_from(level).ok().filter(|_| level <= MOST_LEVEL);
    let lvl = lvl.and_then(|level| CompressionLvl::new(level).ok());
    let lvl = lvl.ok_or_else(|| Error::internal(format!("there is no level {level} to deflate at")))?;
    WIDE.with_borrow_mut(|kept| {
        let (_, state) = match kept {
            Some(kept) if kept.0 == level => kept,
            _ => kept.insert((level, Compressor::new(lvl))),
        };
        Ok(work(state))
    })
}

/// Wraps a raw deflate stream (RFC 1951) of exactly `unit` into a zlib stream at the beginning of `out`. Returns its
/// length, or `None` if `out` is too short.
pub fn wrap_zlib(stream: &[u8], unit: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut room = Room { out, used: 0 };
    room.put(&ZLIB_HEADER)?;
    room.put(stream)?;
    room.put(&adler32(1, unit).to_be_bytes())?;
    Some(room.used)
}

/// Encodes a zlib stream of stored blocks.
fn store_zlib(unit: &[u8], out: &mut [u8]) -> Result<usize> {
    let store = |out| {
        let mut room = Room { out, used: 0 };
        room.put(&ZLIB_HEADER)?;
        let mut blocks = unit.chunks(STORED_BLOCK).peekable();
        while let Some(block) = blocks.next() {
            let len = u16::try_from(block.len()).ok()?;
            room.put(&[u8::from(blocks.peek().is_none())])?;
            room.put(&len.to_le_bytes())?;
            room.put(&(!len).to_le_bytes())?;
            room.put(block)?;
        }
        room.put(&adler32(1, unit).to_be_bytes())?;
        Some(room.used)
    };
    store(out).ok_or_else(|| Error::internal("too little room to store a unit"))
}

/// A buffer that is filled from its beginning.
struct Room<'a> {
    out: &'a mut [u8],
    used: usize,
}

impl Room<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.used.checked_add(bytes.len())?;
        self.out.get_mut(self.used..end)?.copy_from_slice(bytes);
        self.used = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use diskferry_core::ErrorKind;

    use super::super::made::{noise, text};
    use super::super::{inflate_unit, inflate_zlib, unzstd, zstd};
    use super::*;

    #[test]
    fn deflated_units_inflate_to_themselves_within_the_bound() {
        for len in [1, 511, 65_535, 65_536, 65_537, 2 << 20] {
            let units = [noise(len), vec![0; len], text().into_iter().cycle().take(len).collect()];
            for unit in units {
                for level in [6, 0, 9, 1, 6] {
                    let mut out = vec![0xaa; most_zlib(len) + 7];
                    let made = deflate_zlib(level, &unit, &mut out).unwrap();
                    assert!(made <= most_zlib(len), "{len} at {level}");
                    let mut back = vec![0; len];
                    assert_eq!(inflate_zlib(&out[..made], &mut back).unwrap(), made);
                    assert!(back == unit, "{len} at {level}");
                    let mut again = vec![0; most_zlib(len)];
                    assert_eq!(deflate_zlib(level, &unit, &mut again).unwrap(), made);
                    assert!(again[..made] == out[..made], "the same bytes every time");
                }
            }
        }
    }

    #[test]
    fn a_higher_level_does_not_lengthen_the_stream() {
        let unit: Vec<u8> = text().into_iter().cycle().take(65_536).collect();
        let mut out = vec![0; 65_536];
        let lengths = [1, 6, 7, 8, 9].map(|level| deflate_raw(level, 12, &unit, &mut out).unwrap().unwrap());
        assert!(lengths.is_sorted_by(|one, next| one >= next), "{lengths:?}");
    }

    #[test]
    fn noise_is_stored_within_the_bound() {
        let unit = noise(65_536);
        let mut out = vec![0; most_zlib(unit.len())];
        assert_eq!(store_zlib(&unit, &mut out).unwrap(), out.len());
        let mut back = vec![0; unit.len()];
        inflate_zlib(&out, &mut back).unwrap();
        assert!(back == unit);
        assert!(store_zlib(&unit, &mut out[..65_000]).is_err());
        assert!(deflate_zlib(6, &unit, &mut out[..65_000]).is_err());
    }

    #[test]
    fn a_deflate_stream_is_wrapped_with_its_checksum() {
        let mut stream = vec![0; 20_000];
        let len = deflate_raw(6, 15, &text(), &mut stream).unwrap().unwrap();
        stream.truncate(len);
        let mut out = vec![0; stream.len() + 6];
        assert_eq!(wrap_zlib(&stream, &text(), &mut out), Some(stream.len() + 6));
        let mut back = vec![0; text().len()];
        assert_eq!(inflate_zlib(&out, &mut back).unwrap(), out.len());
        assert!(back == text());
        assert_eq!(wrap_zlib(&stream, &text(), &mut out[..stream.len() + 5]), None);
    }

    #[test]
    fn output_that_does_not_fit_is_none_and_later_units_are_unaffected() {
        let noise = noise(65_536);
        let mut out = vec![0; 65_535];
        let mut back = vec![0; 20_000];
        for _ in 0..50 {
            for level in [1, 6, 9] {
                assert_eq!(deflate_raw(level, 12, &noise, &mut out).unwrap(), None);
                assert_eq!(deflate_raw(level, 15, &noise, &mut out).unwrap(), None);
            }
            let len = deflate_raw(9, 12, &text(), &mut out).unwrap().unwrap();
            assert_eq!(inflate_unit(&out[..len], &mut back).unwrap(), (len, true));
            assert_eq!(back, text());
            assert_eq!(zstd(3, &noise, &mut out).unwrap(), None);
            let len = zstd(3, &text(), &mut out).unwrap().unwrap();
            back.fill(0);
            assert_eq!(unzstd(&out[..len], &mut back).unwrap(), len);
            assert_eq!(back, text());
        }
        assert_eq!(deflate_raw(10, 12, &noise, &mut out).unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(deflate_raw(10, 15, &noise, &mut out).unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(deflate_raw(9, 16, &noise, &mut out).unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(deflate_raw(9, 8, &noise, &mut out).unwrap_err().kind(), ErrorKind::Internal);
    }
}

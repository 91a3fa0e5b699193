//! Decompression of one unit at a time: deflate, zlib and zstd, each to exactly the bytes asked for; and compression, each
//! unit for itself.

use std::cell::RefCell;

use diskferry_core::error::{Error, Result};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use zlib_rs::adler32::adler32;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, ResetDirective};

thread_local! {
    /// One inflater a thread: its window and tables are allocated once.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    /// One deflater a thread, likewise, with what it was made for: all units of a target are deflated in one way.
    static DEFLATER: RefCell<Option<(Deflate, Compress)>> = const { RefCell::new(None) };
    /// One zstd context a thread, likewise.
    static UNZSTD: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    /// One to compress.
    static ZSTD: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
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

/// True for one whole zstd frame (RFC 8878, section 3.1.1) that asks for no more memory than every decoder gives: those
/// that read a cluster piece by piece, as QEMU does, refuse windows of more than 128 MiB. We decode into the cluster
/// itself, and any window will do.
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

/// Most bytes of a stored block of deflate.
const STORED_BLOCK: usize = 65_535;
/// The bytes before a stored block: its kind, its length, and this inverted.
const STORED_HEADER: usize = 5;
/// What RFC 1950 puts before the deflate stream: 32 KiB of window, the default level, and a check of the two bytes.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x9c];
/// The largest window of deflate, 32 KiB.
const MOST_WINDOW_BITS: u8 = 15;
/// What zstd answers where its output does not fit.
const ZSTD_DOES_NOT_FIT: usize = (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

/// A way to deflate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Deflate {
    zlib: bool,
    level: u32,
    window_bits: u8,
}

/// The Adler-32 behind it.
const ZLIB_TRAILER: usize = 4;

/// The most bytes that [`deflate_zlib`] makes of a unit of `len` bytes: what it takes where nothing shrinks.
pub const fn most_zlib(len: usize) -> usize {
    let blocks = if len == 0 { 1 } else { len.div_ceil(STORED_BLOCK) };
    len.saturating_add(blocks.saturating_mul(STORED_HEADER))
        .saturating_add(ZLIB_HEADER.len())
        .saturating_add(ZLIB_TRAILER)
}

/// Deflates `unit` into the beginning of `out` as a zlib stream (RFC 1950) with a window of 32 KiB, at `level`, 0 to 9.
/// What would become longer than [`most_zlib`] is stored. Gives the stream's length.
///
/// # Errors
/// `internal` where `out` is shorter than [`most_zlib`] says.
pub fn deflate_zlib(level: u32, unit: &[u8], out: &mut [u8]) -> Result<usize> {
    let most = most_zlib(unit.len());
    let room = out.get_mut(..most).ok_or_else(|| Error::internal("too little room to deflate into"))?;
    match deflate(Deflate { zlib: true, level, window_bits: MOST_WINDOW_BITS }, unit, room)? {
        Some(length) => Ok(length),
        None => store_zlib(unit, room),
    }
}

/// Deflates `unit` into the beginning of `out` as a raw stream (RFC 1951) with its end marker, in which no match reaches
/// back further than `1 << window_bits` bytes, 9 to 15 bits, at `level`, 0 to 9. Gives the stream's length; `None` where
/// it does not fit `out`.
///
/// # Errors
/// `internal` where bits or level are not in range.
pub fn deflate_raw(level: u32, window_bits: u8, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    deflate(Deflate { zlib: false, level, window_bits }, unit, out)
}

fn deflate(how: Deflate, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    if how.level > 9 || !(9..=MOST_WINDOW_BITS).contains(&how.window_bits) {
        return Err(Error::internal(format!("there is no such way to deflate: {how:?}")));
    }
    DEFLATER.with_borrow_mut(|kept| {
        let (_, state) = match kept {
            Some(kept) if kept.0 == how => {
                kept.1.reset();
                kept
            }
            _ => {
                let level = Compression::new(how.level);
                kept.insert((how, Compress::new_with_window_bits(level, how.zlib, how.window_bits)))
            }
        };
        match state.compress(unit, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(state.total_out())
                .map(Some)
                .map_err(|_| Error::internal("a deflated unit is longer than the address space")),
            // It stopped in the middle, and zlib-rs 0.6 loses room of its own with each reset there, until it has none.
            stopped => {
                *kept = None;
                stopped
                    .map(|_| None)
                    .map_err(|error| Error::internal(format!("deflating a unit failed: {error}")))
            }
        }
    })
}

/// Compresses `unit` into the beginning of `out` as one zstd frame (RFC 8878) without a checksum, at `level`, 1 to 22.
/// Gives the frame's length; `None` where it does not fit `out`.
///
/// # Errors
/// `internal` where there is no memory for it.
pub fn zstd(level: u32, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    ZSTD.with_borrow_mut(|context| {
        let failed = |code| {
            let why = zstd_safe::get_error_name(code);
            Error::internal(format!("compressing a unit failed: {why}"))
        };
        // One that did not fit was left in the middle.
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

/// Puts a raw deflate stream (RFC 1951) that holds exactly `unit` into a zlib stream at the beginning of `out`. Gives its
/// length, or `None` where `out` has no room for it.
pub fn wrap_zlib(stream: &[u8], unit: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut room = Room { out, used: 0 };
    room.put(&ZLIB_HEADER)?;
    room.put(stream)?;
    room.put(&adler32(1, unit).to_be_bytes())?;
    Some(room.used)
}

/// A zlib stream that stores `unit` as it is.
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

/// Bytes being filled from their beginning on.
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
    use std::io::Write;

    use diskferry_core::error::ErrorKind;
    use flate2::write::{DeflateEncoder, ZlibEncoder};

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

    /// Bytes that do not shrink.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_is_deflated_inflates_to_itself_and_takes_no_more_than_it_may() {
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
        let stream = deflated();
        let mut out = vec![0; stream.len() + 6];
        assert_eq!(wrap_zlib(&stream, &text(), &mut out), Some(stream.len() + 6));
        let mut back = vec![0; text().len()];
        assert_eq!(inflate_zlib(&out, &mut back).unwrap(), out.len());
        assert!(back == text());
        assert_eq!(wrap_zlib(&stream, &text(), &mut out[..stream.len() + 5]), None);
    }

    #[test]
    fn a_frame_is_modest_where_every_decoder_takes_it() {
        let frame = zstd::bulk::compress(&text(), 3).unwrap();
        assert!(is_modest_frame(&frame));
        assert!(!is_modest_frame(&[&frame[..], &frame].concat()), "two of them");
        assert!(!is_modest_frame(&frame[..frame.len() - 1]) && !is_modest_frame(b""));
        // An empty raw block behind a window descriptor.
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

    #[test]
    fn what_does_not_fit_is_none_however_often_and_harms_nothing_after_it() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(65_536)
        .collect();
        let mut out = vec![0; 65_535];
        let mut back = vec![0; 20_000];
        for _ in 0..50 {
            for level in [1, 6, 9] {
                assert_eq!(deflate_raw(level, 12, &noise, &mut out).unwrap(), None);
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
        assert_eq!(deflate_raw(9, 8, &noise, &mut out).unwrap_err().kind(), ErrorKind::Internal);
    }
}

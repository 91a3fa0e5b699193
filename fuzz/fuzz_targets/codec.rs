//! Decompression of valid and invalid data, compared with other decoders; and compression, which must round-trip
//! within its window.
#![no_main]

use diskferry_corpus::slow::codec as slow;
use diskferry_formats::internal::{
    deflate_raw, deflate_zlib, inflate_raw, inflate_zlib, most_zlib, unzstd, wrap_zlib, zstd,
};
use diskferry_fuzz::read::checked;
use libfuzzer_sys::fuzz_target;

/// The start of an input: the operation, and a length.
const HEAD: usize = 4;
/// Largest requested unit.
const MOST: usize = 1 << 17;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[what, a, b, c], rest)) = bytes.split_first_chunk::<HEAD>() else { return };
    // A unit is never empty.
    if rest.is_empty() {
        return;
    }
    let len = usize::try_from(u32::from_le_bytes([a, b, c, 0])).unwrap_or_default() % MOST + 1;
    match what % 6 {
        0 => decode(len, rest, inflate_raw, slow::inflate_raw),
        1 => decode(len, rest, inflate_zlib, slow::inflate_zlib),
        2 => decode(len, rest, unzstd, slow::unzstd),
        3 => deflate(what, a, b, rest),
        4 => zlib(a, rest),
        _ => {
            let mut out = vec![0; rest.len() + 512];
            let level = u32::from(a) % 6 + 1;
            if let Some(made) = zstd(level, rest, &mut out).expect("zstd works") {
                back(rest, &out[..made], unzstd);
                assert!(slow::unzstd(&out[..made], rest.len()).is_some_and(|back| back == rest));
            }
        }
    }
});

/// Checks that another decoder decodes to the same bytes, and that no more input is consumed than there is.
fn decode(
    len: usize,
    stored: &[u8],
    ours: fn(&[u8], &mut [u8]) -> diskferry_core::Result<usize>,
    slow: fn(&[u8], usize) -> Option<Vec<u8>>,
) {
    let mut out = vec![0xa5; len];
    if let Ok(taken) = checked(ours(stored, &mut out)) {
        assert!(taken <= stored.len());
        let truth = slow(stored, len).expect("another decoder takes it");
        assert!(truth == out, "another decoder makes other bytes of it");
    }
}

fn back(unit: &[u8], stored: &[u8], decode: fn(&[u8], &mut [u8]) -> diskferry_core::Result<usize>) {
    let mut out = vec![0xa5; unit.len()];
    let taken = decode(stored, &mut out).expect("what we made decodes");
    assert_eq!(taken, stored.len());
    assert!(out == unit, "what we made decodes to something else");
}

fn deflate(what: u8, level: u8, bits: u8, unit: &[u8]) {
    // Long enough that a window matters.
    let unit = unit.repeat(if what & 8 == 0 { 1 } else { 3 });
    let (level, bits) = (u32::from(level) % 10, 9 + bits % 7);
    let mut out = vec![0; unit.len() + 512];
    if let Some(made) = deflate_raw(level, bits, &unit, &mut out).expect("deflate works") {
        back(&unit, &out[..made], inflate_raw);
        let windowed = slow::inflate_windowed(&out[..made], bits);
        assert!(windowed.is_some_and(|windowed| windowed == unit), "a match reaches outside the window");
        let mut wrapped = vec![0; made + 6];
        let made = wrap_zlib(&out[..made], &unit, &mut wrapped).expect("room for it");
        back(&unit, &wrapped[..made], inflate_zlib);
    }
}

fn zlib(level: u8, unit: &[u8]) {
    let mut out = vec![0; most_zlib(unit.len())];
    let made = deflate_zlib(u32::from(level) % 10, unit, &mut out).expect("there is room");
    back(unit, &out[..made], inflate_zlib);
    assert!(slow::inflate_zlib(&out[..made], unit.len()).is_some_and(|back| back == unit));
}

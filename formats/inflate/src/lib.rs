//! libdeflate's inflate in one call, with what its safe wrapper keeps back: how many bytes the stream took.
//!
//! A crate of its own, so that those that read images stay without `unsafe`. Source: `libdeflate.h`, "Decompression".

#![allow(unsafe_code, reason = "that is what the crate is for; see each use")]

use std::ffi::c_void;
use std::ptr::NonNull;

use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_deflate_decompress_ex,
    libdeflate_free_decompressor, libdeflate_result_LIBDEFLATE_SUCCESS, libdeflate_zlib_decompress_ex,
};

/// What a stream is wrapped in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrapping {
    /// Nothing (RFC 1951).
    Raw,
    /// A header and the Adler-32 of what it holds, which is checked (RFC 1950).
    Zlib,
}

/// Its tables, allocated once. It keeps nothing from one stream to the next.
#[derive(Debug)]
pub struct Inflater(NonNull<libdeflate_decompressor>);

impl Inflater {
    /// An inflater, or none where there is no memory for it (11 KiB).
    pub fn new() -> Option<Self> {
        // SAFETY: takes nothing; gives null or a pointer that is ours to free.
        NonNull::new(unsafe { libdeflate_alloc_decompressor() }).map(Self)
    }

    /// Inflates a stream that holds exactly `out.len()` bytes and ends, and gives how many bytes of `stored` it took;
    /// more may follow it. `None` for any other stream: what `out` then holds is not specified.
    pub fn inflate(&mut self, wrapping: Wrapping, stored: &[u8], out: &mut [u8]) -> Option<usize> {
        let inflate = match wrapping {
            Wrapping::Raw => libdeflate_deflate_decompress_ex,
            Wrapping::Zlib => libdeflate_zlib_decompress_ex,
        };
        let (mut taken, mut made) = (0, 0);
        // SAFETY: the decompressor is ours alone while we are borrowed. The function reads `stored.len()` bytes from the
        // one and writes at most `out.len()` to the other, which do not overlap since one is borrowed mutably, and sets
        // the two counts; it keeps none of the pointers.
        let result = unsafe {
            inflate(
                self.0.as_ptr(),
                stored.as_ptr().cast::<c_void>(),
                stored.len(),
                out.as_mut_ptr().cast::<c_void>(),
                out.len(),
                &raw mut taken,
                &raw mut made,
            )
        };
        (result == libdeflate_result_LIBDEFLATE_SUCCESS && made == out.len()).then_some(taken)
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: it came from `libdeflate_alloc_decompressor`, and nobody has it any more.
        unsafe { libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

// SAFETY: the decompressor is plain memory without a tie to a thread, and using it takes `&mut self`.
unsafe impl Send for Inflater {}

#[cfg(test)]
mod tests {
    use libdeflater::{CompressionLvl, Compressor};

    use super::*;

    #[test]
    fn a_stream_of_exactly_that_length_is_inflated_and_measured() {
        let text: Vec<u8> = (0..70_000u32).map(|i| (i % 1000 * i / 7 % 251) as u8).collect();
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut inflater = Inflater::new().unwrap();
        for wrapping in [Wrapping::Raw, Wrapping::Zlib] {
            let mut stream = vec![0; 80_000];
            let len = match wrapping {
                Wrapping::Raw => compressor.deflate_compress(&text, &mut stream).unwrap(),
                Wrapping::Zlib => compressor.zlib_compress(&text, &mut stream).unwrap(),
            };
            let mut out = vec![0; text.len() + 1];
            assert_eq!(inflater.inflate(wrapping, &stream, &mut out[..70_000]), Some(len));
            assert!(out[..70_000] == text);
            assert_eq!(inflater.inflate(wrapping, &stream[..len], &mut out[..70_000]), Some(len));
            assert_eq!(inflater.inflate(wrapping, &stream, &mut out), None, "it ends early");
            assert_eq!(inflater.inflate(wrapping, &stream, &mut out[..69_999]), None, "it goes on");
            assert_eq!(inflater.inflate(wrapping, &stream[..len - 1], &mut out[..70_000]), None, "cut off");
            assert_eq!(inflater.inflate(wrapping, &[], &mut out), None);
            assert_eq!(inflater.inflate(wrapping, &[0xff; 50], &mut []), None);
        }
    }
}

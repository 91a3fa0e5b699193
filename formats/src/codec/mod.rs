//! Compression and decompression of single units with deflate, zlib and zstd. A unit is decompressed to exactly the
//! requested length. Each thread reuses its codec state for all units.

mod deflate;
mod inflate;
mod zstd;

pub use deflate::{deflate_raw, deflate_zlib, most_zlib, wrap_zlib};
pub(crate) use inflate::inflate_unit;
pub use inflate::{inflate_raw, inflate_zlib};
pub(crate) use zstd::is_modest_frame;
pub use zstd::{unzstd, zstd};

#[cfg(test)]
mod made {
    //! Data for the tests of the codecs.

    use diskferry_core::{ErrorKind, Result};

    /// Compressible bytes.
    pub(super) fn text() -> Vec<u8> {
        (0..20_000u32).map(|i| (i * i / 7 % 251) as u8).collect()
    }

    /// Incompressible bytes.
    pub(super) fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    pub(super) fn malformed(result: Result<usize>) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
    }
}

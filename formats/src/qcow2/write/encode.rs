//! Compressing clusters.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`, "Compressed Clusters Descriptor" and the header's `compression_type`.

use diskferry_core::Result;

use diskferry_core::{Coding, Encoder};

use crate::codec;
use crate::qcow2::grid::Grid;
use crate::qcow2::header::Compression;

/// Deflate looks back 4 KiB at most, as QEMU's does: there are readers that keep no more.
const WINDOW_BITS: u8 = 12;

/// Compresses clusters of one size in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Compressor {
    pub(super) grid: Grid,
    pub(super) compression: Compression,
    pub(super) level: u32,
    /// Whether streams of the source are left as they are.
    pub(super) carry: bool,
}

impl Compressor {
    fn cluster(&self) -> usize {
        usize::try_from(self.grid.cluster_bytes()).unwrap_or(usize::MAX)
    }
}

impl Encoder for Compressor {
    fn unit_bytes(&self) -> u64 {
        self.grid.cluster_bytes()
    }

    /// A cluster that does not become smaller is stored as it is.
    fn most_bytes(&self) -> usize {
        self.cluster().saturating_sub(1)
    }

    fn encode(&self, _unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding> {
        let length = match self.compression {
            Compression::Zlib => codec::deflate_raw(self.level, WINDOW_BITS, guest, out)?,
            Compression::Zstd => codec::zstd(self.level, guest, out)?,
        };
        Ok(length.map_or(Coding::Plain, Coding::Coded))
    }

    fn passthrough(&self) -> Option<diskferry_core::Compression> {
        self.carry.then_some(match self.compression {
            Compression::Zlib => diskferry_core::Compression::Deflate,
            Compression::Zstd => diskferry_core::Compression::Zstd,
        })
    }

    fn pass_through(
        &self,
        _unit: u64,
        _guest: &[u8],
        stream: &[u8],
        out: &mut [u8],
    ) -> Result<Option<Coding>> {
        if stream.len() >= self.cluster() {
            // Whoever made it found nothing to save, and to try again costs as much as a new target.
            return Ok(Some(Coding::Plain));
        }
        let suits = match self.compression {
            Compression::Zlib => !stream.is_empty(),
            Compression::Zstd => codec::is_modest_frame(stream),
        };
        let room = out.get_mut(..stream.len()).filter(|_| suits);
        Ok(room.map(|room| {
            room.copy_from_slice(stream);
            Coding::Coded(stream.len())
        }))
    }
}

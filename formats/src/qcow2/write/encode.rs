//! Compressing clusters.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`, "Compressed Clusters Descriptor" and the header's `compression_type`.

use std::sync::atomic::{AtomicU64, Ordering};

use diskferry_core::{Coding, Encoder, Result, SourceStream, Warning};

use crate::codec;
use crate::qcow2::grid::Grid;
use crate::qcow2::header::Compression;

/// Deflate matches reach back at most 4 KiB, as in QEMU, because some readers have no larger window.
const WINDOW_BITS: u8 = 12;

/// How clusters are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Compressor {
    pub(super) grid: Grid,
    pub(super) compression: Compression,
    pub(super) level: u32,
    /// True to store the streams of the source unchanged.
    pub(super) passthrough: bool,
}

/// Compresses clusters of one size.
#[derive(Debug)]
pub(super) struct ClusterEncoder {
    pub(super) compressor: Compressor,
    /// Number of clusters that the source compressed with a larger window than [`WINDOW_BITS`].
    wide: AtomicU64,
}

impl ClusterEncoder {
    pub(super) fn new(compressor: Compressor) -> Self {
        Self { compressor, wide: AtomicU64::new(0) }
    }

    /// The warning about copied streams that some readers cannot inflate, if there are any.
    pub(super) fn warning(&self) -> Option<Warning> {
        let wide = self.wide.load(Ordering::Relaxed);
        (wide > 0).then(|| {
            Warning::new(
                "wide_window",
                format!(
                    "{wide} compressed clusters were copied from the source and declare a window of more than {} bytes: QEMU \
                     reads them, but readers that inflate with QEMU's own window refuse them (recompress=on compresses them anew)",
                    1u32 << WINDOW_BITS
                ),
            )
        })
    }

    fn cluster(&self) -> usize {
        usize::try_from(self.compressor.grid.cluster_bytes()).unwrap_or(usize::MAX)
    }
}

impl Encoder for ClusterEncoder {
    fn unit_bytes(&self) -> u64 {
        self.compressor.grid.cluster_bytes()
    }

    /// A cluster that does not shrink is stored uncompressed.
    fn most_bytes(&self) -> usize {
        self.cluster().saturating_sub(1)
    }

    fn encode(&self, _unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding> {
        let level = self.compressor.level;
        let length = match self.compressor.compression {
            Compression::Zlib => codec::deflate_raw(level, WINDOW_BITS, guest, out)?,
            Compression::Zstd => codec::zstd(level, guest, out)?,
        };
        Ok(length.map_or(Coding::Plain, Coding::Coded))
    }

    fn passthrough(&self) -> Option<diskferry_core::Compression> {
        self.compressor.passthrough.then_some(match self.compressor.compression {
            Compression::Zlib => diskferry_core::Compression::Deflate,
            Compression::Zstd => diskferry_core::Compression::Zstd,
        })
    }

    fn pass_through(
        &self,
        _unit: u64,
        _guest: &[u8],
        stream: &SourceStream,
        out: &mut [u8],
    ) -> Result<Option<Coding>> {
        let bytes = &stream.bytes;
        if bytes.len() >= self.cluster() {
            // The source's writer could not shrink it, and a new attempt costs as much as for a new target.
            return Ok(Some(Coding::Plain));
        }
        let suits = match self.compressor.compression {
            Compression::Zlib => !bytes.is_empty(),
            Compression::Zstd => codec::is_modest_frame(bytes),
        };
        let Some(room) = out.get_mut(..bytes.len()).filter(|_| suits) else { return Ok(None) };
        room.copy_from_slice(bytes);
        if stream.window_bits.is_some_and(|bits| bits > WINDOW_BITS) {
            self.wide.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(Coding::Coded(bytes.len())))
    }
}

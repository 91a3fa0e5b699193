//! Compressed clusters.

use std::ops::Range;

use diskferry_core::{Codec, CompressedStream, Error, GuestRange, Payload, Result, Tally, Warning};

use super::header::Compression;
use crate::codec;

/// Decodes the compressed clusters of one image.
#[derive(Debug)]
pub(super) struct Compressed {
    pub(super) compression: Compression,
    /// The decoded size of a unit, even if the disk ends inside it.
    pub(super) cluster_bytes: usize,
}

impl Compressed {
    /// Decodes a whole cluster. The end of a deflate stream without an end marker cannot be found, so such a stream is
    /// not copied.
    fn whole(&self, stored: &[u8], out: &mut [u8]) -> Result<Option<CompressedStream>> {
        Ok(match self.compression {
            Compression::Zlib => {
                let (taken, ended) = codec::inflate_unit(stored, out)?;
                ended.then_some(CompressedStream {
                    compression: diskferry_core::Compression::Deflate,
                    bytes: 0..taken,
                    window_bits: None,
                })
            }
            Compression::Zstd => {
                let bytes = 0..codec::unzstd(stored, out)?;
                Some(CompressedStream {
                    compression: diskferry_core::Compression::Zstd,
                    bytes,
                    window_bits: None,
                })
            }
        })
    }
}

impl Codec for Compressed {
    fn payload(&self) -> Payload {
        Payload::Compressed
    }

    fn decode(
        &self,
        guest: GuestRange,
        stored: &[u8],
        out: &mut [u8],
        _tally: &mut Tally,
    ) -> Result<Option<CompressedStream>> {
        if out.len() == self.cluster_bytes {
            return self.whole(stored, out);
        }
        // The disk ends inside the last cluster, which is encoded whole.
        let mut cluster = vec![0; self.cluster_bytes];
        self.whole(stored, &mut cluster)?;
        let part = cluster.get(..out.len()).ok_or_else(|| {
            Error::internal(format!(
                "guest bytes {guest} are longer than a cluster of {}",
                self.cluster_bytes
            ))
        })?;
        out.copy_from_slice(part);
        Ok(None)
    }

    fn verbatim_range(&self, _stored: &[u8], _len: usize) -> Option<Range<usize>> {
        None
    }

    fn warning(&self, _tally: &Tally) -> Option<Warning> {
        None
    }
}

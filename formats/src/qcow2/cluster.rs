//! Compressed clusters.

use diskferry_core::address::GuestRange;
use diskferry_core::error::{Error, Result, Warning};
use diskferry_core::extent::{Codec, Payload, Tally};

use super::header::Compression;
use crate::codec;

/// Decodes the compressed clusters of one image.
#[derive(Debug)]
pub(super) struct Compressed {
    pub(super) compression: Compression,
    /// What a unit decodes to, also where the disk ends within it.
    pub(super) cluster_bytes: usize,
}

impl Compressed {
    fn whole(&self, stored: &[u8], out: &mut [u8]) -> Result<()> {
        match self.compression {
            Compression::Zlib => codec::inflate_raw(stored, out),
            Compression::Zstd => codec::unzstd(stored, out),
        }
        .map(drop)
    }
}

impl Codec for Compressed {
    fn payload(&self) -> Payload {
        Payload::Compressed
    }

    fn decode(&self, guest: GuestRange, stored: &[u8], out: &mut [u8], _tally: &mut Tally) -> Result<()> {
        if out.len() == self.cluster_bytes {
            return self.whole(stored, out);
        }
        // The last cluster of a disk that ends within it: it is coded whole all the same.
        let mut cluster = vec![0; self.cluster_bytes];
        self.whole(stored, &mut cluster)?;
        let part = cluster.get(..out.len()).ok_or_else(|| {
            Error::internal(format!(
                "guest bytes {guest} are longer than a cluster of {}",
                self.cluster_bytes
            ))
        })?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn warning(&self, _tally: &Tally) -> Option<Warning> {
        None
    }
}

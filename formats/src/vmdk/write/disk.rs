//! Properties that both kinds share: the size of the disk, and its content ID.

use diskferry_core::{Error, ErrorKind, Result, Warning};

use crate::sector_size::SectorSize;
use crate::vmdk::content_id::ContentId;
use crate::vmdk::header::{SECTOR, Sectors};
use crate::vmdk::options::VmdkOptions;

/// Sectors of a grain: 64 KiB, like all other writers.
pub(super) const GRAIN_SECTORS: u64 = 128;
/// Bytes of a grain.
pub(super) const GRAIN: u64 = GRAIN_SECTORS * SECTOR;
/// Entries of a grain table, fixed by the specification.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// Bytes of an entry of a table or a directory.
pub(super) const ENTRY: u64 = 4;
/// Bytes of a grain table.
pub(super) const TABLE: u64 = TABLE_ENTRIES * ENTRY;
/// Sectors of a grain table.
pub(super) const TABLE_SECTORS: u64 = TABLE / SECTOR;
/// First sector of the descriptor, directly after the header.
pub(super) const DESCRIPTOR_AT: u64 = 1;
/// Sectors reserved for the descriptor, so that tools can lengthen it. qemu rewrites all of them.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// Most grains. VMware's tools and VirtualBox need a count of 32 bits: 256 TiB minus one grain.
const MOST_GRAINS: u64 = u32::MAX as u64;
/// Bytes of the largest target. A table entry has 32 bits, so the number of the last sector must fit.
pub(super) const MOST_BYTES: u64 = (1 << 32) * SECTOR;

/// The options that both kinds have.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskOptions {
    size: SectorSize,
    id: Option<ContentId>,
}

impl DiskOptions {
    /// # Errors
    /// `usage` for invalid values.
    pub(super) fn new(options: &VmdkOptions) -> Result<Self> {
        Ok(Self { size: options.sector_size()?, id: options.content_id()? })
    }

    /// See [`diskferry_core::Layout::virtual_bytes`].
    ///
    /// # Errors
    /// `destination_unsuitable` for an empty disk, a partial sector, and a disk that is too large.
    pub(super) fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        let bytes = self.size.size(source_bytes)?;
        if source_bytes == 0 {
            return Err(unsuitable("the disk is empty, and a VMDK has at least one sector".to_owned())
                .hint("convert to raw, or to qcow2"));
        }
        if bytes.div_ceil(GRAIN) > MOST_GRAINS {
            return Err(unsuitable(format!(
                "the disk would have {bytes} bytes, and a VMDK extent has at most {} (2^32 - 1 grains of 64 KiB)",
                MOST_GRAINS.saturating_mul(GRAIN)
            ))
            .hint("convert to qcow2"));
        }
        Ok(bytes)
    }

    /// The warning that the capacity ends inside a grain, for a disk that is written with `virtual_bytes`.
    ///
    /// Readers that round their reads up fail at the end of such a disk. dissect.hypervisor 3.21, read as a stream,
    /// fails if the capacity is not a multiple of 8 KiB.
    pub(super) fn warning(virtual_bytes: u64) -> Option<Warning> {
        let rest = virtual_bytes.checked_rem(GRAIN).filter(|rest| *rest > 0)?;
        Some(Warning::new(
            "capacity_not_in_grains",
            format!(
                "the disk has {virtual_bytes} bytes, and the last grain of the target holds {rest} of {GRAIN}: some readers of \
                 VMDK cannot read the end of such a disk (align=64K lengthens it to whole grains)"
            ),
        ))
    }

    /// The name of the disk.
    pub(super) fn id(&self, variant: &str, virtual_bytes: u64, fingerprint: &[u8; 32]) -> ContentId {
        self.id.unwrap_or_else(|| ContentId::derived(variant, virtual_bytes, fingerprint))
    }
}

/// Converts a size, which was checked to be whole sectors, to sectors.
pub(super) fn sectors(bytes: u64) -> Sectors {
    Sectors(bytes.div_ceil(SECTOR))
}

/// Encodes the address `bytes` as an entry of a table or a directory.
///
/// # Errors
/// `destination_unsuitable` if it has too many bits.
pub(super) fn entry(bytes: u64) -> Result<u32> {
    u32::try_from(bytes.div_ceil(SECTOR)).map_err(|_| {
        unsuitable(format!(
            "the data of the disk takes more than {MOST_BYTES} bytes, the most that the tables of a VMDK can address"
        ))
        .hint("convert to qcow2")
    })
}

pub(super) fn unsuitable(message: String) -> Error {
    Error::new(ErrorKind::DestinationUnsuitable, message)
}

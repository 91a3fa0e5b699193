//! What both kinds have in common: the size of the disk, and its content ID.

use diskferry_core::{Error, ErrorKind, Result, Warning};

use crate::sector_size::SectorSize;
use crate::vmdk::content_id::ContentId;
use crate::vmdk::header::{SECTOR, Sectors};
use crate::vmdk::options::VmdkOptions;

/// Sectors of a grain: 64 KiB, as VMware's tools and all others write.
pub(super) const GRAIN_SECTORS: u64 = 128;
/// Bytes of a grain.
pub(super) const GRAIN: u64 = GRAIN_SECTORS * SECTOR;
/// Entries of a grain table: what the specification fixes them to.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// Bytes of an entry of a table or a directory.
pub(super) const ENTRY: u64 = 4;
/// Bytes of a grain table.
pub(super) const TABLE: u64 = TABLE_ENTRIES * ENTRY;
/// Sectors of a grain table.
pub(super) const TABLE_SECTORS: u64 = TABLE / SECTOR;
/// Where the descriptor begins, in sectors: right behind the header.
pub(super) const DESCRIPTOR_AT: u64 = 1;
/// Sectors that the descriptor has: room for a tool that lengthens it, and what qemu rewrites as a whole.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// Most grains: their number fits 32 bits, for VMware's tools and VirtualBox. 256 TiB but for one grain.
const MOST_GRAINS: u64 = u32::MAX as u64;
/// Bytes of the largest target: its last sector's number fits 32 bits, as each entry of a table must.
pub(super) const MOST_BYTES: u64 = (1 << 32) * SECTOR;

/// The options that both kinds have.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskOptions {
    size: SectorSize,
    id: Option<ContentId>,
}

impl DiskOptions {
    /// # Errors
    /// `usage` for values that the options cannot have.
    pub(super) fn new(options: &VmdkOptions) -> Result<Self> {
        Ok(Self { size: options.sector_size()?, id: options.content_id()? })
    }

    /// See [`diskferry_core::Layout::virtual_bytes`].
    ///
    /// # Errors
    /// `destination_unsuitable` for no sector at all, for a part of one, and for more than can be counted.
    pub(super) fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        let bytes = self.size.size(source_bytes)?;
        if source_bytes == 0 {
            return Err(unsuitable("the disk has no byte, and a VMDK has one sector at least".to_owned())
                .hint("convert to raw, or to qcow2"));
        }
        if bytes.div_ceil(GRAIN) > MOST_GRAINS {
            return Err(unsuitable(format!(
                "the disk would have {bytes} bytes, and a VMDK extent holds up to {} (2^32 - 1 grains of 64 KiB)",
                MOST_GRAINS.saturating_mul(GRAIN)
            ))
            .hint("convert to qcow2"));
        }
        Ok(bytes)
    }

    /// The warning about a capacity that ends within a grain, of a disk that is written with `virtual_bytes`.
    ///
    /// Readers that round their reads up fail at the end of such a disk: dissect.hypervisor 3.21, read as a stream, if the
    /// capacity is not a multiple of 8 KiB.
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

    /// What the disk is called.
    pub(super) fn id(&self, variant: &str, virtual_bytes: u64, fingerprint: &[u8; 32]) -> ContentId {
        self.id.unwrap_or_else(|| ContentId::derived(variant, virtual_bytes, fingerprint))
    }
}

/// The sectors of a size that was checked to be whole ones.
pub(super) fn sectors(bytes: u64) -> Sectors {
    Sectors(bytes.div_ceil(SECTOR))
}

/// The address of `bytes` as an entry of a table or a directory has it.
///
/// # Errors
/// `destination_unsuitable` where it has too many bits.
pub(super) fn entry(bytes: u64) -> Result<u32> {
    u32::try_from(bytes.div_ceil(SECTOR)).map_err(|_| {
        unsuitable(format!(
            "what the disk holds takes more than {MOST_BYTES} bytes, which is what the tables of a VMDK can address"
        ))
        .hint("convert to qcow2")
    })
}

pub(super) fn unsuitable(message: String) -> Error {
    Error::new(ErrorKind::DestinationUnsuitable, message)
}

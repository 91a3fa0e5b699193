//! The embedded descriptor.
//!
//! Source: VMware, *Virtual Disk Format 5.0*, "The Descriptor File"; the order of the lines is the one in which
//! VMware's tools write them.

use diskferry_core::{Error, Result};

use super::disk::DESCRIPTOR_SECTORS;
use crate::vmdk::content_id::ContentId;
use crate::vmdk::header::{SECTOR, Sectors};

/// The contents of a descriptor that depend on the kind.
pub(super) struct Kind {
    /// The `createType`.
    pub(super) create_type: &'static str,
    /// The access of the extent.
    pub(super) access: &'static str,
    /// The file name in the extent line. An embedded descriptor describes its own file, whatever the name of that file
    /// is: VMware's exports use one constant name. A constant name also makes targets independent of their names.
    pub(super) file: &'static str,
}

/// Cylinders, heads and sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Geometry {
    cylinders: u64,
    heads: u64,
    sectors: u64,
}

impl Geometry {
    /// The geometry that VMware uses for SCSI disks, which is how the BIOS of such an adapter translates addresses:
    /// whole cylinders, rounded down, in one of three shapes selected by the disk's size.
    fn of(capacity: Sectors) -> Self {
        const GIB: u64 = (1 << 30) / SECTOR;
        const MOST_CYLINDERS: u64 = 65_535;
        let (heads, sectors): (u64, u64) = match capacity.0 {
            small if small < GIB => (64, 32),
            middle if middle < 2 * GIB => (128, 32),
            _ => (255, 63),
        };
        let cylinders =
            capacity.0.checked_div(heads.saturating_mul(sectors)).unwrap_or(0).clamp(1, MOST_CYLINDERS);
        Self { cylinders, heads, sectors }
    }
}

/// Encodes the descriptor of a disk in one extent, padded to its full space.
///
/// The adapter is LSI Logic, as in exports of VMware's tools. Unlike IDE, its geometry has no limit at 8 GiB, and every
/// product supports it. The version of the guest's tools is unknown, so the descriptor does not state one.
///
/// # Errors
/// `internal` if it does not fit.
pub(super) fn descriptor(kind: &Kind, capacity: Sectors, id: ContentId) -> Result<Vec<u8>> {
    let Kind { create_type, access, file } = kind;
    let Geometry { cylinders, heads, sectors } = Geometry::of(capacity);
    let text = format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={:08x}\n\
         parentCID=ffffffff\n\
         createType=\"{create_type}\"\n\
         \n\
         # Extent description\n\
         {access} {} SPARSE \"{file}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{sectors}\"\n\
         ddb.longContentID = \"{:032x}\"\n\
         ddb.virtualHWVersion = \"4\"\n",
        id.cid(),
        capacity.0,
        u128::from_be_bytes(id.0),
    );
    let room = usize::try_from(DESCRIPTOR_SECTORS.saturating_mul(SECTOR)).unwrap_or(usize::MAX);
    let mut bytes = text.into_bytes();
    if bytes.len() >= room {
        return Err(Error::internal(format!("a descriptor of {} bytes", bytes.len())));
    }
    bytes.resize(room, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_is_that_of_a_vmware_scsi_disk() {
        // The last two are from descriptors that VMware's tools wrote.
        for (capacity, expected) in [
            (1, (1, 64, 32)),
            (2_097_151, (1023, 64, 32)),
            (2_097_152, (512, 128, 32)),
            (4_194_303, (1023, 128, 32)),
            (4_194_304, (261, 255, 63)),
            (1 << 40, (65_535, 255, 63)),
            (209_714, (102, 64, 32)),
            (23_068_672, (1435, 255, 63)),
        ] {
            let Geometry { cylinders, heads, sectors } = Geometry::of(Sectors(capacity));
            assert_eq!((cylinders, heads, sectors), expected, "{capacity}");
        }
    }
}

//! Finds the units of a target that a disk fills, from its map.

use crate::address::{GuestOffset, GuestRange};
use crate::disk::Disk;
use crate::error::Result;
use crate::layout::unit_map::UnitMap;

/// Walks the whole map, some tables at a time. Returns the number of guest bytes that are mapped to stored data, and
/// the units of a target that they touch.
pub(crate) async fn allocation(disk: &Disk, unit: Option<u64>) -> Result<(u64, Option<UnitMap>)> {
    let mut units = unit.map(UnitMap::new);
    if let (Some(known), None) = (disk.allocated_without_tables(), &units) {
        return Ok((known, None));
    }
    let end = GuestOffset::new(disk.virtual_bytes());
    let mut at = GuestOffset::ZERO;
    let mut allocated = 0u64;
    while at < end {
        for extent in disk.extents(GuestRange::between(at, end)).await? {
            at = extent.guest.end();
            if extent.is_allocated() {
                // Extents do not overlap, so the sum fits.
                allocated += extent.guest.len();
            }
            if let (Some(units), false) = (&mut units, extent.is_zero()) {
                units.add(extent.guest)?;
            }
        }
    }
    Ok((allocated, units))
}

//! The placement of a disk's units in a target, shared by the layouts of all formats: consecutive, in guest order.

use std::fmt;

use bytes::Bytes;
use diskferry_core::internal::{BLOCK, is_zero};
use diskferry_core::{
    Error, GuestOffset, GuestRange, Order, Result, Scanned, TargetOffset, TargetRange, UnitMap, Write,
    WriteOrder, Writes,
};

/// The order in which a layout without a separate map receives bytes, for a sink that accepts writes in `order`.
pub(crate) fn order_for(order: WriteOrder) -> Order {
    match order {
        WriteOrder::Any => Order::Any,
        WriteOrder::Ascending | WriteOrder::Sequential => Order::Guest,
    }
}

/// An empty list of writes.
pub(crate) fn no_writes() -> Writes {
    Box::new(std::iter::empty())
}

/// The error for a part of a kind that the layout does not support.
pub(crate) fn unexpected_part() -> Error {
    Error::internal("a layout received a part of an unsupported kind")
}

/// Zeros between two offsets, if there are any.
pub(crate) fn zeros(from: u64, to: u64) -> Option<Write> {
    let range = TargetRange::between(TargetOffset::new(from), TargetOffset::new(to));
    (!range.is_empty()).then_some(Write::Zero(range))
}

/// The units that a target stores, and their offsets: consecutive in guest order, from a first offset on.
#[derive(Clone, Debug)]
pub(crate) struct UnitPlacement {
    first: u64,
    prefix: &'static [u8],
    units: UnitMap,
}

impl UnitPlacement {
    /// `units`, stored from `first` on, each after `prefix`.
    pub(crate) fn new(first: u64, prefix: &'static [u8], units: UnitMap) -> Self {
        Self { first, prefix, units }
    }

    /// The stored units.
    pub(crate) fn units(&self) -> &UnitMap {
        &self.units
    }

    /// Consumes the placement and returns the stored units.
    pub(crate) fn into_units(self) -> UnitMap {
        self.units
    }

    /// Distance in bytes between two units.
    fn stride(&self) -> u64 {
        self.units.unit().saturating_add(self.prefix.len() as u64)
    }

    /// Offset of `unit`, including its prefix.
    pub(crate) fn begin(&self, unit: u64) -> Option<u64> {
        self.units.rank(unit)?.checked_mul(self.stride())?.checked_add(self.first)
    }

    /// End of the last unit.
    pub(crate) fn end(&self) -> u64 {
        self.units.count().saturating_mul(self.stride()).saturating_add(self.first)
    }
}

/// Checks that a target may be that long. Called with the end of its last unit.
type Check = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// Writes units consecutively in order.
///
/// Zeros are written when other bytes follow them in the target, or at the end.
pub(crate) struct AppendWriter {
    stored: UnitPlacement,
    /// Checks each unit that is added. `None` if the stored units were known from the beginning, whatever their
    /// contents turn out to be.
    check: Option<Check>,
    /// End of the bytes that were written so far.
    at: u64,
}

impl AppendWriter {
    /// A packed layout: units of `unit` bytes are stored from `first` on if they are not zeros.
    pub(crate) fn found(first: u64, prefix: &'static [u8], unit: u64, check: Check) -> Self {
        let stored = UnitPlacement::new(first, prefix, UnitMap::new(unit));
        Self { at: first, stored, check: Some(check) }
    }

    /// A placed layout: `stored` has the units.
    pub(crate) fn known(stored: UnitPlacement) -> Self {
        Self { at: stored.first, stored, check: None }
    }

    /// The placement: of the units so far, or of all.
    pub(crate) fn stored(&self) -> &UnitPlacement {
        &self.stored
    }

    /// Adds the next guest bytes, in guest order.
    ///
    /// # Errors
    /// The error of the check; `internal` if the bytes are out of order or not in the map.
    pub(crate) fn place(&mut self, scanned: &Scanned) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        for (range, zero) in scanned.ranges() {
            if zero {
                continue;
            }
            let mut rest = range;
            while !rest.is_empty() {
                let piece = self.next_piece(rest);
                rest = rest.skip(piece.len());
                let bytes = scanned.slice(piece);
                // The zero scan works on blocks. Smaller units in a block may still be zeros.
                if self.stored.units.unit() >= BLOCK || !is_zero(&bytes) {
                    self.write(piece, bytes, &mut writes)?;
                }
            }
        }
        Ok(writes)
    }

    /// The first bytes of `range` that can be written at once: consecutive units, or a single unit if units have a
    /// prefix or must be checked.
    fn next_piece(&self, range: GuestRange) -> GuestRange {
        let unit = self.stored.units.unit();
        if self.stored.prefix.is_empty() && unit >= BLOCK {
            return range;
        }
        let inside = range.start().get().checked_rem(unit).unwrap_or_default();
        range.split_at(unit.saturating_sub(inside)).0
    }

    fn write(&mut self, guest: GuestRange, bytes: Bytes, writes: &mut Vec<Write>) -> Result<()> {
        if let Some(check) = &self.check {
            self.stored.units.add(guest)?;
            check(self.stored.end())?;
        }
        let to = self.place_of(guest.start())?;
        let last = self.place_of(GuestOffset::new(guest.end().get().saturating_sub(1)))?;
        if to < self.at || last.saturating_sub(to) != guest.len().saturating_sub(1) {
            return Err(Error::internal(format!("guest bytes {guest} do not fit after {}", self.at)));
        }
        self.fill(to, writes);
        self.push(bytes, writes);
        Ok(())
    }

    /// Offset of a guest byte in the target.
    fn place_of(&self, guest: GuestOffset) -> Result<u64> {
        let unit = self.stored.units.unit();
        let begin = self.stored.begin(guest.get().checked_div(unit).unwrap_or_default());
        let begin = begin.ok_or_else(|| {
            Error::internal(format!("there is data at guest byte {guest}, but the map has none"))
        })?;
        let inside = guest.get().checked_rem(unit).unwrap_or_default();
        Ok(begin.saturating_add(self.stored.prefix.len() as u64).saturating_add(inside))
    }

    /// Writes the bytes before `to`: zeros, and the prefixes of the units that begin there.
    fn fill(&mut self, to: u64, writes: &mut Vec<Write>) {
        let (stride, prefix) = (self.stored.stride(), self.stored.prefix);
        while self.at < to {
            let into = self.at.saturating_sub(self.stored.first).checked_rem(stride).unwrap_or_default();
            if into == 0 && !prefix.is_empty() {
                self.push(Bytes::from_static(prefix), writes);
                continue;
            }
            let end = match prefix.is_empty() {
                true => to,
                false => to.min(self.at.saturating_add(stride.saturating_sub(into))),
            };
            writes.extend(zeros(self.at, end));
            self.at = end;
        }
    }

    /// Merges adjacent writes.
    fn push(&mut self, bytes: Bytes, writes: &mut Vec<Write>) {
        let at = self.at;
        self.at = at.saturating_add(bytes.len() as u64);
        match writes.last_mut() {
            Some(Write::Bytes(_, pieces)) => pieces.push(bytes),
            _ => writes.push(Write::Bytes(TargetOffset::new(at), vec![bytes])),
        }
    }

    /// The end of the last units, and the placement.
    pub(crate) fn finish(mut self) -> (Vec<Write>, UnitPlacement) {
        let mut writes = Vec::new();
        self.fill(self.stored.end(), &mut writes);
        (writes, self.stored)
    }
}

impl fmt::Debug for AppendWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendWriter")
            .field("stored", &self.stored)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use diskferry_core::ErrorKind;

    use super::*;

    const UNIT: u64 = 8192;
    const FIRST: u64 = 1024;

    fn data(at: u64, blocks: &[u8]) -> Scanned {
        let bytes: Vec<u8> = blocks.iter().flat_map(|byte| [*byte; 4096]).collect();
        Scanned::new(GuestOffset::new(at), bytes.into(), None)
    }

    /// The contents of a target after `FIRST`, one number per block. Writes must be consecutive.
    fn target(writes: Vec<Write>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for write in writes {
            let at = match &write {
                Write::Bytes(at, _) => *at,
                Write::Zero(range) => range.start(),
            };
            assert_eq!(at.get(), FIRST + bytes.len() as u64, "writes are consecutive");
            match write {
                Write::Bytes(_, pieces) => pieces.iter().for_each(|piece| bytes.extend_from_slice(piece)),
                Write::Zero(range) => bytes.resize(bytes.len() + range.len() as usize, 0),
            }
        }
        bytes
    }

    fn blocks(bytes: &[u8]) -> Vec<u8> {
        bytes.chunks(4096).map(|block| block[0]).collect()
    }

    fn anything() -> Check {
        Box::new(|_| Ok(()))
    }

    #[test]
    fn units_with_non_zero_bytes_are_stored_whole() {
        let mut writer = AppendWriter::found(FIRST, b"", UNIT, anything());
        let mut writes = writer.place(&data(4096, &[1, 2])).unwrap();
        writes.extend(writer.place(&data(12288, &[0])).unwrap());
        writes.extend(writer.place(&data(16384, &[0, 0, 0, 3, 4, 0])).unwrap());
        let (rest, stored) = writer.finish();
        writes.extend(rest);
        assert_eq!(blocks(&target(writes)), [0, 1, 2, 0, 0, 3, 4, 0]);
        assert_eq!(stored.units().runs().collect::<Vec<_>>(), [0..2, 3..5]);
        assert_eq!((stored.begin(3), stored.begin(2)), (Some(FIRST + 2 * UNIT), None));
    }

    #[test]
    fn known_units_are_stored_after_their_prefix_whatever_they_contain() {
        let mut units = UnitMap::new(UNIT);
        [0..2, 4..6].into_iter().for_each(|run| units.add_units(run).unwrap());
        let mut writer = AppendWriter::known(UnitPlacement::new(FIRST, &[9; 4096], units));
        let mut writes = writer.place(&data(UNIT, &[0, 1])).unwrap();
        writes.extend(writer.finish().0);
        assert_eq!(blocks(&target(writes)), [9, 0, 0, 9, 0, 1, 9, 0, 0, 9, 0, 0]);
    }

    #[test]
    fn units_smaller_than_a_block_are_checked_one_by_one() {
        let mut writer = AppendWriter::found(FIRST, b"", 512, anything());
        let mut block = vec![0; 4096];
        (block[600], block[4000]) = (1, 2);
        let scanned = Scanned::new(GuestOffset::new(8192), block.into(), None);
        let bytes = target(writer.place(&scanned).unwrap());
        assert_eq!((bytes.len(), bytes[600 - 512], bytes[512 + 4000 - 3584]), (1024, 1, 2));
        assert_eq!(writer.stored().units().runs().collect::<Vec<_>>(), [17..18, 23..24]);
    }

    #[test]
    fn too_many_or_out_of_order_bytes_are_refused() {
        let full = || Error::new(ErrorKind::DestinationUnsuitable, "too much");
        let most = Box::new(move |end| if end > FIRST + 2 * UNIT { Err(full()) } else { Ok(()) });
        let mut writer = AppendWriter::found(FIRST, b"", UNIT, most);
        writer.place(&data(0, &[1, 1, 1, 1])).unwrap();
        let error = writer.place(&data(5 * UNIT, &[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
        let mut writer = AppendWriter::found(FIRST, b"", UNIT, anything());
        writer.place(&data(UNIT, &[1])).unwrap();
        assert_eq!(writer.place(&data(0, &[1])).unwrap_err().kind(), ErrorKind::Internal);
        let mut known = AppendWriter::known(UnitPlacement::new(FIRST, b"", UnitMap::full(UNIT, UNIT)));
        assert_eq!(known.place(&data(UNIT, &[1])).unwrap_err().kind(), ErrorKind::Internal);
    }
}

//! From guest bytes in guest order to blocks, one behind the other.

use bytes::Bytes;
use diskferry_core::address::{GuestOffset, GuestRange, TargetOffset, TargetRange};
use diskferry_core::error::{Error, Result};
use diskferry_core::scan::Scanned;
use diskferry_core::target::{Part, Write};
use diskferry_core::units::UnitMap;

use super::super::SECTOR;
use super::unsuitable;
use crate::placing::not_asked_for;

/// Guest bytes of a block: what everyone writes, and all that some readers read.
pub(super) const BLOCK_BYTES: u32 = 2 << 20;
/// The same, to count with.
pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
/// The bitmap of a block, a bit a sector: all of them hold what they should, zeros too.
const BITMAP: &[u8] = &[0xff; BLOCK_BYTES as usize / 512 / 8];
/// Bytes from one block to the next: its bitmap, which is a whole sector, and its data.
const STRIDE: u64 = BITMAP.len() as u64 + BLOCK;

const _: () = assert!((BITMAP.len() as u64).is_multiple_of(SECTOR));

/// The entry of a block that is not stored.
const UNUSED: u32 = u32::MAX;

/// Which blocks are stored, and where: in guest order, from one place on, without gaps.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Where the first block begins with its bitmap.
    first: u64,
    blocks: UnitMap,
}

impl Stored {
    /// None yet, from `first` on.
    pub(super) fn none(first: u64) -> Self {
        Self { first, blocks: UnitMap::new(BLOCK) }
    }

    /// Those of `blocks`, from `first` on.
    ///
    /// # Errors
    /// `internal` where they are of another size.
    pub(super) fn of(first: u64, blocks: UnitMap) -> Result<Self> {
        if blocks.unit() != BLOCK {
            return Err(Error::internal(format!("a map of units of {} bytes for a VHD", blocks.unit())));
        }
        Ok(Self { first, blocks })
    }

    /// Where block `index` begins with its bitmap.
    fn begin(&self, index: u64) -> Option<u64> {
        self.blocks.rank(index)?.checked_mul(STRIDE)?.checked_add(self.first)
    }

    /// Where the last of them ends.
    pub(super) fn end(&self) -> u64 {
        self.blocks.count().saturating_mul(STRIDE).saturating_add(self.first)
    }

    /// The entry of block `index` in the table.
    pub(super) fn entry(&self, index: u64) -> u32 {
        let sector = self.begin(index).map(|begin| begin / SECTOR);
        sector.and_then(|sector| u32::try_from(sector).ok()).unwrap_or(UNUSED)
    }
}

/// Blocks being filled. What is written is front to back, without a gap.
#[derive(Debug)]
pub(super) struct Filling {
    stored: Stored,
    /// True where it was known from the beginning which blocks are stored; else those that hold other than zeros.
    known: bool,
    /// The block that is being filled.
    open: Option<u64>,
    /// Where what was written so far ends.
    end: u64,
}

impl Filling {
    /// Blocks are stored from `first` on as they turn out to hold other than zeros.
    pub(super) fn found(first: u64) -> Self {
        Self { stored: Stored::none(first), known: false, open: None, end: first }
    }

    /// Blocks are stored as `stored` says.
    pub(super) fn known(stored: Stored) -> Self {
        Self { end: stored.first, stored, known: true, open: None }
    }

    /// Which blocks are stored.
    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Takes the next part of the disk.
    ///
    /// # Errors
    /// `internal` where it is not the next one.
    pub(super) fn place(&mut self, part: &Part) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        match part {
            Part::Zero(range) => self.zeros(*range, &mut writes)?,
            Part::Bytes(scanned) => {
                for (range, zero) in scanned.ranges() {
                    match zero {
                        true => self.zeros(range, &mut writes)?,
                        false => self.data(scanned, range, &mut writes)?,
                    }
                }
            }
            Part::Unit(_) => return Err(not_asked_for()),
        }
        Ok(writes)
    }

    /// What is left of the last block.
    ///
    /// # Errors
    /// `internal` where a block never came that was to be stored.
    pub(super) fn finish(&mut self) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        self.close(&mut writes);
        if self.end != self.stored.end() {
            return Err(Error::internal(format!(
                "the blocks of a VHD end at {} and should at {}",
                self.end,
                self.stored.end()
            )));
        }
        Ok(writes)
    }

    /// Zeros need no write before other bytes follow in their block; but a block that is known to be stored begins.
    fn zeros(&mut self, range: GuestRange, writes: &mut Vec<Write>) -> Result<()> {
        if self.known {
            for (index, _) in by_block(range) {
                if self.stored.begin(index).is_some() {
                    self.open(index, writes)?;
                }
            }
        }
        Ok(())
    }

    fn data(&mut self, scanned: &Scanned, range: GuestRange, writes: &mut Vec<Write>) -> Result<()> {
        for (index, piece) in by_block(range) {
            let data = self.open(index, writes)?;
            self.zero_to(data.saturating_add(piece.start().get() % BLOCK), writes);
            self.write(scanned.slice(piece), writes);
        }
        Ok(())
    }

    /// Begins block `index`, unless that was done, and gives the place of its data.
    fn open(&mut self, index: u64, writes: &mut Vec<Write>) -> Result<u64> {
        if !self.known {
            self.stored.blocks.add_units(index..index.saturating_add(1))?;
        }
        let begin = self.stored.begin(index).ok_or_else(|| {
            Error::internal(format!("block {index} holds data, and the map did not say so"))
        })?;
        if self.open != Some(index) {
            self.close(writes);
            if self.end != begin {
                return Err(Error::internal(format!(
                    "block {index} begins at {begin}, and the last one ends at {}",
                    self.end
                )));
            }
            if self.stored.entry(index) == UNUSED {
                return Err(unsuitable(format!(
                    "block {index} would begin at {begin}, and the table of a VHD counts sectors in 32 bits"
                ))
                .hint("convert to qcow2, vmdk or raw"));
            }
            self.write(Bytes::from_static(BITMAP), writes);
            self.open = Some(index);
        }
        Ok(begin.saturating_add(BITMAP.len() as u64))
    }

    /// Fills up the block that was begun.
    fn close(&mut self, writes: &mut Vec<Write>) {
        if let Some(begin) = self.open.take().and_then(|index| self.stored.begin(index)) {
            self.zero_to(begin.saturating_add(STRIDE), writes);
        }
    }

    fn zero_to(&mut self, to: u64, writes: &mut Vec<Write>) {
        if to > self.end {
            let zeros = TargetRange::between(TargetOffset::new(self.end), TargetOffset::new(to));
            writes.push(Write::Zero(zeros));
            self.end = to;
        }
    }

    /// Neighbours become one write.
    fn write(&mut self, bytes: Bytes, writes: &mut Vec<Write>) {
        let at = TargetOffset::new(self.end);
        self.end = self.end.saturating_add(bytes.len() as u64);
        match writes.last_mut() {
            Some(Write::Bytes(_, pieces)) => pieces.push(bytes),
            _ => writes.push(Write::Bytes(at, vec![bytes])),
        }
    }
}

/// Cuts a range at the edges of blocks.
fn by_block(range: GuestRange) -> impl Iterator<Item = (u64, GuestRange)> {
    let mut rest = range;
    std::iter::from_fn(move || {
        let index = rest.start().get() / BLOCK;
        let end = GuestOffset::new(index.saturating_add(1).saturating_mul(BLOCK));
        let piece = GuestRange::between(rest.start(), end.min(rest.end()));
        rest = rest.skip(piece.len());
        (!piece.is_empty()).then_some((index, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskferry_core::error::ErrorKind;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    fn data(at: u64) -> Part {
        Part::Bytes(Scanned::new(GuestOffset::new(at), vec![1; 4096].into(), None))
    }

    fn map(blocks: &[u64]) -> Stored {
        let mut map = UnitMap::new(BLOCK);
        blocks.iter().for_each(|block| map.add_units(*block..block + 1).unwrap());
        Stored::of(2048, map).unwrap()
    }

    fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn ranges_are_cut_at_the_edges_of_blocks() {
        let cut: Vec<_> = by_block(range(BLOCK - 512, 3 * BLOCK + 512)).collect();
        let expected = [
            (0, range(BLOCK - 512, BLOCK)),
            (1, range(BLOCK, 2 * BLOCK)),
            (2, range(2 * BLOCK, 3 * BLOCK)),
            (3, range(3 * BLOCK, 3 * BLOCK + 512)),
        ];
        assert_eq!(cut, expected);
        assert_eq!(by_block(range(5, 5)).count(), 0);
    }

    #[test]
    fn a_map_that_does_not_keep_its_word_is_a_defect_of_ours() {
        let internal = Some(ErrorKind::Internal);
        assert_eq!(kind(Stored::of(2048, UnitMap::new(4096))), internal, "of another unit");
        let mut unnamed = Filling::known(map(&[1]));
        assert_eq!(kind(unnamed.place(&data(0))), internal, "data where none was to be");
        let mut skipped = Filling::known(map(&[0, 1]));
        assert_eq!(kind(skipped.place(&data(BLOCK))), internal, "a block that is to be stored never came");
        let mut short = Filling::known(map(&[0, 1]));
        short.place(&data(0)).unwrap();
        assert_eq!(kind(short.finish()), internal, "the last block never came");
    }

    #[test]
    fn parts_out_of_order_are_a_defect_of_ours() {
        for mut filling in [Filling::found(2048), Filling::known(map(&[0, 1]))] {
            filling.place(&data(0)).unwrap();
            filling.place(&data(BLOCK)).unwrap();
            assert_eq!(kind(filling.place(&data(8192))), Some(ErrorKind::Internal));
        }
    }

    #[test]
    fn a_block_that_the_table_cannot_name_is_refused() {
        let last = (u64::from(UNUSED) - 1) * SECTOR;
        assert_eq!(kind(Filling::found(last).place(&data(0))), None);
        let beyond = Filling::found(last + SECTOR).place(&data(0));
        assert_eq!(kind(beyond), Some(ErrorKind::DestinationUnsuitable));
    }

    #[test]
    fn neighbours_are_one_write() {
        let mut filling = Filling::found(2048);
        let guest = [vec![1; BLOCK as usize], vec![2; 4096], vec![0; 4096], vec![3; 4096]].concat();
        let writes =
            filling.place(&Part::Bytes(Scanned::new(GuestOffset::ZERO, guest.into(), None))).unwrap();
        let shape: Vec<_> = writes
            .iter()
            .map(|write| match write {
                Write::Bytes(at, pieces) => (at.get(), pieces.iter().map(Bytes::len).collect()),
                Write::Zero(range) => (range.start().get(), vec![]),
            })
            .collect();
        let second = 2048 + STRIDE + 512;
        let block = BLOCK as usize;
        let expected =
            [(2048, vec![512, block, 512, 4096]), (second + 4096, vec![]), (second + 8192, vec![4096])];
        assert_eq!(shape, expected);
    }
}

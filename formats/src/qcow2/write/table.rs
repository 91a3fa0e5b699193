//! Tables that are generated while they are written, so that only a part of one is in memory.

use std::iter::Fuse;

use bytes::Bytes;
use diskferry_core::{TargetOffset, TargetRange, Write};

/// Most bytes of a table in one write.
const PIECE: u64 = 256 << 10;
/// Shortest range of zeros in a table that is written as zeros instead of bytes.
const GAP: u64 = 64 << 10;

/// Consecutive entries of a table: `value`, `value` + `step`, …
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryRun {
    pub(super) index: u64,
    pub(super) count: u64,
    pub(super) value: u64,
    pub(super) step: u64,
}

/// Length of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EntryWidth {
    /// A reference count.
    Two,
    /// Any other entry.
    Eight,
}

impl EntryWidth {
    fn bytes(self) -> u64 {
        match self {
            Self::Two => 2,
            Self::Eight => 8,
        }
    }

    fn push(self, value: u64, to: &mut Vec<u8>) {
        match self {
            Self::Two => to.extend(u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()),
            Self::Eight => to.extend(value.to_be_bytes()),
        }
    }
}

/// The writes of a table in order: runs ascending by index, and zeros between them.
pub(super) struct EntryTable<I: Iterator<Item = EntryRun>> {
    start: TargetOffset,
    width: EntryWidth,
    entries: u64,
    next: u64,
    run: Option<EntryRun>,
    runs: Fuse<I>,
}

impl<I: Iterator<Item = EntryRun>> EntryTable<I> {
    /// A table that fills `place`. Runs must not overlap.
    pub(super) fn new(place: TargetRange, width: EntryWidth, runs: I) -> Self {
        let entries = place.len().checked_div(width.bytes()).unwrap_or_default();
        Self { start: place.start(), width, entries, next: 0, run: None, runs: runs.fuse() }
    }

    fn place(&self, index: u64) -> TargetOffset {
        TargetOffset::new(self.start.get().saturating_add(index.saturating_mul(self.width.bytes())))
    }

    /// Number of zero entries from the next one on.
    fn zeros(&mut self) -> u64 {
        if self.run.is_none_or(|run| run.count == 0) {
            self.run = self.runs.find(|run| run.count > 0);
        }
        let next = self.run.map_or(self.entries, |run| run.index.min(self.entries));
        next.saturating_sub(self.next)
    }
}

impl<I: Iterator<Item = EntryRun>> Iterator for EntryTable<I> {
    type Item = Write;

    fn next(&mut self) -> Option<Write> {
        if self.next >= self.entries {
            return None;
        }
        let (first, width) = (self.next, self.width.bytes());
        let gap = GAP.checked_div(width).unwrap_or_default();
        let zeros = self.zeros();
        if self.run.is_none() || zeros >= gap {
            self.next = first.saturating_add(zeros);
            return Some(Write::Zero(TargetRange::between(self.place(first), self.place(self.next))));
        }
        let end = self.entries.min(first.saturating_add(PIECE.checked_div(width).unwrap_or_default()));
        let mut bytes = Vec::new();
        while self.next < end {
            let zeros = self.zeros();
            match &mut self.run {
                Some(run) if zeros == 0 => {
                    self.width.push(run.value, &mut bytes);
                    run.value = run.value.saturating_add(run.step);
                    run.index = run.index.saturating_add(1);
                    run.count = run.count.saturating_sub(1);
                }
                Some(_) if zeros < gap => self.width.push(0, &mut bytes),
                _ => break,
            }
            self.next = self.next.saturating_add(1);
        }
        Some(Write::Bytes(self.place(first), vec![Bytes::from(bytes)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a table that begins at 1,000, and the number of its writes. Each begins at the end of the previous
    /// one.
    fn made(entries: u64, width: EntryWidth, runs: Vec<EntryRun>) -> (Vec<u8>, usize) {
        let place = TargetRange::new(TargetOffset::new(1000), entries * width.bytes()).unwrap();
        let (mut bytes, mut writes) = (Vec::new(), 0);
        for write in EntryTable::new(place, width, runs.into_iter()) {
            writes += 1;
            match write {
                Write::Bytes(at, pieces) => {
                    assert_eq!(at.get(), 1000 + bytes.len() as u64);
                    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
                }
                Write::Zero(range) => {
                    assert_eq!(range.start().get(), 1000 + bytes.len() as u64);
                    bytes.resize(bytes.len() + range.len() as usize, 0);
                }
            }
        }
        assert_eq!(bytes.len() as u64, place.len());
        (bytes, writes)
    }

    fn run(index: u64, count: u64, value: u64, step: u64) -> EntryRun {
        EntryRun { index, count, value, step }
    }

    #[test]
    fn runs_are_at_their_index_with_zeros_between() {
        for width in [EntryWidth::Two, EntryWidth::Eight] {
            let gap = GAP / width.bytes();
            let runs = vec![
                run(0, 2, 5, 1),
                run(2, 0, 9, 9),
                run(3, 1, 7, 0),
                run(gap + 4, 70_000, 1, 0),
                run(200_000, 3, 100, 10),
            ];
            let (bytes, writes) = made(300_000, width, runs);
            let entry = |index: u64| {
                let start = (index * width.bytes()) as usize;
                bytes[start..start + width.bytes() as usize]
                    .iter()
                    .fold(0u64, |all, byte| all << 8 | u64::from(*byte))
            };
            for (index, value) in
                [(0, 5), (1, 6), (2, 0), (3, 7), (4, 0), (gap + 3, 0), (gap + 4, 1), (gap + 70_003, 1)]
            {
                assert_eq!(entry(index), value, "entry {index}, {width:?}");
            }
            assert_eq!([199_999, 200_000, 200_001, 200_002, 200_003].map(entry), [0, 100, 110, 120, 0]);
            assert!(writes < 20, "{writes}");
        }
    }

    #[test]
    fn an_empty_table_is_zeros_and_runs_after_its_end_are_ignored() {
        assert_eq!(made(0, EntryWidth::Eight, vec![run(0, 1, 1, 1)]), (vec![], 0));
        assert_eq!(made(100, EntryWidth::Eight, vec![]), (vec![0; 800], 1));
        assert_eq!(made(2, EntryWidth::Two, vec![run(1, 5, 0x102, 1)]), (vec![0, 0, 1, 2], 1));
    }
}

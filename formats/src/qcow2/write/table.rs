//! Tables, made while they are written: however large one is, only a piece of it is in memory.

use std::iter::Fuse;

use bytes::Bytes;
use diskferry_core::address::{TargetOffset, TargetRange};
use diskferry_core::target::Write;

/// Most bytes of a table in one write.
const PIECE: u64 = 256 << 10;
/// Zeros in a table from which on they are written as zeros and not as bytes.
const GAP: u64 = 64 << 10;

/// Entries of a table that follow each other: `value`, `value` + `step`, …
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) index: u64,
    pub(super) count: u64,
    pub(super) value: u64,
    pub(super) step: u64,
}

/// Length of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// A reference count.
    Two,
    /// Everything else.
    Eight,
}

impl Width {
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

/// The writes of a table, front to back: the runs in order of their indices, and zeros where there is none.
pub(super) struct Table<I: Iterator<Item = Run>> {
    start: TargetOffset,
    width: Width,
    entries: u64,
    next: u64,
    run: Option<Run>,
    runs: Fuse<I>,
}

impl<I: Iterator<Item = Run>> Table<I> {
    /// A table over all of `place`. Runs do not overlap.
    pub(super) fn new(place: TargetRange, width: Width, runs: I) -> Self {
        let entries = place.len().checked_div(width.bytes()).unwrap_or_default();
        Self { start: place.start(), width, entries, next: 0, run: None, runs: runs.fuse() }
    }

    fn place(&self, index: u64) -> TargetOffset {
        TargetOffset::new(self.start.get().saturating_add(index.saturating_mul(self.width.bytes())))
    }

    /// How many entries from the next one on are zero.
    fn zeros(&mut self) -> u64 {
        if self.run.is_none_or(|run| run.count == 0) {
            self.run = self.runs.find(|run| run.count > 0);
        }
        let next = self.run.map_or(self.entries, |run| run.index.min(self.entries));
        next.saturating_sub(self.next)
    }
}

impl<I: Iterator<Item = Run>> Iterator for Table<I> {
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

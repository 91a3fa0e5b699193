//! Sets of guest ranges.
//!
//! ```text
//! add         ├──┤   ├──┤     ranges that touch are merged
//! gaps     ├──┤  ├───┤  ├──┤  the parts in none of them
//! without  a range ∖ a sorted list of ranges
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::{GuestOffset, GuestRange};
use crate::digest::BLOCK;

/// A set of guest bytes, as ranges that do not touch each other.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct RangeSet {
    /// Start and end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range. Parts of it may already be in the set.
    pub(crate) fn add(&mut self, range: GuestRange) {
        let (mut start, mut end) = (range.start().get(), range.end().get());
        if start >= end {
            return;
        }
        if let Some((before, to)) = self.last_up_to(start)
            && to >= start
        {
            start = before;
            end = end.max(to);
        }
        while let Some((after, to)) = self.last_up_to(end)
            && after > start
        {
            self.ranges.remove(&after);
            end = end.max(to);
        }
        self.ranges.insert(start, end);
    }

    /// Adds a range that must not intersect the set. Returns false and adds nothing if it does.
    pub(crate) fn add_new(&mut self, range: GuestRange) -> bool {
        let (start, end) = (range.start().get(), range.end().get());
        // Ranges do not overlap, so the last one that begins before the end reaches furthest.
        let overlaps = self.ranges.range(..end).next_back().is_some_and(|(_, to)| *to > start);
        if !overlaps {
            self.add(range);
        }
        !overlaps
    }

    /// The last range that begins at or before `at`.
    fn last_up_to(&self, at: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=at).next_back().map(|(from, to)| (*from, *to))
    }

    /// The number of separate ranges.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The first range.
    pub(crate) fn first(&self) -> Option<GuestRange> {
        self.list().next()
    }

    /// Removes the first range and returns it.
    pub(crate) fn pop_first(&mut self) -> Option<GuestRange> {
        let first = self.first()?;
        self.ranges.remove(&first.start().get());
        Some(first)
    }

    /// The ranges in order.
    pub(crate) fn list(&self) -> impl Iterator<Item = GuestRange> + '_ {
        let at = |offset: &u64| GuestOffset::new(*offset);
        self.ranges.iter().map(move |(start, end)| GuestRange::between(at(start), at(end)))
    }

    /// The parts of `range` that are in none of the ranges, in order.
    pub(crate) fn gaps(&self, range: GuestRange) -> Vec<GuestRange> {
        let all: Vec<GuestRange> = self.list().collect();
        without(range, &all).collect()
    }
}

/// Checks that these are ranges of whole blocks of a disk of `virtual_bytes`, in order, that do not touch. They come
/// from a journal, which is not trusted.
pub(crate) fn are_sound(done: &[GuestRange], virtual_bytes: u64) -> bool {
    let whole = |at: GuestOffset| at.is_aligned(BLOCK) || at.get() == virtual_bytes;
    let inside = |range: &GuestRange| {
        !range.is_empty() && range.end().get() <= virtual_bytes && whole(range.start()) && whole(range.end())
    };
    done.iter().all(inside) && done.is_sorted_by(|a, b| a.end() <= b.start())
}

/// The parts of `range` that are in none of `done`, whose ranges are in order and do not touch.
pub(crate) fn without(range: GuestRange, done: &[GuestRange]) -> impl Iterator<Item = GuestRange> + '_ {
    let first = done.partition_point(|one| one.end() <= range.start());
    let mut rest = Some(range);
    let mut done = done.iter().skip(first);
    std::iter::from_fn(move || {
        loop {
            let now = rest.take().filter(|now| !now.is_empty())?;
            let Some(next) = done.next().filter(|next| next.start() < now.end()) else { return Some(now) };
            let before = GuestRange::between(now.start(), next.start().max(now.start()));
            rest = Some(GuestRange::between(next.end().min(now.end()), now.end()));
            if !before.is_empty() {
                return Some(before);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    #[test]
    fn ranges_that_touch_are_merged() {
        let mut ranges = RangeSet::default();
        for (start, end) in [(10, 20), (40, 50), (30, 40), (20, 25), (5, 5), (60, 70), (25, 30), (0, 3)] {
            ranges.add(range(start, end));
        }
        assert_eq!(ranges.list().collect::<Vec<_>>(), [range(0, 3), range(10, 50), range(60, 70)]);
    }

    #[test]
    fn a_new_range_is_added_and_an_overlapping_one_is_refused() {
        let mut ranges = RangeSet::default();
        assert!(ranges.add_new(range(10, 20)) && ranges.add_new(range(30, 40)));
        for (start, end) in [(10, 20), (5, 11), (19, 30), (12, 13), (0, 100), (39, 41)] {
            assert!(!ranges.add_new(range(start, end)), "{start}..{end}");
        }
        assert_eq!(ranges.gaps(range(0, 50)), [range(0, 10), range(20, 30), range(40, 50)]);
        assert!(ranges.add_new(range(20, 30)));
        assert_eq!((ranges.pop_first(), ranges.len()), (Some(range(10, 40)), 0));
    }

    #[test]
    fn ranges_that_are_not_whole_blocks_of_the_disk_are_rejected() {
        let size = 3 * BLOCK + 5;
        assert!(are_sound(&[range(0, BLOCK), range(2 * BLOCK, size)], size));
        for done in [
            vec![range(0, 5)],
            vec![range(7, BLOCK)],
            vec![range(0, 4 * BLOCK)],
            vec![range(BLOCK, BLOCK)],
            vec![range(0, 2 * BLOCK), range(BLOCK, 3 * BLOCK)],
            vec![range(2 * BLOCK, size), range(0, BLOCK)],
        ] {
            assert!(!are_sound(&done, size), "{done:?}");
        }
    }

    #[test]
    fn done_ranges_are_left_out() {
        let done = [range(10, 20), range(30, 40), range(50, 60)];
        let left = |start, end| {
            without(range(start, end), &done).map(|r| (r.start().get(), r.end().get())).collect::<Vec<_>>()
        };
        assert_eq!(left(0, 100), [(0, 10), (20, 30), (40, 50), (60, 100)]);
        assert_eq!(left(12, 18), []);
        assert_eq!(left(15, 35), [(20, 30)]);
        assert_eq!(left(20, 30), [(20, 30)]);
        assert_eq!(left(60, 70), [(60, 70)]);
        assert_eq!(left(5, 5), []);
    }
}

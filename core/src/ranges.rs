//! Sets of guest ranges.

use serde::{Deserialize, Serialize};

use crate::address::{GuestOffset, GuestRange};
use crate::digest::BLOCK;

/// A set of guest bytes, as ranges that do not touch each other.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct RangeSet {
    /// Start and end.
    ranges: std::collections::BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range, of which nothing is there yet.
    pub(crate) fn add(&mut self, range: GuestRange) {
        let (mut start, mut end) = (range.start().get(), range.end().get());
        if start >= end {
            return;
        }
        if let Some((before, to)) = self.ranges.range(..=start).next_back().map(|(from, to)| (*from, *to))
            && to >= start
        {
            start = before;
            end = end.max(to);
        }
        while let Some((behind, to)) =
            self.ranges.range(start..=end).next_back().map(|(from, to)| (*from, *to))
            && behind > start
        {
            self.ranges.remove(&behind);
            end = end.max(to);
        }
        self.ranges.insert(start, end);
    }

    /// How many separate ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges in order.
    pub(crate) fn list(&self) -> impl Iterator<Item = GuestRange> + '_ {
        let at = |offset: &u64| GuestOffset::new(*offset);
        self.ranges.iter().map(move |(start, end)| GuestRange::between(at(start), at(end)))
    }
}

/// Whether these are ranges of whole blocks of a disk of `virtual_bytes`, in order, none meeting another: a journal may be
/// anything.
pub(crate) fn are_sound(done: &[GuestRange], virtual_bytes: u64) -> bool {
    let whole = |at: GuestOffset| at.is_aligned(BLOCK) || at.get() == virtual_bytes;
    let inside = |range: &GuestRange| {
        !range.is_empty() && range.end().get() <= virtual_bytes && whole(range.start()) && whole(range.end())
    };
    done.iter().all(inside) && done.windows(2).all(|pair| pair[0].end() <= pair[1].start())
}

/// The parts of `range` that are in none of `done`, which are in order and do not meet.
pub(crate) fn without(range: GuestRange, done: &[GuestRange]) -> impl Iterator<Item = GuestRange> + '_ {
    let first = done.partition_point(|one| one.end() <= range.start());
    let mut rest = Some(range);
    let mut done = done.get(first..).unwrap_or_default().iter();
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
    fn ranges_that_touch_become_one() {
        let mut ranges = RangeSet::default();
        for (start, end) in [(10, 20), (40, 50), (30, 40), (20, 25), (5, 5), (60, 70), (25, 30), (0, 3)] {
            ranges.add(range(start, end));
        }
        assert_eq!(ranges.list().collect::<Vec<_>>(), [range(0, 3), range(10, 50), range(60, 70)]);
    }

    #[test]
    fn ranges_that_are_no_whole_blocks_of_the_disk_are_not_believed() {
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
    fn what_is_done_is_left_out() {
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

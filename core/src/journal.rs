//! What a run keeps so that another one can go on after it was killed.
//!
//! ```text
//! guest   ├──── read again ────┼──── done: placed again, not read ────┼──── read ────▶
//!         0              enough is lost                            the mark
//! target  ├─ front, or lost ─┼──────────── kept by the place ─────────────┼──────────▶
//! ```
//!
//! Now and then a run lets what is under way come to its end, and notes how far it is: the *mark*. What lies before it is a
//! prefix of the disk where the target takes guest order, and any set of ranges where it does not. A layout is a function
//! of what it is given, so its state is not kept: what was placed before the mark is placed once more, by its length and
//! with bytes of no meaning, and what that would write is not written. The digest is kept by its open blocks.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::account::Counted;
use crate::address::{GuestOffset, GuestRange};
use crate::digest::{BLOCK, Hash};
use crate::error::Result;
use crate::kept::HeadAndTail;
use crate::scan::{Run, Scanned, is_zero};
use crate::source::BoxFuture;
use crate::target::{Coding, Encoded, Part};

/// What a place keeps of an interrupted run.
#[derive(Clone, Debug)]
pub struct Saved {
    /// What was saved with [`Journal::save`].
    pub state: Bytes,
    /// The bytes of the target that are there. The range ends at the `at` that was saved, or behind it.
    pub target: Range<u64>,
}

/// The journal of a target: what is needed to go on with it, kept in its place.
///
/// It is there while the target is written, and gone when it is published or given up; a sink that was made to be gone on
/// with keeps it, and the target, when it is given up too.
pub trait Journal: Send + Sync {
    /// What an interrupted run left. `None` where there is nothing, or nothing that can be used: then the target begins
    /// anew. Called once, before [`prepare`](crate::sink::Sink::prepare).
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn load(&self) -> BoxFuture<'_, Result<Option<Saved>>>;

    /// Drops what was left: the target begins anew.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn drop_saved(&self) -> BoxFuture<'_, Result<()>>;

    /// Keeps `state`, which says how to go on from a target whose first `at` bytes are there, but for a front that is written
    /// last; where the target is written in any order, from all that was written. The writes were answered before. It
    /// comes to its end when these bytes would outlast this process, which may take until more was written; dropping it is
    /// safe, and keeps either the state of before or this one.
    ///
    /// # Errors
    /// The `destination_*` codes. The state of before is kept.
    fn save(&self, at: u64, state: Bytes) -> BoxFuture<'_, Result<()>>;

    /// Whether something stays, to be gone on with, where the target is given up now or was.
    fn stays(&self) -> bool;
}

/// How a journal begins, and the version of what follows.
const MAGIC: [u8; 8] = *b"dfjrnl01";

/// What is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct State<'a> {
    /// What the run was for: another source, target, option or build has another.
    pub(crate) key: Hash,
    pub(crate) counted: Counted,
    pub(crate) placed: Cow<'a, Placed>,
    pub(crate) written: Cow<'a, HeadAndTail>,
}

impl State<'_> {
    /// As bytes, with a checksum.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        pack(MAGIC, self)
    }

    /// Reads what [`encode`](Self::encode) made; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        unpack(MAGIC, bytes)
    }
}

/// `value` as bytes: `magic`, the value, and their CRC-32. `None` where it cannot be put into bytes.
pub fn pack<T: Serialize>(magic: [u8; 8], value: &T) -> Option<Bytes> {
    let mut bytes = postcard::to_extend(value, magic.to_vec()).ok()?;
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Some(bytes.into())
}

/// What [`pack`] was given; `None` for anything else.
pub fn unpack<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Option<T> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (value, rest) = postcard::take_from_bytes(bytes.strip_prefix(&magic)?).ok()?;
    rest.is_empty().then_some(value)
}

/// What was placed so far, as far as it is needed to place it once more.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Placed {
    /// In any order: the ranges of guest bytes.
    Ranges(Ranges),
    /// In guest order.
    Prefix {
        /// Guest bytes that were given as data.
        data: Ranges,
        /// Units as they were encoded: how many lie between it and the one before, and its length; 0 for a plain one.
        units: Vec<(u32, u32)>,
        /// Behind the last unit.
        next: u64,
        /// How far the disk was placed, and the target written, at each mark.
        marks: Vec<(u64, u64)>,
    },
}

/// What is not data in the list of lengths.
const PLAIN: u32 = 0;

impl Placed {
    /// Nothing; `ordered` where the target takes guest order.
    pub(crate) fn new(ordered: bool) -> Self {
        match ordered {
            true => Self::Prefix { data: Ranges::default(), units: Vec::new(), next: 0, marks: Vec::new() },
            false => Self::Ranges(Ranges::default()),
        }
    }

    /// Takes note of a part that is placed. A layout's `unit` may be smaller than what was scanned as one. False where it has
    /// become more than it is worth.
    pub(crate) fn note(&mut self, part: &Part, unit: Option<u64>) -> bool {
        match (&mut *self, part) {
            (Self::Ranges(ranges), Part::Zero(range)) => ranges.add(*range),
            (Self::Ranges(ranges), Part::Bytes(scanned)) => ranges.add(scanned.guest),
            (Self::Prefix { data, .. }, Part::Bytes(scanned)) => {
                let small = unit.filter(|unit| *unit < BLOCK);
                for (range, _) in scanned.ranges().filter(|(_, zero)| !zero) {
                    let mut rest = range;
                    while !rest.is_empty() {
                        let (now, later) = rest.split_at(small.unwrap_or(u64::MAX));
                        rest = later;
                        if small.is_none() || !is_zero(&scanned.slice(now)) {
                            data.add(now);
                        }
                    }
                }
            }
            (Self::Prefix { units, next, .. }, Part::Unit(encoded)) => {
                let length = match encoded.coding {
                    Coding::Plain => PLAIN,
                    Coding::Coded(len) => u32::try_from(len).unwrap_or(u32::MAX),
                };
                let Ok(gap) = u32::try_from(encoded.unit.saturating_sub(*next)) else { return false };
                units.push((gap, length));
                *next = encoded.unit.saturating_add(1);
            }
            (_, Part::Zero(_) | Part::Unit(_)) => {}
        }
        self.is_worth_it()
    }

    fn is_worth_it(&self) -> bool {
        /// 8 MiB: 64 GiB of units of 64 KiB.
        const UNITS: usize = 1 << 20;
        /// Some 5 MiB.
        const RANGES: usize = 1 << 17;
        match self {
            Self::Ranges(ranges) => ranges.ranges.len() < RANGES,
            Self::Prefix { data, units, .. } => units.len() < UNITS && data.ranges.len() < RANGES,
        }
    }

    /// Takes note of a mark: the disk is placed up to `guest`, and the target written up to `target`.
    pub(crate) fn mark(&mut self, guest: u64, target: u64) {
        if let Self::Prefix { marks, .. } = self {
            marks.push((guest, target));
        }
    }

    /// What need not be read again, where a place has the bytes `target` of the target: guest ranges in order.
    pub(crate) fn done(&self, target: &Range<u64>) -> Vec<GuestRange> {
        match self {
            Self::Ranges(ranges) => ranges.list().collect(),
            Self::Prefix { marks, .. } => {
                let begin = if target.start == 0 {
                    Some(0)
                } else {
                    marks.iter().find(|mark| mark.1 >= target.start).map(|mark| mark.0)
                };
                let end = marks.last().filter(|mark| mark.1 <= target.end).map(|mark| mark.0);
                let (Some(begin), Some(end)) = (begin, end) else { return Vec::new() };
                let range = GuestRange::between(GuestOffset::new(begin), GuestOffset::new(end.max(begin)));
                Some(range).filter(|range| !range.is_empty()).into_iter().collect()
            }
        }
    }

    /// How far the target was written at the last mark.
    pub(crate) fn target_end(&self) -> u64 {
        match self {
            Self::Ranges(_) => 0,
            Self::Prefix { marks, .. } => marks.last().map_or(0, |mark| mark.1),
        }
    }

    /// What was placed of `range`, in guest order; units have `unit` bytes.
    pub(crate) fn parts(&self, range: GuestRange, unit: Option<u64>) -> Vec<Replayed> {
        let Self::Prefix { data, units, .. } = self else { return Vec::new() };
        let mut parts: Vec<_> =
            data.list().filter_map(|run| run.intersection(range)).map(Replayed::Data).collect();
        let unit_bytes = unit.unwrap_or(1).max(1);
        let mut at = 0u64;
        for (gap, length) in units {
            let unit = at.saturating_add(u64::from(*gap));
            at = unit.saturating_add(1);
            let start = unit.saturating_mul(unit_bytes);
            if start >= range.start().get() && start < range.end().get() {
                parts.push(Replayed::Unit { unit, length: *length });
            }
        }
        parts
    }
}

/// A part that is placed once more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replayed {
    Data(GuestRange),
    Unit { unit: u64, length: u32 },
}

/// Bytes of no meaning, but that they are not zeros.
pub(crate) struct Dummy(Bytes);

impl Dummy {
    /// Most guest bytes that are placed at once.
    const MOST: u64 = 1 << 20;

    pub(crate) fn new(unit: Option<u64>) -> Self {
        let len = usize::try_from(unit.unwrap_or(0).max(Self::MOST)).unwrap_or(1 << 20);
        Self(Bytes::from(vec![0xff; len]))
    }

    /// The parts that a layout is given for `replayed`, whose unit has `unit` bytes.
    pub(crate) fn parts(&self, replayed: Replayed, unit: Option<u64>) -> impl Iterator<Item = Part> + '_ {
        let (mut rest, mut one) = match replayed {
            Replayed::Data(range) => (range, None),
            Replayed::Unit { unit: index, length } => {
                let plain = usize::try_from(unit.unwrap_or(0)).unwrap_or(usize::MAX);
                let (coding, len) = match length as usize {
                    0 => (Coding::Plain, plain),
                    len => (Coding::Coded(len), len),
                };
                let bytes = self.0.slice(..len.min(self.0.len()));
                (GuestRange::first(0), Some(Part::Unit(Encoded { unit: index, coding, bytes })))
            }
        };
        std::iter::from_fn(move || {
            if let Some(part) = one.take() {
                return Some(part);
            }
            let (guest, later) = rest.split_at(Self::MOST);
            rest = later;
            (!guest.is_empty()).then(|| {
                Part::Bytes(Scanned {
                    guest,
                    bytes: self.0.slice(..guest.len() as usize),
                    runs: vec![Run { bytes: guest.len(), zero: false }],
                    leaves: Vec::new(),
                    streams: Vec::new(),
                })
            })
        })
    }
}

/// A set of guest bytes, as ranges that do not touch each other.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ranges {
    /// Start and end.
    ranges: std::collections::BTreeMap<u64, u64>,
}

impl Ranges {
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
        let mut ranges = Ranges::default();
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

    #[test]
    fn what_a_place_lost_of_the_front_is_read_again() {
        let mut placed = Placed::new(true);
        for (guest, target) in [(100, 50), (200, 90), (300, 150)] {
            placed.mark(guest, target);
        }
        assert_eq!(placed.done(&(0..150)), [range(0, 300)]);
        assert_eq!(placed.done(&(60..200)), [range(200, 300)]);
        assert_eq!(placed.done(&(150..200)), []);
        assert_eq!(placed.done(&(0..149)), []);
        assert_eq!(placed.done(&(160..170)), []);
    }

    #[test]
    fn a_state_that_is_not_whole_is_none() {
        let state = State {
            key: [7; 32],
            counted: Counted::default(),
            placed: Cow::Owned(Placed::new(true)),
            written: Cow::Owned(HeadAndTail::default()),
        };
        let bytes = state.encode().unwrap();
        assert_eq!(State::decode(&bytes).unwrap().key, [7; 32]);
        for cut in 0..bytes.len() {
            assert!(State::decode(&bytes[..cut]).is_none(), "{cut}");
            let mut wrong = bytes.to_vec();
            wrong[cut] ^= 1;
            assert!(State::decode(&wrong).is_none(), "{cut}");
        }
    }
}

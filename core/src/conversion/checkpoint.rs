//! What a checkpoint holds, so that another run can continue after this one was killed.
//!
//! ```text
//! guest   ├──── read again ────┼──── done: replayed, not read ─────────┼──── read ────▶
//!         0              enough is lost                         the checkpoint
//! target  ├─ front, or lost ─┼────────── kept by the destination ──────────┼──────────▶
//! ```
//!
//! From time to time a run lets what is in flight finish, and saves a *checkpoint*. If the target takes guest order, what
//! lies before it is a prefix of the disk; otherwise it is any set of ranges. A layout is a function of its input, so its
//! state is not saved: what was placed before the checkpoint is *replayed*, with its lengths and placeholder bytes, and what
//! that would write is not written. The digest is saved by its open blocks.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::address::{GuestOffset, GuestRange};
use crate::conversion::content_meter::ContentState;
use crate::conversion::head_tail::HeadTailRecorder;
use crate::digest::{BLOCK, Hash};
use crate::engine::is_zero;
use crate::layout::{BlockRun, Coding, Encoded, Part, Scanned};
use crate::ranges::RangeSet;
use crate::sink::{pack, unpack};

/// How a journal begins, and the version of what follows.
const MAGIC: [u8; 8] = *b"dfjrnl01";

/// A checkpoint.
#[derive(Serialize, Deserialize)]
pub(crate) struct Checkpoint<'a> {
    /// What the run was for: another source, target, option or build has another.
    pub(crate) key: Hash,
    pub(crate) counted: ContentState,
    pub(crate) placed: Cow<'a, PlacedParts>,
    pub(crate) written: Cow<'a, HeadTailRecorder>,
}

impl Checkpoint<'_> {
    /// As bytes, with a checksum.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        pack(MAGIC, self)
    }

    /// Reads what [`encode`](Self::encode) made; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        unpack(MAGIC, bytes)
    }
}

/// What was placed so far, as far as it is needed to replay it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum PlacedParts {
    /// In any order: the ranges of guest bytes.
    Ranges(RangeSet),
    /// In guest order.
    Prefix {
        /// Guest bytes that were given as data.
        data: RangeSet,
        /// Units as they were encoded: how many lie between it and the one before, and its length; 0 for a plain one.
        units: Vec<(u32, u32)>,
        /// After the last unit.
        next: u64,
        /// How far the disk was placed, and the target written, at each checkpoint.
        checkpoints: Vec<(u64, u64)>,
    },
}

/// What is not data in the list of lengths.
const PLAIN: u32 = 0;

impl PlacedParts {
    /// Nothing; `ordered` if the target takes guest order.
    pub(crate) fn new(ordered: bool) -> Self {
        match ordered {
            true => Self::Prefix {
                data: RangeSet::default(),
                units: Vec::new(),
                next: 0,
                checkpoints: Vec::new(),
            },
            false => Self::Ranges(RangeSet::default()),
        }
    }

    /// Records a part that is placed. A layout's `unit` may be smaller than what was scanned as one. False if it has
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
                    Coding::Coded(len) => match u32::try_from(len) {
                        Ok(len) => len,
                        Err(_) => return false,
                    },
                };
                // Units come in guest order.
                let gap = encoded.unit.checked_sub(*next).and_then(|gap| u32::try_from(gap).ok());
                let Some(gap) = gap else { return false };
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
            Self::Ranges(ranges) => ranges.len() < RANGES,
            Self::Prefix { data, units, .. } => units.len() < UNITS && data.len() < RANGES,
        }
    }

    /// Records a checkpoint: the disk is placed up to `guest`, and the target written up to `target`.
    pub(crate) fn checkpoint(&mut self, guest: u64, target: u64) {
        if let Self::Prefix { checkpoints, .. } = self {
            checkpoints.push((guest, target));
        }
    }

    /// What need not be read again, where a place has the bytes `target` of the target: guest ranges in order.
    pub(crate) fn done(&self, target: &Range<u64>) -> Vec<GuestRange> {
        match self {
            Self::Ranges(ranges) => ranges.list().collect(),
            Self::Prefix { checkpoints, .. } => {
                let begin = if target.start == 0 {
                    Some(0)
                } else {
                    checkpoints
                        .iter()
                        .find(|checkpoint| checkpoint.1 >= target.start)
                        .map(|checkpoint| checkpoint.0)
                };
                let end = checkpoints
                    .last()
                    .filter(|checkpoint| checkpoint.1 <= target.end)
                    .map(|checkpoint| checkpoint.0);
                let (Some(begin), Some(end)) = (begin, end) else { return Vec::new() };
                let range = GuestRange::between(GuestOffset::new(begin), GuestOffset::new(end.max(begin)));
                Some(range).filter(|range| !range.is_empty()).into_iter().collect()
            }
        }
    }

    /// How far the target was written at the last checkpoint.
    pub(crate) fn target_end(&self) -> u64 {
        match self {
            Self::Ranges(_) => 0,
            Self::Prefix { checkpoints, .. } => checkpoints.last().map_or(0, |checkpoint| checkpoint.1),
        }
    }

    /// What was placed of `range`, in guest order; units have `unit` bytes.
    pub(crate) fn parts(&self, range: GuestRange, unit: Option<u64>) -> Vec<ReplayedPart> {
        let Self::Prefix { data, units, .. } = self else { return Vec::new() };
        let mut parts: Vec<_> =
            data.list().filter_map(|run| run.intersection(range)).map(ReplayedPart::Data).collect();
        let unit_bytes = unit.unwrap_or(1).max(1);
        let mut at = 0u64;
        for (gap, length) in units {
            // A journal may be anything: a unit after the end of the address space is in no range.
            let Some(unit) = at.checked_add(u64::from(*gap)) else { break };
            let (Some(next), Some(start)) = (unit.checked_add(1), unit.checked_mul(unit_bytes)) else {
                break;
            };
            at = next;
            if start >= range.start().get() && start < range.end().get() {
                parts.push(ReplayedPart::Unit { unit, length: *length });
            }
        }
        parts
    }
}

/// A part that is replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplayedPart {
    Data(GuestRange),
    Unit { unit: u64, length: u32 },
}

/// Bytes without meaning, except that they are not zeros.
pub(crate) struct Placeholder(Bytes);

impl Placeholder {
    /// Most guest bytes that are placed at once.
    const MOST: u64 = 1 << 20;

    pub(crate) fn new(unit: Option<u64>) -> Self {
        let len = usize::try_from(unit.unwrap_or(0).max(Self::MOST)).unwrap_or(1 << 20);
        Self(Bytes::from(vec![0xff; len]))
    }

    /// The parts that a layout is given for `replayed`, whose unit has `unit` bytes.
    pub(crate) fn parts(&self, replayed: ReplayedPart, unit: Option<u64>) -> impl Iterator<Item = Part> + '_ {
        let (mut rest, mut one) = match replayed {
            ReplayedPart::Data(range) => (range, None),
            ReplayedPart::Unit { unit: index, length } => {
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
                    runs: vec![BlockRun { bytes: guest.len(), zero: false }],
                    leaves: Vec::new(),
                    streams: Vec::new(),
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    #[test]
    fn what_a_place_lost_of_the_front_is_read_again() {
        let mut placed = PlacedParts::new(true);
        for (guest, target) in [(100, 50), (200, 90), (300, 150)] {
            placed.checkpoint(guest, target);
        }
        assert_eq!(placed.done(&(0..150)), [range(0, 300)]);
        assert_eq!(placed.done(&(60..200)), [range(200, 300)]);
        assert_eq!(placed.done(&(150..200)), []);
        assert_eq!(placed.done(&(0..149)), []);
        assert_eq!(placed.done(&(160..170)), []);
    }

    #[test]
    fn a_state_that_is_not_whole_is_none() {
        let state = Checkpoint {
            key: [7; 32],
            counted: ContentState::default(),
            placed: Cow::Owned(PlacedParts::new(true)),
            written: Cow::Owned(HeadTailRecorder::default()),
        };
        let bytes = state.encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes).unwrap().key, [7; 32]);
        for cut in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..cut]).is_none(), "{cut}");
            let mut wrong = bytes.to_vec();
            wrong[cut] ^= 1;
            assert!(Checkpoint::decode(&wrong).is_none(), "{cut}");
        }
    }
}

//! The contents of a checkpoint, which lets another run continue after this one was killed.
//!
//! ```text
//! guest   ├──── read again ────┼──── done: replayed, not read ─────────┼──── read ────▶
//!         0       (its target bytes are lost)               the checkpoint
//! target  ├─ front, or lost ─┼──────── still at the destination ───────────┼──────────▶
//! ```
//!
//! From time to time a run lets the data in flight finish and saves a *checkpoint*. If the target takes guest order,
//! the placed data is a prefix of the disk; otherwise it is any set of ranges. The state of a layout is a function of
//! its input, so it is not saved. Instead, the parts that were placed before the checkpoint are *replayed*: the
//! layout gets placeholder bytes with the same lengths, and its writes are discarded. The digest is saved as its open
//! blocks.

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

/// Magic bytes at the start of a journal, with the version of the format.
const MAGIC: [u8; 8] = *b"dfjrnl01";

/// A checkpoint.
#[derive(Serialize, Deserialize)]
pub(crate) struct Checkpoint<'a> {
    /// Identifies the run: another source, target, option or build has another key.
    pub(crate) key: Hash,
    pub(crate) counted: ContentState,
    pub(crate) placed: Cow<'a, PlacedParts>,
    pub(crate) written: Cow<'a, HeadTailRecorder>,
}

impl Checkpoint<'_> {
    /// Encodes the checkpoint, with a checksum.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        pack(MAGIC, self)
    }

    /// Decodes the output of [`encode`](Self::encode); `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        unpack(MAGIC, bytes).filter(|checkpoint: &Self| checkpoint.written.is_sound())
    }
}

/// The parts that were placed so far, in the detail that a replay needs.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum PlacedParts {
    /// Parts in any order: the ranges of guest bytes.
    Ranges(RangeSet),
    /// Parts in guest order.
    Prefix {
        /// Guest bytes that were placed as data.
        data: RangeSet,
        /// The encoded units: the number of units between this one and the previous one, and the length. The length
        /// is 0 for a plain unit.
        units: Vec<(u32, u32)>,
        /// The index after the last unit.
        next: u64,
        /// At each checkpoint: the end of the placed guest bytes and the end of the written target.
        checkpoints: Vec<(u64, u64)>,
    },
}

/// Marks a plain unit in the list of lengths.
const PLAIN: u32 = 0;

impl PlacedParts {
    /// An empty record; `ordered` if the target takes guest order.
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

    /// Records a part that is placed. A layout's `unit` may be smaller than what was scanned as one. Returns false if
    /// the record has become larger than it is worth.
    pub(crate) fn note(&mut self, part: &Part, unit: Option<u64>) -> bool {
        match (&mut *self, part) {
            (Self::Ranges(ranges), Part::Zero(range)) => ranges.add(*range),
            (Self::Ranges(ranges), Part::Bytes(scanned)) => ranges.add(scanned.guest),
            (Self::Prefix { data, .. }, Part::Bytes(scanned)) => {
                let small = unit.filter(|unit| *unit < BLOCK);
                for (range, _) in scanned.ranges().filter(|(_, zero)| !zero) {
                    let mut rest = range;
                    while !rest.is_empty() {
                        let (now, later) = rest.split_at(small.unwrap_or(rest.len()));
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
                let (Some(gap), Some(after)) = (gap, encoded.unit.checked_add(1)) else { return false };
                units.push((gap, length));
                *next = after;
            }
            (_, Part::Zero(_) | Part::Unit(_)) => {}
        }
        self.is_worth_it()
    }

    fn is_worth_it(&self) -> bool {
        /// 8 MiB of records: 64 GiB of units of 64 KiB.
        const UNITS: usize = 1 << 20;
        /// About 5 MiB.
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

    /// The guest ranges that need not be read again, in order, if the destination still has the bytes `target` of the
    /// target.
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

    /// The end of the written target at the last checkpoint.
    pub(crate) fn target_end(&self) -> u64 {
        match self {
            Self::Ranges(_) => 0,
            Self::Prefix { checkpoints, .. } => checkpoints.last().map_or(0, |checkpoint| checkpoint.1),
        }
    }

    /// The parts of `range` that were placed, in guest order. Units have `unit` bytes.
    pub(crate) fn parts(&self, range: GuestRange, unit: Option<u64>) -> Vec<ReplayedPart> {
        let Self::Prefix { data, units, .. } = self else { return Vec::new() };
        let mut parts: Vec<_> =
            data.list().filter_map(|run| run.intersection(range)).map(ReplayedPart::Data).collect();
        let unit_bytes = unit.unwrap_or(1).max(1);
        let mut at = 0u64;
        for (gap, length) in units {
            // A journal is untrusted: a unit after the end of the address space is in no range.
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

/// Bytes without meaning. They are not zeros.
pub(crate) struct Placeholder(Bytes);

impl Placeholder {
    /// The most guest bytes that are placed at once.
    const MOST: u64 = 1 << 20;

    pub(crate) fn new(unit: Option<u64>) -> Self {
        let len = usize::try_from(unit.unwrap_or(0).max(Self::MOST)).unwrap_or(1 << 20);
        Self(Bytes::from(vec![0xff; len]))
    }

    /// The parts that a layout gets for `replayed`. Its units have `unit` bytes.
    pub(crate) fn parts(&self, replayed: ReplayedPart, unit: Option<u64>) -> impl Iterator<Item = Part> + '_ {
        let (mut rest, mut one) = match replayed {
            ReplayedPart::Data(range) => (range, None),
            ReplayedPart::Unit { unit: index, length } => {
                let (coding, len) = match length {
                    PLAIN => (Coding::Plain, unit.unwrap_or(0)),
                    len => (Coding::Coded(len as usize), u64::from(len)),
                };
                let bytes = self.0.slice(..len.min(self.0.len() as u64) as usize);
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
    fn guest_bytes_whose_target_bytes_are_lost_are_read_again() {
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
    fn an_incomplete_state_does_not_decode() {
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

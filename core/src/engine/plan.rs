//! Plans requests for extents: a pure function.
//!
//! The extents of a window are sorted by stored offset, and adjacent ones become one request. A gap is read through
//! only if that is cheaper than another request: the smallest gaps first, and at most as many bytes as the window may
//! waste. A coded unit is never split between two requests. Data longer than a request is split at multiples of the
//! request length in the object: stores keep large objects in parts, and a request within one part is answered
//! faster.
//!
//! ```text
//!  guest order    A ── B ── C ── D            extents of the window
//!  stored order   C · B A ········· D         sorted; `·` are bytes that nobody needs
//!  fetches        [C·BA]            [D]       small gap read through, large gap not
//! ```

use std::sync::Arc;

use crate::address::{FileIndex, GuestRange, StoredRange};
use crate::digest::BLOCK;
use crate::disk::{Codec, Extent, ExtentKind};

/// The limits of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Longest request in bytes. A single coded unit may be longer. Longer plain data is split at multiples of this.
    pub bytes: u64,
    /// The most bytes that the coded units of one request decode to. A single unit may decode to more.
    pub decoded: u64,
    /// A gap of at most this many bytes is read through.
    pub gap: u64,
}

/// A part of a fetch: stored bytes, and the guest bytes that they contain.
#[derive(Clone, Debug)]
pub struct FetchPart {
    /// The guest bytes.
    pub guest: GuestRange,
    /// The stored bytes, within the fetch.
    pub stored: StoredRange,
    /// The codec, if the part is coded.
    pub codec: Option<Arc<dyn Codec>>,
}

/// One ranged request.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The file of the disk.
    pub file: FileIndex,
    /// The bytes of that file.
    pub range: StoredRange,
    /// The parts of the fetch, by stored address.
    pub parts: Vec<FetchPart>,
    /// The bytes that the coded parts decode to.
    pub decoded: u64,
}

/// Turns the extents of a window into requests, by stored address. `request` returns the limits for each file. At
/// most `waste` bytes of gaps are read through in total.
pub fn plan(extents: &[Extent], waste: u64, request: impl Fn(FileIndex) -> RequestLimits) -> Vec<Fetch> {
    let mut parts: Vec<(FileIndex, FetchPart)> = Vec::with_capacity(extents.len());
    for extent in extents {
        match &extent.kind {
            ExtentKind::Data(stored) => {
                parts.push((
                    stored.file,
                    FetchPart { guest: extent.guest, stored: stored.range, codec: None },
                ));
            }
            ExtentKind::Coded(coded) => {
                let codec = Some(Arc::clone(&coded.codec));
                parts.push((
                    coded.stored.file,
                    FetchPart { guest: extent.guest, stored: coded.stored.range, codec },
                ));
            }
            ExtentKind::Sparse(_) | ExtentKind::Zero | ExtentKind::Hole => {}
        }
    }
    parts.sort_by_key(|(file, part)| (*file, part.stored, part.guest));
    let bridged = bridged(&parts, waste, &request);
    let ends = ends(&parts, &bridged);
    let mut fetches: Vec<Fetch> = Vec::new();
    for (((file, part), bridged), run_end) in parts.into_iter().zip(bridged).zip(ends) {
        let limits = Limits { request: request(file), bridged, run_end };
        if part.codec.is_some() {
            place(&mut fetches, file, part, &limits);
            continue;
        }
        // Plain data may be split anywhere: the open request takes what fits, and the rest goes into further
        // requests.
        let mut rest = part;
        loop {
            let from = match fetches.last() {
                Some(last) if joins(last, file, &rest, &limits) => last.range.start(),
                _ => rest.stored.start(),
            };
            // The cut is after the start. At least one byte is taken, so that every round makes progress.
            let room = limits.cut(from.get()).saturating_sub(rest.stored.start().get());
            let (now, later) = rest.stored.split_at(room.max(1));
            let (guest_now, guest_later) = rest.guest.split_at(now.len());
            place(&mut fetches, file, FetchPart { guest: guest_now, stored: now, codec: None }, &limits);
            if later.is_empty() {
                break;
            }
            rest = FetchPart { guest: guest_later, stored: later, codec: None };
        }
    }
    fetches
}

/// For each part, whether the gap before it may be read through.
fn bridged(
    parts: &[(FileIndex, FetchPart)],
    waste: u64,
    request: &impl Fn(FileIndex) -> RequestLimits,
) -> Vec<bool> {
    let mut gaps: Vec<(u64, usize)> = Vec::new();
    let mut end = None;
    for (index, (file, part)) in parts.iter().enumerate() {
        let start = part.stored.start().get();
        let reached = match end {
            Some((last, reached)) if last == *file => {
                if let Some(gap) = start.checked_sub(reached)
                    && gap > 0
                    && gap <= request(*file).gap
                {
                    gaps.push((gap, index));
                }
                reached
            }
            _ => 0,
        };
        end = Some((*file, reached.max(part.stored.end().get())));
    }
    gaps.sort_unstable();
    let mut bridged = vec![false; parts.len()];
    let mut left = waste;
    for (gap, index) in gaps {
        let (Some(rest), Some(bridged)) = (left.checked_sub(gap), bridged.get_mut(index)) else { break };
        (left, *bridged) = (rest, true);
    }
    bridged
}

/// For each part, the end of the run that contains it: adjacent parts, and parts after gaps that are read through.
fn ends(parts: &[(FileIndex, FetchPart)], bridged: &[bool]) -> Vec<u64> {
    let mut ends: Vec<u64> = Vec::with_capacity(parts.len());
    let mut next_part: Option<(FileIndex, u64, u64, bool)> = None;
    for ((file, part), bridged) in parts.iter().zip(bridged).rev() {
        let own = part.stored.end().get();
        let end = match next_part {
            Some((next, start, end, joined)) if next == *file && (joined || start <= own) => end.max(own),
            _ => own,
        };
        next_part = Some((*file, part.stored.start().get(), end, *bridged));
        ends.push(end);
    }
    ends.reverse();
    ends
}

/// The limits for one part.
struct Limits {
    request: RequestLimits,
    bridged: bool,
    run_end: u64,
}

impl Limits {
    /// Where a request for plain data that begins at `start` is split, if it is long enough.
    fn cut(&self, start: u64) -> u64 {
        let most = self.request.bytes.max(1);
        let Some(whole) = start.checked_add(most) else { return self.run_end };
        if self.run_end <= whole {
            return whole;
        }
        // Less than `most` is subtracted, so this is after `start`.
        let aligned = whole - whole % most;
        // A request for the few bytes before a multiple is not worth it. The request then ends at the next multiple.
        if aligned - start >= most / 8 { aligned } else { start + (most / 2).max(1) }
    }
}

/// True if `part` begins inside `last`, directly after it, or after a gap that is read through, and at least one byte
/// of it still fits.
fn joins(last: &Fetch, file: FileIndex, part: &FetchPart, limits: &Limits) -> bool {
    let start = part.stored.start();
    last.file == file
        && start >= last.range.start()
        && (start <= last.range.end() || limits.bridged)
        && start.get() < limits.cut(last.range.start().get())
}

fn place(fetches: &mut Vec<Fetch>, file: FileIndex, part: FetchPart, limits: &Limits) {
    // The guest ranges of a disk do not overlap, so sums of their lengths fit.
    let decoded = if part.codec.is_some() { part.guest.len() } else { 0 };
    if let Some(last) = fetches.last_mut() {
        let end = last.range.end().max(part.stored.end());
        let joined = StoredRange::between(last.range.start(), end);
        if joins(last, file, &part, limits)
            && joined.len() <= limits.request.bytes
            && last.decoded + decoded <= limits.request.decoded
        {
            last.range = joined;
            last.decoded += decoded;
            last.parts.push(part);
            return;
        }
    }
    fetches.push(Fetch { file, range: part.stored, parts: vec![part], decoded });
}

impl Fetch {
    /// Splits it into a fetch of at most `bytes` (or one longer coded unit), and the rest.
    #[must_use]
    pub fn split_at(self, bytes: u64) -> (Self, Option<Self>) {
        let Self { file, range, parts, .. } = self;
        let edge = range.split_at(bytes.max(1)).0.end().get();
        let (mut now, mut later): (Vec<FetchPart>, Vec<FetchPart>) = (Vec::new(), Vec::new());
        for part in parts {
            if !later.is_empty() || (part.stored.start().get() >= edge && !now.is_empty()) {
                later.push(part);
            } else if part.stored.end().get() <= edge || (part.codec.is_some() && now.is_empty()) {
                now.push(part);
            } else if part.codec.is_some() {
                later.push(part);
            } else {
                // The part begins before the edge and ends after it.
                let keep = edge - part.stored.start().get();
                // A block in two requests would have to be assembled from fragments.
                let over = (part.guest.start().get() + keep) % BLOCK;
                let keep = if keep > over { keep - over } else { keep };
                let (stored, stored_later) = part.stored.split_at(keep);
                let (guest, guest_later) = part.guest.split_at(keep);
                now.push(FetchPart { guest, stored, codec: None });
                later.push(FetchPart { guest: guest_later, stored: stored_later, codec: None });
            }
        }
        (Self::of(file, now, range), (!later.is_empty()).then(|| Self::of(file, later, range)))
    }

    fn of(file: FileIndex, mut parts: Vec<FetchPart>, within: StoredRange) -> Self {
        // If parts overlap, a later one may begin before the address at which an earlier one was split.
        parts.sort_by_key(|part| (part.stored, part.guest));
        let start = parts.first().map_or(within.start(), |part| part.stored.start());
        let end = parts.iter().map(|part| part.stored.end()).max().unwrap_or(start);
        let coded = parts.iter().filter(|part| part.codec.is_some());
        let decoded = coded.map(|part| part.guest.len()).sum();
        Self { file, range: StoredRange::between(start, end), parts, decoded }
    }
}

/// Splits the requests at the edges of a transfer into shorter ones, `abreast` of which are under way at once.
///
/// At its `start`, requests then complete one after the other, and the processors soon have work. At its `end`, the
/// link stays busy and little work is left when the last byte arrives.
pub fn taper(fetches: Vec<Fetch>, abreast: usize, least: u64, start: bool, end: bool) -> Vec<Fetch> {
    let abreast = abreast.max(1) as u64;
    let longest = fetches.iter().map(|fetch| fetch.range.len()).max().unwrap_or(0);
    let mut left: u64 = fetches.iter().map(|fetch| fetch.range.len()).sum();
    let mut made: Vec<Fetch> = Vec::with_capacity(fetches.len());
    for fetch in fetches {
        let mut rest = Some(fetch);
        while let Some(fetch) = rest.take() {
            let mut most = longest;
            if start && (made.len() as u64) < abreast {
                most = most.min(longest / abreast * (made.len() as u64 + 1));
            }
            if end {
                most = most.min(left / abreast);
            }
            let len = fetch.range.len();
            // A rest that is shorter than the least is not worth a request of its own.
            let most = most.max(least);
            let long = len.checked_sub(least / 2).is_some_and(|len| len > most);
            let (now, later) = if long { fetch.split_at(most) } else { (fetch, None) };
            // The parts of a request may overlap, and be counted twice after a split.
            left = left.saturating_sub(now.range.len());
            made.push(now);
            rest = later;
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::address::{GuestOffset, StoredOffset};
    use crate::disk::{Coded, CompressedStream, Payload, Stored, Tally};
    use crate::error::{Result, Warning};
    use proptest::prelude::*;

    #[derive(Debug)]
    struct NoCodec;

    impl Codec for NoCodec {
        fn payload(&self) -> Payload {
            Payload::Compressed
        }

        fn decode(
            &self,
            _: GuestRange,
            _: &[u8],
            _: &mut [u8],
            _: &mut Tally,
        ) -> Result<Option<CompressedStream>> {
            Ok(None)
        }

        fn verbatim_range(&self, _stored: &[u8], _len: usize) -> Option<Range<usize>> {
            None
        }

        fn warning(&self, _: &Tally) -> Option<Warning> {
            None
        }
    }

    /// Extents over a guest disk whose units are stored in shuffled order, with gaps between them.
    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let unit = (1u64..40, 0u64..6, 0u32..4, any::<u32>());
        proptest::collection::vec(unit, 1..60).prop_map(|units| {
            let mut order: Vec<usize> = (0..units.len()).collect();
            order.sort_by_key(|index| units[*index].3);
            let mut starts = vec![0; units.len()];
            let mut at = 0;
            for index in order {
                let (len, gap, ..) = units[index];
                starts[index] = at + gap * 100;
                at = starts[index] + len * 512;
            }
            let mut guest = 0;
            let mut extents = Vec::new();
            for (index, (len, _, kind, _)) in units.iter().enumerate() {
                let bytes = len * 512;
                let range = GuestRange::new(GuestOffset::new(guest), bytes).unwrap();
                let stored = StoredRange::new(StoredOffset::new(starts[index]), bytes).unwrap();
                let stored = Stored { file: FileIndex(0), range: stored };
                let kind = match kind {
                    0 => ExtentKind::Hole,
                    1 => ExtentKind::Coded(Coded { stored, codec: Arc::new(NoCodec) }),
                    _ => ExtentKind::Data(stored),
                };
                extents.push(Extent::new(range, kind));
                guest += bytes;
            }
            extents
        })
    }

    proptest! {
        #[test]
        fn every_needed_byte_is_fetched_once_and_nothing_else_but_accepted_gaps(
            extents in extents(), bytes in 512u64..30_000, gap in 0u64..400, waste in 0u64..2000, least in 1u64..20_000,
        ) {
            let limits = RequestLimits { bytes, decoded: 50_000, gap };
            let fetches = taper(plan(&extents, waste, |_| limits), 3, least, true, true);
            let mut wasted = 0;
            for pair in fetches.windows(2) {
                prop_assert!(pair[0].range.end() <= pair[1].range.start(), "two requests overlap");
            }
            for fetch in &fetches {
                prop_assert!(fetch.range.len() <= bytes || fetch.parts.len() == 1, "a request is too long");
                prop_assert_eq!(fetch.range.start(), fetch.parts[0].stored.start());
                prop_assert_eq!(fetch.range.end(), fetch.parts.last().unwrap().stored.end());
                let mut at = fetch.range.start();
                for part in &fetch.parts {
                    prop_assert!(part.stored.start().get() - at.get() <= gap, "a long gap was read through");
                    wasted += part.stored.start().get() - at.get();
                    at = part.stored.end();
                }
            }
            prop_assert!(wasted <= waste, "more gaps were read through than allowed");
            let mut got: Vec<(GuestRange, StoredRange)> =
                fetches.iter().flat_map(|fetch| &fetch.parts).map(|part| (part.guest, part.stored)).collect();
            got.sort();
            let mut parts = got.into_iter().peekable();
            for extent in &extents {
                let Some(stored) = extent.to_fetch() else { continue };
                let (mut guest, mut range) = (extent.guest, stored.range);
                while !guest.is_empty() {
                    let (part_guest, part_stored) = parts.next().unwrap();
                    prop_assert_eq!(part_guest.start(), guest.start());
                    prop_assert_eq!(part_stored.start(), range.start());
                    prop_assert!(guest.contains(part_guest));
                    if matches!(extent.kind, ExtentKind::Coded(_)) {
                        prop_assert_eq!(part_guest, guest, "a coded unit was split");
                    }
                    guest = guest.skip(part_guest.len());
                    range = range.skip(part_stored.len());
                }
            }
            prop_assert!(parts.next().is_none());
        }
    }

    /// Where requests for `len` bytes stored from `start` on are split, and how long they are, in MiB.
    fn cuts(start: u64, len: u64) -> Vec<(u64, u64)> {
        let stored = StoredRange::new(StoredOffset::new(start << 20), len << 20).unwrap();
        let range = Stored { file: FileIndex(0), range: stored };
        let extents = [Extent::new(GuestRange::first(len << 20), ExtentKind::Data(range))];
        let limits = RequestLimits { bytes: 8 << 20, decoded: 64 << 20, gap: 0 };
        let cut = |fetch: &Fetch| (fetch.range.start().get() >> 20, fetch.range.len() >> 20);
        plan(&extents, 0, |_| limits).iter().map(cut).collect()
    }

    #[test]
    fn sequential_data_is_cut_at_multiples_of_the_length_of_a_request() {
        assert_eq!(cuts(0, 20), [(0, 8), (8, 8), (16, 4)]);
        assert_eq!(cuts(3, 20), [(3, 5), (8, 8), (16, 7)]);
        assert_eq!(cuts(5, 8), [(5, 8)], "data that fits into one request is one request");
        assert_eq!(cuts(7, 20), [(7, 1), (8, 8), (16, 8), (24, 3)]);
    }

    #[test]
    fn a_run_that_begins_shortly_before_a_multiple_ends_its_second_request_at_one() {
        let start = (8 << 20) - 4096;
        let stored = StoredRange::new(StoredOffset::new(start), 32 << 20).unwrap();
        let range = Stored { file: FileIndex(0), range: stored };
        let extents = [Extent::new(GuestRange::first(32 << 20), ExtentKind::Data(range))];
        let limits = RequestLimits { bytes: 8 << 20, decoded: 64 << 20, gap: 0 };
        let ends: Vec<u64> =
            plan(&extents, 0, |_| limits).iter().map(|fetch| fetch.range.end().get()).collect();
        assert_eq!(ends, [start + (4 << 20), 16 << 20, 24 << 20, 32 << 20, start + (32 << 20)]);
    }

    #[test]
    fn data_shared_by_two_guest_ranges_is_within_its_request_wherever_it_is_split() {
        let stored = Stored { file: FileIndex(0), range: StoredRange::first(8 << 20) };
        let guest = |mib: u64| GuestRange::new(GuestOffset::new(mib << 20), 8 << 20).unwrap();
        let extents = [0, 8].map(|mib| Extent::new(guest(mib), ExtentKind::Data(stored)));
        let limits = RequestLimits { bytes: 8 << 20, decoded: 64 << 20, gap: 0 };
        let fetches = taper(plan(&extents, 0, |_| limits), 4, 1 << 20, true, true);
        let parts = || fetches.iter().flat_map(|fetch| fetch.parts.iter().map(move |part| (fetch, part)));
        assert!(parts().all(|(fetch, part)| fetch.range.contains(part.stored)), "{fetches:?}");
        assert_eq!(parts().map(|(_, part)| part.guest.len()).sum::<u64>(), 16 << 20);
    }

    #[test]
    fn requests_at_the_edges_are_shorter_and_complete() {
        let stored = StoredRange::first(128 << 20);
        let range = Stored { file: FileIndex(0), range: stored };
        let extents = [Extent::new(GuestRange::first(128 << 20), ExtentKind::Data(range))];
        let limits = RequestLimits { bytes: 8 << 20, decoded: 64 << 20, gap: 0 };
        let fetches = taper(plan(&extents, 0, |_| limits), 4, 2 << 20, true, true);
        let lens: Vec<u64> = fetches.iter().map(|fetch| fetch.range.len() >> 20).collect();
        assert_eq!(lens[..4], [2, 4, 2, 8], "{lens:?}");
        assert!(lens.len() <= 16 + 8, "{lens:?}");
        assert!(*lens.last().unwrap() <= 3, "{lens:?}");
        let mut at = 0;
        for fetch in &fetches {
            assert_eq!(fetch.range.start().get(), at);
            at = fetch.range.end().get();
        }
        assert_eq!(at, 128 << 20);
    }
}

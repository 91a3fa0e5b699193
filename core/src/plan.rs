//! From extents to requests: a pure function.
//!
//! The extents of a window are sorted by where they are stored, neighbours become one request, and a gap is read
//! through only where that is cheaper than asking around it, the smallest first and no more than the window may waste.
//! A coded unit is never split between two requests.
//!
//! ```text
//!  guest order    A ── B ── C ── D            extents of the window
//!  stored order   C · B A ········· D         sorted, `·` is what nobody needs
//!  fetches        [C·BA]            [D]       small gap read through, large one not
//! ```

use std::sync::Arc;

use crate::address::{FileIndex, GuestRange, StoredRange};
use crate::extent::{Codec, Extent, ExtentKind};

/// What a plan is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Longest request in bytes; a single coded unit may be longer.
    pub bytes: u64,
    /// Most bytes that the coded units of one request decode to; a single unit may decode to more.
    pub decoded: u64,
    /// A gap of at most so many bytes is read through.
    pub gap: u64,
}

/// A part of a fetch: stored bytes and the guest bytes that they are for.
#[derive(Clone, Debug)]
pub struct Part {
    /// The guest bytes.
    pub guest: GuestRange,
    /// The stored bytes, within the fetch.
    pub stored: StoredRange,
    /// How to decode them, where they are coded.
    pub codec: Option<Arc<dyn Codec>>,
}

/// One ranged request.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Of which of the disk's files.
    pub file: FileIndex,
    /// Which bytes.
    pub range: StoredRange,
    /// What they are for, by stored address.
    pub parts: Vec<Part>,
    /// Bytes that the coded parts decode to.
    pub decoded: u64,
}

/// Turns the extents of a window into requests, by stored address. `request` gives the limits for each file; at most
/// `waste` bytes of gaps are read through in all.
pub fn plan(extents: &[Extent], waste: u64, request: impl Fn(FileIndex) -> Request) -> Vec<Fetch> {
    let mut parts: Vec<(FileIndex, Part)> = Vec::with_capacity(extents.len());
    for extent in extents {
        match &extent.kind {
            ExtentKind::Data(stored) => {
                parts.push((stored.file, Part { guest: extent.guest, stored: stored.range, codec: None }));
            }
            ExtentKind::Coded(coded) => {
                let codec = Some(Arc::clone(&coded.codec));
                parts.push((
                    coded.stored.file,
                    Part { guest: extent.guest, stored: coded.stored.range, codec },
                ));
            }
            ExtentKind::Sparse(_) | ExtentKind::Zero | ExtentKind::Hole => {}
        }
    }
    parts.sort_by_key(|(file, part)| (*file, part.stored, part.guest));
    let bridged = bridged(&parts, waste, &request);
    let mut fetches: Vec<Fetch> = Vec::new();
    for ((file, part), bridged) in parts.into_iter().zip(bridged) {
        let limits = Limits { request: request(file), bridged };
        if part.codec.is_some() {
            place(&mut fetches, file, part, &limits);
            continue;
        }
        // Plain data may be cut anywhere: what the open request has room for goes there, the rest into further ones.
        let mut rest = part;
        loop {
            let room = match fetches.last() {
                Some(last) if joins(last, file, &rest, &limits) => {
                    let used = rest.stored.start().get().saturating_sub(last.range.start().get());
                    limits.request.bytes.saturating_sub(used)
                }
                _ => limits.request.bytes,
            };
            let (now, later) = rest.stored.split_at(room.max(1));
            let (guest_now, guest_later) = rest.guest.split_at(now.len());
            place(&mut fetches, file, Part { guest: guest_now, stored: now, codec: None }, &limits);
            if later.is_empty() {
                break;
            }
            rest = Part { guest: guest_later, stored: later, codec: None };
        }
    }
    fetches
}

/// For each part, whether the gap before it may be read through.
fn bridged(parts: &[(FileIndex, Part)], waste: u64, request: &impl Fn(FileIndex) -> Request) -> Vec<bool> {
    let mut gaps: Vec<(u64, usize)> = Vec::new();
    let mut end = None;
    for (index, (file, part)) in parts.iter().enumerate() {
        let start = part.stored.start().get();
        let reached = match end {
            Some((last, reached)) if last == *file => {
                let gap = start.saturating_sub(reached);
                if gap > 0 && gap <= request(*file).gap {
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
        match left.checked_sub(gap) {
            Some(rest) => (left, bridged[index]) = (rest, true),
            None => break,
        }
    }
    bridged
}

/// What holds for one part.
struct Limits {
    request: Request,
    bridged: bool,
}

/// True where `part` begins inside `last`, right behind it, or behind a gap to be read through, and there is room for at
/// least a byte of it.
fn joins(last: &Fetch, file: FileIndex, part: &Part, limits: &Limits) -> bool {
    let start = part.stored.start();
    last.file == file
        && start >= last.range.start()
        && (start <= last.range.end() || limits.bridged)
        && start.get().saturating_sub(last.range.start().get()) < limits.request.bytes
}

fn place(fetches: &mut Vec<Fetch>, file: FileIndex, part: Part, limits: &Limits) {
    let decoded = if part.codec.is_some() { part.guest.len() } else { 0 };
    if let Some(last) = fetches.last_mut() {
        let end = last.range.end().max(part.stored.end());
        let joined = StoredRange::between(last.range.start(), end);
        if joins(last, file, &part, limits)
            && joined.len() <= limits.request.bytes
            && last.decoded.saturating_add(decoded) <= limits.request.decoded
        {
            last.range = joined;
            last.decoded = last.decoded.saturating_add(decoded);
            last.parts.push(part);
            return;
        }
    }
    fetches.push(Fetch { file, range: part.stored, parts: vec![part], decoded });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{GuestOffset, StoredOffset};
    use crate::error::{Result, Warning};
    use crate::extent::{Coded, Payload, Stored, Stream, Tally};
    use proptest::prelude::*;

    #[derive(Debug)]
    struct NoCodec;

    impl Codec for NoCodec {
        fn payload(&self) -> Payload {
            Payload::Compressed
        }

        fn decode(&self, _: GuestRange, _: &[u8], _: &mut [u8], _: &mut Tally) -> Result<Option<Stream>> {
            Ok(None)
        }

        fn warning(&self, _: &Tally) -> Option<Warning> {
            None
        }
    }

    /// Extents over a guest disk whose units lie shuffled in the store, with gaps between them.
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
            extents in extents(), bytes in 512u64..30_000, gap in 0u64..400, waste in 0u64..2000,
        ) {
            let limits = Request { bytes, decoded: 50_000, gap };
            let fetches = plan(&extents, waste, |_| limits);
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

    #[test]
    fn sequential_data_is_cut_at_the_length_of_a_request() {
        let range = Stored { file: FileIndex(0), range: StoredRange::first(20 << 20) };
        let extents = [Extent::new(GuestRange::first(20 << 20), ExtentKind::Data(range))];
        let limits = Request { bytes: 8 << 20, decoded: 64 << 20, gap: 0 };
        let lens: Vec<u64> = plan(&extents, 0, |_| limits).iter().map(|fetch| fetch.range.len()).collect();
        assert_eq!(lens, [8 << 20, 8 << 20, 4 << 20]);
    }
}

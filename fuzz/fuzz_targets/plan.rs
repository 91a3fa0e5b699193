//! Plans requests for arbitrary extents. Every needed byte must be fetched once, and nothing else except permitted gaps.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use diskferry_core::internal::{Fetch, RequestLimits, plan};
use diskferry_core::{Codec, Coded, CompressedStream, Extent, ExtentKind, FileIndex, GuestOffset, GuestRange, Payload, Result, Stored, StoredOffset, StoredRange, Tally, Warning};
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct NoCodec;

impl Codec for NoCodec {
    fn payload(&self) -> Payload {
        Payload::Compressed
    }

    fn decode(&self, _: GuestRange, _: &[u8], _: &mut [u8], _: &mut Tally) -> Result<Option<CompressedStream>> {
        Ok(None)
    }

    fn verbatim_range(&self, _: &[u8], _: usize) -> Option<std::ops::Range<usize>> {
        None
    }

    fn warning(&self, _: &Tally) -> Option<Warning> {
        None
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Unit {
    len: u16,
    gap: u16,
    kind: u8,
    order: u8,
    file: bool,
    /// The stored size of a coded unit; it may be less or more than the decoded size.
    stored: u16,
}

#[derive(Arbitrary, Debug)]
struct Case {
    units: Vec<Unit>,
    bytes: u32,
    decoded: u32,
    gap: u16,
    waste: u32,
    /// Stored ranges end at the highest possible address.
    far: bool,
    /// Some stored ranges overlap, as in hostile tables.
    overlapping: bool,
}

impl Case {
    fn extents(&self) -> Vec<Extent> {
        let mut order: Vec<usize> = (0..self.units.len()).collect();
        order.sort_by_key(|index| self.units[*index].order);
        let base = if self.far { u64::MAX - (1 << 40) } else { 0 };
        let mut starts = vec![0; self.units.len()];
        let mut ends = [base; 2];
        for index in order {
            let unit = &self.units[index];
            let end = &mut ends[usize::from(unit.file)];
            let back = if self.overlapping { u64::from(unit.order) * 16 } else { 0 };
            starts[index] = (*end + u64::from(unit.gap)).saturating_sub(back).max(base);
            *end = starts[index] + unit.stored_len();
        }
        let mut guest = GuestOffset::ZERO;
        let extent = |(unit, start): (&Unit, u64)| {
            let range = GuestRange::new(guest, u64::from(unit.len).max(1)).expect("the range does not overflow");
            guest = range.end();
            let stored = StoredRange::new(StoredOffset::new(start), unit.stored_len()).expect("it fits");
            let stored = Stored { file: FileIndex(unit.file.into()), range: stored };
            let kind = match unit.kind % 5 {
                0 => ExtentKind::Hole,
                1 => ExtentKind::Zero,
                2 => ExtentKind::Coded(Coded { stored, codec: Arc::new(NoCodec) }),
                3 => ExtentKind::Sparse(stored),
                _ => ExtentKind::Data(stored),
            };
            Extent::new(range, kind)
        };
        self.units.iter().zip(starts).map(extent).collect()
    }
}

impl Unit {
    fn stored_len(&self) -> u64 {
        if self.kind % 5 == 2 { u64::from(self.stored).max(1) } else { u64::from(self.len).max(1) }
    }
}

fuzz_target!(|case: Case| {
    if case.units.len() > 500 {
        return;
    }
    let extents = case.extents();
    let request = RequestLimits {
        // Requests of one byte would be millions.
        bytes: u64::from(case.bytes % 100_000).max(256),
        decoded: case.decoded.into(),
        gap: case.gap.into(),
    };
    let waste = u64::from(case.waste);
    let fetches = plan(&extents, waste, |_| request);
    check_fetches(&fetches, request, if case.overlapping { u64::MAX } else { waste });
    check_parts(&extents, &fetches);
    if !case.overlapping {
        for pair in fetches.windows(2) {
            let apart = pair[0].file != pair[1].file || pair[0].range.end() <= pair[1].range.start();
            assert!(apart, "two requests overlap: {pair:?}");
        }
    }
});

fn check_fetches(fetches: &[Fetch], request: RequestLimits, waste: u64) {
    let mut wasted = 0u64;
    for fetch in fetches {
        assert!(fetch.range.len() <= request.bytes.max(1) || fetch.parts.len() == 1, "too long: {fetch:?}");
        let decoded =
            fetch.parts.iter().filter(|part| part.codec.is_some()).map(|part| part.guest.len()).sum();
        assert_eq!(fetch.decoded, decoded);
        assert!(
            decoded <= request.decoded || fetch.parts.len() == 1 || {
                // A single unit may decode to more; plain parts in the same request need no decoding.
                fetch.parts.iter().filter(|part| part.codec.is_some()).count() == 1
            }
        );
        let mut at = fetch.range.start();
        for part in &fetch.parts {
            assert!(fetch.range.contains(part.stored), "{part:?} is not in {fetch:?}");
            let gap = part.stored.start().get().saturating_sub(at.get());
            assert!(gap <= request.gap, "a gap above the limit is fetched");
            wasted = wasted.saturating_add(gap);
            at = at.max(part.stored.end());
        }
        assert_eq!(at, fetch.range.end(), "a request ends with its last part");
    }
    assert!(wasted <= waste, "gaps exceed the permitted waste");
}

/// Asserts that every byte of every fetched extent is in exactly one part.
fn check_parts(extents: &[Extent], fetches: &[Fetch]) {
    let parts = fetches.iter().flat_map(|fetch| fetch.parts.iter().map(|part| (fetch.file, part)));
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|(_, part)| part.guest);
    let mut parts = parts.into_iter();
    for extent in extents {
        let Some(stored) = extent.to_fetch() else { continue };
        let coded = matches!(extent.kind, ExtentKind::Coded(_));
        let (mut guest, mut range) = (extent.guest, stored.range);
        while !guest.is_empty() {
            let (file, part) = parts.next().expect("a part for every byte");
            assert_eq!(
                (file, part.guest.start(), part.stored.start()),
                (stored.file, guest.start(), range.start())
            );
            assert!(guest.contains(part.guest) && (!coded || (part.guest, part.stored) == (guest, range)));
            assert_eq!(part.codec.is_some(), coded);
            guest = guest.skip(part.guest.len());
            range = range.skip(part.stored.len());
        }
    }
    assert!(parts.next().is_none(), "nothing else");
}

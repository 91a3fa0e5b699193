//! Splits a request into parts that are decoded while the rest of it is still arriving.
//!
//! Requests are long, since each costs a round trip. Jobs are short, since they must fit into a core's cache. If
//! whole requests were handed over, the requests that share a link would complete nearly together: the processors
//! would first wait for the link, and at the end the link would wait for the processors.

use crate::address::StoredRange;
use crate::disk::Piece;
use crate::engine::plan::{Fetch, FetchPart};
use crate::engine::types::JOB;

/// Stored bytes that are handed over at once, with the parts that they contain.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) range: StoredRange,
    parts: Vec<FetchPart>,
}

impl Delivery {
    fn of(parts: Vec<FetchPart>) -> Option<Self> {
        let start = parts.iter().map(|part| part.stored.start()).min()?;
        let end = parts.iter().map(|part| part.stored.end()).max()?;
        Some(Self { range: StoredRange::between(start, end), parts })
    }

    /// The bytes that its coded parts decode to.
    pub(super) fn decoded(&self) -> u64 {
        let coded = self.parts.iter().filter(|part| part.codec.is_some());
        // The guest ranges of a disk do not overlap, so the sum fits.
        coded.map(|part| part.guest.len()).sum()
    }

    /// The pieces of the delivery, whose stored bytes are `bytes`.
    pub(super) fn pieces(self, bytes: &bytes::Bytes) -> Vec<Piece> {
        let start = self.range.start().get();
        let piece = |part: FetchPart| {
            let skip = (part.stored.start().get() - start) as usize;
            Piece {
                guest: part.guest,
                bytes: bytes.slice(skip..skip + part.stored.len() as usize),
                codec: part.codec,
                stored_at: part.stored.start().get(),
            }
        };
        self.parts.into_iter().map(piece).collect()
    }
}

/// One delivery for all of `fetch`.
pub(super) fn whole(fetch: Fetch) -> Vec<Delivery> {
    Delivery::of(fetch.parts).into_iter().collect()
}

/// The most bytes that two deliveries may share: compressed clusters of QCOW2 share a sector with the next one.
const SHARED: u64 = 512;

/// Deliveries of about one job each, by stored address.
///
/// Parts that share more than a sector stay in one delivery and share its bytes. Otherwise an image that maps one place
/// many times would take the memory of it as many times.
pub(super) fn by_job(fetch: Fetch) -> Vec<Delivery> {
    let mut parts = Vec::with_capacity(fetch.parts.len());
    for mut part in fetch.parts {
        // Plain bytes are split at the boundaries of jobs.
        while part.codec.is_none() {
            let to_edge = JOB - part.guest.start().get() % JOB;
            if part.guest.len() <= to_edge {
                break;
            }
            let (guest, guest_later) = part.guest.split_at(to_edge);
            let (stored, stored_later) = part.stored.split_at(to_edge);
            parts.push(FetchPart { guest, stored, codec: None });
            part = FetchPart { guest: guest_later, stored: stored_later, codec: None };
        }
        parts.push(part);
    }
    parts.sort_by_key(|part| (part.stored, part.guest));
    let mut deliveries = Vec::new();
    let mut open: Vec<FetchPart> = Vec::new();
    let (mut filled, mut end) = (0, 0);
    for part in parts {
        let is_apart = part.stored.start().get().saturating_add(SHARED) >= end;
        if filled >= JOB && is_apart {
            filled = 0;
            deliveries.extend(Delivery::of(std::mem::take(&mut open)));
        }
        filled += part.guest.len();
        end = end.max(part.stored.end().get());
        open.push(part);
    }
    deliveries.extend(Delivery::of(open));
    deliveries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{FileIndex, GuestOffset, GuestRange, StoredOffset};

    fn part(guest: u64, stored: u64, len: u64) -> FetchPart {
        let guest = GuestRange::new(GuestOffset::new(guest), len).unwrap();
        let stored = StoredRange::new(StoredOffset::new(stored), len).unwrap();
        FetchPart { guest, stored, codec: None }
    }

    fn fetch(parts: Vec<FetchPart>) -> Fetch {
        let all = Delivery::of(parts.clone()).unwrap().range;
        Fetch { file: FileIndex(0), range: all, parts, decoded: 0 }
    }

    #[test]
    fn a_place_that_is_mapped_many_times_takes_its_memory_once() {
        const MIB: u64 = 1 << 20;
        let shared = (0..100).map(|run| part(run * 8 * MIB, 0, 8 * MIB)).collect();
        let deliveries = by_job(fetch(shared));
        let bytes: u64 = deliveries.iter().map(|each| each.range.len()).sum();
        assert!(bytes <= 8 * MIB + 8 * SHARED, "{bytes}");
        let guest: u64 = deliveries.iter().flat_map(|each| &each.parts).map(|part| part.guest.len()).sum();
        assert_eq!(guest, 800 * MIB);
    }

    #[test]
    fn a_long_run_is_delivered_job_by_job() {
        let deliveries = by_job(fetch(vec![part(JOB / 2, 4096, 4 * JOB)]));
        let lens: Vec<u64> = deliveries.iter().map(|each| each.range.len()).collect();
        assert_eq!(lens.iter().sum::<u64>(), 4 * JOB);
        assert!(lens.iter().all(|len| *len <= 3 * JOB / 2) && lens.len() >= 3, "{lens:?}");
    }
}

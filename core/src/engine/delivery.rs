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

/// Deliveries of about one job each, by stored address. If units share sectors, their deliveries overlap by these
/// sectors.
pub(super) fn by_job(fetch: Fetch) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    let mut open: Vec<FetchPart> = Vec::new();
    let mut filled = 0;
    let mut add = |part: FetchPart, last: bool| {
        filled += part.guest.len();
        open.push(part);
        if last || filled >= JOB {
            filled = 0;
            deliveries.extend(Delivery::of(std::mem::take(&mut open)));
        }
    };
    let mut parts = fetch.parts.into_iter().peekable();
    while let Some(mut part) = parts.next() {
        // Plain bytes are split at the boundaries of jobs.
        while part.codec.is_none() {
            let to_edge = JOB - part.guest.start().get() % JOB;
            if part.guest.len() <= to_edge {
                break;
            }
            let (guest, guest_later) = part.guest.split_at(to_edge);
            let (stored, stored_later) = part.stored.split_at(to_edge);
            add(FetchPart { guest, stored, codec: None }, true);
            part = FetchPart { guest: guest_later, stored: stored_later, codec: None };
        }
        add(part, parts.peek().is_none());
    }
    // Plain bytes that two guest ranges share may be split so that a later delivery begins first.
    deliveries.sort_by_key(|delivery| delivery.range);
    deliveries
}

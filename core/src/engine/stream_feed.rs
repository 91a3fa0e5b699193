//! Feeds a transfer from an image that is read in one pass.
//!
//! Guest bytes that never arrive are zero, which is certain only at the end. To bound memory until then, a gap is
//! treated as zeros as soon as there are too many gaps after it; in guest order immediately, since waiting data would
//! fill the budget.

use std::task::{Context, Poll};

use crate::address::{GuestOffset, GuestRange};
use crate::disk::{ImageStream, MAX_UNIT_BYTES, Piece};
use crate::engine::types::{Fed, Fetched, TransferOptions};
use crate::error::{Error, Result, Warning};
use crate::layout::Order;
use crate::memory::{Budget, Reservation};
use crate::ranges::RangeSet;
use crate::source::{BoxFuture, Traffic};

/// Stored bytes that are collected before they are passed on together.
const GATHER: u64 = 1 << 20;
/// The most pieces that are collected, however small: their descriptions must not fill the memory if data arrives
/// slowly.
const PIECES: usize = 4096;
/// The most separate runs of guest bytes that are remembered, which limits how far out of order a stream may be. The
/// ends of each run may keep two blocks of the digest open, of up to 4 KiB.
const RUNS: usize = 4096;

type Pulled = (Box<dyn ImageStream>, Result<(Vec<Piece>, bool)>);

pub(super) struct StreamFeed {
    stream: Option<Box<dyn ImageStream>>,
    budget: Budget,
    admission: Option<BoxFuture<'static, Result<Reservation>>>,
    reserved: Option<Reservation>,
    pulling: Option<BoxFuture<'static, Pulled>>,
    covered: Covered,
    ended: bool,
    traffic: Traffic,
    allocated: u64,
    virtual_bytes: u64,
    warnings: Vec<Warning>,
}

impl StreamFeed {
    pub(super) fn new(stream: Box<dyn ImageStream>, options: &TransferOptions) -> Self {
        let virtual_bytes = stream.info().virtual_bytes;
        let runs = match options.order {
            Order::Any => RUNS,
            Order::Guest => 1,
        };
        let mut streamed = Self {
            stream: None,
            budget: options.budget.clone(),
            admission: None,
            reserved: None,
            pulling: None,
            covered: Covered::new(runs),
            ended: false,
            traffic: Traffic::default(),
            allocated: 0,
            virtual_bytes,
            warnings: Vec::new(),
        };
        streamed.look(&*stream);
        streamed.stream = Some(stream);
        streamed
    }

    fn look(&mut self, stream: &dyn ImageStream) {
        self.virtual_bytes = stream.info().virtual_bytes;
        self.traffic = Traffic { requests: 1, bytes: stream.stored_bytes(), retries: 0 };
        self.warnings = stream.warnings();
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated
    }

    pub(super) fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes
    }

    /// True if the stream cannot be read until others release memory.
    pub(super) fn waits_for_memory(&self) -> bool {
        self.admission.is_some()
    }

    /// 1 while the stream is being read.
    pub(super) fn under_way(&self) -> usize {
        usize::from(self.pulling.is_some())
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    pub(super) fn warnings(&self) -> Vec<Warning> {
        self.warnings.clone()
    }

    pub(super) fn advance(
        &mut self,
        cx: &mut Context<'_>,
        fetched: &mut Vec<Fetched>,
        zeros: &mut Vec<GuestRange>,
    ) -> Result<Fed> {
        if self.ended {
            return Ok(Fed::Ended);
        }
        if self.pulling.is_none() && self.reserved.is_none() {
            let budget = self.budget.clone();
            let admission = self.admission.get_or_insert_with(|| {
                Box::pin(async move { budget.reserve(GATHER + 4 * MAX_UNIT_BYTES).await })
            });
            let Poll::Ready(reserved) = admission.as_mut().poll(cx) else { return Ok(Fed::Waiting) };
            self.admission = None;
            self.reserved = Some(reserved?);
        }
        if let Some(stream) = self.stream.take() {
            self.pulling = Some(Box::pin(pull(stream)));
        }
        let Some(pulling) = &mut self.pulling else {
            return Err(Error::internal("a stream was polled after its end"));
        };
        let Poll::Ready((stream, pulled)) = pulling.as_mut().poll(cx) else { return Ok(Fed::Waiting) };
        self.pulling = None;
        self.look(&*stream);
        let (pieces, more) = pulled?;
        let Some(mut reserved) = self.reserved.take() else {
            return Err(Error::internal("a stream was read without reserved memory"));
        };
        let mut held = Vec::with_capacity(pieces.len());
        for piece in pieces {
            zeros.extend(self.covered.add(piece.guest)?);
            // Pieces do not overlap, so the sum fits.
            self.allocated += piece.guest.len();
            let bytes = reserved.split(piece.bytes.len() as u64).hold(piece.bytes);
            held.push(Piece { bytes, ..piece });
        }
        if !held.is_empty() {
            let decoded =
                held.iter().filter(|piece| piece.codec.is_some()).map(|piece| piece.guest.len()).sum();
            fetched.push(Fetched { pieces: held, reserved: reserved.split(decoded) });
        }
        if more {
            self.stream = Some(stream);
        } else {
            self.ended = true;
            zeros.extend(self.covered.gaps(self.virtual_bytes)?);
        }
        Ok(Fed::Moved)
    }
}

/// Takes pieces from the stream until there are enough for a job.
async fn pull(mut stream: Box<dyn ImageStream>) -> Pulled {
    let pulled = async {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut bytes = 0;
        while bytes < GATHER && pieces.len() < PIECES {
            let Some(piece) = stream.next().await? else { return Ok((pieces, false)) };
            bytes += (piece.bytes.len() as u64).max(piece.guest.len());
            pieces.push(piece);
        }
        Ok((pieces, true))
    };
    let pulled = pulled.await;
    (stream, pulled)
}

/// The guest bytes that have arrived.
struct Covered {
    /// Runs after `closed` that do not touch it.
    runs: RangeSet,
    most: usize,
    /// Every byte before this has arrived or was treated as zero.
    closed: u64,
}

impl Covered {
    /// Empty. As soon as there are `most` runs, the first gap is closed.
    fn new(most: usize) -> Self {
        Self { runs: RangeSet::default(), most, closed: 0 }
    }

    /// Adds bytes that arrived. Returns the gap that this closes, which is zeros from now on.
    fn add(&mut self, range: GuestRange) -> Result<Option<GuestRange>> {
        if range.is_empty() {
            return Ok(None);
        }
        if range.start().get() < self.closed {
            return Err(Error::unsupported(format!(
                "guest bytes {range} occur twice in the stream, or long after later guest bytes"
            ))
            .hint("give a path or a URL"));
        }
        if !self.runs.add_new(range) {
            return Err(Error::malformed(format!("guest bytes {range} occur twice")));
        }
        if let Some(first) = self.runs.first()
            && first.start().get() <= self.closed
        {
            self.closed = first.end().get();
            self.runs.pop_first();
        }
        Ok(if self.runs.len() < self.most { None } else { self.close() })
    }

    /// Closes the first gap.
    fn close(&mut self) -> Option<GuestRange> {
        let first = self.runs.pop_first()?;
        let gap = GuestRange::between(GuestOffset::new(self.closed), first.start());
        self.closed = first.end().get();
        Some(gap)
    }

    /// All gaps of a disk of `size` bytes.
    fn gaps(&self, size: u64) -> Result<Vec<GuestRange>> {
        let end = self.runs.list().map(|run| run.end().get()).find(|end| *end > size);
        if let Some(end) = Some(self.closed).filter(|closed| *closed > size).or(end) {
            return Err(Error::malformed(format!(
                "the image has data up to {end} on a disk of {size} bytes"
            )));
        }
        Ok(self.runs.gaps(GuestRange::between(GuestOffset::new(self.closed), GuestOffset::new(size))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    #[test]
    fn gaps_are_ranges_that_never_arrived_and_repeated_bytes_are_malformed() {
        let mut covered = Covered::new(9);
        for (start, end) in [(20, 30), (0, 10), (30, 40), (10, 15)] {
            covered.add(range(start, end)).unwrap();
        }
        assert_eq!(covered.gaps(50).unwrap(), [range(15, 20), range(40, 50)]);
        assert!(covered.add(range(14, 16)).is_err());
        assert!(covered.add(range(16, 21)).is_err());
        assert!(covered.gaps(39).is_err());
    }

    #[test]
    fn with_too_many_runs_the_first_gap_is_closed_once() {
        let mut covered = Covered::new(3);
        let add = |covered: &mut Covered, start, end| covered.add(range(start, end)).unwrap();
        assert_eq!(add(&mut covered, 0, 10), None);
        assert_eq!(add(&mut covered, 90, 100), None);
        assert_eq!(add(&mut covered, 20, 30), None);
        assert_eq!(add(&mut covered, 50, 60), Some(range(10, 20)));
        assert_eq!(add(&mut covered, 30, 40), None);
        assert_eq!(covered.gaps(110).unwrap(), [range(40, 50), range(60, 90), range(100, 110)]);
        assert_eq!(
            covered.add(range(12, 14)).unwrap_err().kind(),
            crate::error::ErrorKind::UnsupportedFeature
        );
        let mut in_order = Covered::new(1);
        assert_eq!(add(&mut in_order, 10, 20), Some(range(0, 10)));
        assert_eq!(add(&mut in_order, 20, 30), None);
        assert_eq!(add(&mut in_order, 35, 40), Some(range(30, 35)));
        assert_eq!(in_order.gaps(40).unwrap(), []);
        assert!(in_order.gaps(39).is_err());
    }
}

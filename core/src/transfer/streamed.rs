//! Feeding a transfer from an image that is read in one pass.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use super::{Fed, Fetched};
use crate::address::{GuestOffset, GuestRange};
use crate::budget::{Budget, Room};
use crate::error::{Error, Result, Warning};
use crate::extent::MAX_UNIT_BYTES;
use crate::source::{BoxFuture, Traffic};
use crate::stream::{ImageStream, Piece};

/// Stored bytes that are gathered before they go on together.
const GATHER: u64 = 1 << 20;
/// Most separate runs of guest bytes that are remembered: an image with more of them is refused.
const RUNS: usize = 1 << 20;

type Pulled = (Box<dyn ImageStream>, Result<(Vec<Piece>, Room, bool)>);

pub(super) struct Streamed {
    stream: Option<Box<dyn ImageStream>>,
    pulling: Option<BoxFuture<'static, Pulled>>,
    budget: Budget,
    covered: Covered,
    ended: bool,
    traffic: Traffic,
    allocated: u64,
    virtual_bytes: u64,
    warnings: Vec<Warning>,
}

impl Streamed {
    pub(super) fn new(stream: Box<dyn ImageStream>, budget: Budget) -> Self {
        let virtual_bytes = stream.geometry().virtual_bytes;
        let mut streamed = Self {
            stream: None,
            pulling: None,
            budget,
            covered: Covered::default(),
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
        self.virtual_bytes = stream.geometry().virtual_bytes;
        self.traffic = Traffic { requests: 1, bytes: stream.stored_bytes(), retries: 0 };
        self.warnings = stream.warnings();
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated
    }

    pub(super) fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes
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
        if let Some(stream) = self.stream.take() {
            self.pulling = Some(Box::pin(pull(stream, self.budget.clone())));
        }
        let Some(pulling) = &mut self.pulling else {
            return Err(Error::internal("a stream was polled after its end"));
        };
        let Poll::Ready((stream, pulled)) = pulling.as_mut().poll(cx) else { return Ok(Fed::Waiting) };
        self.pulling = None;
        self.look(&*stream);
        let (pieces, mut room, more) = pulled?;
        let mut held = Vec::with_capacity(pieces.len());
        for piece in pieces {
            self.covered.add(piece.guest)?;
            self.allocated = self.allocated.saturating_add(piece.guest.len());
            let bytes = room.split(piece.bytes.len() as u64).hold(piece.bytes);
            held.push(Piece { bytes, ..piece });
        }
        if !held.is_empty() {
            let decoded =
                held.iter().filter(|piece| piece.codec.is_some()).map(|piece| piece.guest.len()).sum();
            fetched.push(Fetched { pieces: held, room: room.split(decoded) });
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

/// Takes pieces off the stream until there are enough for a job.
async fn pull(mut stream: Box<dyn ImageStream>, budget: Budget) -> Pulled {
    let pulled = async {
        let room = budget.take(GATHER + 4 * MAX_UNIT_BYTES).await?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut bytes = 0;
        while bytes < GATHER {
            let Some(piece) = stream.next().await? else { return Ok((pieces, room, false)) };
            bytes += (piece.bytes.len() as u64).max(piece.guest.len());
            pieces.push(piece);
        }
        Ok((pieces, room, true))
    };
    let pulled = pulled.await;
    (stream, pulled)
}

/// Which guest bytes came, as runs.
#[derive(Default)]
struct Covered(BTreeMap<u64, u64>);

impl Covered {
    fn add(&mut self, range: GuestRange) -> Result<()> {
        let (mut start, mut end) = (range.start().get(), range.end().get());
        if start == end {
            return Ok(());
        }
        let overlap = || Error::malformed(format!("guest bytes {range} come twice"));
        if let Some((before, before_end)) = self.0.range(..=start).next_back().map(|(a, b)| (*a, *b)) {
            if before_end > start {
                return Err(overlap());
            }
            if before_end == start {
                self.0.remove(&before);
                start = before;
            }
        }
        if let Some((behind, behind_end)) = self.0.range(start..).next().map(|(a, b)| (*a, *b)) {
            if behind < end {
                return Err(overlap());
            }
            if behind == end {
                self.0.remove(&behind);
                end = behind_end;
            }
        }
        self.0.insert(start, end);
        if self.0.len() > RUNS {
            return Err(Error::unsupported(format!("a stream with more than {RUNS} separate runs of data")));
        }
        Ok(())
    }

    fn gaps(&self, size: u64) -> Result<Vec<GuestRange>> {
        let mut gaps = Vec::new();
        let mut at = 0;
        for (start, end) in self.0.iter().chain([(&size, &size)]) {
            if *end > size {
                return Err(Error::malformed(format!("data up to {end} on a disk of {size} bytes")));
            }
            if at < *start {
                gaps.push(GuestRange::between(GuestOffset::new(at), GuestOffset::new(*start)));
            }
            at = *end;
        }
        Ok(gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestOffset::new(start), GuestOffset::new(end))
    }

    #[test]
    fn gaps_are_what_never_came_and_what_comes_twice_is_malformed() {
        let mut covered = Covered::default();
        for (start, end) in [(20, 30), (0, 10), (30, 40), (10, 15)] {
            covered.add(range(start, end)).unwrap();
        }
        assert_eq!(covered.gaps(50).unwrap(), [range(15, 20), range(40, 50)]);
        assert!(covered.add(range(14, 16)).is_err());
        assert!(covered.add(range(16, 21)).is_err());
        assert!(covered.gaps(39).is_err());
    }
}

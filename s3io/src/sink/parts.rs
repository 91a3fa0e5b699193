//! Cuts what is written by address into parts of one length.
//!
//! ```text
//!     part 1      part 2      part 3      part 4
//! ├───────────┼───────────┼───────────┼───────────┼─
//!   left out ........│ then by address ─────▶
//!                    └ part 2 is held until the bytes before come; part 1 takes no memory until then
//! ```
//!
//! At most two parts are open at a time, the held one and the one being filled, so two parts' memory is enough to go on.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::internal::{Buffer, budget_for, zeros};
use diskferry_core::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most parts of an upload ("Amazon S3 multipart upload limits" in the Amazon S3 User Guide).
pub(super) const MOST_PARTS: u64 = 10_000;
/// Largest object (likewise).
pub(super) const MOST_BYTES: u64 = 5 << 40;

/// Room for parts. Closing it ends all waiting for it.
#[derive(Debug)]
pub(super) struct Rooms {
    /// Parts' memory.
    pub(super) memory: Arc<Semaphore>,
    /// Parts of zeros, which take none.
    pub(super) zeros: Arc<Semaphore>,
}

impl Rooms {
    pub(super) fn new(zeros: usize) -> Self {
        Self { memory: Arc::new(Semaphore::new(0)), zeros: Arc::new(Semaphore::new(zeros.max(1))) }
    }

    pub(super) fn close(&self) {
        self.memory.close();
        self.zeros.close();
    }
}

/// A part to be uploaded.
#[derive(Debug)]
pub(super) struct Part {
    /// Counted from 0.
    pub(super) index: u64,
    /// Its memory and the room that it takes go back with the last slice of them.
    pub(super) bytes: Bytes,
    /// The place of one that takes no memory.
    pub(super) _zeros: Option<OwnedSemaphorePermit>,
}

/// What is put in a place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
}

impl<'a> Content<'a> {
    pub(super) fn len(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => len,
        }
    }

    fn split(self, at: usize) -> (Self, Self) {
        match self {
            Self::Bytes(bytes) => {
                let (first, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
                (Self::Bytes(first), Self::Bytes(rest))
            }
            Self::Zeros(len) => {
                let first = len.min(at as u64);
                (Self::Zeros(first), Self::Zeros(len.saturating_sub(first)))
            }
        }
    }
}

/// The memory of one part, and its room.
struct Memory {
    buffer: Buffer,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

/// A part being filled: from its start, or from where the writing began.
struct Open {
    index: u64,
    /// Its first bytes, so many of them.
    low: usize,
    /// What was written behind a gap.
    high: Option<Range<usize>>,
    /// None while all of it is zeros.
    memory: Option<Memory>,
}

impl Open {
    fn new(index: u64, at: usize) -> Self {
        Self { index, low: 0, high: (at > 0).then_some(at..at), memory: None }
    }

    async fn fill(&mut self, at: usize, content: Content<'_>, size: usize, rooms: &Rooms) -> Result<()> {
        let end = at.saturating_add(usize::try_from(content.len()).unwrap_or(usize::MAX));
        if matches!(content, Content::Bytes(_)) && self.memory.is_none() {
            let room = Arc::clone(&rooms.memory).acquire_owned().await.map_err(|_| closed())?;
            let mut buffer = Buffer::new(size)?;
            for zeros in [Some(0..self.low), self.high.clone()].into_iter().flatten() {
                buffer.get_mut(zeros).unwrap_or_default().fill(0);
            }
            self.memory = Some(Memory { buffer, _room: room });
        }
        if let Some(memory) = &mut self.memory {
            let place = memory.buffer.get_mut(at..end).ok_or_else(|| Error::internal("a part overflows"))?;
            match content {
                Content::Bytes(bytes) => place.copy_from_slice(bytes),
                Content::Zeros(_) => place.fill(0),
            }
        }
        match &mut self.high {
            Some(high) if high.end == at => high.end = end,
            Some(high) if self.low == at && end < high.start => self.low = end,
            Some(high) if self.low == at && end == high.start => {
                self.low = high.end;
                self.high = None;
            }
            None if self.low == at => self.low = end,
            _ => return Err(Error::internal("a part is written out of order")),
        }
        Ok(())
    }

    fn filled(&self) -> Option<usize> {
        self.high.is_none().then_some(self.low)
    }
}

/// What is asked of a closed room; the one who closed it knows why.
fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "the upload was given up")
}

/// The parts of a target.
pub(super) struct Cutter {
    size: usize,
    most_parts: u64,
    rooms: Arc<Rooms>,
    /// As many zeros as a part has.
    zeros: Bytes,
    /// Where the first write was.
    start: Option<u64>,
    /// Behind the last one of those that followed it.
    end: u64,
    /// Behind the last one of the bytes that were left out at first.
    head: u64,
    open: Vec<Open>,
    /// Whole parts that are there already: what is written of them is left out, and may be jumped over.
    kept: Range<u64>,
}

impl Cutter {
    /// Parts by that plan.
    pub(super) fn new(plan: Plan, rooms: &Arc<Rooms>) -> Result<Self> {
        let Plan { size, most_parts, .. } = plan;
        let zeros = zeros(size)?;
        let rooms = Arc::clone(rooms);
        Ok(Self {
            size,
            most_parts,
            rooms,
            zeros,
            start: None,
            end: 0,
            head: 0,
            open: Vec::new(),
            kept: 0..0,
        })
    }

    /// Goes on where the bytes `kept`, of whole parts, are there, and the writing began at `start`.
    pub(super) fn go_on(&mut self, kept: Range<u64>, start: u64) {
        (self.start, self.end, self.kept) = (Some(start), start, kept);
    }

    /// Length of a part in bytes, and where the writing began.
    pub(super) fn shape(&self) -> (u64, u64) {
        (self.size as u64, self.start.unwrap_or_default())
    }

    /// Takes what is written at `at`, and gives the parts that became full to `send`. Waits for memory.
    ///
    /// # Errors
    /// `destination_unsuitable` beyond the last part; `cancelled` where the room was closed.
    pub(super) async fn put(
        &mut self,
        mut at: u64,
        mut content: Content<'_>,
        send: &(dyn Fn(Part) + Send + Sync),
    ) -> Result<()> {
        if content.len() == 0 {
            return Ok(());
        }
        if self.follow(at, content.len())? {
            // The head comes now, so the end was reached.
            for index in (0..self.open.len()).rev() {
                if self.open.get(index).is_some_and(|open| open.filled().is_some()) {
                    let last = self.open.swap_remove(index);
                    send(self.close(last).await?);
                }
            }
        }
        let size = self.size as u64;
        while content.len() > 0 {
            let (index, offset) = (at / size, usize::try_from(at % size).unwrap_or_default());
            let (now, rest) = content.split(self.size.saturating_sub(offset));
            if self.kept.contains(&at) {
                at = at.saturating_add(now.len());
                content = rest;
                continue;
            }
            let known = self.open.iter().position(|open| open.index == index);
            let mut open =
                known.map_or_else(|| Open::new(index, offset), |known| self.open.swap_remove(known));
            open.fill(offset, now, self.size, &self.rooms).await?;
            if open.filled() == Some(self.size) {
                send(self.close(open).await?);
            } else {
                self.open.push(open);
            }
            at = at.saturating_add(now.len());
            content = rest;
        }
        Ok(())
    }

    /// Notes where is written. True where the bytes that were left out begin to come.
    fn follow(&mut self, at: u64, len: u64) -> Result<bool> {
        let end = at.saturating_add(len);
        let most = (self.size as u64).saturating_mul(self.most_parts).min(MOST_BYTES);
        if end > most && self.most_parts < MOST_PARTS {
            return Err(Error::internal(format!("written up to {end}, and {most} bytes were announced")));
        }
        if end > most {
            return Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!(
                    "the target needs more than {most} bytes, which are {} parts of {} bytes, and an upload has at most {MOST_PARTS} parts and {MOST_BYTES} bytes",
                    most / self.size as u64,
                    self.size
                ),
            )
            .hint("raise --memory: larger parts hold more"));
        }
        if self.end >= self.kept.start && at > self.end && at <= self.kept.end {
            self.end = at;
        }
        match self.start {
            None => {
                self.start = Some(at);
                self.end = end;
                Ok(false)
            }
            Some(_) if at == self.end && self.head == 0 => {
                self.end = end;
                Ok(false)
            }
            Some(start) if at == self.head && end <= start => {
                let begins = self.head == 0;
                self.head = end;
                Ok(begins)
            }
            Some(start) => Err(Error::internal(format!(
                "written at {at} where {} or {} of {start} is next",
                self.end, self.head
            ))),
        }
    }

    async fn close(&self, open: Open) -> Result<Part> {
        let len = open.filled().ok_or_else(|| Error::internal("a part with a gap"))?;
        let (bytes, zeros) = match open.memory {
            Some(memory) => (Bytes::from_owner(memory), None),
            None => {
                let place = Arc::clone(&self.rooms.zeros).acquire_owned().await.map_err(|_| closed())?;
                (self.zeros.clone(), Some(place))
            }
        };
        let bytes = if len <= bytes.len() { bytes.slice(..len) } else { bytes };
        Ok(Part { index: open.index, bytes, _zeros: zeros })
    }

    /// The end: the part that is not full, if there is one.
    ///
    /// # Errors
    /// `internal` where bytes are missing.
    pub(super) async fn finish(&mut self, len: u64) -> Result<Option<Part>> {
        let start = self.start.unwrap_or_default();
        let open = self.open.pop();
        if self.end != len || self.head != start || !self.open.is_empty() {
            return Err(Error::internal(format!(
                "written from {start} to {} and from 0 to {}, and to be {len} bytes",
                self.end, self.head
            )));
        }
        match open {
            Some(open) => Ok(Some(self.close(open).await?)),
            None => Ok(None),
        }
    }
}

/// How an upload is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Bytes of a part.
    pub(super) size: usize,
    /// How many parts there may be.
    pub(super) most_parts: u64,
    /// How many have room in the memory at a time.
    pub(super) rooms: usize,
}

impl Plan {
    /// For a target of at most `most_bytes`.
    ///
    /// # Errors
    /// `destination_unsuitable` where the target has too many bytes, or the memory is too small.
    pub(super) fn new(
        most_bytes: Option<u64>,
        exact: bool,
        memory: u64,
        wanted: Option<u64>,
    ) -> Result<Self> {
        const MIB: u64 = 1 << 20;
        /// The best length of a request, see "Performance design patterns" in the Amazon S3 User Guide.
        const LEAST: u64 = 8 * MIB;
        /// Enough for 640 GB; more memory than that a part does not need.
        const MOST: u64 = 64 * MIB;
        let unsuitable = |message: String| Error::new(ErrorKind::DestinationUnsuitable, message);
        let size = match most_bytes {
            Some(bytes) if exact && bytes > MOST_BYTES => {
                return Err(unsuitable(format!(
                    "the target has {bytes} bytes, and an object has at most {MOST_BYTES}"
                )));
            }
            Some(bytes) => {
                let each = bytes.min(MOST_BYTES).div_ceil(MOST_PARTS).next_multiple_of(MIB);
                each.max(wanted.unwrap_or(LEAST))
            }
            // Room for four side by side.
            None => wanted.unwrap_or((memory / 4 / MIB * MIB).clamp(LEAST, MOST)),
        };
        // One part is never uploaded as one, so it may be as short as it likes.
        let single = most_bytes.filter(|bytes| *bytes <= size);
        let size = single.map_or(size, |bytes| bytes.max(1).next_multiple_of(MIB).min(size));
        let needed = if single.is_some() { 1 } else { 2 };
        let rooms = memory / size;
        if rooms < needed {
            let mib = budget_for(needed * size).div_ceil(MIB);
            return Err(unsuitable(format!(
                "{needed} parts of {size} bytes are held at least, and there are {memory} bytes of memory for them"
            ))
            .hint(format!("raise --memory to {mib}M at least, of which parts get their share")));
        }
        Ok(Self {
            size: usize::try_from(size).map_err(|_| unsuitable(format!("a part of {size} bytes")))?,
            most_parts: if single.is_some() { 1 } else { MOST_PARTS },
            rooms: usize::try_from(rooms).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;

    fn plan(size: usize) -> Plan {
        Plan { size, most_parts: MOST_PARTS, rooms: 2 }
    }

    /// Parts that are uploaded the moment they are full: the room of two is always enough.
    fn cut(len: usize, left_out: usize, step: usize, zeros: Range<usize>) -> BTreeMap<u64, Vec<u8>> {
        const SIZE: usize = 1000;
        let mut truth: Vec<u8> = (0..len).map(|at| (at % 251) as u8 + 1).collect();
        let zeros = zeros.start.min(len)..zeros.end.min(len);
        truth[zeros.clone()].fill(0);
        let rooms = Arc::new(Rooms::new(1));
        rooms.memory.add_permits(2);
        let mut cutter = Cutter::new(plan(SIZE), &rooms).unwrap();
        let parts = Mutex::new(BTreeMap::new());
        let send = |part: Part| {
            let before = parts.lock().unwrap().insert(part.index, part.bytes.to_vec());
            assert!(before.is_none(), "part {} twice", part.index);
        };
        let mut put = |range: Range<usize>| {
            for at in range.clone().step_by(step) {
                let piece = at..range.end.min(at + step);
                let content = if zeros.start <= piece.start && piece.end <= zeros.end {
                    Content::Zeros(piece.len() as u64)
                } else {
                    Content::Bytes(&truth[piece])
                };
                cutter.put(at as u64, content, &send).now_or_never().expect("it waits").unwrap();
            }
        };
        put(left_out..len);
        put(0..left_out);
        let last = cutter.finish(len as u64).now_or_never().expect("it waits").unwrap();
        last.into_iter().for_each(send);
        let parts = parts.into_inner().unwrap();
        assert!(parts.values().flatten().eq(&truth), "{len} bytes, {left_out} left out, by {step}");
        assert!(parts.values().rev().skip(1).all(|part| part.len() == SIZE));
        assert!(parts.keys().copied().eq(0..len.div_ceil(SIZE) as u64));
        parts
    }

    #[test]
    fn parts_are_what_was_written_whatever_was_left_out_and_whatever_is_zero() {
        for len in [0, 1, 999, 1000, 1001, 5432] {
            for left_out in [0, 1, 512, 999, 1000, 1001, 2500, 3000, 5000, 5431] {
                for step in [1, 7, 500, 1000, 1700, 9999] {
                    for zeros in [0..0, 0..9999, 0..1500, 800..4200, 2000..3000] {
                        if left_out < len.max(1) {
                            cut(len, left_out, step, zeros);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_written_out_of_order_or_missing_is_a_defect_and_no_wrong_bytes() {
        let rooms = Arc::new(Rooms::new(1));
        rooms.memory.add_permits(2);
        let mut cutter = Cutter::new(plan(1000), &rooms).unwrap();
        let mut put = |at: u64, len: u64| {
            cutter.put(at, Content::Zeros(len), &|_| {}).now_or_never().unwrap().map_err(|error| error.kind())
        };
        put(500, 100).unwrap();
        assert_eq!(put(700, 100), Err(ErrorKind::Internal), "a gap");
        assert_eq!(put(550, 100), Err(ErrorKind::Internal), "twice");
        assert_eq!(put(0, 501), Err(ErrorKind::Internal), "over what is there");
        put(0, 100).unwrap();
        assert_eq!(put(600, 100), Err(ErrorKind::Internal), "after the first bytes came");
        assert_eq!(put(1000, 0), Ok(()), "nothing is in order anywhere");
        for len in [600, 0, 100] {
            let finished = cutter.finish(len).now_or_never().unwrap();
            assert_eq!(finished.unwrap_err().kind(), ErrorKind::Internal, "400 bytes are missing");
        }
    }

    #[test]
    fn parts_are_as_long_as_they_must_be_and_two_of_them_fit() {
        const MIB: u64 = 1 << 20;
        let plan = |bytes, memory: u64| {
            let plan = Plan::new(bytes, false, memory * MIB, None).unwrap();
            (plan.size, plan.rooms)
        };
        assert_eq!(plan(Some(8 * MIB + 1), 64), (8 << 20, 8));
        assert_eq!(plan(Some(80_000 * MIB), 64), (8 << 20, 8));
        assert_eq!(plan(Some(80_000 * MIB + 1), 64), (9 << 20, 7));
        assert_eq!(plan(Some(2 << 40), 1024), (210 << 20, 4));
        assert_eq!(plan(None, 64), (16 << 20, 4));
        assert_eq!(plan(None, 16), (8 << 20, 2));
        assert_eq!(plan(None, 9999), (64 << 20, 156));
        let refused = |bytes, exact, memory| {
            let error = Plan::new(bytes, exact, memory, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
            error
        };
        let error = refused(None, false, 16 * MIB - 1);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("32M")), "{error:?}");
        refused(Some(8 * MIB + 1), true, 16 * MIB - 1);
        refused(Some(MOST_BYTES + 1), true, 4096 * MIB);
    }

    #[test]
    fn a_target_of_one_part_takes_the_memory_of_no_more() {
        const MIB: u64 = 1 << 20;
        for (bytes, size) in [(0, MIB), (1, MIB), (MIB + 1, 2 * MIB), (8 * MIB, 8 * MIB)] {
            let plan = Plan::new(Some(bytes), true, size, None).unwrap();
            assert_eq!((plan.size as u64, plan.most_parts, plan.rooms), (size, 1, 1));
            assert!(Plan::new(Some(bytes), true, size - 1, None).is_err());
        }
        let plan = Plan::new(Some(1), true, MIB, None).unwrap();
        let mut cutter = Cutter::new(plan, &Arc::new(Rooms::new(1))).unwrap();
        let put = cutter.put(0, Content::Zeros(MIB + 1), &|_| {}).now_or_never().unwrap();
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Internal, "more than was announced");
    }
}

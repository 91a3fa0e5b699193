//! Assembles writes, which come by address, into parts of one length.
//!
//! ```text
//!     part 1      part 2      part 3      part 4
//! ├───────────┼───────────┼───────────┼───────────┼─
//!   head, last ......│ first: ascending ─────▶
//!                    └ part 2 is held until the head is written; part 1 takes no memory until then
//! ```
//!
//! At most two parts are open at a time, the held one and the one being filled, so the memory of two parts is enough.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::internal::{Buffer, zeros};
use diskferry_core::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::part_plan::{MAX_OBJECT_BYTES, MAX_PARTS, PartPlan};

/// Limits on the parts that exist at a time. Closing it ends all waits.
#[derive(Debug)]
pub(super) struct PartSlots {
    /// Parts with memory.
    pub(super) memory: Arc<Semaphore>,
    /// Parts of zeros, which need none.
    pub(super) zeros: Arc<Semaphore>,
}

impl PartSlots {
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
pub(super) struct UploadPart {
    /// Counted from 0.
    pub(super) index: u64,
    /// Memory and slot are released with the last slice of them.
    pub(super) bytes: Bytes,
    /// The slot of a part of zeros.
    pub(super) _zeros: Option<OwnedSemaphorePermit>,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum PartContent<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
}

impl<'a> PartContent<'a> {
    pub(super) fn len(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => len,
        }
    }

    /// The first `at` bytes, and the rest; all bytes and nothing if there are no more than `at`.
    fn split(self, at: usize) -> (Self, Self) {
        match self {
            Self::Bytes(bytes) => {
                let (first, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
                (Self::Bytes(first), Self::Bytes(rest))
            }
            Self::Zeros(len) => {
                let first = len.min(at as u64);
                (Self::Zeros(first), Self::Zeros(len - first))
            }
        }
    }
}

/// The memory of one part, and its slot.
struct PartMemory {
    buffer: Buffer,
    _slot: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for PartMemory {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

/// A part being filled: from its start, or from the first write on.
struct OpenPart {
    index: u64,
    /// Number of bytes that were written from its start on.
    low: usize,
    /// The bytes that were written after a gap.
    high: Option<Range<usize>>,
    /// `None` while all of it is zeros.
    memory: Option<PartMemory>,
}

impl OpenPart {
    fn new(index: u64, at: usize) -> Self {
        Self { index, low: 0, high: (at > 0).then_some(at..at), memory: None }
    }

    async fn fill(
        &mut self,
        at: usize,
        content: PartContent<'_>,
        size: usize,
        slots: &PartSlots,
    ) -> Result<()> {
        let overflow = || Error::internal(format!("{} bytes at {at} overflow a part", content.len()));
        let end = usize::try_from(content.len()).ok().and_then(|len| at.checked_add(len));
        let end = end.filter(|end| *end <= size).ok_or_else(overflow)?;
        if matches!(content, PartContent::Bytes(_)) && self.memory.is_none() {
            let slot = Arc::clone(&slots.memory).acquire_owned().await.map_err(|_| closed())?;
            let mut buffer = Buffer::new(size)?;
            for zeros in [Some(0..self.low), self.high.clone()].into_iter().flatten() {
                buffer.get_mut(zeros).ok_or_else(overflow)?.fill(0);
            }
            self.memory = Some(PartMemory { buffer, _slot: slot });
        }
        if let Some(memory) = &mut self.memory {
            let place = memory.buffer.get_mut(at..end).ok_or_else(overflow)?;
            match content {
                PartContent::Bytes(bytes) => place.copy_from_slice(bytes),
                PartContent::Zeros(_) => place.fill(0),
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

fn out_of_range(at: u64) -> Error {
    Error::internal(format!("written at {at}, which is beyond 64 bits"))
}

/// The error for a wait for a slot after the slots were closed. The real error is kept in `SharedUpload`.
fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "the upload was cancelled")
}

/// Assembles the parts of a target.
pub(super) struct PartAssembler {
    part_bytes: usize,
    max_parts: u64,
    slots: Arc<PartSlots>,
    /// A part of zeros.
    zeros: Bytes,
    /// The address of the first write.
    start: Option<u64>,
    /// The end of the writes that followed it.
    end: u64,
    /// The end of what was written of the head, the bytes before `start`.
    head: u64,
    open: Vec<OpenPart>,
    /// Complete parts that the store has already. Writes to them are ignored and may be skipped.
    stored: Range<u64>,
}

impl PartAssembler {
    /// Assembles parts by that plan.
    pub(super) fn new(plan: PartPlan, slots: &Arc<PartSlots>) -> Result<Self> {
        let PartPlan { part_bytes, max_parts, .. } = plan;
        let zeros = zeros(part_bytes)?;
        let slots = Arc::clone(slots);
        Ok(Self {
            part_bytes,
            max_parts,
            slots,
            zeros,
            start: None,
            end: 0,
            head: 0,
            open: Vec::new(),
            stored: 0..0,
        })
    }

    /// Continues a target whose bytes `stored`, of complete parts, the store has, and whose first write was at `start`.
    pub(super) fn resume(&mut self, stored: Range<u64>, start: u64) {
        (self.start, self.end, self.stored) = (Some(start), start, stored);
    }

    /// Length of a part in bytes.
    pub(super) fn part_bytes(&self) -> u64 {
        self.part_bytes as u64
    }

    /// The address of the first write; 0 before it.
    pub(super) fn start(&self) -> u64 {
        self.start.unwrap_or(0)
    }

    /// Takes what is written at `at`, and gives the parts that became full to `send`. Waits for memory.
    ///
    /// # Errors
    /// `destination_unsuitable` beyond the last part; `cancelled` if the slots were closed.
    pub(super) async fn put(
        &mut self,
        mut at: u64,
        mut content: PartContent<'_>,
        send: &(dyn Fn(UploadPart) + Send + Sync),
    ) -> Result<()> {
        if content.len() == 0 {
            return Ok(());
        }
        if self.follow(at, content.len())? {
            // The head is written now, so the end was reached.
            for index in (0..self.open.len()).rev() {
                if self.open.get(index).is_some_and(|open| open.filled().is_some()) {
                    let last = self.open.swap_remove(index);
                    send(self.close(last).await?);
                }
            }
        }
        while content.len() > 0 {
            let index = at / self.part_bytes();
            let offset = usize::try_from(at % self.part_bytes()).map_err(|_| out_of_range(at))?;
            // The offset is less than the length of a part.
            let (now, rest) = content.split(self.part_bytes - offset);
            if !self.stored.contains(&at) {
                let known = self.open.iter().position(|open| open.index == index);
                let mut open =
                    known.map_or_else(|| OpenPart::new(index, offset), |known| self.open.swap_remove(known));
                open.fill(offset, now, self.part_bytes, &self.slots).await?;
                if open.filled() == Some(self.part_bytes) {
                    send(self.close(open).await?);
                } else {
                    self.open.push(open);
                }
            }
            at = at.checked_add(now.len()).ok_or_else(|| out_of_range(at))?;
            content = rest;
        }
        Ok(())
    }

    /// Checks the order of writes. True if this is the first write of the head.
    fn follow(&mut self, at: u64, len: u64) -> Result<bool> {
        let end = at.checked_add(len).ok_or_else(|| out_of_range(at))?;
        let most = self.part_bytes().checked_mul(self.max_parts);
        let most = most.map_or(MAX_OBJECT_BYTES, |most| most.min(MAX_OBJECT_BYTES));
        if end > most && self.max_parts < MAX_PARTS {
            return Err(Error::internal(format!("written up to {end}, and {most} bytes were announced")));
        }
        if end > most {
            return Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!(
                    "the target needs more than {most} bytes, which are {} parts of {} bytes, and an upload has at most {MAX_PARTS} parts and {MAX_OBJECT_BYTES} bytes",
                    most / self.part_bytes(),
                    self.part_bytes
                ),
            )
            .hint("raise --memory: larger parts hold more"));
        }
        if self.end >= self.stored.start && at > self.end && at <= self.stored.end {
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
                "written at {at}, and the next byte is at {}, or {} of the head of {start}",
                self.end, self.head
            ))),
        }
    }

    async fn close(&self, open: OpenPart) -> Result<UploadPart> {
        let len = open.filled().ok_or_else(|| Error::internal("a part has a gap"))?;
        let (bytes, zeros) = match open.memory {
            Some(memory) => (Bytes::from_owner(memory), None),
            None => {
                let slot = Arc::clone(&self.slots.zeros).acquire_owned().await.map_err(|_| closed())?;
                (self.zeros.clone(), Some(slot))
            }
        };
        let mut bytes = bytes;
        bytes.truncate(len);
        Ok(UploadPart { index: open.index, bytes, _zeros: zeros })
    }

    /// Ends the target: returns the part that is not full, if there is one.
    ///
    /// # Errors
    /// `internal` if bytes are missing.
    pub(super) async fn finish(&mut self, len: u64) -> Result<Option<UploadPart>> {
        let start = self.start();
        let open = self.open.pop();
        if self.end != len || self.head != start || !self.open.is_empty() {
            return Err(Error::internal(format!(
                "written from {start} to {} and from 0 to {}, and {len} bytes are expected",
                self.end, self.head
            )));
        }
        match open {
            Some(open) => Ok(Some(self.close(open).await?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;

    fn plan(part_bytes: usize) -> PartPlan {
        PartPlan { part_bytes, max_parts: MAX_PARTS, slots: 2 }
    }

    /// Parts that are uploaded the moment they are full: the memory of two is always enough.
    fn cut(len: usize, head: usize, step: usize, zeros: Range<usize>) -> BTreeMap<u64, Vec<u8>> {
        const SIZE: usize = 1000;
        let mut truth: Vec<u8> = (0..len).map(|at| (at % 251) as u8 + 1).collect();
        let zeros = zeros.start.min(len)..zeros.end.min(len);
        truth[zeros.clone()].fill(0);
        let slots = Arc::new(PartSlots::new(1));
        slots.memory.add_permits(2);
        let mut assembler = PartAssembler::new(plan(SIZE), &slots).unwrap();
        let parts = Mutex::new(BTreeMap::new());
        let send = |part: UploadPart| {
            let before = parts.lock().unwrap().insert(part.index, part.bytes.to_vec());
            assert!(before.is_none(), "part {} twice", part.index);
        };
        let mut put = |range: Range<usize>| {
            for at in range.clone().step_by(step) {
                let piece = at..range.end.min(at + step);
                let content = if zeros.start <= piece.start && piece.end <= zeros.end {
                    PartContent::Zeros(piece.len() as u64)
                } else {
                    PartContent::Bytes(&truth[piece])
                };
                assembler.put(at as u64, content, &send).now_or_never().expect("it waits").unwrap();
            }
        };
        put(head..len);
        put(0..head);
        let last = assembler.finish(len as u64).now_or_never().expect("it waits").unwrap();
        last.into_iter().for_each(send);
        let parts = parts.into_inner().unwrap();
        assert!(parts.values().flatten().eq(&truth), "{len} bytes, {head} of head, by {step}");
        assert!(parts.values().rev().skip(1).all(|part| part.len() == SIZE));
        assert!(parts.keys().copied().eq(0..len.div_ceil(SIZE) as u64));
        parts
    }

    #[test]
    fn parts_are_what_was_written_for_any_head_and_any_zeros() {
        for len in [0, 1, 999, 1000, 1001, 5432] {
            for head in [0, 1, 512, 999, 1000, 1001, 2500, 3000, 5000, 5431] {
                for step in [1, 7, 500, 1000, 1700, 9999] {
                    for zeros in [0..0, 0..9999, 0..1500, 800..4200, 2000..3000] {
                        if head < len.max(1) {
                            cut(len, head, step, zeros);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn writes_out_of_order_or_missing_are_an_internal_error_and_not_wrong_bytes() {
        let slots = Arc::new(PartSlots::new(1));
        slots.memory.add_permits(2);
        let mut assembler = PartAssembler::new(plan(1000), &slots).unwrap();
        let mut put = |at: u64, len: u64| {
            assembler
                .put(at, PartContent::Zeros(len), &|_| {})
                .now_or_never()
                .unwrap()
                .map_err(|error| error.kind())
        };
        put(500, 100).unwrap();
        assert_eq!(put(700, 100), Err(ErrorKind::Internal), "a gap");
        assert_eq!(put(550, 100), Err(ErrorKind::Internal), "twice");
        assert_eq!(put(0, 501), Err(ErrorKind::Internal), "over what was written");
        put(0, 100).unwrap();
        assert_eq!(put(600, 100), Err(ErrorKind::Internal), "after the head");
        assert_eq!(put(1000, 0), Ok(()), "an empty write is allowed anywhere");
        for len in [600, 0, 100] {
            let finished = assembler.finish(len).now_or_never().unwrap();
            assert_eq!(finished.unwrap_err().kind(), ErrorKind::Internal, "400 bytes are missing");
        }
    }

    #[test]
    fn a_target_of_one_part_takes_the_memory_of_one() {
        const MIB: u64 = 1 << 20;
        for (bytes, size) in [(0, MIB), (1, MIB), (MIB + 1, 2 * MIB), (8 * MIB, 8 * MIB)] {
            let plan = PartPlan::new(Some(bytes), true, size, None).unwrap();
            assert_eq!((plan.part_bytes as u64, plan.max_parts, plan.slots), (size, 1, 1));
            assert!(PartPlan::new(Some(bytes), true, size - 1, None).is_err());
        }
        let plan = PartPlan::new(Some(1), true, MIB, None).unwrap();
        let mut assembler = PartAssembler::new(plan, &Arc::new(PartSlots::new(1))).unwrap();
        let put = assembler.put(0, PartContent::Zeros(MIB + 1), &|_| {}).now_or_never().unwrap();
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Internal, "more than was announced");
    }
}

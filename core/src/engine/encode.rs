//! Encodes guest bytes, in guest order, into a target's units on the CPU workers.
//!
//! ```text
//! items ──▶ gather whole units, drop zero units ──▶ batches of about 1 MiB ──▶ encode in parallel
//!                                                                                          │
//!                                                    layout, in guest order ◀──────────────┘
//! ```
//!
//! Whole units are slices of the decoded data. A unit that arrives in parts is assembled in a buffer of its own. No
//! item is then held while more items are awaited, so its budget is released whatever comes next.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};

use crate::address::{GuestOffset, GuestRange};
use crate::disk::SourceStream;
use crate::engine::scan::is_zero;
use crate::engine::types::{GuestItem, Passthrough};
use crate::error::{Error, Result};
use crate::layout::{Coding, Encoded, Encoder, Scanned};
use crate::local::CpuPool;
use crate::memory::Buffer;
use crate::source::BoxFuture;

/// Guest bytes per batch.
const BATCH: u64 = 1 << 20;

/// Units on their way to the layout.
pub(crate) struct Encoding {
    encoder: Arc<dyn Encoder>,
    pool: Arc<CpuPool>,
    unit: u64,
    most: usize,
    /// A unit that has arrived in part, and the guest address up to which it has.
    partial: Option<(u64, Buffer)>,
    batch: Vec<Gathered>,
    jobs: FuturesOrdered<BoxFuture<'static, Result<Vec<Encoded>>>>,
}

/// A unit before encoding.
struct Gathered {
    unit: u64,
    bytes: Bytes,
    stream: Option<SourceStream>,
}

impl Encoding {
    /// At most `memory` bytes of encoded units wait for the layout.
    pub(crate) fn new(encoder: Arc<dyn Encoder>, pool: Arc<CpuPool>, memory: u64) -> Self {
        let unit = encoder.unit_bytes().max(1);
        let batch = BATCH.max(unit);
        let most = (memory / batch).min(pool.threads() as u64 * 4).max(2) as usize;
        Self { encoder, pool, unit, most, partial: None, batch: Vec::new(), jobs: FuturesOrdered::new() }
    }

    /// The source streams that the encoder can store unchanged.
    pub(crate) fn passthrough(&self) -> Option<Passthrough> {
        self.encoder.passthrough().map(|compression| Passthrough { compression, unit: self.unit })
    }

    /// Guest bytes per unit.
    pub(crate) fn unit(&self) -> u64 {
        self.unit
    }

    /// Jobs under way.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// True if nothing more should be pushed before something is taken out.
    pub(crate) fn is_full(&self) -> bool {
        self.jobs.len() >= self.most
    }

    /// Adds the next item of the disk, in guest order.
    pub(crate) fn push(&mut self, item: GuestItem) -> Result<()> {
        let GuestItem::Data(data) = item else {
            // Zeros need no unit. In a partial unit they are already there, since it starts as zeros.
            return Ok(());
        };
        let mut streams = data.streams.iter().peekable();
        let mut runs = data.ranges().filter(|(_, zero)| !zero).peekable();
        let mut next = data.guest.start();
        while let Some((run, _)) = runs.peek() {
            // The last unit that was handled may extend into this run.
            let at = run.start().max(next);
            if at >= run.end() {
                runs.next();
                continue;
            }
            let unit = at.get() / self.unit;
            let whole = self.range(unit)?;
            next = whole.end();
            let Some(have) = whole.intersection(data.guest) else { continue };
            while streams.next_if(|(guest, _)| guest.start() < whole.start()).is_some() {}
            if have == whole {
                let stream = streams.next_if(|(guest, _)| *guest == whole).map(|(_, stream)| stream.clone());
                self.flush_partial(Some(unit));
                self.gather(Gathered { unit, bytes: data.slice(have), stream });
            } else {
                self.add_part(unit, &data, have)?;
            }
        }
        Ok(())
    }

    fn range(&self, unit: u64) -> Result<GuestRange> {
        let start = unit.checked_mul(self.unit).map(GuestOffset::new);
        let range = start.and_then(|start| GuestRange::new(start, self.unit));
        range.ok_or_else(|| Error::internal(format!("unit {unit} ends after the last address")))
    }

    /// Copies the part `have` of a unit.
    fn add_part(&mut self, unit: u64, data: &Scanned, have: GuestRange) -> Result<()> {
        if self.partial.as_ref().is_none_or(|(known, _)| *known != unit) {
            self.flush_partial(Some(unit));
            let mut buffer = Buffer::new(self.unit as usize)?;
            buffer.fill(0);
            self.partial = Some((unit, buffer));
        }
        if let Some((_, buffer)) = &mut self.partial {
            let bytes = data.slice(have);
            let from = (have.start().get() % self.unit) as usize;
            let part = buffer.get_mut(from..from + bytes.len());
            let part =
                part.ok_or_else(|| Error::internal(format!("guest bytes {have} are not in unit {unit}")))?;
            part.copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// Completes the partial unit, since the unit `next` begins or the disk ends.
    fn flush_partial(&mut self, next: Option<u64>) {
        let complete = |unit: u64| next.is_none_or(|next| unit < next);
        if let Some((unit, buffer)) = self.partial.take_if(|(unit, _)| complete(*unit)) {
            self.gather(Gathered { unit, bytes: buffer.freeze(), stream: None });
        }
    }

    fn gather(&mut self, unit: Gathered) {
        self.batch.push(unit);
        if self.batch.len() as u64 * self.unit >= BATCH {
            self.flush();
        }
    }

    /// Gives the gathered units to the workers. Nothing may be held while the next items are awaited.
    pub(crate) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (batch, encoder) = (std::mem::take(&mut self.batch), Arc::clone(&self.encoder));
        self.jobs.push_back(Box::pin(self.pool.run(move || encode(&*encoder, batch))));
    }

    /// Ends the disk.
    pub(crate) fn finish(&mut self) {
        self.flush_partial(None);
        self.flush();
    }

    /// The next units in guest order; `None` if nothing is under way.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<Encoded>>>> {
        if self.jobs.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(ready!(self.jobs.poll_next_unpin(cx)))
    }
}

/// The job of a worker.
fn encode(encoder: &dyn Encoder, batch: Vec<Gathered>) -> Result<Vec<Encoded>> {
    let (size, most) = (encoder.unit_bytes() as usize, encoder.most_bytes());
    let mut out = Buffer::new(most * batch.len())?;
    let mut used = 0;
    let mut encoded = Vec::with_capacity(batch.len());
    for Gathered { unit, bytes, stream } in batch {
        // The scan used blocks of 4 KiB, and units may be smaller.
        if is_zero(&bytes) {
            continue;
        }
        if bytes.len() != size {
            return Err(Error::internal(format!("unit {unit} has {} bytes of {size}", bytes.len())));
        }
        let room = out.get_mut(used..used + most);
        let room = room.ok_or_else(|| Error::internal("a batch of units exceeds its buffer"))?;
        let carried = match &stream {
            Some(stream) => encoder.pass_through(unit, &bytes, stream, room)?,
            None => None,
        };
        let coding = match carried {
            Some(coding) => coding,
            None => encoder.encode(unit, &bytes, room)?,
        };
        match coding {
            Coding::Plain => encoded.push((unit, coding, used..used, Some(bytes))),
            Coding::Coded(len) if len <= most => {
                encoded.push((unit, coding, used..used + len, None));
                used += len;
            }
            Coding::Coded(len) => {
                return Err(Error::internal(format!(
                    "unit {unit} was encoded to {len} bytes, and the limit is {most}"
                )));
            }
        }
    }
    let out = out.freeze();
    let slice = |(unit, coding, range, plain): (u64, Coding, _, Option<Bytes>)| Encoded {
        unit,
        coding,
        bytes: plain.unwrap_or_else(|| out.slice(range)),
    };
    Ok(encoded.into_iter().map(slice).collect())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::disk::Compression;

    /// A test encoding: a unit is stored as its first byte and its length, or plain if the first byte is 0xff.
    #[derive(Debug)]
    struct First(u64);

    impl Encoder for First {
        fn unit_bytes(&self) -> u64 {
            self.0
        }

        fn most_bytes(&self) -> usize {
            10
        }

        fn encode(&self, _: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding> {
            if guest[0] == 0xff {
                return Ok(Coding::Plain);
            }
            out[..3].copy_from_slice(&[guest[0], guest[guest.len() - 1], (guest.len() >> 9) as u8]);
            Ok(Coding::Coded(3))
        }

        fn passthrough(&self) -> Option<Compression> {
            Some(Compression::Deflate)
        }

        fn pass_through(
            &self,
            _: u64,
            _: &[u8],
            stream: &SourceStream,
            out: &mut [u8],
        ) -> Result<Option<Coding>> {
            let stream = &stream.bytes[..];
            if stream == b"no" {
                return Ok(None);
            }
            out[..stream.len()].copy_from_slice(stream);
            Ok(Some(Coding::Coded(stream.len())))
        }
    }

    fn item(start: u64, bytes: Vec<u8>) -> GuestItem {
        GuestItem::Data(Scanned::new(GuestOffset::new(start), bytes.into(), None))
    }

    async fn all(encoding: &mut Encoding) -> Vec<(u64, Vec<u8>)> {
        encoding.finish();
        let mut units = Vec::new();
        while let Some(some) = poll_fn(|cx| encoding.poll_next(cx)).await {
            units.extend(some.unwrap().into_iter().map(|unit| (unit.unit, unit.bytes.to_vec())));
        }
        units
    }

    #[tokio::test]
    async fn units_are_assembled_from_any_items_and_zero_units_are_left_out() {
        let pool = Arc::new(CpuPool::new(2).unwrap());
        let mut encoding = Encoding::new(Arc::new(First(65536)), pool, 8 << 20);
        let mut half = vec![0; 32768];
        half[5000] = 7;
        // Unit 0 in two halves, unit 1 zeros, unit 2 begins in one item and ends in another with unit 3.
        encoding.push(item(0, vec![1; 32768])).unwrap();
        encoding.push(item(32768, half.clone())).unwrap();
        encoding.push(item(65536, vec![0; 65536])).unwrap();
        encoding.push(item(2 * 65536, half)).unwrap();
        let mut rest = vec![3; 32768];
        rest.extend([0xff; 65536]);
        encoding.push(item(2 * 65536 + 32768, rest)).unwrap();
        // The disk ends inside unit 5.
        encoding
            .push(GuestItem::Zero(GuestRange::between(
                GuestOffset::new(4 * 65536),
                GuestOffset::new(5 * 65536),
            )))
            .unwrap();
        encoding.push(item(5 * 65536, vec![9; 5000])).unwrap();
        let units = all(&mut encoding).await;
        let expected =
            [(0, vec![1, 0, 128]), (2, vec![0, 3, 128]), (3, vec![0xff; 65536]), (5, vec![9, 0, 128])];
        assert!(units == expected);
    }

    #[tokio::test]
    async fn a_stream_is_passed_through_if_the_encoder_accepts_it() {
        let pool = Arc::new(CpuPool::new(1).unwrap());
        let mut encoding = Encoding::new(Arc::new(First(4096)), pool, 1 << 20);
        let mut data = Scanned::new(GuestOffset::new(8192), vec![5; 5 * 4096].into(), None);
        let unit = |index: u64| GuestRange::new(GuestOffset::new(index * 4096), 4096).unwrap();
        let stream = |bytes: &'static str| SourceStream { bytes: bytes.into(), window_bits: None };
        data.streams = vec![(unit(3), stream("three")), (unit(4), stream("no")), (unit(6), stream("six"))];
        encoding.push(GuestItem::Data(data)).unwrap();
        let coded = vec![5, 5, 8];
        let units = all(&mut encoding).await;
        let expected = [
            (2, coded.clone()),
            (3, b"three".to_vec()),
            (4, coded.clone()),
            (5, coded),
            (6, b"six".to_vec()),
        ];
        assert_eq!(units, expected);
    }

    #[tokio::test]
    async fn units_smaller_than_a_block_are_scanned_one_by_one() {
        let pool = Arc::new(CpuPool::new(1).unwrap());
        let mut encoding = Encoding::new(Arc::new(First(512)), pool, 1 << 20);
        let mut bytes = vec![0; 12288];
        bytes[4096 + 512] = 4;
        bytes[8191] = 5;
        encoding.push(item(0, bytes)).unwrap();
        assert_eq!(all(&mut encoding).await, [(9, vec![4, 0, 1]), (15, vec![0, 5, 1])]);
    }
}

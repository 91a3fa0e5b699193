//! The checksum that a store keeps of a whole object, compared where all of it was read.
//!
//! A ranged answer has no checksum that could be verified. But CRCs are linear: those of the ranges, put together, are that
//! of the whole (S3 User Guide, "Checking object integrity": full-object checksums are CRC-32, CRC-32C and CRC-64/NVME).
//! What a disk is read by leaves out what is no data, but a raw disk is all of its object.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use tokio::sync::OnceCell;

use crate::answer::{Object, Pin};

/// How long data may wait for the answer. It is asked for at the same time as the first of them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most ranges that are remembered.
const MOST: usize = 1 << 16;
/// What counts before it is known that all of the object is going to be read: so many ranges, each no longer than the head
/// of an object.
const EARLY_RANGES: usize = 4;
const EARLY: usize = 128 << 10;

/// The checksums that a store may keep of a whole object.
const ALGORITHMS: [CrcAlgorithm; 3] =
    [CrcAlgorithm::Crc64Nvme, CrcAlgorithm::Crc32Iscsi, CrcAlgorithm::Crc32IsoHdlc];

/// A checksum of all bytes of an object.
#[derive(Clone, Copy, Debug)]
struct Stored {
    name: &'static str,
    algorithm: CrcAlgorithm,
    value: u64,
}

impl Stored {
    /// What the store says of it. One that is made of those of parts is no checksum of the bytes; where a store does not say
    /// which it is, the object must have been put in one piece.
    fn of(answer: &HeadObjectOutput) -> Option<Self> {
        let in_parts = answer.e_tag().is_none_or(|etag| etag.contains('-'));
        match answer.checksum_type() {
            Some(ChecksumType::FullObject) => {}
            None if !in_parts => {}
            _ => return None,
        }
        [
            ("CRC-64/NVME", CrcAlgorithm::Crc64Nvme, 8, answer.checksum_crc64_nvme()),
            ("CRC-32C", CrcAlgorithm::Crc32Iscsi, 4, answer.checksum_crc32_c()),
            ("CRC-32", CrcAlgorithm::Crc32IsoHdlc, 4, answer.checksum_crc32()),
        ]
        .into_iter()
        .find_map(|(name, algorithm, len, text)| {
            let bytes = aws_smithy_types::base64::decode(text?).ok().filter(|bytes| bytes.len() == len)?;
            let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            Some(Self { name, algorithm, value })
        })
    }
}

/// What was read of an object, in checksums.
#[derive(Debug)]
pub(crate) struct Whole {
    /// All of it is going to be read: else nothing is asked.
    expected: AtomicBool,
    stored: OnceCell<Option<Stored>>,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    /// What was read before the store's answer: which range, and what it is by each of [`ALGORITHMS`]. The first of them are
    /// the head and the tail, which are not asked for again.
    early: Vec<(u64, u64, [u64; 3])>,
    /// Where each range ends, and its checksum, by where it begins. None meets or touches another.
    ranges: BTreeMap<u64, (u64, u64)>,
}

impl Read {
    fn note(&mut self, algorithm: CrcAlgorithm, start: u64, end: u64, crc: u64) {
        // Tables are read apart, and perhaps once more with what lies around them: the longer range counts.
        let met: Vec<_> = self.ranges.range(..end).rev().take_while(|(_, (to, _))| *to > start).collect();
        let covers = met.iter().all(|(from, (to, _))| **from >= start && *to <= end);
        let met: Vec<u64> = met.into_iter().map(|(from, _)| *from).collect();
        if !covers || start >= end || self.ranges.len() >= MOST {
            return;
        }
        for from in met {
            self.ranges.remove(&from);
        }
        let (mut start, mut end, mut crc) = (start, end, crc);
        if let Some((to, later)) = self.ranges.remove(&end) {
            crc = checksum_combine(algorithm, crc, later, to - end);
            end = to;
        }
        if let Some((from, (to, before))) = self.ranges.range_mut(..start).next_back()
            && *to == start
        {
            crc = checksum_combine(algorithm, *before, crc, end - start);
            start = *from;
        }
        self.ranges.insert(start, (end, crc));
    }
}

impl Whole {
    /// Nothing is asked and compared unless it is `wanted`.
    pub(crate) fn new(wanted: bool) -> Self {
        let stored = if wanted { OnceCell::new() } else { OnceCell::from(None) };
        Self { expected: AtomicBool::new(false), stored, read: Mutex::default() }
    }

    pub(crate) fn expect(&self) {
        self.expected.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_expected(&self) -> bool {
        self.expected.load(Ordering::Relaxed)
    }

    /// Asks the store, once. Where there is no answer, nothing is compared.
    pub(crate) async fn learn(&self, object: &Object, pin: &Pin, asked: impl FnOnce()) {
        let learn = async {
            let Object::S3 { client, at } = object else { return None };
            asked();
            let request = client
                .head_object()
                .bucket(&at.bucket)
                .key(&at.key)
                .set_version_id(pin.version_id.clone().or_else(|| at.version_id.clone()))
                .checksum_mode(ChecksumMode::Enabled);
            let answer = tokio::time::timeout(PATIENCE, request.send()).await.ok()?.ok()?;
            // Of another object, it says nothing of this one: what is read next will notice that.
            let same = pin.etag.is_some() && answer.e_tag() == pin.etag.as_deref();
            let stored = Stored::of(&answer).filter(|_| same);
            tracing::debug!(checksum = stored.map(|stored| stored.name), "what the store keeps of the whole");
            stored
        };
        self.stored.get_or_init(|| learn).await;
    }

    /// Takes note of bytes that were read from `start` on.
    pub(crate) fn note(&self, start: u64, bytes: &Bytes) {
        let end = start.saturating_add(bytes.len() as u64);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match self.stored.get() {
            None => {
                let few = bytes.len() <= EARLY && read.early.len() < EARLY_RANGES;
                if few || (self.is_expected() && read.early.len() < MOST) {
                    read.early.push((start, end, ALGORITHMS.map(|algorithm| checksum(algorithm, bytes))));
                }
            }
            Some(None) => read.early = Vec::new(),
            Some(Some(Stored { algorithm, .. })) => {
                let index = ALGORITHMS.iter().position(|each| each == algorithm).unwrap_or_default();
                for (start, end, crcs) in std::mem::take(&mut read.early) {
                    read.note(*algorithm, start, end, crcs[index]);
                }
                read.note(*algorithm, start, end, checksum(*algorithm, bytes));
            }
        }
    }

    /// How the bytes that were read differ from what the store keeps, where all `len` of them were read.
    pub(crate) fn differs(&self, len: u64) -> Option<String> {
        let stored = self.stored.get()?.as_ref()?;
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, whole) = *read.ranges.get(&0)?;
        if end != len {
            return None;
        }
        (whole != stored.value).then(|| {
            let width = if stored.algorithm == CrcAlgorithm::Crc64Nvme { 16 } else { 8 };
            format!(
                "all {len} bytes were read, and their {} is {whole:0width$x}; the store keeps {:0width$x}",
                stored.name, stored.value
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRC algorithms, of "123456789".
    const KNOWN: [(CrcAlgorithm, u64); 3] = [
        (CrcAlgorithm::Crc32IsoHdlc, 0xcbf4_3926),
        (CrcAlgorithm::Crc32Iscsi, 0xe306_9283),
        (CrcAlgorithm::Crc64Nvme, 0xae8b_1486_0a79_9888),
    ];

    fn whole(algorithm: CrcAlgorithm, value: u64) -> Whole {
        let stored = Stored { name: "CRC", algorithm, value };
        Whole { stored: OnceCell::from(Some(stored)), ..Whole::new(true) }
    }

    #[test]
    fn ranges_in_any_order_make_the_checksum_of_the_whole() {
        for (algorithm, value) in KNOWN {
            for pieces in [[(6, 9), (0, 2), (2, 6)], [(0, 4), (8, 9), (4, 8)], [(2, 4), (3, 4), (0, 9)]] {
                let whole = whole(algorithm, value);
                for (from, to) in pieces {
                    whole.note(from as u64, &Bytes::from_static(&b"123456789"[from..to]));
                }
                assert_eq!(whole.differs(9), None, "{pieces:?}");
                whole.note(0, &Bytes::from_static(b"123456788"));
                assert!(whole.differs(9).is_some(), "{pieces:?}");
            }
        }
    }

    #[test]
    fn what_was_not_read_as_a_whole_is_not_compared() {
        let parts: [&[(u64, &'static [u8])]; 4] =
            [&[], &[(0, b"x")], &[(1, b"xxxxxxxx")], &[(0, b"xxxx"), (5, b"xxxx")]];
        for parts in parts {
            let whole = whole(CrcAlgorithm::Crc64Nvme, 1);
            parts.iter().for_each(|(at, bytes)| whole.note(*at, &Bytes::from_static(bytes)));
            assert_eq!(whole.differs(9), None, "{parts:?}");
        }
        // A range that meets another one in part says nothing certain of either: the one that is known stays.
        let whole = whole(CrcAlgorithm::Crc32IsoHdlc, 0xcbf4_3926);
        whole.note(0, &Bytes::from_static(b"12345"));
        whole.note(3, &Bytes::from_static(b"xxxxxx"));
        assert_eq!(whole.differs(9), None);
        whole.note(5, &Bytes::from_static(b"6789"));
        assert_eq!(whole.differs(9), None);
    }
}

//! The checksum that a store has of a whole object, compared if all of the object was read.
//!
//! A ranged response has no checksum that could be verified. But CRCs are linear: the CRC of the whole object follows from
//! those of its ranges (S3 User Guide, "Checking object integrity": full-object checksums are CRC-32, CRC-32C and
//! CRC-64/NVME). Reading a sparse format skips what is not data, but a raw disk is read completely.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use tokio::sync::OnceCell;

use crate::connection::{Object, PinnedIdentity};

/// How long data may wait for the response. It is requested at the same time as the first data.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of ranges that are remembered.
const MAX_RANGES: usize = 1 << 16;
/// Limits on what is remembered before it is known that the whole object will be read: this many ranges, each no longer than
/// the head of an object.
const EARLY_RANGES: usize = 4;
const EARLY_BYTES: usize = 128 << 10;

/// The checksums that a store may have of a whole object.
const ALGORITHMS: [CrcAlgorithm; 3] =
    [CrcAlgorithm::Crc64Nvme, CrcAlgorithm::Crc32Iscsi, CrcAlgorithm::Crc32IsoHdlc];

/// A checksum of all bytes of an object.
#[derive(Clone, Copy, Debug)]
struct StoredChecksum {
    name: &'static str,
    algorithm: CrcAlgorithm,
    value: u64,
}

impl StoredChecksum {
    /// The checksum in the store's response. A checksum of the checksums of parts is of no use. If a store does not say which
    /// kind it is, the object must have been uploaded in one piece.
    fn of(response: &HeadObjectOutput) -> Option<Self> {
        let in_parts = response.e_tag().is_none_or(|etag| etag.contains('-'));
        match response.checksum_type() {
            Some(ChecksumType::FullObject) => {}
            None if !in_parts => {}
            _ => return None,
        }
        [
            ("CRC-64/NVME", CrcAlgorithm::Crc64Nvme, 8, response.checksum_crc64_nvme()),
            ("CRC-32C", CrcAlgorithm::Crc32Iscsi, 4, response.checksum_crc32_c()),
            ("CRC-32", CrcAlgorithm::Crc32IsoHdlc, 4, response.checksum_crc32()),
        ]
        .into_iter()
        .find_map(|(name, algorithm, len, text)| {
            let bytes = STANDARD.decode(text?).ok().filter(|bytes| bytes.len() == len)?;
            let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            Some(Self { name, algorithm, value })
        })
    }
}

/// The checksums of what was read of an object.
#[derive(Debug)]
pub(super) struct ObjectChecksum {
    /// The whole object will be read; otherwise the store is not asked.
    expected: AtomicBool,
    stored: OnceCell<Option<StoredChecksum>>,
    read: Mutex<ReadRanges>,
}

#[derive(Debug, Default)]
struct ReadRanges {
    /// Ranges that were read before the store's response, with their checksums by each of [`ALGORITHMS`]. The first of them
    /// are the head and the tail, which are not read again.
    early: Vec<(u64, u64, [u64; 3])>,
    /// End and checksum of each range, by its start. No two overlap or touch.
    ranges: BTreeMap<u64, (u64, u64)>,
}

impl ReadRanges {
    fn note(&mut self, algorithm: CrcAlgorithm, start: u64, end: u64, crc: u64) {
        // Tables may be read alone, and again together with what is around them: the longer range replaces the shorter.
        let overlapping: Vec<_> =
            self.ranges.range(..end).rev().take_while(|(_, (to, _))| *to > start).collect();
        let covers = overlapping.iter().all(|(from, (to, _))| **from >= start && *to <= end);
        let overlapping: Vec<u64> = overlapping.into_iter().map(|(from, _)| *from).collect();
        if !covers || start >= end || self.ranges.len() >= MAX_RANGES {
            return;
        }
        for from in overlapping {
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

impl ObjectChecksum {
    /// If not `wanted`, the store is not asked and nothing is compared.
    pub(super) fn new(wanted: bool) -> Self {
        let stored = if wanted { OnceCell::new() } else { OnceCell::from(None) };
        Self { expected: AtomicBool::new(false), stored, read: Mutex::default() }
    }

    /// The whole object will be read.
    pub(super) fn expect_all(&self) {
        self.expected.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_expected(&self) -> bool {
        self.expected.load(Ordering::Relaxed)
    }

    /// Asks the store, once; `on_request` is called before. Without a response, nothing is compared.
    pub(super) async fn fetch(&self, object: &Object, pin: &PinnedIdentity, on_request: impl FnOnce()) {
        let fetch = async {
            let Object::S3 { client, at } = object else { return None };
            on_request();
            let request = client
                .head_object()
                .bucket(&at.bucket)
                .key(&at.key)
                .set_version_id(pin.version_id.clone().or_else(|| at.version_id.clone()))
                .checksum_mode(ChecksumMode::Enabled);
            let response = tokio::time::timeout(TIMEOUT, request.send()).await.ok()?.ok()?;
            // If the object was replaced, the next read notices it.
            let same = pin.etag.is_some() && response.e_tag() == pin.etag.as_deref();
            let stored = StoredChecksum::of(&response).filter(|_| same);
            tracing::debug!(
                checksum = stored.map(|stored| stored.name),
                "the store's checksum of the object"
            );
            stored
        };
        self.stored.get_or_init(|| fetch).await;
    }

    /// Notes bytes that were read from `start` on.
    pub(super) fn note(&self, start: u64, bytes: &Bytes) {
        // Bytes of an object end within 64 bits.
        let Some(end) = start.checked_add(bytes.len() as u64) else { return };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match self.stored.get() {
            None => {
                let few = bytes.len() <= EARLY_BYTES && read.early.len() < EARLY_RANGES;
                if few || (self.is_expected() && read.early.len() < MAX_RANGES) {
                    read.early.push((start, end, ALGORITHMS.map(|algorithm| checksum(algorithm, bytes))));
                }
            }
            Some(None) => read.early = Vec::new(),
            Some(Some(StoredChecksum { algorithm, .. })) => {
                for (start, end, crcs) in std::mem::take(&mut read.early) {
                    let crc = ALGORITHMS.iter().zip(crcs).find(|(each, _)| *each == algorithm);
                    if let Some((_, crc)) = crc {
                        read.note(*algorithm, start, end, crc);
                    }
                }
                read.note(*algorithm, start, end, checksum(*algorithm, bytes));
            }
        }
    }

    /// How the bytes that were read differ from the store's checksum, if all `len` of them were read.
    pub(super) fn mismatch(&self, len: u64) -> Option<String> {
        let stored = self.stored.get()?.as_ref()?;
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, crc) = *read.ranges.get(&0)?;
        if end != len {
            return None;
        }
        (crc != stored.value).then(|| {
            let width = if stored.algorithm == CrcAlgorithm::Crc64Nvme { 16 } else { 8 };
            format!(
                "all {len} bytes were read, and their {} is {crc:0width$x}; the store has {:0width$x}",
                stored.name, stored.value
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values of "123456789" from the catalogue of parametrised CRC algorithms.
    const KNOWN: [(CrcAlgorithm, u64); 3] = [
        (CrcAlgorithm::Crc32IsoHdlc, 0xcbf4_3926),
        (CrcAlgorithm::Crc32Iscsi, 0xe306_9283),
        (CrcAlgorithm::Crc64Nvme, 0xae8b_1486_0a79_9888),
    ];

    fn checksum_with(algorithm: CrcAlgorithm, value: u64) -> ObjectChecksum {
        let stored = StoredChecksum { name: "CRC", algorithm, value };
        ObjectChecksum { stored: OnceCell::from(Some(stored)), ..ObjectChecksum::new(true) }
    }

    #[test]
    fn ranges_in_any_order_give_the_checksum_of_the_object() {
        for (algorithm, value) in KNOWN {
            for pieces in [[(6, 9), (0, 2), (2, 6)], [(0, 4), (8, 9), (4, 8)], [(2, 4), (3, 4), (0, 9)]] {
                let checksum = checksum_with(algorithm, value);
                for (from, to) in pieces {
                    checksum.note(from as u64, &Bytes::from_static(&b"123456789"[from..to]));
                }
                assert_eq!(checksum.mismatch(9), None, "{pieces:?}");
                checksum.note(0, &Bytes::from_static(b"123456788"));
                assert!(checksum.mismatch(9).is_some(), "{pieces:?}");
            }
        }
    }

    #[test]
    fn an_object_that_was_not_read_completely_is_not_compared() {
        let parts: [&[(u64, &'static [u8])]; 4] =
            [&[], &[(0, b"x")], &[(1, b"xxxxxxxx")], &[(0, b"xxxx"), (5, b"xxxx")]];
        for parts in parts {
            let checksum = checksum_with(CrcAlgorithm::Crc64Nvme, 1);
            parts.iter().for_each(|(at, bytes)| checksum.note(*at, &Bytes::from_static(bytes)));
            assert_eq!(checksum.mismatch(9), None, "{parts:?}");
        }
        // A range that overlaps another one in part is ignored.
        let checksum = checksum_with(CrcAlgorithm::Crc32IsoHdlc, 0xcbf4_3926);
        checksum.note(0, &Bytes::from_static(b"12345"));
        checksum.note(3, &Bytes::from_static(b"xxxxxx"));
        assert_eq!(checksum.mismatch(9), None);
        checksum.note(5, &Bytes::from_static(b"6789"));
        assert_eq!(checksum.mismatch(9), None);
    }
}

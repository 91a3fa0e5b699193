//! Types that the parts of the engine exchange.

use std::sync::Arc;

use crate::address::GuestRange;
use crate::digest::Hash;
use crate::disk::{Compression, Piece};
use crate::layout::{Order, Scanned};
use crate::local::CpuPool;
use crate::memory::{Budget, Reservation};

/// Guest bytes of one job: large enough that the overhead is negligible, small enough to stay in a core's cache and
/// to keep all cores busy until the end.
pub(super) const JOB: u64 = 1 << 20;

/// Selects the compressed streams of the source's units that are kept along with the decoded data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passthrough {
    /// The compression of the streams.
    pub compression: Compression,
    /// Guest bytes of a unit, which begins at a multiple of them.
    pub unit: u64,
}

impl Passthrough {
    pub(super) fn takes(self, guest: GuestRange, compression: Compression) -> bool {
        compression == self.compression && guest.len() == self.unit && guest.start().is_aligned(self.unit)
    }
}

/// Options of a transfer.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// The order of the items.
    pub order: Order,
    /// The hash of a zero block, if blocks must be hashed.
    pub zero_leaf: Option<Hash>,
    /// The compressed streams that are kept too, if any.
    pub passthrough: Option<Passthrough>,
    /// The most requests in flight. Default: as many as the source recommends.
    pub connections: Option<usize>,
    /// The bound on bytes in flight.
    pub budget: Budget,
    /// Guest ranges that are not read. They consist of whole blocks (except at the disk's end), are in order, and do
    /// not touch. The items cover the rest.
    pub done: Arc<[GuestRange]>,
    /// The bytes of the budget that the conversion itself reserves until its end.
    pub reserved: u64,
    /// The pool that decodes, hashes and scans.
    pub pool: Arc<CpuPool>,
}

/// A run of guest bytes, in whole 4 KiB blocks except for the last block of the disk.
#[derive(Clone, Debug)]
pub enum GuestItem {
    /// Zeros that are known without reading.
    Zero(GuestRange),
    /// Bytes that were scanned for zero blocks.
    Data(Scanned),
}

impl GuestItem {
    /// The guest bytes.
    pub fn guest(&self) -> GuestRange {
        match self {
            Self::Zero(range) => *range,
            Self::Data(scanned) => scanned.guest,
        }
    }

    /// The part within `range`, in whole blocks.
    pub(crate) fn part(&self, range: GuestRange) -> Self {
        match self {
            _ if range == self.guest() => self.clone(),
            Self::Zero(_) => Self::Zero(range),
            Self::Data(scanned) => Self::Data(scanned.part(range)),
        }
    }
}

/// Stored bytes in memory, with the reservation for the data that they decode to.
pub(super) struct Fetched {
    pub(super) pieces: Vec<Piece>,
    pub(super) reserved: Reservation,
}

/// The result of a round of a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fed {
    /// Something progressed.
    Moved,
    /// Everything waits.
    Waiting,
    /// There is no more data.
    Ended,
}

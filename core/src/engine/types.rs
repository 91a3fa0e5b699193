//! What the parts of the engine exchange.

use std::sync::Arc;

use crate::address::GuestRange;
use crate::digest::Hash;
use crate::disk::{Compression, Piece};
use crate::layout::{Order, Scanned};
use crate::local::CpuPool;
use crate::memory::{Budget, Reservation};

/// Guest bytes of one job: long enough that handing it over costs nothing, short enough to stay in a core's cache and
/// to keep all cores busy to the end.
pub(super) const JOB: u64 = 1 << 20;

/// Which compressed streams of the source's units go along with what they decode to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passthrough {
    /// How they are compressed.
    pub compression: Compression,
    /// Guest bytes of a unit; it begins at a multiple of them.
    pub unit: u64,
}

impl Passthrough {
    pub(super) fn takes(self, guest: GuestRange, compression: Compression) -> bool {
        compression == self.compression && guest.len() == self.unit && guest.start().is_aligned(self.unit)
    }
}

/// How a transfer goes about its work.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// The order of the items.
    pub order: Order,
    /// The hash of a zero block, where blocks are to be hashed.
    pub zero_leaf: Option<Hash>,
    /// Which compressed streams are wanted too.
    pub passthrough: Option<Passthrough>,
    /// Most requests in flight; by default as many as the source finds worthwhile.
    pub connections: Option<usize>,
    /// The bound on bytes in flight.
    pub budget: Budget,
    /// Guest ranges that are not wanted: of whole blocks but at the disk's end, in order, none meeting another. The items
    /// cover the rest.
    pub done: Arc<[GuestRange]>,
    /// How much of the budget the conversion itself keeps to the end, in bytes.
    pub reserved: u64,
    /// Where decoding, hashing and scanning run.
    pub pool: Arc<CpuPool>,
}

/// A run of guest bytes, of whole 4 KiB blocks but for the last one of the disk.
#[derive(Clone, Debug)]
pub enum GuestItem {
    /// Known to be zeros without a look.
    Zero(GuestRange),
    /// Bytes, scanned for blocks of zeros.
    Data(Scanned),
}

impl GuestItem {
    /// Which guest bytes.
    pub fn guest(&self) -> GuestRange {
        match self {
            Self::Zero(range) => *range,
            Self::Data(scanned) => scanned.guest,
        }
    }

    /// The part within `range`, of whole blocks.
    pub(crate) fn part(&self, range: GuestRange) -> Self {
        match self {
            _ if range == self.guest() => self.clone(),
            Self::Zero(_) => Self::Zero(range),
            Self::Data(scanned) => Self::Data(scanned.part(range)),
        }
    }
}

/// Stored bytes in hand, with the room for what they decode to.
pub(super) struct Fetched {
    pub(super) pieces: Vec<Piece>,
    pub(super) reserved: Reservation,
}

/// How a round of a feed went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fed {
    /// Something moved.
    Moved,
    /// Everything waits.
    Waiting,
    /// There is nothing more to come.
    Ended,
}

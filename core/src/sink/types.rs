//! Capabilities of a sink, hints for it, and the receipt of a published target.

use crate::error::Warning;

/// The order in which a sink accepts writes and zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOrder {
    /// In any order, also several at once, as long as no two overlap.
    Any,
    /// By address, each beginning at the end of the previous one. The target's first bytes, however many, may be left
    /// out and come last, ordered by address among themselves.
    Ascending,
    /// By address, each beginning at the end of the previous one.
    Sequential,
}

/// When a target can be read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadBack {
    /// Never: written data is not accessible.
    Never,
    /// Before it is published.
    Before,
    /// After it is published.
    After,
}

/// The capabilities of a sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SinkCapabilities {
    /// The order in which it accepts writes.
    pub order: WriteOrder,
    /// True if bytes never written read as zeros, and [`Sink::zero`](crate::Sink::zero) costs nothing there.
    pub sparse: bool,
    /// True if it buffers writes in memory of its own, which [`SinkHint::memory`] limits.
    pub buffers: bool,
    /// The recommended number of writes in flight.
    pub in_flight: usize,
    /// When the target can be read back.
    pub read_back: ReadBack,
}

impl Default for SinkCapabilities {
    fn default() -> Self {
        Self {
            order: WriteOrder::Sequential,
            sparse: false,
            buffers: false,
            in_flight: 1,
            read_back: ReadBack::Never,
        }
    }
}

setters!(SinkCapabilities {
    order: WriteOrder,
    sparse: bool,
    buffers: bool,
    in_flight: usize,
    read_back: ReadBack
});

/// Facts about the target that a sink gets before the first write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SinkHint {
    /// The largest possible length of the target in bytes, if it is known.
    pub most_bytes: Option<u64>,
    /// True if that is the exact length.
    pub exact: bool,
    /// The most bytes of memory that a buffering sink may hold at any time.
    pub memory: u64,
}

setters!(SinkHint { most_bytes: Option<u64>, exact: bool, memory: u64 });

/// The memory that a buffering sink gets of a budget of `budget` bytes: a quarter of a large one, half of a small
/// one.
pub const fn memory_of(budget: u64) -> u64 {
    /// Up to this budget it is half.
    const HALF: u64 = 64 << 20;
    let (quarter, half) = (budget / 4, budget / 2);
    if half <= HALF {
        half
    } else if quarter > HALF {
        quarter
    } else {
        HALF
    }
}

/// The smallest budget of which a sink gets `memory` bytes.
pub const fn budget_for(memory: u64) -> u64 {
    debug_assert!(memory <= u64::MAX / 4, "memory that no machine has");
    if memory_of(memory * 2) >= memory { memory * 2 } else { memory * 4 }
}

/// The receipt of a published target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Receipt {
    /// The URL or path, fit to be shown.
    pub url: String,
    /// Length of the target in bytes.
    pub bytes: u64,
    /// Bytes that were actually written, without holes and zeros that cost nothing.
    pub written: u64,
    /// The entity tag of an object.
    pub etag: Option<String>,
    /// What went wrong after the target was complete, and does not concern it: something that was left beside it.
    pub warnings: Vec<Warning>,
}

setters!(Receipt { url: String, bytes: u64, written: u64, etag: Option<String>, warnings: Vec<Warning> });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_for_a_sink_grants_the_requested_memory() {
        for memory in [1, 5 << 20, 16 << 20, 64 << 20, (64 << 20) + 1, 1 << 30] {
            let budget = budget_for(memory);
            assert!(memory_of(budget) >= memory, "{memory}");
            assert!(memory_of(budget / 2) < memory, "{memory}");
        }
        assert_eq!([32, 64, 128, 256, 1024].map(|mib| memory_of(mib << 20) >> 20), [16, 32, 64, 64, 256]);
    }
}

//! What a sink can do, what it is told before the first write, and what it published.

use crate::error::Warning;

/// In which order a sink takes writes and zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOrder {
    /// Any, also several at once, as long as no two overlap.
    Any,
    /// By address, each beginning where the last one ended; but the target's first bytes, however many, may be left
    /// out and come last, by address among themselves.
    Ascending,
    /// By address, each beginning where the last one ended.
    Sequential,
}

/// When a target can be read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadBack {
    /// Never: what was written is gone.
    Never,
    /// Before it is published.
    Before,
    /// Once it is published.
    After,
}

/// What a sink can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SinkCapabilities {
    /// In which order it takes writes.
    pub order: WriteOrder,
    /// True if bytes never written read as zeros, and [`Sink::zero`](crate::Sink::zero) costs nothing there.
    pub sparse: bool,
    /// True if it gathers what is written in memory of its own: [`SinkHint::memory`] says how much it may hold.
    pub buffers: bool,
    /// Most writes worth having in flight at once.
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

/// What a sink is told before the first write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SinkHint {
    /// The most bytes that the target can take, where that is known.
    pub most_bytes: Option<u64>,
    /// True if it will be exactly as many.
    pub exact: bool,
    /// Bytes of memory that a sink which buffers may hold at any time.
    pub memory: u64,
}

setters!(SinkHint { most_bytes: Option<u64>, exact: bool, memory: u64 });

/// What a sink that buffers may hold of a budget of `budget` bytes: a quarter of a large one, half of a small one.
pub const fn memory_of(budget: u64) -> u64 {
    /// Up to here it is half.
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

/// The smallest budget of which a sink may hold `memory` bytes.
pub const fn budget_for(memory: u64) -> u64 {
    if memory_of(memory.saturating_mul(2)) >= memory {
        memory.saturating_mul(2)
    } else {
        memory.saturating_mul(4)
    }
}

/// What was published.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Receipt {
    /// The URL or path as a person may see it.
    pub url: String,
    /// Length of the target in bytes.
    pub bytes: u64,
    /// Bytes that were really written (holes and zeros for free left out).
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
    fn a_budget_for_a_sink_gives_it_what_it_asked_for() {
        for memory in [1, 5 << 20, 16 << 20, 64 << 20, (64 << 20) + 1, 1 << 30] {
            let budget = budget_for(memory);
            assert!(memory_of(budget) >= memory, "{memory}");
            assert!(memory_of(budget / 2) < memory, "{memory}");
        }
        assert_eq!([32, 64, 128, 256, 1024].map(|mib| memory_of(mib << 20) >> 20), [16, 32, 64, 64, 256]);
    }
}

//! Where the bytes of a target land.
//!
//! A [`Sink`] is one target being written: a file, a block device, standard output, an S3 upload. It shows under its
//! name only when it is whole: [`Sink::finish`] publishes, everything else leaves nothing behind. Two places cannot have
//! it quite so: a block device is overwritten, and looks empty until its target is whole; what went to standard output
//! cannot be taken back.

pub mod device;
pub mod file;
mod front;
pub(crate) mod gather;
pub mod memory;
mod place;
pub mod stdout;

use std::sync::Arc;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::Result;
use crate::journal::Journal;
use crate::source::{BoxFuture, Source};

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
pub struct SinkCapabilities {
    /// In which order it takes writes.
    pub order: WriteOrder,
    /// True where bytes never written read as zeros, and [`Sink::zero`] costs nothing there.
    pub sparse: bool,
    /// True where it gathers what is written in memory of its own: [`Expected::memory`] says how much it may hold.
    pub buffers: bool,
    /// Most writes worth having in flight at once.
    pub in_flight: usize,
    /// When the target can be read back.
    pub read_back: ReadBack,
}

/// What a sink is told before the first write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    /// The most bytes that the target can take, where that is known.
    pub most_bytes: Option<u64>,
    /// True where it will be exactly as many.
    pub exact: bool,
    /// Bytes of memory that a sink which buffers may hold at any time.
    pub memory: u64,
}

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
pub struct Receipt {
    /// The URL or path as a person may see it.
    pub url: String,
    /// Length of the target in bytes.
    pub bytes: u64,
    /// Bytes that were really written (holes and zeros for free left out).
    pub written: u64,
    /// The entity tag of an object.
    pub etag: Option<String>,
}

/// One target being written.
///
/// Dropping a sink that was not finished undoes it as far as that can be done without waiting; [`abort`](Self::abort)
/// waits. After an error of `write` or `zero` the only call that makes sense is `abort`.
pub trait Sink: Send + Sync {
    /// The URL or path as a person may see it.
    fn url(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> SinkCapabilities;

    /// Bytes really written so far.
    fn written(&self) -> u64;

    /// Its journal, where it can be gone on with after this process was killed.
    fn journal(&self) -> Option<&dyn Journal>;

    /// Called once, before the first write: whether the target can be so large, with room taken where asked.
    ///
    /// # Errors
    /// `destination_unsuitable` for what the place cannot hold whatever is free there; `destination_full`, and the other
    /// `destination_*` codes.
    fn prepare(&self, expected: Expected) -> BoxFuture<'_, Result<()>>;

    /// Writes `pieces`, one behind the other, from `at` on. They take room of the budget that they were read in: a sink lets
    /// go of them before it answers, and what it gathers it copies into memory of its own ([`Expected::memory`]).
    ///
    /// # Errors
    /// The `destination_*` codes. Dropping the future leaves it open which of the bytes were written.
    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>>;

    /// Makes `range`, which was not written before, read as zeros.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>>;

    /// Gives the target its final length, waits for stable storage where asked, and publishes it under its name.
    /// Called once, after every write was answered. A sparse sink was told of every byte from 0 to `len` or reads it as
    /// zero; any other was told of every one.
    ///
    /// # Errors
    /// The `destination_*` codes; nothing is published then.
    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>>;

    /// Gives up: nothing stays behind, and what was under the name before is there still (a block device looks empty;
    /// standard output ends where it is).
    ///
    /// It comes before or after the publishing and never between: false where the target was published already, which is
    /// not undone, and then the answer of [`finish`](Self::finish) stands.
    fn abort(&self) -> BoxFuture<'_, bool>;

    /// The target as a source, to be read back: before [`finish`](Self::finish), after every write was answered, or after
    /// it, as [`SinkCapabilities::read_back`] says. It is `len` bytes long.
    ///
    /// # Errors
    /// `destination_unsuitable` where it cannot be read back; the `destination_*` codes. The source itself answers the
    /// `source_*` codes.
    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>>;

    /// Takes back what was published and turned out wrong, if it is still what `receipt` says. False where it is not, or
    /// where it cannot be taken back.
    ///
    /// # Errors
    /// The `destination_*` codes: it may be there still.
    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>>;
}

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

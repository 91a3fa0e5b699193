//! One budget for all bytes in flight.
//!
//! A step reserves all of its memory at once, input and decoded output together, before it starts. Steps reserve in
//! the order of the plan. A step that holds a reservation never waits for more, so nothing can deadlock, even if many
//! conversions share one budget. A reservation is returned when the bytes that it was made for are dropped.
//!
//! ```text
//! ├── reserved for whole runs: at most 5/8 ──┼── for single steps: at least 3/8 ──┤
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// Memory is counted in units of 4 KiB.
const UNIT: u64 = 4096;

/// A bound on the bytes in flight. Clones share it: conversions with clones of one budget are bounded together.
///
/// ```
/// use diskferry_core::{Budget, Resources};
///
/// let budget = Budget::new(256 << 20);
/// // Both conversions together have at most 256 MiB in flight.
/// let first = Resources::default().budget(Some(budget.clone()));
/// let second = Resources::default().budget(Some(budget.clone()));
/// assert_eq!((budget.total(), budget.used()), (256 << 20, 0));
/// # drop((first, second));
/// ```
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    /// The share for holders that wait for more memory.
    kept: Arc<Semaphore>,
    /// In units.
    total: u32,
    used: Arc<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    /// The smallest budget that works: a few of the largest units, encoded and decoded.
    pub const SMALLEST: u64 = 16 << 20;
    /// The default of the command line.
    pub const DEFAULT: u64 = 256 << 20;

    /// A budget of `bytes`, at least [`Self::SMALLEST`] and at most 1 TiB.
    pub fn new(bytes: u64) -> Self {
        Self::of(bytes.max(Self::SMALLEST))
    }

    /// Two separate budgets of half this one's size, for two transfers that must not wait for each other.
    pub(crate) fn halves(&self) -> [Self; 2] {
        [Self::of(self.total() / 2), Self::of(self.total() / 2)]
    }

    fn of(bytes: u64) -> Self {
        // At most 2²⁸.
        let total = (bytes.min(1 << 40) / UNIT) as u32;
        let permits = total as usize;
        let (units, kept) = (Arc::new(Semaphore::new(permits)), Arc::new(Semaphore::new(permits / 8 * 5)));
        Self { units, kept, total, used: Arc::default() }
    }

    /// The size in bytes.
    pub fn total(&self) -> u64 {
        u64::from(self.total) * UNIT
    }

    /// The bytes that are reserved now.
    pub fn used(&self) -> u64 {
        self.used.now.load(Ordering::Relaxed)
    }

    /// The most bytes that were reserved at any time.
    pub fn peak(&self) -> u64 {
        self.used.peak.load(Ordering::Relaxed)
    }

    /// Reserves `bytes` as soon as they are free. Requests are served in order. At most the part of the budget that
    /// is not [reserved for runs](Self::reserve_for_run) is granted, even if more is requested: a single step must
    /// always be possible.
    ///
    /// # Errors
    /// `internal`: the budget is never closed.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.reserve_units(at_most(bytes, self.total - self.total / 8 * 5)).await
    }

    async fn reserve_units(&self, units: u32) -> Result<Reservation> {
        debug_assert!(units <= self.total, "bounded by the caller");
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        let permit = permit.map_err(|_| Error::internal("the budget was closed"))?;
        let bytes = u64::from(units) * UNIT;
        let now = self.used.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.used.peak.fetch_max(now, Ordering::Relaxed);
        Ok(Reservation { permit, used: Arc::clone(&self.used) })
    }

    /// Reserves `bytes` for a whole run, such as for the buffers of a sink. The run can still reserve more for single
    /// steps. All runs together hold at most five eighths of the budget this way, so that steps can always continue;
    /// a request for more is granted that much. A run makes such a reservation at most once.
    ///
    /// # Errors
    /// See [`reserve`](Self::reserve).
    pub async fn reserve_for_run(&self, bytes: u64) -> Result<Reserved> {
        let units = at_most(bytes, self.total / 8 * 5);
        let permit = Arc::clone(&self.kept).acquire_many_owned(units).await;
        let permit = permit.map_err(|_| Error::internal("the budget was closed"))?;
        Ok(Reserved { _reservation: self.reserve_units(units).await?, _permit: permit })
    }
}

/// The units that hold `bytes` bytes, at most `most` of them.
fn at_most(bytes: u64, most: u32) -> u32 {
    bytes.div_ceil(UNIT).min(u64::from(most)) as u32
}

/// Memory that is reserved for a whole conversion. Dropping it returns it.
#[derive(Debug)]
pub struct Reserved {
    _reservation: Reservation,
    _permit: OwnedSemaphorePermit,
}

/// Memory that is reserved. Dropping it returns it.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
    used: Arc<Usage>,
}

impl Reservation {
    /// Splits off a reservation of `bytes`, or of all that is left if that is less.
    #[expect(clippy::unreachable, reason = "the number of permits is bounded before")]
    pub fn split(&mut self, bytes: u64) -> Self {
        let units = bytes.div_ceil(UNIT).min(self.permit.num_permits() as u64) as usize;
        let permit = self.permit.split(units);
        // Cannot fail: the number of permits was bounded above.
        let permit = permit.unwrap_or_else(|| unreachable!("a reservation is split within its size"));
        Self { permit, used: Arc::clone(&self.used) }
    }

    /// Ties the reservation to `bytes`: it is returned when the last slice of them is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _reservation: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.now.fetch_sub(self.permit.num_permits() as u64 * UNIT, Ordering::Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_returned_with_the_last_slice() {
        let budget = Budget::new(Budget::SMALLEST);
        let mut reservation = budget.reserve(1 << 20).await.unwrap();
        let part = reservation.split(8192);
        let bytes = part.hold(Bytes::from(vec![1; 8192]));
        let slice = bytes.slice(10..20);
        drop((bytes, reservation));
        assert_eq!(budget.used(), 8192);
        drop(slice);
        assert_eq!((budget.used(), budget.peak()), (0, 1 << 20));
    }

    #[tokio::test]
    async fn the_largest_step_is_possible_whatever_runs_reserve() {
        let budget = Budget::new(Budget::SMALLEST);
        let kept = budget.reserve_for_run(u64::MAX).await.unwrap();
        let step = budget.reserve(u64::MAX).await.unwrap();
        assert!(budget.used() <= budget.total() && budget.peak() <= budget.total());
        drop((kept, step));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn one_step_larger_than_the_budget_is_possible() {
        let budget = Budget::new(Budget::SMALLEST);
        assert!(budget.reserve(u64::MAX / 2).await.is_ok());
    }
}

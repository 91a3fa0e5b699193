//! The report of a conversion.

use crate::conversion::timing::Timing;
use crate::digest::Digest;
use crate::disk::ImageInfo;
use crate::error::Warning;
use crate::limits::{Sizes, Verdict};
use crate::sink::Receipt;
use crate::source::Traffic;

/// Transfer statistics.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct TransferStats {
    /// Requests to the source, opening included.
    pub source: Traffic,
    /// Bytes written to the target.
    pub bytes_written: u64,
    /// Bytes of real content that an earlier, interrupted run had processed.
    pub resumed_bytes: u64,
    /// The most bytes in flight at any time: the high-water mark of the budget.
    pub peak_budget_bytes: u64,
    /// The duration in seconds.
    pub seconds: f64,
    /// The duration by activity.
    pub timing: Timing,
}

/// The result of a conversion, or of reading a disk without a target.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The facts of the source.
    pub image: ImageInfo,
    /// The sizes. All are known, except `output_bytes` if nothing was written.
    pub sizes: Sizes,
    /// The rules, with the content as measured.
    pub verdict: Verdict,
    /// All warnings.
    pub warnings: Vec<Warning>,
    /// Format and variant of the target, and the receipt of what was published.
    pub target: Option<(&'static str, String, Receipt)>,
    /// The digest of the guest disk, unless it was turned off.
    pub digest: Option<Digest>,
    /// Transfer statistics.
    pub stats: TransferStats,
}

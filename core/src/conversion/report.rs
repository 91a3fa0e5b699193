//! What a conversion answers with.

use crate::conversion::timing::Timing;
use crate::digest::Digest;
use crate::disk::ImageInfo;
use crate::error::Warning;
use crate::limits::{Sizes, Verdict};
use crate::sink::Receipt;
use crate::source::Traffic;

/// What moved.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct TransferStats {
    /// What was asked of the source, opening included.
    pub source: Traffic,
    /// Bytes written to the target.
    pub bytes_written: u64,
    /// Bytes of real content that an earlier, interrupted run had done.
    pub resumed_bytes: u64,
    /// The most bytes in flight at any time: the high-water mark of the budget.
    pub peak_budget_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Where that went.
    pub timing: Timing,
}

/// What a conversion, or a reading without a target, found out.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The facts of the source.
    pub image: ImageInfo,
    /// The sizes, all known but `output_bytes` if nothing was written.
    pub sizes: Sizes,
    /// The rules, with the content as measured.
    pub verdict: Verdict,
    /// All that was remarkable.
    pub warnings: Vec<Warning>,
    /// Format and variant of the target, and what was published.
    pub target: Option<(&'static str, String, Receipt)>,
    /// The digest of the guest disk, unless it was not wanted.
    pub digest: Option<Digest>,
    /// What moved.
    pub stats: TransferStats,
}

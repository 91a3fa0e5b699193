//! The progress of a conversion.

/// What a conversion is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Opening, and reading the first tables.
    #[default]
    Plan,
    /// Data is being transferred.
    Transfer,
    /// The target is being completed and published.
    Finish,
    /// The target is being read back.
    Verify,
}

impl Phase {
    /// The name in the JSON documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Transfer => "transfer",
            Self::Finish => "finish",
            Self::Verify => "verify",
        }
    }
}

/// The state of a conversion at one moment. It is sent over a `watch` channel, which keeps only the latest state, so
/// a slow reader never delays the conversion.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Guest bytes that are done. Never decreases within a phase.
    pub done_bytes: u64,
    /// Guest bytes in total; `None` for a raw stream.
    pub total_bytes: Option<u64>,
    /// Stored bytes received so far.
    pub fetched_bytes: u64,
    /// Target bytes written so far.
    pub written_bytes: u64,
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// Estimated seconds left, at the speed so far.
    pub eta_s: Option<f64>,
}

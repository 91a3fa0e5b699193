//! How far a conversion is, for whoever wants to show it.

/// What a conversion is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Opening, and reading the first tables.
    #[default]
    Plan,
    /// Bytes flow.
    Transfer,
    /// The target is being completed and published.
    Finish,
    /// The target is being read back.
    Verify,
}

impl Phase {
    /// The word in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Transfer => "transfer",
            Self::Finish => "finish",
            Self::Verify => "verify",
        }
    }
}

/// The state of a conversion at one moment. The latest one counts: it is sent over a `watch` channel, so a slow reader
/// never holds the conversion up.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Guest bytes done; never goes back within a phase's conversion.
    pub done_bytes: u64,
    /// Guest bytes in all; unknown for a raw stream.
    pub total_bytes: Option<u64>,
    /// Stored bytes received so far.
    pub fetched_bytes: u64,
    /// Target bytes written so far.
    pub written_bytes: u64,
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// Seconds that are left, by the pace so far.
    pub eta_s: Option<f64>,
}

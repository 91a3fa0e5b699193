//! How many requests are in flight.
//!
//! ```text
//! acquire ──▶ limit: what the service allows (503 halves it, success raises it)
//!               └──▶ window: how many bytes may be requested and not yet received
//! ```

mod limit;
mod window;

#[cfg(feature = "s3")]
pub(crate) use limit::TABLE_BYTES;
pub(crate) use limit::{ConcurrencyLimit, Permit};
pub(crate) use window::DEFAULT_REQUEST_BYTES;

//! How many requests are in flight.
//!
//! ```text
//! enter ──▶ limit: what the service allows (503 halves it, success raises it)
//!             └──▶ window: how many bytes may be requested and not yet received
//! ```

mod limit;
mod window;

pub(crate) use limit::{ConcurrencyLimit, Permit, TABLE};

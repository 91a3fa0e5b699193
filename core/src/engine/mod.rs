//! The engine turns a disk's map into scanned guest blocks and encoded units.
//!
//! ```text
//! mapped_feed ─┐
//!   plan       ├─▶ transfer ─▶ decode ─▶ blocks ─▶ pipeline ─▶ parts for the layout
//! stream_feed ─┘              (scan)              (encode)
//! ```

mod blocks;
mod decode;
mod delivery;
mod encode;
mod mapped_feed;
mod pipeline;
mod plan;
mod scan;
mod stream_feed;
mod transfer;
mod types;

pub(crate) use encode::Encoding;
pub(crate) use pipeline::{ItemMeter, Pipeline, PipelineEvent};
pub use plan::{Fetch, FetchPart, RequestLimits, plan, taper};
pub use scan::is_zero;
pub use transfer::Transfer;
pub use types::{GuestItem, Passthrough, TransferOptions};

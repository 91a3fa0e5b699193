//! A conversion from end to end.
//!
//! ```text
//! Conversion ─▶ run: the order of the steps
//!                ├─ writer         parts to the layout, writes to the sink
//!                ├─ checkpointer   saves checkpoints, replays the parts that an earlier run placed
//!                ├─ content_meter  real content and digest
//!                ├─ watchdog       ends a run that makes no progress
//!                └─ verify         reads the target back
//! ```

mod checkpoint;
mod checkpointer;
mod content_meter;
mod conversion;
mod head_tail;
mod input;
pub mod metrics;
mod report;
mod resources;
mod run;
mod status;
mod timing;
mod verify;
mod watchdog;
mod writer;

pub use conversion::Conversion;
pub use input::Input;
pub use report::{Report, TransferStats};
pub use resources::Resources;
pub use timing::Timing;

//! Places a disk in a target.
//!
//! ```text
//!            LayoutFacts           Part: zeros, bytes, or an encoded unit
//!                 │                  │
//!                 ▼                  ▼
//! Layout ──▶ begin: Writes ──▶ place: Writes … ──▶ finish: Writes, length of the target
//! ```

mod allocation;
mod encoder;
mod layout;
mod part;
mod target;
mod types;
mod unit_map;

pub(crate) use allocation::allocation;
pub use encoder::Encoder;
pub use layout::Layout;
pub use part::{BlockRun, Coding, Encoded, Part, Scanned};
pub use target::Target;
pub use types::{LayoutFacts, LayoutInput, Order, OutputSize, Write, Writes};
pub use unit_map::UnitMap;

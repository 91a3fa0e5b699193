//! An S3 server inside the process, on a loopback port: for tests, the demo and benchmarks.
//!
//! `s3s-fs` stores objects as files of a temporary directory and checks signatures. A layer in front of it counts requests
//! and bytes, makes the link as slow as a real one, and injects faults by rule.
//!
//! ```text
//! client ──▶ [count · latency · rule] ──▶ s3s-fs ──▶ files
//!        ◀── [bandwidth · cut · count] ◀──
//! ```

mod backing_store;
mod embedded;
mod exchange;
mod fault_connection;
mod fault_layer;
mod options;

pub use embedded::Server;
pub use exchange::{Exchange, Fault, Outage, Request};
pub use fault_connection::Shape;
pub use options::ServerOptions;

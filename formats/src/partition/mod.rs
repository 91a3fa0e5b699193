//! The partition table and the file systems of a guest's disk, from its first sectors.
//!
//! `info`, `measure` and `convert` show them to the user, and warn if the service that imports the disk would not accept
//! it. They have no influence on the bytes that are converted. A damaged table is a warning, and unknown things are
//! omitted.
//!
//! ```text
//! head of the disk (1 read) ──▶ mbr, gpt ──▶ partitions ──▶ start of each, and backup GPT (side by side) ──▶ signature
//!                                └─▶ extended boot records, one after the other
//! ```
//!
//! `mbr`, `gpt` and `signature` are pure; `inspect` reads; `findings` collects the warnings.

mod contents;
mod findings;
mod gpt;
mod inspect;
mod looks_like_disk;
mod mbr;
mod signature;
#[cfg(test)]
mod tests;

pub use contents::{DiskContents, Partition, PartitionTable, PartitionType};
pub use gpt::Guid;
pub use inspect::inspect_disk;
pub use looks_like_disk::looks_like_disk;
pub use signature::FileSystem;

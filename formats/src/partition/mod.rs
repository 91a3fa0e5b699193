//! The partition table and the file systems of a guest's disk, from its first sectors.
//!
//! `info`, `measure` and `convert` report them, and warn if the import service does not support them. They do not
//! affect the converted bytes. A damaged table causes a warning, and unknown contents are omitted.
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

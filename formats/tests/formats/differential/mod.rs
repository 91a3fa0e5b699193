//! Thousands of valid and damaged images, read by our readers and by the slow readers of the corpus, and a sample by
//! qemu-img. If ours reads an image, it must match the slow reader. If one refuses an image that another reads, or
//! qemu-img reads other bytes, the reason must be in a list. Anything that is not in a list fails.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::indexing_slicing)]

mod damage;
mod judge;
mod qemu;
mod seeds;
mod stricter;

//! Good and damaged images, thousands of them, through our readers, through the slow ones of the corpus, and a sample
//! through qemu-img. What ours takes it reads as the slow reader does; where one refuses what another takes, or qemu-img
//! reads something else, the reason stands in a list, and what is not in a list fails.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::indexing_slicing)]

mod damage;
mod judge;
mod qemu;
mod seeds;
mod stricter;

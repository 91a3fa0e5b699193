//! The QCOW2 reader against qemu-img: what it reads, what it refuses and what it asks of a source.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::indexing_slicing)]

mod compressed;
mod errors;
mod features;
mod images;
mod oracle;
mod random;
mod tables;

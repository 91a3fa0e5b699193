//! The QCOW2 reader compared with qemu-img: reads, refusals and requests to the source.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::indexing_slicing)]

mod compressed;
mod errors;
mod features;
mod images;
mod oracle;
mod random;
mod tables;

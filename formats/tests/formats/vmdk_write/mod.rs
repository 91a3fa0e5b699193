//! VMDK as it is written: its structure byte by byte, and what others make of it.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::indexing_slicing)]

mod carried;
mod conformance;
mod large;
mod made;
mod oracle;
mod random;
mod refused;
mod structure;
mod vhd_marks;

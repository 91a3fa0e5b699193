//! Written VMDKs: their structure, and how other readers read them.
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

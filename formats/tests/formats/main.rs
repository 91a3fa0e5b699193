//! Integration tests of the formats, in one binary. They compare reading and writing with other readers and writers.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::indexing_slicing)]

mod bombs;
mod detect;
mod differential;
mod every_pair;
mod lattice;
mod layout_conformance;
mod one_budget;
mod qcow2;
mod qcow2_write;
mod rounds;
mod samples;
mod support;
mod vhd;
mod vhd_bounds;
mod vhd_foreign;
mod vhd_random;
mod vhd_write;
mod vmdk;
mod vmdk_errors;
mod vmdk_foreign;
mod vmdk_sets;
mod vmdk_stream;
mod vmdk_write;
mod vmdk_zero_tail;
mod where_qemu_is_wrong;
mod zero_tail;

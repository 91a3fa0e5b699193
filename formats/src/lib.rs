//! Readers and writers of RAW, VHD, QCOW2 and VMDK.
//!
//! [`open`] detects the format of an image and returns a [`Disk`](diskferry_core::Disk) with its block map. [`create`]
//! puts the layout of a target format on a sink. [`inspect_disk`] reports the partitions and file systems of a disk.
//!
//! ```text
//! open ──▶ detect ──▶ probe.rs ┐
//!   └───────────────▶ read.rs  ├ one folder for each format, over header.rs (on-disk structs, pure)
//! create ───────────▶ write.rs ┘
//! ```
//!
//! A format's folder does not import another format's reader. The crate does no I/O: everything is read through
//! [`diskferry_core::Source`].
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[macro_use(setters)]
extern crate diskferry_core;

mod codec;
mod create;
mod detect;
mod feed;
mod flat;
mod format;
mod open;
mod open_input;
mod option_text;
mod partition;
mod probe;
mod qcow2;
mod raw;
mod sector_size;
mod table_cache;
mod target_options;
mod target_reader;
mod unit_placement;
mod vhd;
mod vmdk;
mod zero_tail;

// Formats, open and create.
pub use create::{create, layout};
pub use format::{Declared, Format};
pub use open::{open, open_stream, open_with};

// Target options.
pub use qcow2::{Qcow2Compression, Qcow2Options};
pub use raw::RawOptions;
pub use target_options::{TargetOptions, options_help};
pub use vhd::{VhdOptions, VhdSubformat};
pub use vmdk::{VmdkOptions, VmdkSubformat};

// Contents of a guest's disk.
pub use partition::{DiskContents, FileSystem, Guid, Partition, PartitionTable, PartitionType, inspect_disk};

/// Items for the sibling crates of diskferry. They may change in any release.
#[doc(hidden)]
pub mod internal {
    pub use crate::codec::{
        deflate_raw, deflate_zlib, inflate_raw, inflate_zlib, most_zlib, unzstd, wrap_zlib, zstd,
    };
    pub use crate::partition::looks_like_disk;
}

/// Runs the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

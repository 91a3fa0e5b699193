//! The vocabulary and the engine of diskferry.
//!
//! A [`source::Source`] is the bytes of a stored object; a [`disk::Disk`] is an opened image with its
//! [`disk::BlockMap`], which says of every run of guest bytes where they are ([`extent::Extent`]). This crate knows
//! no format and no network: formats are in `diskferry-formats`, S3 and HTTP in `diskferry-s3io`.

mod account;
pub mod address;
mod blocking;
pub mod budget;
pub mod buffer;
pub mod compare;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
pub mod conversion;
pub mod deflate;
pub mod digest;
pub mod disk;
mod encode;
pub mod error;
pub mod extent;
mod flow;
pub mod journal;
mod kept;
pub mod limits;
pub mod measure;
pub mod metrics;
pub mod plan;
pub mod pool;
pub mod progress;
pub mod ring;
pub mod scan;
pub mod sink;
pub mod size;
pub mod source;
pub mod stream;
pub mod target;
pub mod transfer;
pub mod units;
mod verify;
pub mod walk;
mod watch;

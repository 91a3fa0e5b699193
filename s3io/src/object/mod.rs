//! Stored objects as sources: opened by one GET, pinned to their identity, and read by ranged GETs that are resumed.

mod hedge;
mod http_source;
mod meter;
#[cfg(feature = "s3")]
mod object_checksum;
mod open;
mod part_size;
mod range;
mod remote;
#[cfg(feature = "s3")]
mod s3_source;

pub use http_source::HttpSource;
pub use open::{Opened, open_source};
pub use remote::RenewUrl;
#[cfg(feature = "s3")]
pub use s3_source::{S3Gate, S3Source};

#[cfg(feature = "s3")]
pub(crate) use remote::{RemoteObject, Shown};

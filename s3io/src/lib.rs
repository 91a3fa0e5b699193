//! Disk images in S3 and behind HTTP: sources of diskferry that are read by ranged GETs, and sinks that are written by
//! multipart upload.
//!
//! A [`Client`] is made once, from [`ClientOptions`] and the AWS SDK's environment and files. [`open_source`] opens
//! any URL; [`S3Source`] and [`HttpSource`] are its two kinds. Both pin the object that they opened: a change of it
//! is `source_changed`, never a mix of old and new bytes. An [`S3Sink`] shows under its key only when it is whole.
//!
//! ```
//! use diskferry_core::{Source, StoredRange};
//! use diskferry_s3io::{Client, S3Source, server::{Server, ServerOptions}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> diskferry_core::Result<()> {
//! // Stands for a store that is there: any S3 service, by the SDK's environment and files.
//! # let server = Server::start(ServerOptions::default()).unwrap();
//! # server.create_bucket("images").await?;
//! # server.put("images", "tiny.raw", vec![0xeb; 4096]).await?;
//! let client = Client::new(server.client_options()).await?;
//! let source = S3Source::open(&client, "s3://images/tiny.raw").await?;
//! assert_eq!(source.len(), 4096);
//! assert_eq!(source.read(StoredRange::first(2)).await?, [0xeb, 0xeb].as_slice());
//! assert_eq!(source.traffic().requests, 1);
//!
//! // The engine does this, told what to write by the layout of a format.
//! use diskferry_core::{Sink, SinkHint, TargetOffset};
//! use diskferry_s3io::S3Sink;
//!
//! let sink = S3Sink::create(&client, "s3://images/copy.raw").await?;
//! let hint = SinkHint::default().most_bytes(Some(4096)).exact(true).memory(64 << 20);
//! sink.prepare(hint).await?;
//! sink.write(TargetOffset::ZERO, vec![source.read(StoredRange::first(4096)).await?]).await?;
//! assert_eq!(sink.finish(4096).await?.url, "s3://images/copy.raw");
//! # Ok(())
//! # }
//! ```
//!
//! All use of the AWS SDK stays in this crate, and so does everything secret: no error, no `Debug` and no
//! [`Source::url`](diskferry_core::Source::url) shows a credential, a signature or a URL's query.

#![forbid(unsafe_code)]

mod answer;
mod client;
mod concurrency;
mod hedge;
mod http;
mod judge;
mod meter;
pub mod metrics;
mod net;
mod parted;
mod range;
mod region;
mod remote;
mod retry;
mod sent;
#[cfg(feature = "embedded-server")]
pub mod server;
mod sink;
mod source;
mod url;
mod whole;
mod works;

pub use client::{Checksum, Client, ClientOptions, Keys, PathStyle};
pub use http::HttpSource;
pub use remote::Renew;
pub use sink::{S3Sink, S3SinkOptions};
pub use source::{Opened, S3Gate, S3Source, open_source};
pub use url::{HttpLocation, Location, S3Location};

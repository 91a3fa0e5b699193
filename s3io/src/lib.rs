//! Disk images in S3 and at HTTP URLs: sources of diskferry that are read by ranged GETs, and sinks that are written by
//! multipart upload.
//!
//! A [`Client`] is created once, from [`ClientOptions`] and the AWS SDK's environment and files. [`open_source`] opens any
//! URL, as an `S3Source` or an [`HttpSource`]. Both pin the object that they opened: if it changes, reads fail with
//! `source_changed` and never return a mix of old and new bytes. An `S3Sink` publishes its object only when it is complete.
//!
//! # Features
//!
//! | feature | content |
//! |---|---|
//! | `s3` (default) | sources and sinks in S3, with the AWS SDK; includes `http` |
//! | `http` | plain `http(s)://` sources, without the AWS SDK |
//! | `embedded-server` | an S3 server inside the process, for tests; includes `s3` |
//!
//! # Example
//!
#![cfg_attr(feature = "embedded-server", doc = "```")]
#![cfg_attr(not(feature = "embedded-server"), doc = "```ignore")]
//! use diskferry_core::{Source, StoredRange};
//! use diskferry_s3io::{Client, S3Source, server::{Server, ServerOptions}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> diskferry_core::Result<()> {
//! // The examples use a server in this process instead of a real S3 service.
//! # let server = Server::start(ServerOptions::default()).unwrap();
//! # server.create_bucket("images").await?;
//! # server.put("images", "tiny.raw", vec![0xeb; 4096]).await?;
//! let client = Client::new(server.client_options()).await?;
//! let source = S3Source::open(&client, "s3://images/tiny.raw").await?;
//! assert_eq!(source.len(), 4096);
//! assert_eq!(source.read(StoredRange::first(2)).await?, [0xeb, 0xeb].as_slice());
//! assert_eq!(source.traffic().requests, 1);
//!
//! // In a conversion, the engine does this with the bytes of the target format's layout.
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
//! All use of the AWS SDK stays in this crate, and so do all secrets: no error, no `Debug` and no
//! [`Source::url`](diskferry_core::Source::url) shows a credential, a signature or a URL's query.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
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

mod concurrency;
mod connection;
pub mod metrics;
mod object;
#[cfg(feature = "embedded-server")]
pub mod server;
#[cfg(feature = "s3")]
mod sink;

// Connections and credentials.
#[cfg(feature = "s3")]
pub use connection::{Checksum, Keys, PathStyle};
pub use connection::{Client, ClientOptions};

// URLs.
pub use connection::{HttpLocation, Location, S3Location};

// Sources.
pub use object::{HttpSource, Opened, RenewUrl, open_source};
#[cfg(feature = "s3")]
pub use object::{S3Gate, S3Source};

// Targets.
#[cfg(feature = "s3")]
pub use sink::{S3Sink, S3SinkOptions};

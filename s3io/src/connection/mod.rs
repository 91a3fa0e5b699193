//! One request and its response.
//!
//! ```text
//! client (options, s3_client) ──▶ request ──▶ http_client, sdk_connector ──▶ connector (proxy, tls) ──▶ server
//!                                                                                                        │
//!             retry ◀── response_check ◀── response, sdk_response ◀──────────────────────────────────────┘
//! ```

#[cfg(feature = "s3")]
mod background;
mod client;
mod connector;
mod error_chain;
mod http_client;
mod options;
mod proxy;
mod public_address;
mod region;
mod request;
mod response;
mod response_check;
mod retry;
#[cfg(feature = "s3")]
mod s3_client;
mod s3_url;
#[cfg(feature = "s3")]
mod sdk_connector;
#[cfg(feature = "s3")]
mod sdk_response;
mod timestamp;
mod tls;
#[cfg(feature = "s3")]
mod upload_progress;
mod url;

pub use client::Client;
pub use options::ClientOptions;
#[cfg(feature = "s3")]
pub use options::{Checksum, Keys, PathStyle};
pub use url::{HttpLocation, Location, S3Location};

#[cfg(feature = "embedded-server")]
pub(crate) use error_chain::causes;
pub(crate) use error_chain::reason;
pub(crate) use http_client::{HttpBody, HttpClient};
#[cfg(feature = "s3")]
pub(crate) use region::check_object;
pub(crate) use region::check_url;
pub(crate) use request::Object;
pub(crate) use response::{PinnedIdentity, Response};
pub(crate) use response_check::{
    ObjectLength, RequestPurpose, RequestedRange, body_length, check_status, no_ranges, object_length,
};
#[cfg(feature = "s3")]
pub(crate) use response_check::{
    clock_skew, is_throttled, server_error, store_message, throttled, wrong_region,
};
pub(crate) use retry::{Failure, LastProgress, Retries, Timeouts};
#[cfg(feature = "s3")]
pub(crate) use s3_client::in_region;
#[cfg(feature = "s3")]
pub(crate) use s3_url::{S3Object, S3Service, s3_object};
#[cfg(feature = "s3")]
pub(crate) use sdk_response::{raw_element, response_of_error};
#[cfg(feature = "s3")]
pub(crate) use upload_progress::{BodyProgress, UploadProgress};

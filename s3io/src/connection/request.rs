//! One GET of an object, the same whether the SDK sends it or the plain client.

#[cfg(feature = "s3")]
use std::sync::Arc;
#[cfg(feature = "s3")]
use std::sync::atomic::{AtomicU16, Ordering};

#[cfg(feature = "s3")]
use aws_smithy_runtime_api::client::interceptors::Intercept;
#[cfg(feature = "s3")]
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
#[cfg(feature = "s3")]
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
#[cfg(feature = "s3")]
use aws_smithy_types::config_bag::ConfigBag;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};

#[cfg(feature = "s3")]
use super::http_client::BoxError;
use super::http_client::HttpClient;
use super::response::{PinnedIdentity, Response, no_response};
use super::retry::Failure;
#[cfg(feature = "s3")]
use super::sdk_response::{response_of_error, response_of_output};
use super::url::HttpLocation;
#[cfg(feature = "s3")]
use super::url::S3Location;

/// An object, and the client that requests it.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    /// By the S3 protocol; signed unless the client is anonymous.
    #[cfg(feature = "s3")]
    S3 { client: aws_sdk_s3::Client, at: S3Location },
    /// By its URL alone.
    Http { client: HttpClient, at: HttpLocation },
}

impl Object {
    /// Requests bytes `first..=last`, or all, of the object with the identity `pin`. Any status is a response.
    ///
    /// # Errors
    /// If there is no response.
    pub(crate) async fn get(
        &self,
        range: Option<(u64, u64)>,
        pin: &PinnedIdentity,
    ) -> Result<Response, Failure> {
        let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
        match self {
            #[cfg(feature = "s3")]
            Self::S3 { client, at } => get_by_sdk(client, at, range, pin).await,
            Self::Http { client, at } => get_plain(client, at, range, pin).await,
        }
    }

    /// The client and the URL, if it is read by its URL alone.
    pub(crate) fn as_http(&self) -> Option<(&HttpClient, &HttpLocation)> {
        match self {
            #[cfg(feature = "s3")]
            Self::S3 { .. } => None,
            Self::Http { client, at } => Some((client, at)),
        }
    }
}

/// Sees the status of a response, which the SDK does not report for a successful one.
#[cfg(feature = "s3")]
#[derive(Clone, Debug, Default)]
struct ObservedStatus(Arc<AtomicU16>);

#[cfg(feature = "s3")]
impl Intercept for ObservedStatus {
    fn name(&self) -> &'static str {
        "ObservedStatus"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(context.response().status().as_u16(), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(feature = "s3")]
async fn get_by_sdk(
    client: &aws_sdk_s3::Client,
    at: &S3Location,
    range: Option<String>,
    pin: &PinnedIdentity,
) -> Result<Response, Failure> {
    let request = client
        .get_object()
        .bucket(&at.bucket)
        .key(&at.key)
        .set_version_id(pin.version_id.clone().or_else(|| at.version_id.clone()))
        .set_range(range)
        .set_if_match(pin.strong_etag().map(str::to_owned));
    let status = ObservedStatus::default();
    match request.customize().interceptor(status.clone()).send().await {
        Ok(output) => Ok(response_of_output(status.0.load(Ordering::Relaxed), output)),
        Err(error) => response_of_error(&error),
    }
}

async fn get_plain(
    client: &HttpClient,
    at: &HttpLocation,
    range: Option<String>,
    pin: &PinnedIdentity,
) -> Result<Response, Failure> {
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        // A value that a server sent as a header can be sent back as one.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    // The stored bytes are requested, never bytes that are compressed for transfer.
    set(header::ACCEPT_ENCODING, "identity");
    set(header::USER_AGENT, concat!("diskferry/", env!("CARGO_PKG_VERSION")));
    range.iter().for_each(|range| set(header::RANGE, range));
    match (pin.strong_etag(), &pin.etag, &pin.last_modified) {
        (Some(etag), _, _) => set(header::IF_MATCH, etag),
        (None, None, Some(date)) => set(header::IF_UNMODIFIED_SINCE, date),
        _ => {}
    }
    let response = client.get(at, headers).await.map_err(|error| no_response(&error))?;
    Ok(Response::of_http(response).await)
}

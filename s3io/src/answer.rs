//! One GET and what came back, the same whether the SDK sent it or the plain client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use diskferry_core::{Error, ErrorKind};
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use http_body_util::BodyExt;

use crate::net::{Net, NotPublic, cause, causes};
use crate::retry::Failure;
use crate::url::{HttpLocation, S3Location};

/// Where an object is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    /// By the S3 protocol; signed, but for an anonymous client.
    S3 { client: aws_sdk_s3::Client, at: S3Location },
    /// By its URL alone.
    Plain { net: Net, at: HttpLocation },
}

/// What an object is held to after it was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pin {
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) version_id: Option<String>,
}

impl Pin {
    /// The entity tag, where a server can be asked to compare it: weak ones never match (RFC 9110, 13.1.1).
    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }
}

/// Bytes `first..=last` of an object, and the total length where it was stated: the `Content-Range` of RFC 9110, 14.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContentRange {
    pub(crate) span: Option<(u64, u64)>,
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (span, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let span = match span.split_once('-') {
            Some((first, last)) => Some((number(first)?, number(last)?)),
            None if span == "*" => None,
            None => return None,
        };
        let sound = span.is_none_or(|(first, last)| first <= last && total.is_none_or(|total| last < total));
        sound.then_some(Self { span, total })
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `None` where there is none, `Some(Err)` where it makes no sense.
    pub(crate) range: Option<Result<ContentRange, String>>,
    pub(crate) length: Option<u64>,
    pub(crate) pin: Pin,
    /// Where a redirect leads to.
    pub(crate) redirect: Option<String>,
    /// The region that the store says the bucket is in.
    pub(crate) region: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// The error's code and sentence, from the store's error document.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) body: SdkBody,
}

impl Object {
    /// Asks for bytes `first..=last`, or for all, of the object that `pin` holds. Any status is an answer.
    ///
    /// # Errors
    /// Where no answer came.
    pub(crate) async fn get(&self, range: Option<(u64, u64)>, pin: &Pin) -> Result<Answer, Failure> {
        let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
        match self {
            Self::S3 { client, at } => get_signed(client, at, range, pin).await,
            Self::Plain { net, at } => get_plain(net, at, range, pin).await,
        }
    }
}

/// Sees the status of an answer, which the SDK keeps to itself where it is a good one.
#[derive(Clone, Debug, Default)]
struct Status(Arc<AtomicU16>);

impl Intercept for Status {
    fn name(&self) -> &'static str {
        "Status"
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

async fn get_signed(
    client: &aws_sdk_s3::Client,
    at: &S3Location,
    range: Option<String>,
    pin: &Pin,
) -> Result<Answer, Failure> {
    let request = client
        .get_object()
        .bucket(&at.bucket)
        .key(&at.key)
        .set_version_id(pin.version_id.clone().or_else(|| at.version_id.clone()))
        .set_range(range)
        .set_if_match(pin.strong().map(str::to_owned));
    let status = Status::default();
    match request.customize().interceptor(status.clone()).send().await {
        Ok(output) => Ok(Answer {
            status: status.0.load(Ordering::Relaxed),
            range: output.content_range().map(parse_range),
            length: output.content_length().and_then(|length| length.try_into().ok()),
            pin: Pin {
                etag: output.e_tag().map(str::to_owned),
                last_modified: None,
                version_id: output.version_id().map(str::to_owned),
            },
            redirect: None,
            region: None,
            retry_after: None,
            code: String::new(),
            message: String::new(),
            body: output.body.into_inner(),
        }),
        Err(error) => answer_of_error(&error),
    }
}

/// An error of the SDK as the answer that it was made from, or as a failure to get one.
pub(crate) fn answer_of_error<E>(
    error: &SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
) -> Result<Answer, Failure>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Some(raw) = error.raw_response() else {
        return Err(no_answer(error));
    };
    let header = |name: &str| raw.headers().get(name).map(str::to_owned);
    let known = error.as_service_error().map(ProvideErrorMetadata::meta);
    let inside = known.is_some_and(|meta| meta.code().is_some());
    if raw.status().is_success() && !inside {
        // Answered, and not understood by the SDK.
        return Err(Failure::broken(format!("the answer makes no sense: {}", causes(error))));
    }
    let message = known.and_then(|meta| meta.message()).unwrap_or_default();
    Ok(Answer {
        // An error inside a good answer is one of the store, which found out too late to say so in the status.
        status: if raw.status().is_success() { 500 } else { raw.status().as_u16() },
        range: header("content-range").map(|text| parse_range(&text)),
        length: None,
        pin: Pin::default(),
        // The SDK resolves its endpoints: where a store redirects, it names a region.
        redirect: None,
        region: header("x-amz-bucket-region").or_else(|| expected_region(message)),
        retry_after: header("retry-after").and_then(|text| parse_seconds(&text)),
        code: known.and_then(|meta| meta.code()).unwrap_or_default().to_owned(),
        message: message.to_owned(),
        body: SdkBody::empty(),
    })
}

/// The region in S3's "the region 'us-east-1' is wrong; expecting 'eu-west-1'", which comes without a header.
fn expected_region(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("is wrong; expecting '")?;
    rest.split_once('\'').map(|(region, _)| region.to_owned())
}

/// A request to which there was no answer.
pub(crate) fn no_answer(error: &(dyn std::error::Error + 'static)) -> Failure {
    if let Some(refused) = cause::<NotPublic>(error) {
        return Failure::Fatal(Error::new(ErrorKind::SourceForbidden, refused.to_string()));
    }
    // Others are of a service that hands out credentials, and may pass.
    if let Some(
        missing @ (CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)),
    ) = cause::<CredentialsError>(error)
    {
        // The message has one line; what the chain tried stands on further ones and is kept as the cause.
        let tried = causes(missing);
        let why =
            tried.lines().next().unwrap_or_default().trim_end_matches(" Attempted:").trim_end_matches('.');
        let error = Error::new(ErrorKind::SourceForbidden, format!("no credentials can be had: {why}"))
            .caused_by(tried.clone());
        return Failure::Fatal(error.hint(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or read a public object with --s3-anonymous",
        ));
    }
    Failure::broken(causes(error))
}

async fn get_plain(
    net: &Net,
    at: &HttpLocation,
    range: Option<String>,
    pin: &Pin,
) -> Result<Answer, Failure> {
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        // What a server sent as a header can be sent back as one.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    // The stored bytes are meant, never bytes that were compressed for the way.
    set(header::ACCEPT_ENCODING, "identity");
    set(header::USER_AGENT, concat!("diskferry/", env!("CARGO_PKG_VERSION")));
    range.iter().for_each(|range| set(header::RANGE, range));
    match (pin.strong(), &pin.etag, &pin.last_modified) {
        (Some(etag), _, _) => set(header::IF_MATCH, etag),
        (None, None, Some(date)) => set(header::IF_UNMODIFIED_SINCE, date),
        _ => {}
    }
    let answer = net.get(at, headers).await.map_err(|error| no_answer(&error))?;
    let header =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = answer.status().as_u16();
    let mut made = Answer {
        status,
        range: header("content-range").map(|text| parse_range(&text)),
        length: header("content-length").and_then(|text| text.parse().ok()),
        pin: Pin {
            etag: header("etag"),
            last_modified: header("last-modified"),
            version_id: header("x-amz-version-id"),
        },
        redirect: header("location").filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)),
        region: header("x-amz-bucket-region"),
        retry_after: header("retry-after").and_then(|text| parse_seconds(&text)),
        code: String::new(),
        message: String::new(),
        body: answer.into_body(),
    };
    if status >= 400 {
        let document = error_document(std::mem::replace(&mut made.body, SdkBody::empty())).await;
        let element = |name: &str| {
            let (_, rest) = document.split_once(&format!("<{name}>"))?;
            rest.split_once("</").map(|(text, _)| text.to_owned())
        };
        made.code = element("Code").unwrap_or_default();
        made.message = element("Message").unwrap_or_default();
    }
    Ok(made)
}

/// The first few KiB of an error's document: as much as comes at once.
async fn error_document(mut body: SdkBody) -> String {
    const MOST: usize = 8 << 10;
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut document = Vec::new();
    let read = async {
        while document.len() < MOST {
            match body.frame().await {
                Some(Ok(frame)) => document.extend(frame.into_data().unwrap_or_default().iter().take(MOST)),
                _ => break,
            }
        }
    };
    // What was read until then is what there is.
    let _late = tokio::time::timeout(PATIENCE, read).await;
    String::from_utf8_lossy(&document).into_owned()
}

fn parse_range(text: &str) -> Result<ContentRange, String> {
    ContentRange::parse(text).ok_or_else(|| text.chars().take(80).collect())
}

fn parse_seconds(text: &str) -> Option<Duration> {
    text.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_as_the_standard_writes_it() {
        let parse = |text: &str| ContentRange::parse(text).map(|range| (range.span, range.total));
        assert_eq!(parse("bytes 0-9/10"), Some((Some((0, 9)), Some(10))));
        assert_eq!(parse("bytes 3-4/*"), Some((Some((3, 4)), None)));
        assert_eq!(parse("bytes */0"), Some((None, Some(0))));
        for wrong in [
            "",
            "bytes",
            "0-9/10",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes +1-2/9",
            "bytes a-b/c",
            "items 0-1/2",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}

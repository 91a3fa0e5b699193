//! The response to a GET, the same whether it came through the SDK or the plain client.

use std::time::Duration;

use diskferry_core::{Error, ErrorKind};
use http_body_util::BodyExt;

use super::error_chain::{cause, reason, root_cause};
use super::http_client::{HttpBody, NoResponse, empty_body};
use super::proxy::ProxyError;
use super::public_address::NotPublic;
use super::retry::Failure;
use super::tls;

/// The header in which AWS states a bucket's region, also in refusals.
pub(super) const REGION_HEADER: &str = "x-amz-bucket-region";

/// The identity that every later response must have after an object was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PinnedIdentity {
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) version_id: Option<String>,
}

impl PinnedIdentity {
    /// The ETag, if a server can be asked to compare it: weak ones never match (RFC 9110, 13.1.1).
    pub(super) fn strong_etag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }
}

/// Bytes `first..=last` of an object, and the total length if it was stated: the `Content-Range` of RFC 9110, 14.4.
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

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// `None` if there is no such header, `Some(Err)` if it cannot be parsed.
    pub(crate) range: Option<Result<ContentRange, String>>,
    pub(crate) length: Option<u64>,
    pub(crate) identity: PinnedIdentity,
    /// The URL that a redirect leads to.
    pub(crate) redirect: Option<String>,
    /// The region that the store says the bucket is in.
    #[cfg(feature = "s3")]
    pub(crate) region: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// Code and message from the store's error document.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) body: HttpBody,
}

impl Response {
    /// Reads the headers, and the error document of a refusal.
    pub(super) async fn of_http(response: http::Response<HttpBody>) -> Self {
        let (head, body) = response.into_parts();
        let header =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = head.status.as_u16();
        let (code, message, body) = if status >= 400 {
            let document = error_document(body).await;
            let element = |name: &str| {
                let (_, rest) = document.split_once(&format!("<{name}>"))?;
                rest.split_once("</").map(|(text, _)| text.to_owned())
            };
            // Other servers have no such document.
            (element("Code").unwrap_or_default(), element("Message").unwrap_or_default(), empty_body())
        } else {
            (String::new(), String::new(), body)
        };
        Self {
            status,
            range: header("content-range").map(|text| parse_range(&text)),
            length: header("content-length").and_then(|text| text.parse().ok()),
            identity: PinnedIdentity {
                etag: header("etag"),
                last_modified: header("last-modified"),
                version_id: header("x-amz-version-id"),
            },
            redirect: header("location").filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)),
            #[cfg(feature = "s3")]
            region: header(REGION_HEADER),
            retry_after: header("retry-after").and_then(|text| parse_seconds(&text)),
            code,
            message,
            body,
        }
    }
}

/// The failure of a request that got no response.
pub(crate) fn no_response(error: &(dyn std::error::Error + 'static)) -> Failure {
    if let Some(refused) = cause::<NotPublic>(error) {
        return Failure::fatal(ErrorKind::SourceForbidden, refused.to_string());
    }
    if let Some(failed) = cause::<ProxyError>(error) {
        if failed.is_transient() {
            return Failure::transient(failed.to_string());
        }
        let kind = match failed {
            ProxyError::Unusable { .. } => ErrorKind::Usage,
            _ => ErrorKind::SourceUnavailable,
        };
        let error = Error::new(kind, failed.to_string()).retry(false);
        return Failure::Fatal(failed.hint().into_iter().fold(error, Error::hint));
    }
    let Some(request) = cause::<NoResponse>(error) else { return Failure::transient(reason(error)) };
    let target = request.target();
    if let Some(error) = cause::<rustls::Error>(request).and_then(|error| tls::fatal(error, target)) {
        return Failure::Fatal(error);
    }
    if cause::<hyper::Error>(request).is_some_and(hyper::Error::is_parse) {
        let what = format!("{target} does not answer in HTTP: {}", root_cause(request));
        return Failure::Fatal(
            Error::new(ErrorKind::SourceUnavailable, what)
                .retry(false)
                .hint("if this port speaks TLS, use https:// in the URL or endpoint"),
        );
    }
    // The source or sink that asked puts the server's host and port in front.
    Failure::transient(reason(request))
}

/// The first few KiB of an error document: as much as arrives at once.
async fn error_document(mut body: HttpBody) -> String {
    const MAX_BYTES: usize = 8 << 10;
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut document = Vec::new();
    let read = async {
        while document.len() < MAX_BYTES {
            match body.frame().await {
                // A frame without data has trailers.
                Some(Ok(frame)) => {
                    document.extend(frame.into_data().unwrap_or_default().iter().take(MAX_BYTES))
                }
                _ => break,
            }
        }
    };
    // What was read until then is used.
    let _late = tokio::time::timeout(TIMEOUT, read).await;
    String::from_utf8_lossy(&document).into_owned()
}

pub(super) fn parse_range(text: &str) -> Result<ContentRange, String> {
    ContentRange::parse(text).ok_or_else(|| text.chars().take(80).collect())
}

pub(super) fn parse_seconds(text: &str) -> Option<Duration> {
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

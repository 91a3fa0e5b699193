//! What a response means. Nothing that a server says is believed before it fits the request and the object that was opened.

use diskferry_core::{Error, ErrorKind, HeadTail};

use super::response::{ContentRange, PinnedIdentity, Response};
use super::retry::Failure;

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestPurpose {
    /// Opening the object.
    Open,
    /// Reading an object that was opened.
    Read,
}

/// Bytes `first..=last` of an object of `len` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestedRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) len: u64,
}

/// What the first response says about the length of the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ObjectLength {
    Known(u64),
    Unstated,
}

/// The status of a response that has a part of the object.
const PARTIAL: u16 = 206;
/// Describes a part of several (`multipart/byteranges`), or one whose header was lost. However short it is, it is not the
/// whole object.
const UNPLACED: &str = "a part without saying which";

fn changed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::SourceChanged, why)
        .hint("start again: what was read until now is of the old object")
}

/// The error for a server that sent `what` when a range was requested.
pub(crate) fn no_ranges(what: &str) -> Error {
    Error::new(ErrorKind::SourceNoRanges, format!("asked for a range, the server sends {what}"))
        .hint("download the object, or serve it by a server that answers ranged requests")
}

/// Whether the service asks for fewer requests.
pub(crate) fn is_throttled(response: &Response) -> bool {
    match response.status {
        429 | 503 => true,
        400 => matches!(&*response.code, "RequestTimeout" | "SlowDown" | "Throttling"),
        _ => false,
    }
}

/// Whether a response says that the service is not able to respond now, whatever the request.
#[cfg(feature = "s3")]
pub(super) fn is_passing(response: &Response) -> bool {
    is_throttled(response) || matches!(response.status, 408 | 500 | 502 | 504)
}

pub(crate) fn throttled(response: &Response) -> Failure {
    Failure::Throttled {
        what: format!(
            "the service is throttling requests: status {}{}",
            response.status,
            store_message(response)
        ),
        retry_after: response.retry_after,
    }
}

/// The failure for a server error that may pass.
pub(crate) fn server_error(response: &Response) -> Failure {
    Failure::transient(format!("the service failed: status {}{}", response.status, store_message(response)))
}

/// Checks that the response has content; otherwise returns what its status means.
pub(crate) fn check_status(response: &Response, purpose: RequestPurpose) -> Result<(), Failure> {
    let said = store_message(response);
    let code = &*response.code;
    Err(match response.status {
        200 | 206 => return Ok(()),
        _ if is_throttled(response) => throttled(response),
        401 | 403 if is_expired(response) => Failure::Expired(Error::new(
            ErrorKind::SourceExpired,
            format!("the right to read it has expired{said}"),
        )),
        401 | 403 if code == "RequestTimeTooSkewed" => {
            Failure::Fatal(clock_skew(ErrorKind::SourceForbidden, &said))
        }
        status @ (401 | 403) => Failure::Fatal(
            Error::new(ErrorKind::SourceForbidden, format!("reading it is forbidden: status {status}{said}")).hint(
                "the credentials need s3:GetObject; without the permission to list the bucket, a missing object is reported as forbidden too",
            ),
        ),
        status @ (404 | 410) => Failure::fatal(
            ErrorKind::SourceNotFound,
            match purpose {
                RequestPurpose::Open => format!("there is no such object: status {status}{said}"),
                RequestPurpose::Read => {
                    format!("the object was deleted after it was opened: status {status}{said}")
                }
            },
        ),
        412 => Failure::Fatal(changed(format!("the object was replaced after it was opened{said}"))),
        416 if purpose == RequestPurpose::Read => {
            Failure::Fatal(changed("the object became shorter after it was opened"))
        }
        408 | 500 | 502 | 504 => server_error(response),
        400 if matches!(code, "ExpiredToken" | "TokenRefreshRequired") => Failure::Expired(Error::new(
            ErrorKind::SourceExpired,
            format!("the credentials have expired{said}"),
        )),
        #[cfg(feature = "s3")]
        status @ 400 if let Some(region) = &response.region => {
            Failure::Fatal(wrong_region(ErrorKind::SourceForbidden, status, code, region))
        }
        status @ 300..400 => Failure::Fatal(
            Error::new(
                ErrorKind::SourceUnavailable,
                format!("the server redirects once more: status {status}{said}"),
            )
            .retry(false),
        ),
        status => Failure::Fatal(
            Error::new(
                ErrorKind::SourceUnavailable,
                format!("the server responds with status {status}{said}"),
            )
            .retry(status >= 500),
        ),
    })
}

/// The error for a request that was signed for another region than the store's.
#[cfg(feature = "s3")]
pub(crate) fn wrong_region(kind: ErrorKind, status: u16, code: &str, region: &str) -> Error {
    let region: String = region.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    Error::new(
        kind,
        format!("the request is signed for another region: the store's is {region} (status {status} {code})"),
    )
    .hint(format!("use --region {region}, or set AWS_REGION={region}"))
}

/// The error for a signature that is refused because of its time.
pub(crate) fn clock_skew(kind: ErrorKind, said: &str) -> Error {
    Error::new(kind, format!("the clocks of this host and the store differ{said}"))
        .hint("set this host's clock")
}

/// Whether a refusal means that a presigned URL or temporary credentials have expired.
fn is_expired(response: &Response) -> bool {
    matches!(&*response.code, "ExpiredToken" | "TokenRefreshRequired")
        || (response.code == "AccessDenied" && response.message.eq_ignore_ascii_case("request has expired"))
}

/// Code and message of a refusal, to be appended to an error message. The store's message is left out if it may contain a
/// secret: stores that check signatures repeat what they were sent.
pub(crate) fn store_message(response: &Response) -> String {
    let code: String = response.code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let secret =
        ["signature", "x-amz", "accesskey", "access key", "credential", "token", "authorization", "?"];
    let message = response.message.to_ascii_lowercase();
    match (code.is_empty(), message.is_empty() || secret.iter().any(|word| message.contains(word))) {
        (true, _) => String::new(),
        (false, true) => format!(" ({code})"),
        (false, false) => format!(" ({code}: {})", response.message.chars().take(200).collect::<String>()),
    }
}

/// The length of the object, from the response to the request for its head.
///
/// # Errors
/// `source_no_ranges`.
pub(crate) fn object_length(response: &Response) -> Result<ObjectLength, Error> {
    match (&response.range, response.length) {
        // It may be shorter than requested; the rest is requested next.
        (Some(Ok(ContentRange { span: Some((0, last)), total: Some(total) })), _)
            if *last < HeadTail::HEAD =>
        {
            Ok(ObjectLength::Known(*total))
        }
        (Some(Ok(range)), _) => Err(no_ranges(&describe(range))),
        (Some(Err(text)), _) => Err(no_ranges(&format!("the range {text:?}"))),
        (None, _) if response.status == PARTIAL => Err(no_ranges(UNPLACED)),
        (None, Some(length)) if length <= HeadTail::HEAD => Ok(ObjectLength::Known(length)),
        (None, Some(length)) => Err(no_ranges(&format!("the whole object of {length} bytes"))),
        (None, None) => Ok(ObjectLength::Unstated),
    }
}

/// How many bytes the response's body must have: from the first requested one on, perhaps fewer than requested.
pub(crate) fn body_length(
    response: &Response,
    requested: &RequestedRange,
    pin: &PinnedIdentity,
) -> Result<u64, Failure> {
    check_identity(response, pin).map_err(Failure::Fatal)?;
    let wrong = |what: &str| Err(Failure::Fatal(no_ranges(what)));
    let other_length = |now: u64| {
        Err(Failure::Fatal(changed(format!(
            "the object had {} bytes when it was opened and has {now} now",
            requested.len
        ))))
    };
    let promised = match &response.range {
        Some(Ok(range)) => {
            if let Some(total) = range.total.filter(|total| *total != requested.len) {
                return other_length(total);
            }
            let length = range.span.and_then(|(first, last)| {
                let fits = first == requested.first && last <= requested.last;
                if fits { last.checked_sub(first)?.checked_add(1) } else { None }
            });
            match length {
                Some(length) => length,
                None => {
                    return wrong(&format!(
                        "{} for bytes {}-{}",
                        describe(range),
                        requested.first,
                        requested.last
                    ));
                }
            }
        }
        Some(Err(text)) => return wrong(&format!("the range {text:?}")),
        None if response.status == PARTIAL => return wrong(UNPLACED),
        // Without a range it is the whole object, which is right only if the whole object was requested.
        None => match response.length {
            Some(length) if length != requested.len => return other_length(length),
            Some(length) if requested.first == 0 && requested.last.checked_add(1) == Some(length) => length,
            _ => return wrong("the whole object"),
        },
    };
    match response.length {
        Some(length) if length != promised => {
            Err(Failure::transient(format!("the response has {length} bytes, and its range says {promised}")))
        }
        _ => Ok(promised),
    }
}

/// Checks that the response is about the object that was opened.
fn check_identity(response: &Response, pin: &PinnedIdentity) -> Result<(), Error> {
    let compare = |what: &str, pinned: &Option<String>, found: &Option<String>| match (pinned, found) {
        (Some(pinned), Some(found)) if pinned != found => {
            Err(changed(format!("the object's {what} was {pinned} when it was opened and is {found} now")))
        }
        (Some(pinned), None) => Err(changed(format!(
            "the object's {what} was {pinned} when it was opened and the response states none"
        ))),
        _ => Ok(()),
    };
    compare("version", &pin.version_id, &response.identity.version_id)?;
    compare("ETag", &pin.etag, &response.identity.etag)?;
    if pin.etag.is_none() {
        compare("modification time", &pin.last_modified, &response.identity.last_modified)?;
    }
    Ok(())
}

fn describe(range: &ContentRange) -> String {
    let total = range.total.map_or("*".to_owned(), |total| total.to_string());
    match range.span {
        Some((first, last)) => format!("bytes {first}-{last}/{total}"),
        None => format!("bytes */{total}"),
    }
}

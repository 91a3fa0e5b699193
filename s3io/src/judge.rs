//! What an answer means. Nothing that a server says is believed before it fits what was asked and what was opened.

use diskferry_core::{Error, ErrorKind, HeadTail};

use crate::answer::{Answer, ContentRange, Pin};
use crate::retry::Failure;

/// Whether the object is being opened, or was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Opening,
    Reading,
}

/// Bytes `first..=last` of an object of `len` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) len: u64,
}

/// What the first answer says of the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opened {
    Length(u64),
    Unstated,
}

/// The status of an answer that is a part of the object.
const PARTIAL: u16 = 206;
/// So comes a part of several (`multipart/byteranges`), or what lost its header on the way: however short it is, it is not
/// the whole object.
const UNPLACED: &str = "a part without saying which";

fn changed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::SourceChanged, why)
        .hint("start again: what was read until now is of the old object")
}

/// The refusal of a server that answered with `what` where a range was asked for.
pub(crate) fn no_ranges(what: &str) -> Error {
    Error::new(ErrorKind::SourceNoRanges, format!("asked for a range, the server sends {what}"))
        .hint("download the object, or serve it by a server that answers ranged requests")
}

/// Whether the answer has content, else what its status means.
pub(crate) fn status(answer: &Answer, phase: Phase) -> Result<(), Failure> {
    let said = said(answer);
    let fatal = |kind, message: String| Err(Failure::Fatal(Error::new(kind, message)));
    match answer.status {
        200 | 206 => Ok(()),
        401 | 403 if expired(answer) => Err(Failure::Expired(Error::new(
            ErrorKind::SourceExpired,
            format!("the right to read it has expired{said}"),
        ))),
        401 | 403 if answer.code == "RequestTimeTooSkewed" => Err(Failure::Fatal(
            Error::new(ErrorKind::SourceForbidden, format!("the clocks of this host and the store differ{said}"))
                .hint("set this host's clock"),
        )),
        status @ (401 | 403) => Err(Failure::Fatal(
            Error::new(ErrorKind::SourceForbidden, format!("reading it is forbidden: status {status}{said}"))
                .hint("the credentials need s3:GetObject on it; a store that may not be listed also hides so what is missing"),
        )),
        status @ (404 | 410) => match phase {
            Phase::Opening => fatal(ErrorKind::SourceNotFound, format!("there is no such object: status {status}{said}")),
            Phase::Reading => {
                fatal(ErrorKind::SourceNotFound, format!("the object is gone since it was opened: status {status}{said}"))
            }
        },
        412 => Err(Failure::Fatal(changed(format!("the object was replaced since it was opened{said}")))),
        416 if phase == Phase::Reading => {
            Err(Failure::Fatal(changed("the object became shorter since it was opened")))
        }
        429 | 503 => Err(Failure::Busy {
            what: format!("the service has too much to do: status {}{said}", answer.status),
            after: answer.retry_after,
        }),
        status @ (408 | 500 | 502 | 504) => Err(Failure::broken(format!("the service failed: status {status}{said}"))),
        400 if matches!(&*answer.code, "RequestTimeout" | "SlowDown" | "Throttling") => Err(Failure::Busy {
            what: format!("the service has too much to do: status 400{said}"),
            after: answer.retry_after,
        }),
        400 if matches!(&*answer.code, "ExpiredToken" | "TokenRefreshRequired") => Err(Failure::Expired(Error::new(
            ErrorKind::SourceExpired,
            format!("the credentials have expired{said}"),
        ))),
        status @ 300..400 => Err(Failure::Fatal(
            Error::new(ErrorKind::SourceUnavailable, format!("the server redirects once more: status {status}{said}"))
                .retry(false),
        )),
        status => Err(Failure::Fatal(
            Error::new(ErrorKind::SourceUnavailable, format!("the server answers with status {status}{said}"))
                .retry(status >= 500),
        )),
    }
}

/// The error with an object's name in front.
pub(crate) fn named(name: &str, error: &Error) -> Error {
    error.clone().context(name)
}

/// Whether a refusal means that a presigned URL or temporary credentials are over.
pub(crate) fn expired(answer: &Answer) -> bool {
    matches!(&*answer.code, "ExpiredToken" | "TokenRefreshRequired")
        || (answer.code == "AccessDenied" && answer.message.eq_ignore_ascii_case("request has expired"))
}

/// What the store says of its refusal, where that cannot hold a secret: stores that check signatures like to
/// repeat what they were sent.
pub(crate) fn said(answer: &Answer) -> String {
    let code: String = answer.code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let telling =
        ["signature", "x-amz", "accesskey", "access key", "credential", "token", "authorization", "?"];
    let message = answer.message.to_ascii_lowercase();
    match (code.is_empty(), message.is_empty() || telling.iter().any(|word| message.contains(word))) {
        (true, _) => String::new(),
        (false, true) => format!(" ({code})"),
        (false, false) => format!(" ({code}: {})", answer.message.chars().take(200).collect::<String>()),
    }
}

/// What the answer to the request for the head says of the object's length.
///
/// # Errors
/// `source_no_ranges`.
pub(crate) fn opening(answer: &Answer) -> Result<Opened, Error> {
    match (&answer.range, answer.length) {
        // Perhaps less than was asked for; what is missing is asked for next.
        (Some(Ok(ContentRange { span: Some((0, last)), total: Some(total) })), _)
            if *last < HeadTail::HEAD =>
        {
            Ok(Opened::Length(*total))
        }
        (Some(Ok(range)), _) => Err(no_ranges(&describe(range))),
        (Some(Err(text)), _) => Err(no_ranges(&format!("the range {text:?}"))),
        (None, _) if answer.status == PARTIAL => Err(no_ranges(UNPLACED)),
        (None, Some(length)) if length <= HeadTail::HEAD => Ok(Opened::Length(length)),
        (None, Some(length)) => Err(no_ranges(&format!("the whole object of {length} bytes"))),
        (None, None) => Ok(Opened::Unstated),
    }
}

/// How many bytes the answer's body has to hold: from the first one asked for on, perhaps fewer than asked for.
pub(crate) fn range(answer: &Answer, asked: &Asked, pin: &Pin) -> Result<u64, Failure> {
    identity(answer, pin).map_err(Failure::Fatal)?;
    let wrong = |what: &str| Err(Failure::Fatal(no_ranges(what)));
    let promised = match &answer.range {
        Some(Ok(range)) => {
            if let Some(total) = range.total.filter(|total| *total != asked.len) {
                return Err(Failure::Fatal(changed(format!(
                    "the object had {} bytes when it was opened and has {total} now",
                    asked.len
                ))));
            }
            match range.span {
                Some((first, last)) if first == asked.first && last <= asked.last => {
                    last.saturating_sub(first).saturating_add(1)
                }
                _ => return wrong(&format!("{} for bytes {}-{}", describe(range), asked.first, asked.last)),
            }
        }
        Some(Err(text)) => return wrong(&format!("the range {text:?}")),
        None if answer.status == PARTIAL => return wrong(UNPLACED),
        // Without a range it is the whole, which is right only where the whole was asked for.
        None => match answer.length {
            Some(length) if length != asked.len => {
                return Err(Failure::Fatal(changed(format!(
                    "the object had {} bytes when it was opened and has {length} now",
                    asked.len
                ))));
            }
            Some(length) if asked.first == 0 && asked.last.checked_add(1) == Some(length) => length,
            _ => return wrong("the whole object"),
        },
    };
    match answer.length {
        Some(length) if length != promised => {
            Err(Failure::broken(format!("the answer has {length} bytes, and its range says {promised}")))
        }
        _ => Ok(promised),
    }
}

/// Whether the answer is of the object that was opened.
fn identity(answer: &Answer, pin: &Pin) -> Result<(), Error> {
    let differs = |what: &str, pinned: &Option<String>, found: &Option<String>| match (pinned, found) {
        (Some(pinned), Some(found)) if pinned != found => {
            Err(changed(format!("the object's {what} was {pinned} when it was opened and is {found} now")))
        }
        (Some(pinned), None) => Err(changed(format!(
            "the object's {what} was {pinned} when it was opened and the answer states none"
        ))),
        _ => Ok(()),
    };
    differs("version", &pin.version_id, &answer.pin.version_id)?;
    differs("ETag", &pin.etag, &answer.pin.etag)?;
    if pin.etag.is_none() {
        differs("modification time", &pin.last_modified, &answer.pin.last_modified)?;
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

//! What a store's answer to a request that writes means.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use diskferry_core::{Error, ErrorKind};

use crate::answer::{Answer, answer_of_error};
use crate::judge::said;
use crate::retry::Failure;

/// A request that did not do what it was for.
#[derive(Debug)]
pub(super) struct Refused {
    /// The status of the answer; 0 where there was none.
    pub(super) status: u16,
    /// The store's code for it.
    pub(super) code: String,
    /// The region that the store says the bucket is in.
    pub(super) region: Option<String>,
    /// It may have taken effect all the same.
    pub(super) lost: bool,
    /// Whether another try can help.
    pub(super) failure: Failure,
}

impl Refused {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match answer_of_error(error) {
            Ok(answer) => Self {
                status: answer.status,
                failure: judge(&answer),
                lost: answer.status >= 500 && answer.status != 501,
                code: answer.code,
                region: answer.region,
            },
            Err(failure) => Self::without_answer(failure),
        }
    }

    pub(super) fn without_answer(failure: Failure) -> Self {
        let lost = matches!(failure, Failure::Broken { .. });
        Self { status: 0, code: String::new(), region: None, lost, failure: of_destination(failure) }
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self.failure, Failure::Busy { .. })
    }

    /// True where the store does not know something that the request asked for beside its main purpose: a checksum, a
    /// condition. Stores differ in how they say it, so a few refusals too many are taken for that: the request is sent
    /// once more without, and then means what it says.
    pub(super) fn is_unknown_feature(&self) -> bool {
        self.status == 501
            || (self.status == 400
                && (matches!(
                    &*self.code,
                    "NotImplemented"
                        | "InvalidArgument"
                        | "InvalidRequest"
                        | "UnsupportedArgument"
                        | "InvalidHeader"
                ) || self.code.to_ascii_lowercase().contains("checksum")))
    }

    /// True where the upload is not there any more.
    pub(super) fn is_no_upload(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket"
    }
}

/// What an answer means whose status is not a good one.
fn judge(answer: &Answer) -> Failure {
    let said = said(answer);
    let status = answer.status;
    let code = &*answer.code;
    let fatal = |kind, message: String| Failure::Fatal(Error::new(kind, message));
    let full = code.contains("Quota") || code.contains("StorageFull") || status == 507;
    match status {
        _ if full => fatal(ErrorKind::DestinationFull, format!("the store has no room for it{said}")),
        _ if matches!(code, "ExpiredToken" | "TokenRefreshRequired") => {
            fatal(ErrorKind::DestinationForbidden, format!("the credentials have expired{said}"))
        }
        401 | 403 if code == "RequestTimeTooSkewed" => Failure::Fatal(
            Error::new(
                ErrorKind::DestinationForbidden,
                format!("the clocks of this host and the store differ{said}"),
            )
            .hint("set this host's clock"),
        ),
        401 | 403 => Failure::Fatal(
            Error::new(
                ErrorKind::DestinationForbidden,
                format!("writing it is forbidden: status {status}{said}"),
            )
            .hint("the credentials need s3:PutObject and s3:AbortMultipartUpload on it"),
        ),
        404 if code == "NoSuchUpload" => fatal(
            ErrorKind::DestinationUnavailable,
            format!("the upload is gone: somebody else ended it{said}"),
        ),
        404 => Failure::Fatal(
            Error::new(ErrorKind::DestinationUnavailable, format!("there is no such bucket{said}"))
                .retry(false)
                .hint("create the bucket"),
        ),
        409 if code == "OperationAborted" => busy(answer, &said),
        409 | 412 => Failure::Fatal(exists()),
        400 | 413
            if status == 413 || matches!(code, "EntityTooLarge" | "TooManyParts" | "KeyTooLongError") =>
        {
            fatal(
                ErrorKind::DestinationUnsuitable,
                format!("the store does not take it: status {status}{said}"),
            )
        }
        400 if matches!(code, "RequestTimeout" | "SlowDown" | "Throttling") => busy(answer, &said),
        400 if matches!(code, "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody") => {
            Failure::broken(format!("it was damaged on the way{said}"))
        }
        429 | 503 => busy(answer, &said),
        408 | 500 | 502 | 504 => Failure::broken(format!("the service failed: status {status}{said}")),
        405 | 501 => fatal(
            ErrorKind::DestinationUnsuitable,
            format!("the store does not offer what is needed: status {status}{said}"),
        ),
        status => Failure::Fatal(
            Error::new(
                ErrorKind::DestinationUnavailable,
                format!("the store answers with status {status}{said}"),
            )
            .retry(status >= 500),
        ),
    }
}

fn busy(answer: &Answer, said: &str) -> Failure {
    Failure::Busy {
        what: format!("the service has too much to do: status {}{said}", answer.status),
        after: answer.retry_after,
    }
}

/// The refusal of a target whose name is taken.
pub(super) fn exists() -> Error {
    Error::new(ErrorKind::DestinationExists, "the object exists").hint("replace it with --force")
}

/// A failure to get any answer, as one of a destination.
fn of_destination(failure: Failure) -> Failure {
    match failure {
        Failure::Fatal(error) | Failure::Expired(error) => Failure::Fatal(as_destination(&error)),
        failure => failure,
    }
}

/// An error that says the source where the destination is meant.
pub(super) fn as_destination(error: &Error) -> Error {
    let forbidden = ErrorKind::DestinationForbidden;
    let (kind, hint) = match error.kind() {
        ErrorKind::SourceForbidden => {
            (forbidden, Some("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"))
        }
        ErrorKind::SourceExpired => (forbidden, None),
        ErrorKind::SourceNotFound | ErrorKind::SourceUnavailable => (ErrorKind::DestinationUnavailable, None),
        ErrorKind::SourceChanged => (ErrorKind::VerificationFailed, None),
        ErrorKind::SourceNoRanges => (ErrorKind::DestinationUnsuitable, None),
        kind => (kind, None),
    };
    let made = Error::new(kind, error.message()).retry(error.is_retryable());
    match hint.or(error.hint_text()) {
        Some(hint) => made.hint(hint.to_owned()),
        None => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_a_destination_speaks_of_a_source() {
        for kind in ErrorKind::ALL {
            let made = as_destination(&Error::new(*kind, "why").hint("read it with --s3-anonymous"));
            assert!(!made.kind().code().starts_with("source"), "{kind}");
        }
        let forbidden = as_destination(&Error::new(ErrorKind::SourceForbidden, "no credentials can be had"));
        assert_eq!(forbidden.kind(), ErrorKind::DestinationForbidden);
        assert!(forbidden.hint_text().is_some_and(|hint| hint.contains("AWS_PROFILE")));
    }
}

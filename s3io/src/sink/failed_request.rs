//! What a store's response to a request that writes means.

use std::error::Error as StdError;
use std::fmt;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use diskferry_core::{Error, ErrorKind};

use crate::connection::{
    Failure, Response, clock_skew, is_throttled, raw_element, response_of_error, server_error, store_message,
    throttled, wrong_region,
};

/// A request that failed.
#[derive(Debug)]
pub(super) struct FailedRequest {
    /// The status of the response; 0 if there was none.
    pub(super) status: u16,
    /// The store's error code.
    pub(super) code: String,
    /// The region that the store says the bucket is in.
    pub(super) region: Option<String>,
    /// The store answered with success, and with a document that is not the one of the request. The id of the upload in
    /// it, if there is one.
    pub(super) misunderstood: Option<Option<String>>,
    /// The request may have taken effect nevertheless.
    pub(super) outcome_unknown: bool,
    /// Whether another try can help.
    pub(super) failure: Failure,
}

impl FailedRequest {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match response_of_error(error) {
            Ok(response) => Self {
                misunderstood: None,
                status: response.status,
                failure: failure_of(&response),
                outcome_unknown: response.status >= 500 && response.status != 501,
                code: response.code,
                region: response.region,
            },
            Err(failure) => Self {
                misunderstood: error
                    .raw_response()
                    .filter(|raw| raw.status().is_success())
                    .map(|raw| raw_element(raw, "UploadId")),
                ..Self::without_response(failure)
            },
        }
    }

    pub(super) fn without_response(failure: Failure) -> Self {
        let outcome_unknown = matches!(failure, Failure::Transient { .. });
        let failure = match failure {
            Failure::Fatal(error) | Failure::Expired(error) => Failure::Fatal(as_destination(&error)),
            failure => failure,
        };
        Self { status: 0, code: String::new(), region: None, misunderstood: None, outcome_unknown, failure }
    }

    pub(super) fn is_throttled(&self) -> bool {
        matches!(self.failure, Failure::Throttled { .. })
    }

    /// True if the store may not support an optional feature of the request: a checksum or a condition. Stores differ in how
    /// they say it, so some other refusals count too: the request is sent once more without the feature, and the response to
    /// that one counts.
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

    /// True if the upload does not exist any more.
    pub(super) fn is_no_upload(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket"
    }
}

/// What a response with an error status means.
fn failure_of(response: &Response) -> Failure {
    let said = store_message(response);
    let status = response.status;
    let code = &*response.code;
    let full = code.contains("Quota") || code.contains("StorageFull") || status == 507;
    match status {
        _ if full => {
            Failure::fatal(ErrorKind::DestinationFull, format!("the store has no room for the object{said}"))
        }
        _ if matches!(code, "ExpiredToken" | "TokenRefreshRequired") => {
            Failure::fatal(ErrorKind::DestinationForbidden, format!("the credentials have expired{said}"))
        }
        _ if is_throttled(response) => throttled(response),
        401 | 403 if code == "RequestTimeTooSkewed" => {
            Failure::Fatal(clock_skew(ErrorKind::DestinationForbidden, &said))
        }
        401 | 403 => Failure::Fatal(
            Error::new(
                ErrorKind::DestinationForbidden,
                format!("writing it is forbidden: status {status}{said}"),
            )
            .hint("the credentials need s3:PutObject and s3:AbortMultipartUpload on it"),
        ),
        status @ 400 if let Some(region) = &response.region => {
            Failure::Fatal(wrong_region(ErrorKind::DestinationForbidden, status, code, region))
        }
        404 if code == "NoSuchUpload" => Failure::fatal(
            ErrorKind::DestinationUnavailable,
            format!("the upload is gone: somebody else ended it{said}"),
        ),
        404 => Failure::Fatal(
            Error::new(ErrorKind::DestinationUnavailable, format!("there is no such bucket{said}"))
                .retry(false)
                .hint("create the bucket"),
        ),
        409 if code == "OperationAborted" => throttled(response),
        409 | 412 => Failure::Fatal(exists()),
        400 | 413
            if status == 413 || matches!(code, "EntityTooLarge" | "TooManyParts" | "KeyTooLongError") =>
        {
            Failure::fatal(
                ErrorKind::DestinationUnsuitable,
                format!("the store does not accept it: status {status}{said}"),
            )
        }
        400 if matches!(code, "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody") => {
            Failure::transient(format!("it was damaged in transfer{said}"))
        }
        408 | 500 | 502 | 504 => server_error(response),
        405 | 501 => Failure::fatal(
            ErrorKind::DestinationUnsuitable,
            format!("the store does not support what is needed: status {status}{said}"),
        ),
        status => Failure::Fatal(
            Error::new(
                ErrorKind::DestinationUnavailable,
                format!("the store responds with status {status}{said}"),
            )
            .retry(status >= 500),
        ),
    }
}

/// The error for a target whose name is taken.
pub(super) fn exists() -> Error {
    Error::new(ErrorKind::DestinationExists, "the object exists").hint("replace it with --force")
}

/// An error of reading, as the error of the destination that it concerns. Place, retryability and cause stay.
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
        // Any other kind says the same of a destination.
        _ => return error.clone(),
    };
    let mut made = Error::new(kind, error.message()).retry(error.is_retryable());
    if let Some(offset) = error.offset() {
        made = made.at(offset);
    }
    if error.source().is_some() {
        made = made.caused_by(CauseOf(error.clone()));
    }
    match hint.or(error.hint_text()) {
        Some(hint) => made.hint(hint.to_owned()),
        None => made,
    }
}

/// The cause of an error, for another error.
#[derive(Debug)]
struct CauseOf(Error);

impl fmt::Display for CauseOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source().map_or(Ok(()), |cause| fmt::Display::fmt(cause, f))
    }
}

impl StdError for CauseOf {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()?.source()
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

    #[test]
    fn an_error_of_a_destination_keeps_place_retryability_and_cause() {
        let cause = std::io::Error::other("reset by peer");
        let error =
            Error::new(ErrorKind::SourceUnavailable, "no response").at(7u64).retry(false).caused_by(cause);
        let made = as_destination(&error);
        assert_eq!((made.kind(), made.offset()), (ErrorKind::DestinationUnavailable, Some(7)));
        assert!(!made.is_retryable());
        assert_eq!(made.source().map(ToString::to_string).as_deref(), Some("reset by peer"));
    }
}

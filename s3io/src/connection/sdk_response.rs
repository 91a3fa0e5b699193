//! What the SDK returns, as a [`Response`].

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use diskferry_core::{Error, ErrorKind};
use http_body_util::BodyExt;

use super::error_chain::{cause, causes, reason};
use super::http_client::empty_body;
use super::response::{PinnedIdentity, REGION_HEADER, Response, no_response, parse_range, parse_seconds};
use super::retry::Failure;

pub(super) fn response_of_output(status: u16, output: GetObjectOutput) -> Response {
    Response {
        status,
        range: output.content_range().map(parse_range),
        length: output.content_length().and_then(|length| length.try_into().ok()),
        identity: PinnedIdentity {
            etag: output.e_tag().map(str::to_owned),
            last_modified: None,
            version_id: output.version_id().map(str::to_owned),
        },
        redirect: None,
        region: None,
        retry_after: None,
        code: String::new(),
        message: String::new(),
        body: output.body.into_inner().boxed(),
    }
}

/// The response that an error of the SDK was made from.
///
/// # Errors
/// If there was no response, or one that the SDK cannot parse.
pub(crate) fn response_of_error<E>(error: &SdkError<E, HttpResponse>) -> Result<Response, Failure>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Some(raw) = error.raw_response() else {
        return Err(no_credentials(error).or_else(|| not_sent(error)).unwrap_or_else(|| no_response(error)));
    };
    let header = |name: &str| raw.headers().get(name).map(str::to_owned);
    let known = error.as_service_error().map(ProvideErrorMetadata::meta);
    let code = known.and_then(|meta| meta.code());
    if raw.status().is_success() && code.is_none() {
        return Err(Failure::transient(format!("the response cannot be parsed: {}", reason(error))));
    }
    // Stores name the right region in the error document of a request that was signed for another.
    let region_element = || raw_element(raw, "Region").filter(|region| !region.is_empty());
    let message = known.and_then(|meta| meta.message()).unwrap_or_default();
    Ok(Response {
        // A store that fails after it sent a successful status puts the error into the body.
        status: if raw.status().is_success() { 500 } else { raw.status().as_u16() },
        range: header("content-range").map(|text| parse_range(&text)),
        length: None,
        identity: PinnedIdentity::default(),
        // The SDK resolves its endpoints: a store that redirects names a region.
        redirect: None,
        region: header(REGION_HEADER).or_else(|| expected_region(message)).or_else(region_element),
        retry_after: header("retry-after").and_then(|text| parse_seconds(&text)),
        code: code.unwrap_or_default().to_owned(),
        message: message.to_owned(),
        body: empty_body(),
    })
}

/// The text of an XML element in the body of a response, whatever is around it.
pub(crate) fn raw_element(raw: &HttpResponse, name: &str) -> Option<String> {
    let document = String::from_utf8_lossy(raw.body().bytes()?);
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    Some(text.trim().to_owned())
}

/// The region in S3's "the region 'us-east-1' is wrong; expecting 'eu-west-1'", which comes without a header.
fn expected_region(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("is wrong; expecting '")?;
    rest.split_once('\'').map(|(region, _)| region.to_owned())
}

/// The failure of a request that the SDK could not build, or that the connection refused to send: it is invalid, and stays so.
fn not_sent<E>(error: &SdkError<E, HttpResponse>) -> Option<Failure>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let invalid = match error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_user(),
        _ => false,
    };
    invalid.then(|| {
        let what = format!("the request cannot be sent: {}", reason(error));
        Failure::Fatal(Error::new(ErrorKind::SourceUnavailable, what).retry(false))
    })
}

/// The failure of a request that was not sent because there are no credentials. The providers of credentials have made
/// their own tries.
fn no_credentials(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let missing = cause::<CredentialsError>(error)?;
    // The first line becomes the message. The others list what was tried, and are kept as the cause.
    let tried = causes(missing);
    let why = tried.lines().next().unwrap_or_default().trim_end_matches(" Attempted:").trim_end_matches('.');
    let error = Error::new(ErrorKind::SourceForbidden, format!("no credentials can be had: {why}"))
        .caused_by(tried.clone());
    Some(Failure::Fatal(error.hint(
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or read a public object with --s3-anonymous",
    )))
}

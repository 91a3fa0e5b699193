//! The region of a source's bucket, compared with the one that the client requires.

#[cfg(feature = "s3")]
use aws_sdk_s3::error::ProvideErrorMetadata;
use diskferry_core::{Error, ErrorKind, Result, Warning};
use http::HeaderMap;

use super::client::Client;
use super::response::REGION_HEADER;
#[cfg(feature = "s3")]
use super::response_check::{is_passing, server_error};
#[cfg(feature = "s3")]
use super::retry::{Failure, Retries, Timeouts};
use super::s3_url::aws_bucket;
#[cfg(feature = "s3")]
use super::s3_url::{S3Object, S3Service};
#[cfg(feature = "s3")]
use super::sdk_response::response_of_error;
use super::url::HttpLocation;

/// Compares a bucket's region with the required one, if there is one. Returns the number of requests that it took.
///
/// # Errors
/// `region_mismatch`.
#[cfg(feature = "s3")]
pub(crate) async fn check_object(
    client: &Client,
    s3: &aws_sdk_s3::Client,
    object: &S3Object,
    warnings: &mut Vec<Warning>,
) -> Result<u64> {
    let Some(required) = &client.options().require_region else { return Ok(0) };
    let bucket = &object.location.bucket;
    let mut requests = 1;
    let mut retries = Retries::reading(Timeouts::new(client.options()));
    let mut region = loop {
        let head = s3.head_bucket().bucket(bucket).send();
        let failure = match tokio::time::timeout(retries.limit(), head).await {
            Ok(Ok(output)) => {
                break output.bucket_region().map(str::to_owned);
            }
            Ok(Err(error)) => match response_of_error(&error) {
                // Stated also with 301, 400 and 403.
                Ok(response) if !is_passing(&response) => {
                    break response.region;
                }
                Ok(response) => server_error(&response),
                Err(failure) => failure,
            },
            Err(_) => Failure::transient("no response"),
        };
        let named = |error: Error| error.context(client.s3().peer(&object.service)).context(&object.location);
        tokio::time::sleep(retries.next_wait(failure).map_err(named)?).await;
        requests += 1;
    };
    if region.is_none() {
        requests += 1;
        let asked = s3.get_bucket_location().bucket(bucket).send();
        match tokio::time::timeout(retries.limit(), asked).await {
            Ok(Ok(output)) => {
                let constraint = output.location_constraint().map(|at| at.as_str());
                region = region_of_constraint(constraint, &object.service, client);
            }
            Ok(Err(error)) => tracing::debug!(code = error.code(), "GetBucketLocation is refused"),
            Err(_) => tracing::debug!("no response to GetBucketLocation"),
        }
    }
    compare(bucket, region.as_deref(), required, warnings)?;
    Ok(requests)
}

/// The region that GetBucketLocation means. AWS sends nothing for its oldest region and `EU` for Ireland; from another
/// store, nothing means unknown.
#[cfg(feature = "s3")]
fn region_of_constraint(constraint: Option<&str>, service: &S3Service, client: &Client) -> Option<String> {
    let aws = matches!(service, S3Service::Aws { .. }) || client.s3().endpoint().is_none();
    match constraint {
        Some("EU") => Some("eu-west-1".to_owned()),
        Some(region) if !region.is_empty() => Some(region.to_owned()),
        _ => aws.then(|| "us-east-1".to_owned()),
    }
}

/// As [`check_object`], for a URL that is read without the S3 protocol. Its host may name the region; otherwise AWS states
/// it in the refusal of an unsigned request.
///
/// # Errors
/// `region_mismatch`.
pub(crate) async fn check_url(
    client: &Client,
    at: &HttpLocation,
    warnings: &mut Vec<Warning>,
) -> Result<u64> {
    let Some(required) = &client.options().require_region else { return Ok(0) };
    match aws_bucket(at) {
        None => compare(&at.to_string(), None, required, warnings).map(|()| 0),
        Some((bucket, Some(region))) => compare(&bucket, Some(&region), required, warnings).map(|()| 0),
        Some((bucket, None)) => {
            let root = HttpLocation::parse(&format!("https://{bucket}.s3.amazonaws.com/"))?;
            let response = client.http().get(&root, HeaderMap::new()).await.ok();
            let header = response.as_ref().and_then(|response| response.headers().get(REGION_HEADER));
            compare(&bucket, header.and_then(|region| region.to_str().ok()), required, warnings).map(|()| 1)
        }
    }
}

/// Names are compared without case: some stores write them in capitals.
fn compare(bucket: &str, found: Option<&str>, required: &str, warnings: &mut Vec<Warning>) -> Result<()> {
    match found {
        Some(found) if found.trim().eq_ignore_ascii_case(required.trim()) => Ok(()),
        Some(found) => Err(Error::new(
            ErrorKind::RegionMismatch,
            format!("the bucket {bucket} is in the region {found}, and {required} is required"),
        )
        .hint("import from a bucket in the required region")),
        None => {
            warnings.push(Warning::new(
                "region_unknown",
                format!("the region of {bucket} cannot be determined, and {required} is required"),
            ));
            Ok(())
        }
    }
}

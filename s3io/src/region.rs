//! Where a bucket is: for those who require the source to be near.

use aws_sdk_s3::error::ProvideErrorMetadata;
use diskferry_core::{Result, Warning};
use http::HeaderMap;

use crate::client::{Client, region_mismatch, same_region};
use crate::url::{HttpLocation, Place, S3Location};

/// Compares a bucket's region with the one that the client requires, if it requires one. Gives the number of
/// requests that it took.
///
/// # Errors
/// `region_mismatch`.
pub(crate) async fn check_object(
    client: &Client,
    s3: &aws_sdk_s3::Client,
    object: &S3Location,
    place: &Place,
    warnings: &mut Vec<Warning>,
) -> Result<u64> {
    let Some(required) = &client.options().require_region else { return Ok(0) };
    let (mut region, mut requests) = (None, 1);
    match s3.head_bucket().bucket(&object.bucket).send().await {
        Ok(output) => region = output.bucket_region().map(str::to_owned),
        Err(error) => {
            // Said also with 301, 400 and 403.
            let said = error.raw_response().and_then(|raw| raw.headers().get("x-amz-bucket-region"));
            region = said.map(str::to_owned).or(region);
        }
    }
    if region.is_none() {
        requests += 1;
        match s3.get_bucket_location().bucket(&object.bucket).send().await {
            Ok(output) => region = located(output.location_constraint().map(|at| at.as_str()), place, client),
            Err(error) => tracing::debug!(code = error.code(), "the bucket's location cannot be asked for"),
        }
    }
    judge(&object.bucket, region.as_deref(), required, warnings)?;
    Ok(requests)
}

/// The region that GetBucketLocation means. AWS writes its oldest one as nothing and Ireland's old name as `EU`;
/// nothing from another store means nothing.
fn located(constraint: Option<&str>, place: &Place, client: &Client) -> Option<String> {
    let aws = matches!(place, Place::Aws { .. }) || client.endpoint().is_none();
    match constraint {
        Some("EU") => Some("eu-west-1".to_owned()),
        Some(region) if !region.is_empty() => Some(region.to_owned()),
        _ => aws.then(|| "us-east-1".to_owned()),
    }
}

/// As [`check_object`], of a URL that is read without the S3 protocol: its host may say the region, or AWS, asked
/// without a signature, says it beside its refusal.
///
/// # Errors
/// `region_mismatch`.
pub(crate) async fn check_url(
    client: &Client,
    at: &HttpLocation,
    warnings: &mut Vec<Warning>,
) -> Result<u64> {
    let Some(required) = &client.options().require_region else { return Ok(0) };
    match at.aws_bucket() {
        None => judge(&at.to_string(), None, required, warnings).map(|()| 0),
        Some((bucket, Some(region))) => judge(&bucket, Some(&region), required, warnings).map(|()| 0),
        Some((bucket, None)) => {
            let root = HttpLocation::parse(&format!("https://{bucket}.s3.amazonaws.com/"))?;
            let answer = client.net().get(&root, HeaderMap::new()).await.ok();
            let header = answer.as_ref().and_then(|answer| answer.headers().get("x-amz-bucket-region"));
            judge(&bucket, header.and_then(|region| region.to_str().ok()), required, warnings).map(|()| 1)
        }
    }
}

fn judge(bucket: &str, found: Option<&str>, required: &str, warnings: &mut Vec<Warning>) -> Result<()> {
    match found {
        Some(found) if same_region(found, required) => Ok(()),
        Some(found) => Err(region_mismatch(bucket, found, required)),
        None => {
            warnings.push(Warning::new(
                "region_unknown",
                format!("the region of {bucket} cannot be learnt, and {required} is required"),
            ));
            Ok(())
        }
    }
}

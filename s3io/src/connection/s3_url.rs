//! Buckets and keys in `http(s)://` URLs: under the endpoint of the client, or on AWS.

#[cfg(feature = "s3")]
use std::net::IpAddr;

#[cfg(feature = "s3")]
use diskferry_core::Result;
#[cfg(feature = "s3")]
use percent_encoding::percent_decode_str;

use super::url::HttpLocation;
#[cfg(feature = "s3")]
use super::url::{S3Location, usage};

/// An object that is read by the S3 protocol.
#[cfg(feature = "s3")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct S3Object {
    pub(crate) location: S3Location,
    pub(crate) service: S3Service,
}

/// The service that has an object.
#[cfg(feature = "s3")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum S3Service {
    /// The one that the client is configured for.
    Configured,
    /// AWS, whatever the client is configured for, and the region if the host names it.
    Aws { region: Option<String> },
}

/// The URL of an S3 service, to recognise URLs under it.
#[cfg(feature = "s3")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    /// The path, without slashes around it.
    prefix: String,
}

#[cfg(feature = "s3")]
impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self> {
        let location = HttpLocation::parse(url)?;
        if location.user_info().is_some() || location.uri().query().is_some() {
            return Err(usage("the endpoint's URL has a user or a query, and must have neither"));
        }
        Ok(Self {
            tls: location.is_tls(),
            host: location.host().to_owned(),
            port: location.port(),
            prefix: location.uri().path().trim_matches('/').to_owned(),
        })
    }

    /// Its host and port.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// True if buckets cannot be names under the host: it is an address, `localhost`, or a name without a domain.
    pub(super) fn needs_path_style(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok() || !self.host.contains('.') || self.host.ends_with(".localhost")
    }
}

/// The bucket and key that a URL names, if its host is the one of `endpoint` or of AWS and its query has nothing but a
/// version: a URL as a store's console shows it. The key is percent-decoded once.
#[cfg(feature = "s3")]
pub(crate) fn s3_object(url: &HttpLocation, endpoint: Option<&Endpoint>) -> Option<S3Object> {
    if url.user_info().is_some() || url.pairs().any(|(name, _)| name != "versionId") {
        return None;
    }
    let version = url.parameter(&["versionId"]).filter(|id| !id.is_empty());
    let found = |bucket: &str, path: &str, service: S3Service| {
        // AWS reads '+' in a path as a space, and its console writes a space as '+'; other stores read it verbatim.
        let spaced =
            if matches!(service, S3Service::Aws { .. }) { path.replace('+', " ") } else { path.into() };
        let key = percent_decode_str(&spaced).decode_utf8().ok()?;
        let location = S3Location::new(bucket, &key, version.as_deref()).ok()?;
        Some(S3Object { location, service })
    };
    let path = url.uri().path().strip_prefix('/')?;
    let by_path = |path: &str, service: S3Service| {
        let (bucket, key) = path.split_once('/')?;
        found(bucket, key, service)
    };
    if let Some(endpoint) = endpoint
        && endpoint.tls == url.is_tls()
        && endpoint.port == url.port()
    {
        let below = if endpoint.prefix.is_empty() {
            Some(path)
        } else {
            path.strip_prefix(&*endpoint.prefix).map(|path| path.trim_start_matches('/'))
        };
        if endpoint.host == url.host() {
            return by_path(below?, S3Service::Configured);
        }
        if let Some(bucket) = url.host().strip_suffix(&*endpoint.host).and_then(|b| b.strip_suffix('.')) {
            return found(bucket, below?, S3Service::Configured);
        }
    }
    let (bucket, region) = aws_host(url.host())?;
    match bucket {
        Some(bucket) => found(bucket, path, S3Service::Aws { region }),
        None => by_path(path, S3Service::Aws { region }),
    }
}

/// The bucket and region of an AWS URL, also of a presigned one.
pub(super) fn aws_bucket(url: &HttpLocation) -> Option<(String, Option<String>)> {
    let (bucket, region) = aws_host(url.host())?;
    let by_path = || url.uri().path().strip_prefix('/')?.split('/').next();
    Some((bucket.or_else(by_path)?.to_owned(), region))
}

/// Bucket (of virtual-hosted style) and region that an S3 host of AWS names, or `None` for any other host.
///
/// `[BUCKET.]s3[.dualstack][.REGION].amazonaws.com[.cn]`, with `s3-REGION` in old URLs and `s3-accelerate`,
/// see "Methods for accessing a general purpose bucket" in the Amazon S3 User Guide.
fn aws_host(host: &str) -> Option<(Option<&str>, Option<String>)> {
    let name = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let labels: Vec<&str> = name.split('.').collect();
    // The last label of that form: the bucket's name may contain one too.
    let at = labels.iter().rposition(|label| *label == "s3" || label.starts_with("s3-"))?;
    let (before, after) = labels.split_at_checked(at)?;
    let (service, after) = after.split_first()?;
    let after = after.strip_prefix(&["dualstack"]).unwrap_or(after);
    let region = match (service.strip_prefix("s3-"), after) {
        (None | Some("accelerate"), []) => None,
        (None, [region]) => Some(*region),
        (Some(region), []) if !matches!(region, "website" | "fips") && !region.starts_with("website-") => {
            (region != "external-1").then_some(region)
        }
        _ => return None,
    };
    let bucket = host.get(..before.join(".").len()).filter(|bucket| !bucket.is_empty());
    Some((bucket, region.map(str::to_owned)))
}

#[cfg(all(test, feature = "s3"))]
mod tests;

//! Objects at `http(s)://` URLs as sources: public ones, presigned ones, and private ones of a store.

use std::sync::Arc;
use std::time::SystemTime;

use diskferry_core::{Error, ErrorKind, Result, Warning};

use super::remote::{RemoteObject, RenewUrl, Renewal, Shown, UrlOrigin, source_by_remote};
#[cfg(feature = "s3")]
use super::s3_source::S3Source;
#[cfg(feature = "s3")]
use crate::connection::s3_object;
use crate::connection::{Client, HttpLocation, Object, check_url};

/// An object at a URL, read by ranged GETs that are pinned to its ETag, or to its modification time if there is no ETag.
/// HEAD is never used, because presigned URLs refuse it.
#[derive(Debug)]
pub struct HttpSource {
    remote: RemoteObject,
}

impl HttpSource {
    /// Opens an `http(s)://` URL.
    ///
    /// - A URL that names an object under the client's endpoint or on AWS, as a store's console shows it, is read by signed
    ///   requests if there are credentials (feature `s3`). If these are refused, it is read as a public object.
    /// - Any other URL, and one with a query, is requested verbatim.
    /// - Redirects are followed while opening, within the scheme, and remembered.
    ///
    /// # Errors
    /// `usage` if `url` is not a URL, `source_expired` if a presigned one has expired, `source_no_ranges` if the server does
    /// not support ranged requests and the object is longer than 128 KiB, `region_mismatch`, and the other `source_*` codes.
    pub async fn open(client: &Client, url: &str) -> Result<Self> {
        Self::open_with(client, url, None).await
    }

    /// As [`open`](Self::open), with a way to get a fresh URL of the same object after this one has expired. The object at
    /// the fresh URL must have the identity of the first.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of `renew`.
    pub async fn open_renewing(client: &Client, url: &str, renew: RenewUrl) -> Result<Self> {
        Self::open_with(client, url, Some(renew)).await
    }

    #[cfg(not(feature = "s3"))]
    async fn open_with(client: &Client, url: &str, renew: Option<RenewUrl>) -> Result<Self> {
        Self::open_plain(client, HttpLocation::parse(url)?, renew).await
    }

    #[cfg(feature = "s3")]
    async fn open_with(client: &Client, url: &str, renew: Option<RenewUrl>) -> Result<Self> {
        let at = HttpLocation::parse(url)?;
        let is_forbidden = |error: &Error| error.kind() == ErrorKind::SourceForbidden;
        let verbatim = !client.headers().is_empty();
        let signed = match s3_object(&at, client.s3().endpoint()).filter(|_| !verbatim) {
            Some(object) if client.s3().has_credentials().await => {
                match S3Source::open_as(client, object, at.to_string()).await {
                    Ok(source) => return Ok(Self { remote: source.into_remote() }),
                    Err(error) if is_forbidden(&error) => Some(error),
                    Err(error) => return Err(error),
                }
            }
            _ => None,
        };
        match Self::open_plain(client, at, renew).await {
            // The refusal of the signed request is the informative one.
            Err(error) if is_forbidden(&error) => Err(signed.unwrap_or(error)),
            opened => opened,
        }
    }

    async fn open_plain(client: &Client, at: HttpLocation, renew: Option<RenewUrl>) -> Result<Self> {
        let shown = at.to_string();
        let mut warnings = Vec::new();
        let http = client.http().clone();
        http.check(&at).map_err(|error| error.context(&shown))?;
        let requests = check_url(client, &at, &mut warnings).await?;
        let over = at.expires().and_then(|end| SystemTime::now().duration_since(end).ok());
        if let (Some(over), None) = (over, &renew) {
            return Err(Error::new(
                ErrorKind::SourceExpired,
                format!("{shown}: the presigned URL expired {} s ago", over.as_secs()),
            )
            .hint("create a new one"));
        }
        let renewal = renew.map(|renew| Renewal::new(&http, UrlOrigin::Caller(renew)));
        let peer = format!("{}:{}", at.host(), at.port());
        let object = Object::Http { client: http, at: at.with_headers(Arc::clone(client.headers())) };
        let remote =
            RemoteObject::open(client, object, Shown { url: shown, peer }, renewal, warnings).await?;
        remote.meter().add_requests(requests);
        Ok(Self { remote })
    }

    /// Warnings about opening it: `region_unknown`, `source_expires_soon`, `source_unpinned`.
    pub fn warnings(&self) -> &[Warning] {
        self.remote.warnings()
    }
}

source_by_remote!(HttpSource);

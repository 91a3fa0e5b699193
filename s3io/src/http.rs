//! Objects behind `http(s)://` URLs as sources: public, presigned, or private ones of a store.

use std::time::SystemTime;

use diskferry_core::{Error, ErrorKind, Result, Warning};

use crate::answer::Object;
use crate::client::Client;
use crate::region;
use crate::remote::{Origin, Remote, Renew, Renewal, source_by_remote};
use crate::source::{S3Source, is_refusal};
use crate::url::HttpLocation;

/// What a URL names, read by ranged GETs that are pinned to its ETag (else its modification time). HEAD is never
/// used: presigned URLs refuse it.
#[derive(Debug)]
pub struct HttpSource {
    remote: Remote,
}

impl HttpSource {
    /// Opens an `http(s)://` URL.
    ///
    /// One that names an object under the client's endpoint or on AWS, as a store's console shows it, is signed
    /// where there are credentials; where these are refused it is tried as a public one. Any other, and one with a query,
    /// is asked for as it stands. Redirects are followed here, within the scheme, and remembered.
    ///
    /// # Errors
    /// `usage` where `url` is none, `source_expired` where a presigned one is over, `source_no_ranges` where the server
    /// answers no ranges and the object is longer than 128 KiB, `region_mismatch`, and the other `source_*` codes.
    pub async fn open(client: &Client, url: &str) -> Result<Self> {
        Self::open_with(client, url, None).await
    }

    /// As [`open`](Self::open), with a way to a fresh URL of the same object for when this one has expired. The
    /// fresh one is held to the identity of the first.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of `renew`.
    pub async fn open_renewing(client: &Client, url: &str, renew: Renew) -> Result<Self> {
        Self::open_with(client, url, Some(renew)).await
    }

    async fn open_with(client: &Client, url: &str, renew: Option<Renew>) -> Result<Self> {
        let at = HttpLocation::parse(url)?;
        let shown = at.to_string();
        let signed = match at.object(client.endpoint()) {
            Some(found) if client.has_credentials().await => {
                match S3Source::open_as(client, found, shown.clone()).await {
                    Ok(source) => return Ok(Self { remote: source.into_remote() }),
                    Err(error) if is_refusal(&error) => Some(error),
                    Err(error) => return Err(error),
                }
            }
            _ => None,
        };
        match Self::open_plain(client, at, shown, renew).await {
            // That the public may not read it either is no news.
            Err(error) if is_refusal(&error) => Err(signed.unwrap_or(error)),
            opened => opened,
        }
    }

    async fn open_plain(
        client: &Client,
        at: HttpLocation,
        shown: String,
        renew: Option<Renew>,
    ) -> Result<Self> {
        let mut warnings = Vec::new();
        let net = client.net().clone();
        net.check(&at).map_err(|error| error.context(&shown))?;
        let asked = region::check_url(client, &at, &mut warnings).await?;
        let over = at.expires().and_then(|end| SystemTime::now().duration_since(end).ok());
        if let (Some(over), None) = (over, &renew) {
            return Err(Error::new(
                ErrorKind::SourceExpired,
                format!("{shown}: the presigned URL has expired {} s ago", over.as_secs()),
            )
            .hint("have a new one made"));
        }
        let renewal = renew.map(|renew| Renewal::new(&net, Origin::Caller(renew)));
        let remote = Remote::open(client, Object::Plain { net, at }, shown, renewal, warnings).await?;
        remote.meter().asked(asked);
        Ok(Self { remote })
    }

    /// What was remarkable about opening it: `region_unknown`, `source_expires_soon`,
    /// `source_unpinned`.
    pub fn warnings(&self) -> &[Warning] {
        self.remote.warnings()
    }
}

source_by_remote!(HttpSource);

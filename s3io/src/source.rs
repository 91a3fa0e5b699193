//! Objects of an S3 store as sources.

use std::sync::Arc;

use diskferry_core::{BoxFuture, Error, ErrorKind, Gate, Result, SiblingName, Source, Warning};

use crate::answer::Object;
use crate::client::Client;
use crate::http::HttpSource;
use crate::region;
use crate::remote::{Remote, source_by_remote};
use crate::url::{Location, Place, S3Location, StoreObject};

/// An object, read by ranged GETs that are pinned to its ETag and version.
///
/// Opening is one request, which brings the first 128 KiB too: reads within these ask no more. Dropping a read's
/// future ends its request. Many reads may be under way; how many requests are, see
/// [`ClientOptions::connections`](crate::ClientOptions::connections).
#[derive(Debug)]
pub struct S3Source {
    remote: Remote,
}

impl S3Source {
    /// Opens `s3://bucket/key[?versionId=ID]`.
    ///
    /// # Errors
    /// `usage` where `url` is none of that form, `region_mismatch` where the client requires a region, and the
    /// `source_*` codes.
    pub async fn open(client: &Client, url: &str) -> Result<Self> {
        let object = S3Location::parse(url)?;
        let shown = object.to_string();
        Self::open_as(client, StoreObject { object, place: Place::Endpoint }, shown).await
    }

    /// Opens an object and shows it as `shown`.
    pub(crate) async fn open_as(client: &Client, found: StoreObject, shown: String) -> Result<Self> {
        let s3 = client.s3_at(&found.place);
        let mut warnings = Vec::new();
        let asked = region::check_object(client, &s3, &found.object, &found.place, &mut warnings).await?;
        let remote =
            Remote::open(client, Object::S3 { client: s3, at: found.object }, shown, None, warnings).await?;
        remote.meter().asked(asked);
        Ok(Self { remote })
    }

    pub(crate) fn of(remote: Remote) -> Self {
        Self { remote }
    }

    pub(crate) fn into_remote(self) -> Remote {
        self.remote
    }

    /// What was remarkable about opening it: `region_unknown`, `source_unpinned`.
    pub fn warnings(&self) -> &[Warning] {
        self.remote.warnings()
    }
}

source_by_remote!(S3Source);

/// Opens what lies beside an object: plain names under the same prefix of the same bucket.
#[derive(Clone, Debug)]
pub struct S3Gate {
    client: Client,
    beside: S3Location,
}

impl S3Gate {
    /// The gate to the siblings of the object `s3://bucket/key`.
    ///
    /// # Errors
    /// `usage` where `url` is none of that form.
    pub fn beside(client: &Client, url: &str) -> Result<Self> {
        Ok(Self { client: client.clone(), beside: S3Location::parse(url)? })
    }
}

impl Gate for S3Gate {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let object = self.beside.sibling(name.as_str());
        Box::pin(async move {
            let shown = object.to_string();
            let found = StoreObject { object, place: Place::Endpoint };
            Ok(Arc::new(S3Source::open_as(&self.client, found, shown).await?) as Arc<dyn Source>)
        })
    }
}

/// A source that was opened by its URL, with what was remarkable about it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The source.
    pub source: Arc<dyn Source>,
    /// `region_unknown`, `source_expires_soon`, `source_unpinned`.
    pub warnings: Vec<Warning>,
}

/// Opens `s3://` and `http(s)://` URLs.
///
/// # Errors
/// As [`S3Source::open`] and [`HttpSource::open`].
pub async fn open_source(client: &Client, url: &str) -> Result<Opened> {
    match Location::parse(url)? {
        Location::S3(_) => {
            let source = S3Source::open(client, url).await?;
            let warnings = source.warnings().to_vec();
            Ok(Opened { source: Arc::new(source), warnings })
        }
        Location::Http(_) => {
            let source = HttpSource::open(client, url).await?;
            let warnings = source.warnings().to_vec();
            Ok(Opened { source: Arc::new(source), warnings })
        }
    }
}

/// True for an error that another way to the same object may not meet.
pub(crate) fn is_refusal(error: &Error) -> bool {
    error.kind() == ErrorKind::SourceForbidden
}

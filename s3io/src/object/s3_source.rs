//! Objects of an S3 store as sources.

use std::sync::Arc;

use diskferry_core::{BoxFuture, Gate, Result, SiblingName, Source, Warning};

use super::remote::{RemoteObject, Shown, source_by_remote};
use crate::connection::{Client, Object, S3Location, S3Object, S3Service, check_object};

/// An object, read by ranged GETs that are pinned to its ETag and version.
///
/// Opening takes one request, which also fetches the first 128 KiB; reads within these send no request. Dropping the
/// future of a read ends its request. Reads may be concurrent; for the number of requests in flight see
/// [`ClientOptions::connections`](crate::ClientOptions::connections).
#[derive(Debug)]
pub struct S3Source {
    remote: RemoteObject,
}

impl S3Source {
    /// Opens `s3://bucket/key[?versionId=ID]`.
    ///
    /// # Errors
    /// `usage` if `url` does not have that form, `region_mismatch` if the client requires another region, and the
    /// `source_*` codes.
    pub async fn open(client: &Client, url: &str) -> Result<Self> {
        let location = S3Location::parse(url)?;
        let shown = location.to_string();
        Self::open_as(client, S3Object { location, service: S3Service::Configured }, shown).await
    }

    /// Opens an object and shows it as `shown`.
    pub(super) async fn open_as(client: &Client, object: S3Object, shown: String) -> Result<Self> {
        let s3 = client.s3().client_for(&object.service);
        let mut warnings = Vec::new();
        let requests = check_object(client, &s3, &object, &mut warnings).await?;
        let peer = client.s3().peer(&object.service);
        let object = Object::S3 { client: s3, at: object.location };
        let remote = RemoteObject::open(client, object, Shown { url: shown, peer }, None, warnings).await?;
        remote.meter().add_requests(requests);
        Ok(Self { remote })
    }

    pub(super) fn into_remote(self) -> RemoteObject {
        self.remote
    }

    /// Warnings about opening it: `region_unknown`, `source_unpinned`.
    pub fn warnings(&self) -> &[Warning] {
        self.remote.warnings()
    }
}

impl From<RemoteObject> for S3Source {
    fn from(remote: RemoteObject) -> Self {
        Self { remote }
    }
}

source_by_remote!(S3Source);

/// Opens the siblings of an object: plain names under the same prefix of the same bucket.
#[derive(Clone, Debug)]
pub struct S3Gate {
    client: Client,
    beside: S3Location,
}

impl S3Gate {
    /// The gate to the siblings of the object `s3://bucket/key`.
    ///
    /// # Errors
    /// `usage` if `url` does not have that form.
    pub fn beside(client: &Client, url: &str) -> Result<Self> {
        Ok(Self { client: client.clone(), beside: S3Location::parse(url)? })
    }
}

impl Gate for S3Gate {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let location = self.beside.sibling(name.as_str());
        Box::pin(async move {
            let shown = location.to_string();
            let object = S3Object { location, service: S3Service::Configured };
            Ok(Arc::new(S3Source::open_as(&self.client, object, shown).await?) as Arc<dyn Source>)
        })
    }
}

//! The client: connections, credentials and options, shared by all sources and targets of a program.

use std::fmt;
use std::sync::Arc;

use diskferry_core::Result;

use super::http_client::HttpClient;
use super::options::ClientOptions;
#[cfg(feature = "s3")]
use super::s3_client::S3Access;

/// Opens sources and writes targets. Cheap to clone; clones share connections and credentials.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    /// For plain URLs.
    http: HttpClient,
    #[cfg(feature = "s3")]
    s3: S3Access,
}

impl Client {
    /// Reads the SDK's environment and files. Sends no request: credentials are looked up when they are first needed.
    ///
    /// # Errors
    /// `usage` if the endpoint is not a URL, or contains a user or a query.
    // Without S3 there is nothing to wait for.
    #[cfg_attr(
        not(feature = "s3"),
        expect(clippy::unused_async, reason = "the same signature with and without S3")
    )]
    pub async fn new(options: ClientOptions) -> Result<Self> {
        let http = HttpClient::new(false)?;
        #[cfg(feature = "s3")]
        let s3 = S3Access::load(&options, &http).await?;
        let http = if options.public_only { HttpClient::new(true)? } else { http };
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                http,
                #[cfg(feature = "s3")]
                s3,
            }),
        })
    }

    /// The options that it was created with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Waits until every [`S3Sink`](crate::S3Sink) of this client that was dropped unfinished has aborted its upload.
    ///
    /// Dropping a sink starts the abort but cannot wait for it. Sinks in use are not waited for. Without this call, a
    /// program that ends right after such a drop, or that drops the client's last clone, may leave parts in the bucket
    /// until a lifecycle rule removes them.
    #[cfg(feature = "s3")]
    pub async fn settle(&self) {
        self.inner.s3.background().settle().await;
    }

    /// The client for plain URLs.
    pub(crate) fn http(&self) -> &HttpClient {
        &self.inner.http
    }

    #[cfg(feature = "s3")]
    pub(crate) fn s3(&self) -> &S3Access {
        &self.inner.s3
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

//! The client: connections, credentials and options, shared by all sources and targets of a program.

use std::fmt;
use std::sync::Arc;

use diskferry_core::{Error, ErrorKind, Result};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::http_client::{HttpClient, HttpSettings};
use super::options::ClientOptions;
#[cfg(feature = "s3")]
use super::s3_client::{S3Access, aws_bundle};
use super::tls::{Bundle, ClientCertificate, Trust};

/// Opens sources and writes targets. Cheap to clone; clones share connections and credentials.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    /// For plain URLs.
    http: HttpClient,
    /// Further headers for the host and port of a plain URL.
    headers: Arc<HeaderMap>,
    #[cfg(feature = "s3")]
    s3: S3Access,
}

impl Client {
    /// Reads the SDK's environment and files. Sends no request: credentials are looked up when they are first needed.
    ///
    /// # Errors
    /// `usage` if the endpoint is not a URL, or contains a user or a query; if a file of certificates or a header
    /// cannot be used.
    // Without S3 there is nothing to wait for.
    #[cfg_attr(
        not(feature = "s3"),
        expect(clippy::unused_async, reason = "the same signature with and without S3")
    )]
    pub async fn new(options: ClientOptions) -> Result<Self> {
        let own_certificate = own_certificate(&options)?;
        let headers = Arc::new(further_headers(&options)?);
        let bundle =
            options.ca_bundle.clone().map(|path| Bundle { named_by: "the file of --ca-bundle", path });
        #[cfg(feature = "s3")]
        let (bundle, s3) = {
            let bundle = match bundle {
                None => aws_bundle().await,
                given => given,
            };
            let trust = Trust { bundle: bundle.clone(), system_too: false };
            let http = HttpClient::new(&HttpSettings {
                trust,
                direct: !options.proxies,
                ..HttpSettings::default()
            })?;
            (bundle, S3Access::load(&options, &http).await?)
        };
        let trust = Trust { bundle, system_too: options.ca_bundle.is_none() };
        let http = HttpClient::new(&HttpSettings {
            public_only: options.public_only,
            direct: !options.proxies,
            trust,
            own_certificate,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                http,
                headers,
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

    /// Further headers for the host and port of a plain URL.
    pub(crate) fn headers(&self) -> &Arc<HeaderMap> {
        &self.inner.headers
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

fn own_certificate(options: &ClientOptions) -> Result<Option<ClientCertificate>> {
    match (&options.client_certificate, &options.client_key) {
        (None, None) => Ok(None),
        (Some(certificate), key) => Ok(Some(ClientCertificate {
            certificate: certificate.clone(),
            key: key.as_ref().unwrap_or(certificate).clone(),
        })),
        (None, Some(_)) => Err(Error::new(ErrorKind::Usage, "a client key without its certificate")
            .hint("add --client-cert FILE")),
    }
}

/// The headers of the options, checked. No message repeats a value.
fn further_headers(options: &ClientOptions) -> Result<HeaderMap> {
    /// Reading depends on these, or they belong to the connection.
    const OWN: [HeaderName; 12] = [
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::ACCEPT_ENCODING,
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::PROXY_AUTHORIZATION,
    ];
    let mut headers = HeaderMap::new();
    for (index, (name, value)) in (1..).zip(&options.headers) {
        let usage = |why: String| Error::new(ErrorKind::Usage, why).hint("give each header as 'Name: value'");
        let name = HeaderName::try_from(name.trim())
            .map_err(|_| usage(format!("the name of header {index} is not a header's name")))?;
        if OWN.contains(&name) {
            return Err(usage(format!("the header {name} cannot be set: diskferry sets it itself")));
        }
        let mut value = HeaderValue::try_from(value.trim()).map_err(|_| {
            usage(format!("the value of the header {name} contains a character that is not allowed"))
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

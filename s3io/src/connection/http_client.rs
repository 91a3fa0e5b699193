//! The HTTP client: one for the SDK and for plain URLs, so that there is one TLS stack and one kind of connection pool.
//!
//! It speaks HTTP/1.1 only, with keep-alive: many connections transfer more than one connection with many streams, and
//! each range has its own. Idle connections are closed before the services close them, which is after about five seconds.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use http::Uri;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connector::Connector;
use super::proxy::{Proxies, ProxyError, host_port};
use super::public_address::{NotPublic, is_public};
use super::tls::{self, ClientCertificate, Trust};
use super::url::HttpLocation;

/// An idle connection is closed after this time: S3 closes it after about five seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request or a response.
pub(crate) type HttpBody = BoxBody<Bytes, BoxError>;

/// A body without bytes.
pub(crate) fn empty_body() -> HttpBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// How connections are made.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpSettings {
    /// Connects to public addresses only, see [`is_public`].
    pub(super) public_only: bool,
    /// Ignores the proxies of the environment.
    pub(super) direct: bool,
    pub(super) trust: Trust,
    pub(super) own_certificate: Option<ClientCertificate>,
}

/// Sends requests. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Arc<legacy::Client<HttpsConnector<Connector>, HttpBody>>,
    connector: Arc<Connector>,
    public_only: bool,
}

impl HttpClient {
    /// A client without restrictions that trusts the system's certificates.
    #[cfg(test)]
    pub(crate) fn unrestricted() -> Result<Self> {
        Self::new(&HttpSettings::default())
    }

    /// Reads the certificates, and the proxies of the environment.
    ///
    /// # Errors
    /// `usage` if certificates that were named cannot be used.
    pub(super) fn new(settings: &HttpSettings) -> Result<Self> {
        let for_server = tls::client_config(&settings.trust, settings.own_certificate.as_ref())?;
        let for_proxy = match settings.own_certificate {
            Some(_) => tls::client_config(&settings.trust, None)?,
            None => for_server.clone(),
        };
        let proxies = if settings.direct { Proxies::default() } else { Proxies::from_env() };
        let connector = Connector::new(Arc::new(proxies), for_proxy, settings.public_only);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(for_server)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector.clone());
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self {
            client: Arc::new(client),
            connector: Arc::new(connector),
            public_only: settings.public_only,
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If there is no response of the server.
    pub(crate) async fn send(
        &self,
        mut request: http::Request<HttpBody>,
    ) -> Result<http::Response<Incoming>, NoResponse> {
        let uri = request.uri().clone();
        // In a tunnel, CONNECT has the authorization.
        let proxy = self.connector.proxy_for(&uri).filter(|_| uri.scheme_str() == Some("http"));
        if let Some(Ok(url)) = proxy.map(|proxy| &proxy.url)
            && let Some(authorization) = &url.authorization
        {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization.clone());
        }
        let response = self.client.request(request).await;
        let response = response.map_err(|error| NoResponse::new(&uri, error.into()))?;
        // No server but a proxy sends this status.
        if let (407, Some(proxy)) = (response.status().as_u16(), proxy) {
            let refused = ProxyError::Refused {
                proxy: proxy.shown(),
                variable: proxy.variable,
                target: host_port(&uri),
                status: 407,
            };
            return Err(NoResponse::new(&uri, refused.into()));
        }
        Ok(response)
    }

    /// Sends a GET without a body.
    pub(crate) async fn get(
        &self,
        at: &HttpLocation,
        headers: http::HeaderMap,
    ) -> Result<http::Response<HttpBody>, NoResponse> {
        let mut request = http::Request::new(empty_body());
        *request.uri_mut() = at.uri().clone();
        *request.headers_mut() = headers;
        if let Some(user) = at.user_info() {
            let value = format!("Basic {}", STANDARD.encode(user));
            if let Ok(mut value) = http::HeaderValue::try_from(value) {
                value.set_sensitive(true);
                request.headers_mut().insert(http::header::AUTHORIZATION, value);
            }
        }
        for (name, value) in at.headers() {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(self.send(request).await?.map(|body| body.map_err(Into::into).boxed()))
    }

    /// Refuses a URL whose host is written as an address that is not public: such a host is never resolved.
    ///
    /// # Errors
    /// `source_forbidden`.
    pub(crate) fn check(&self, at: &HttpLocation) -> Result<()> {
        match at.host().parse::<IpAddr>() {
            Ok(address) if self.public_only && !is_public(address) => {
                Err(Error::new(ErrorKind::SourceForbidden, NotPublic.to_string()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("public_only", &self.public_only).finish_non_exhaustive()
    }
}

/// A request that got no response.
#[derive(Debug)]
pub(crate) struct NoResponse {
    /// Host and port.
    target: String,
    cause: BoxError,
}

impl NoResponse {
    fn new(uri: &Uri, cause: BoxError) -> Self {
        Self { target: host_port(uri), cause }
    }

    /// Host and port.
    pub(super) fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not respond", self.target)
    }
}

impl std::error::Error for NoResponse {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

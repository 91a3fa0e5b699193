//! The HTTP client: one for the SDK and for plain URLs, so that there is one TLS stack and one kind of connection pool.
//!
//! It speaks HTTP/1.1 only, with keep-alive: many connections transfer more than one connection with many streams, and
//! each range has its own. Idle connections are closed before the services close them, which is after about five seconds.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::public_address::{NotPublic, is_public};
use super::url::HttpLocation;

/// Longest time to make one TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is closed after this time: S3 closes it after about five seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request or a response.
pub(crate) type HttpBody = BoxBody<Bytes, BoxError>;

/// A body without bytes.
pub(crate) fn empty_body() -> HttpBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Sends requests. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Arc<legacy::Client<HttpsConnector<HttpConnector<Resolver>>, HttpBody>>,
    public_only: bool,
}

impl HttpClient {
    /// `public_only`: connects to public addresses only, see [`is_public`].
    pub(crate) fn new(public_only: bool) -> Result<Self> {
        let failed = |error: &dyn fmt::Display| Error::internal(format!("TLS cannot be set up: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = || {
            rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
        };
        let tls = match tls().map_err(|error| failed(&error))?.with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            // This system has no certificates: plain HTTP still works, and every TLS handshake fails.
            Err(error) => {
                tracing::warn!(%error, "no trusted certificates found");
                let tls = tls().map_err(|error| failed(&error))?;
                tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            }
        };
        let mut http = HttpConnector::new_with_resolver(Resolver { inner: GaiResolver::new(), public_only });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self { client: Arc::new(client), public_only })
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: http::Request<HttpBody>) -> legacy::ResponseFuture {
        self.client.request(request)
    }

    /// Sends a GET without a body.
    pub(crate) async fn get(
        &self,
        at: &HttpLocation,
        headers: http::HeaderMap,
    ) -> Result<http::Response<HttpBody>, legacy::Error> {
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

/// Resolves names by the system, and leaves out addresses that are not public if required.
#[derive(Clone)]
struct Resolver {
    inner: GaiResolver,
    public_only: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (found, public_only) = (self.inner.call(name), self.public_only);
        Box::pin(async move {
            let mut found: Vec<SocketAddr> = found.await?.collect();
            if public_only {
                found.retain(|address| is_public(address.ip()));
                if found.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, NotPublic));
                }
            }
            Ok(found.into_iter())
        })
    }
}

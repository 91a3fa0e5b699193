//! The HTTP client: one for the SDK and for plain URLs, so that there is one TLS stack and one connection pool.
//!
//! HTTP/1.1 only, kept alive: many connections carry more than one with many streams does, and each range has its
//! own. Idle connections are given up before the services' own five seconds are over.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector as SmithyConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use diskferry_core::{Error, ErrorKind, Result};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use crate::sent::{Counted, Sent};
use crate::url::{HttpLocation, is_public};

/// Longest time for one TCP connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// An idle connection is closed after so long: S3 closes it after about five seconds.
const IDLE: Duration = Duration::from_secs(4);

/// Sends requests. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub(crate) struct Net {
    client: Arc<legacy::Client<HttpsConnector<HttpConnector<Resolver>>, SdkBody>>,
    public_only: bool,
}

impl Net {
    /// `public_only`: connects to no address that is not public, see [`is_public`].
    pub(crate) fn new(public_only: bool) -> Result<Self> {
        let failed = |error: &dyn fmt::Display| Error::internal(format!("TLS cannot be set up: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = || {
            rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
        };
        let tls = match tls().map_err(|error| failed(&error))?.with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            // No certificates on this system: plain HTTP still works, and every TLS handshake is refused.
            Err(error) => {
                tracing::warn!(%error, "no trusted certificates found");
                let tls = tls().map_err(|error| failed(&error))?;
                tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            }
        };
        let mut http = HttpConnector::new_with_resolver(Resolver { inner: GaiResolver::new(), public_only });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self { client: Arc::new(client), public_only })
    }

    /// Sends a GET without a body.
    pub(crate) async fn get(
        &self,
        at: &HttpLocation,
        headers: http::HeaderMap,
    ) -> Result<http::Response<SdkBody>, legacy::Error> {
        let mut request = http::Request::new(SdkBody::empty());
        *request.uri_mut() = at.uri().clone();
        *request.headers_mut() = headers;
        if let Some(user) = at.user_info() {
            let value = format!("Basic {}", aws_smithy_types::base64::encode(user));
            if let Ok(mut value) = http::HeaderValue::try_from(value) {
                value.set_sensitive(true);
                request.headers_mut().insert(http::header::AUTHORIZATION, value);
            }
        }
        Ok(self.client.request(request).await?.map(SdkBody::from_body_1_x))
    }

    /// Refuses a URL whose host is written as an address that is not public: such a one is never resolved.
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

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("public_only", &self.public_only).finish_non_exhaustive()
    }
}

impl HttpClient for Net {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The time for reading is set by those who ask an address that may not exist, such as for instance metadata.
        let whole = settings.read_timeout().map(|read| read + settings.connect_timeout().unwrap_or_default());
        SharedHttpConnector::new(ForSdk { net: self.clone(), whole })
    }
}

/// The client as the SDK wants it: with a limit on the time to an answer's headers.
#[derive(Debug)]
struct ForSdk {
    net: Net,
    whole: Option<Duration>,
}

impl SmithyConnector for ForSdk {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, whole) = (Arc::clone(&self.net.client), self.whole);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = match request.extensions().get::<Sent>().cloned() {
                Some(sent) => request.map(|body| SdkBody::from_body_1_x(Counted::new(body, sent))),
                None => request,
            };
            let answer = client.request(request);
            let answer = match whole {
                Some(limit) => tokio::time::timeout(limit, answer)
                    .await
                    .map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?,
                None => answer.await,
            };
            let answer = answer.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Resolves names by the system, and leaves out what is not public where asked to.
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

/// Why a host is not connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host's address is not a public one, and only such are connected to here")
    }
}

impl std::error::Error for NotPublic {}

/// The causes of an error in one line, without those that only repeat the one before.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The first cause of that type, `error` itself included.
pub(crate) fn cause<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        error.downcast_ref::<T>().or_else(|| inner.and_then(|inner| inner.downcast_ref::<T>()))
    })
}

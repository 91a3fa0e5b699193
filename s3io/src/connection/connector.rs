//! Connections: direct ones, and those through a proxy.
//!
//! ```text
//! http://  direct                TCP ─────────────────────▶ server
//! http://  through a proxy       TCP ──▶ proxy (requests in absolute form)
//! https:// through a proxy       TCP ──▶ proxy ═ CONNECT ══▶ server, TLS inside
//! ```
//!
//! TLS with the server is made on top of this, by `hyper_rustls`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::header::{self, HeaderValue};
use http::uri::Scheme;
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::error_chain::root_cause;
use super::http_client::BoxError;
use super::proxy::{Proxies, Proxy, ProxyError, bare, host_port};
use super::public_address::{NotPublic, is_public};

/// Longest time to make one TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until a proxy has made a tunnel: it resolves the name and connects itself.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(20);

type Socket = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Connects to servers, through a proxy if the environment says so.
#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpConnector<Resolver>,
    to_proxy: HttpsConnector<HttpConnector<Resolver>>,
    proxies: Arc<Proxies>,
    resolver: Resolver,
}

impl Connector {
    /// `tls`: for proxies that are reached by TLS. `public_only`: connects to servers at public addresses only.
    pub(super) fn new(proxies: Arc<Proxies>, tls: rustls::ClientConfig, public_only: bool) -> Self {
        let resolver = |public_only| Resolver { inner: GaiResolver::new(), public_only };
        let tcp = |resolver| {
            let mut tcp = HttpConnector::new_with_resolver(resolver);
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
            tcp
        };
        Self {
            direct: tcp(resolver(public_only)),
            // The operator chose the proxy; its address is usually private.
            to_proxy: HttpsConnector::from((tcp(resolver(false)), tls)),
            proxies,
            resolver: resolver(public_only),
        }
    }

    /// The proxy for requests to that URI.
    ///
    /// A proxy resolves the names in requests that are not tunnelled. Where addresses are checked here, such requests
    /// go directly.
    pub(super) fn proxy_for(&self, uri: &Uri) -> Option<&Proxy> {
        let tunnelled = uri.scheme() == Some(&Scheme::HTTPS);
        self.proxies.for_uri(uri).filter(|_| tunnelled || !self.resolver.public_only)
    }

    async fn connect(mut self, uri: Uri) -> Result<ServerStream, BoxError> {
        let Some(proxy) = self.proxy_for(&uri).cloned() else {
            let stream = self.direct.call(uri).await?;
            return Ok(ServerStream { stream: MaybeHttpsStream::Http(stream), by_proxy: false });
        };
        let variable = proxy.variable;
        let url = proxy.url.clone().map_err(|why| ProxyError::Unusable { variable, why })?;
        let tunnelled = uri.scheme() == Some(&Scheme::HTTPS);
        // Before the proxy is troubled.
        let authority = if tunnelled { self.authority(&uri).await? } else { String::new() };
        let unreachable = |error: BoxError| ProxyError::Unreachable {
            proxy: proxy.shown(),
            variable,
            cause: root_cause(&*error).to_string(),
        };
        let stream = self.to_proxy.call(url.uri).await.map_err(unreachable)?;
        if !tunnelled {
            return Ok(ServerStream { stream, by_proxy: true });
        }
        let tunnel = tunnel(stream, &authority, url.authorization);
        let broken = |cause| ProxyError::Broken { proxy: proxy.shown(), variable, cause };
        match tokio::time::timeout(TUNNEL_TIMEOUT, tunnel).await {
            Ok(Ok(Ok(stream))) => Ok(ServerStream { stream, by_proxy: false }),
            Ok(Ok(Err(status))) => {
                let target = host_port(&uri);
                Err(ProxyError::Refused { proxy: proxy.shown(), variable, target, status }.into())
            }
            Ok(Err(error)) => Err(broken(root_cause(&*error).to_string()).into()),
            Err(_) => Err(broken(format!("no response in {} s", TUNNEL_TIMEOUT.as_secs())).into()),
        }
    }

    /// What CONNECT names: the host of the URI, or its checked address.
    async fn authority(&mut self, uri: &Uri) -> Result<String, BoxError> {
        let host = uri.host().unwrap_or_default();
        // Addresses in a URL are checked before.
        if !self.resolver.public_only || bare(host).parse::<std::net::IpAddr>().is_ok() {
            return Ok(host_port(uri));
        }
        let found = self.resolver.call(host.parse()?).await?.next();
        let mut address = found.ok_or_else(|| io::Error::other("the name has no address"))?;
        address.set_port(uri.port_u16().unwrap_or(443));
        Ok(address.to_string())
    }
}

impl Service<Uri> for Connector {
    type Response = ServerStream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ServerStream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Asks the proxy for a tunnel to `authority`. Returns the status if it refuses.
async fn tunnel(
    stream: Socket,
    authority: &str,
    authorization: Option<HeaderValue>,
) -> Result<Result<Socket, u16>, BoxError> {
    let (mut requests, connection) = hyper::client::conn::http1::handshake(stream).await?;
    // It ends with the tunnel, or with `requests`.
    tokio::spawn(connection.with_upgrades());
    let mut request = http::Request::connect(authority)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("diskferry/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    if let Some(authorization) = authorization {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
    }
    let response = requests.send_request(request).await?;
    if !response.status().is_success() {
        return Ok(Err(response.status().as_u16()));
    }
    let upgraded = hyper::upgrade::on(response).await?;
    let parts = upgraded.downcast::<Socket>().map_err(|_| io::Error::other("another stream came back"))?;
    // A TLS server waits for its client: whatever came is not from it.
    if !parts.read_buf.is_empty() {
        return Err("data follows its response to CONNECT".into());
    }
    Ok(Ok(parts.io))
}

/// A connection to a server, or to the proxy that requests to it are sent to.
pub(super) struct ServerStream {
    stream: Socket,
    /// Requests name the whole URL.
    by_proxy: bool,
}

impl Connection for ServerStream {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.by_proxy)
    }
}

impl Read for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

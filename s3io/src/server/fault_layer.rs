//! The layer in front of the store: logs, delays, and injects faults by rule.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::backing_store::BackingStore;
use super::exchange::{Exchange, Fault, Log, Request, Rule, note};
use super::fault_connection::{BodySource, Cut, FaultConnection, Link, ShapedBody};
use super::options::ServerOptions;

/// Forwards requests to the store, and applies faults to its responses.
pub(super) struct FaultLayer {
    root: PathBuf,
    store: BackingStore,
    public: bool,
    region: Option<String>,
    pub(super) link: Arc<Link>,
    pub(super) rule: RwLock<Arc<Rule>>,
    pub(super) log: Arc<Log>,
    requests: AtomicU64,
    /// Every request is refused with status 503.
    pub(super) unavailable: AtomicBool,
    /// A response is of one object, not partly of another that replaced it meanwhile.
    replacing: tokio::sync::RwLock<()>,
}

type Response = http::Response<ShapedBody>;

impl FaultLayer {
    pub(super) fn new(root: &Path, options: ServerOptions) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            store: BackingStore::new(root)?,
            public: options.public,
            region: options.region,
            link: Arc::new(Link::new(options.shape)),
            rule: RwLock::new(Arc::new(|_| Vec::new())),
            log: Arc::default(),
            requests: AtomicU64::new(0),
            unavailable: AtomicBool::new(false),
            replacing: tokio::sync::RwLock::new(()),
        })
    }

    pub(super) async fn respond(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        connection: Arc<FaultConnection>,
    ) -> Result<Response, s3s::HttpError> {
        let seen = self.log_request(&request, &connection);
        let rule = Arc::clone(&self.rule.read().unwrap_or_else(PoisonError::into_inner));
        let mut faults = rule(&seen);
        if self.unavailable.load(Ordering::Relaxed) {
            faults = vec![Fault::Status(503)];
        }
        let delays = faults.iter().filter_map(|fault| match fault {
            Fault::Delay(delay) => Some(*delay),
            _ => None,
        });
        let latency = delays.fold(self.link.shape().latency, std::time::Duration::saturating_add);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        for fault in &faults {
            if let Fault::Replace(by) = fault {
                let _alone = self.replacing.write().await;
                // If there is no such file, the test that set the fault fails.
                let _moved = std::fs::rename(by, self.root.join(&seen.object));
            }
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let unreplaced = if reads { Some(self.replacing.read().await) } else { None };
        let mut response = match faults.iter().find_map(refusal) {
            Some(refusal) => {
                // A client that is refused in the middle of a body may never see why.
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.frame().await {}
                refusal
            }
            None => {
                self.forward(request.map(s3s::Body::from), &seen, faults.contains(&Fault::IgnoreRange))
                    .await?
            }
        };
        let file = self.file(&seen, &response);
        drop(unreplaced);
        for fault in &faults {
            if let Fault::Body(body) = fault {
                // The length is that of the new one.
                response.headers_mut().remove(header::CONTENT_LENGTH);
                *response.body_mut() = s3s::Body::from(body.clone());
            }
        }
        let (mut cut, mut flip, mut hangup) = (None, None, false);
        for fault in &faults {
            match fault {
                Fault::Header(name, value) => set(&mut response, name, value),
                Fault::Without(name) => drop(response.headers_mut().remove(*name)),
                Fault::Truncate(at) => cut = Some((*at, Cut::Close)),
                Fault::Reset(at) => cut = Some((*at, Cut::Reset)),
                Fault::Stall(at) => cut = Some((*at, Cut::Silence)),
                Fault::Flip(at) => flip = Some(*at),
                Fault::Hangup => hangup = true,
                _ => {}
            }
        }
        if let Some(region) = &self.region {
            set(&mut response, "x-amz-bucket-region", region);
        }
        let status = response.status().as_u16();
        note(&self.log, seen.number, |exchange| exchange.status = status);
        let log = (Arc::clone(&self.log), seen.number);
        Ok(response.map(|body| ShapedBody {
            inner: file.unwrap_or(BodySource::Store(body)),
            link: Arc::clone(&self.link),
            connection,
            log,
            cut,
            flip,
            hangup,
            sent: 0,
            flushed: false,
            pending: Bytes::new(),
            next: None,
        }))
    }

    /// The object's file, at the bytes that the response promises, if the response is a plain one.
    fn file(&self, seen: &Request, response: &http::Response<s3s::Body>) -> Option<BodySource> {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if seen.method != "GET" || !response.status().is_success() || seen.upload_id.is_some() {
            return None;
        }
        let path = self.root.join(&seen.object);
        let len = path.metadata().ok().filter(|meta| meta.is_file())?.len();
        let (at, end) = match (response.status(), header("content-range")) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) => {
                let (first, last) = range.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
                (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?)
            }
            (StatusCode::OK, None) => (0, len),
            _ => return None,
        };
        let promised: u64 = header("content-length")?.parse().ok()?;
        let sound = end <= len && end.checked_sub(at) == Some(promised);
        sound.then(|| Some(BodySource::File { file: std::fs::File::open(path).ok()?, at, end })).flatten()
    }

    /// Logs a request.
    fn log_request(&self, request: &http::Request<Incoming>, connection: &FaultConnection) -> Request {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let range = header("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        let parameter = |name: &str| {
            request.uri().query().unwrap_or_default().split('&').find_map(|pair| {
                let value = pair.strip_prefix(name)?.strip_prefix('=')?;
                Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
            })
        };
        let path = request.uri().path().trim_start_matches('/');
        let query = request.uri().query().unwrap_or_default();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Request {
            number: self.requests.fetch_add(1, Ordering::Relaxed),
            method: request.method().to_string(),
            object: percent_decode_str(path).decode_utf8_lossy().into_owned(),
            range,
            if_match: header("if-match").map(str::to_owned),
            version_id: parameter("versionId"),
            if_none_match: header("if-none-match").map(str::to_owned),
            upload_id: parameter("uploadId"),
            part: parameter("partNumber").and_then(|number| number.parse().ok()),
            body: header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default(),
            checksum: ["crc32", "algorithm"]
                .into_iter()
                .find_map(|name| Some(format!("{name}={}", header(&format!("x-amz-checksum-{name}"))?))),
            signed: request.headers().contains_key(header::AUTHORIZATION)
                || query.contains("X-Amz-Signature="),
        };
        log.push(Exchange {
            request: seen.clone(),
            status: 0,
            sent: 0,
            over: false,
            connection: connection.number,
        });
        seen
    }

    /// Forwards a request to the store.
    async fn forward(
        &self,
        mut request: http::Request<s3s::Body>,
        seen: &Request,
        ignore_range: bool,
    ) -> Result<http::Response<s3s::Body>, s3s::HttpError> {
        if ignore_range {
            // The signature covers the range: neither is forwarded.
            request.headers_mut().remove(header::RANGE);
            request.headers_mut().remove(header::AUTHORIZATION);
            if let Ok(path) = request.uri().path().parse() {
                *request.uri_mut() = path;
            }
            return self.store.open.call(request).await;
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let open = self.public && !seen.signed && reads;
        if open { self.store.open.call(request).await } else { self.store.signed.call(request).await }
    }
}

fn refusal(fault: &Fault) -> Option<http::Response<s3s::Body>> {
    let (status, body) = match fault {
        Fault::Status(status) => (*status, String::new()),
        Fault::Refuse(status, code, message) => {
            (*status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
        }
        Fault::Redirect(_) => (307, String::new()),
        Fault::Respond(status, body) => (*status, body.clone()),
        _ => return None,
    };
    let mut response = http::Response::new(s3s::Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Fault::Redirect(to) = fault {
        set(&mut response, "location", to);
    }
    Some(response)
}

fn set(response: &mut http::Response<s3s::Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

//! The layer in front of the store: counts, delays and breaks by rule.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::line::{Connection, Content, Cut, Lines, Shaped};
use super::{Log, Rule, ServerOptions, Store};

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Request {
    /// Counted from 0 since the server started, in the order that they came in.
    pub number: u64,
    /// `GET`, `PUT`, …
    pub method: String,
    /// `bucket/key`, decoded.
    pub object: String,
    /// The first and last byte of the range asked for.
    pub range: Option<(u64, u64)>,
    /// The `If-Match` header.
    pub if_match: Option<String>,
    /// The version asked for.
    pub version_id: Option<String>,
    /// It was signed, in a header or in its query.
    pub signed: bool,
    /// The `If-None-Match` header.
    pub if_none_match: Option<String>,
    /// The upload that it is about.
    pub upload_id: Option<String>,
    /// The part that it brings, counted from 1.
    pub part: Option<u32>,
    /// Length of its body in bytes, as its header says.
    pub body: u64,
    /// The checksum that it states or names, `crc32=…` or `algorithm=CRC32`, as its headers say.
    pub checksum: Option<String>,
}

/// What was asked, and how it was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Exchange {
    /// What was asked.
    pub request: Request,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the answer's body that were sent so far.
    pub sent: u64,
    /// Nothing more is sent: the answer is whole, was cut, or its client went away.
    pub over: bool,
    /// The connection it came on, counted from 0.
    pub connection: u64,
}

/// What is done to an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// This status and an empty body; the store is not asked.
    Status(u16),
    /// This status and S3's error document with this code and message; the store is not asked.
    Refuse(u16, &'static str, &'static str),
    /// A redirect with status 307 to this URL; the store is not asked.
    Redirect(String),
    /// The range asked for is ignored: the whole is sent. Signatures are not checked.
    IgnoreRange,
    /// A header is set in the answer.
    Header(&'static str, String),
    /// A header is left out of the answer.
    Without(&'static str),
    /// The connection is closed after so many bytes of the body.
    Truncate(u64),
    /// The connection is reset after so many bytes of the body.
    Reset(u64),
    /// Nothing comes after so many bytes of the body, and the connection stays.
    Stall(u64),
    /// The answer waits so long before its first byte.
    Delay(std::time::Duration),
    /// The answer is whole, and then the connection is closed, which nothing announced.
    Hangup,
    /// One bit of this byte of the body is another one.
    Flip(u64),
    /// Before it is answered, the object is replaced by this file, which is moved there.
    Replace(PathBuf),
}

pub(super) struct Layer {
    root: PathBuf,
    store: Store,
    public: bool,
    region: Option<String>,
    pub(super) lines: Lines,
    pub(super) rule: RwLock<Arc<Rule>>,
    pub(super) log: Arc<Log>,
    requests: AtomicU64,
    /// An answer is of one object, not of two that took each other's place meanwhile.
    replacing: tokio::sync::RwLock<()>,
}

type Response = http::Response<Shaped>;

impl Layer {
    pub(super) fn new(root: &Path, options: ServerOptions) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            store: Store::new(root)?,
            public: options.public,
            region: options.region,
            lines: Lines::new(options.shape),
            rule: RwLock::new(Arc::new(|_| Vec::new())),
            log: Arc::default(),
            requests: AtomicU64::new(0),
            replacing: tokio::sync::RwLock::new(()),
        })
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Result<Response, s3s::HttpError> {
        let seen = self.enter(&request, &connection);
        let rule = Arc::clone(&self.rule.read().unwrap_or_else(PoisonError::into_inner));
        let faults = rule(&seen);
        let delays = faults.iter().filter_map(|fault| match fault {
            Fault::Delay(delay) => Some(*delay),
            _ => None,
        });
        let latency = delays.fold(self.lines.shape().latency, std::time::Duration::saturating_add);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        for fault in &faults {
            if let Fault::Replace(by) = fault {
                let _alone = self.replacing.write().await;
                // Where there is nothing to replace it by, the test that asked for it fails.
                let _moved = std::fs::rename(by, self.root.join(&seen.object));
            }
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let whole = if reads { Some(self.replacing.read().await) } else { None };
        let mut response = match faults.iter().find_map(refusal) {
            Some(refusal) => {
                // Whoever is refused in the middle of a body may never see why.
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
        drop(whole);
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
        Ok(response.map(|body| Shaped {
            inner: file.unwrap_or(Content::Store(body)),
            layer: self,
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

    /// The object's file, at the bytes that the answer promises, where that is plain.
    fn file(&self, seen: &Request, response: &http::Response<s3s::Body>) -> Option<Content> {
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
        sound.then(|| Some(Content::File { file: std::fs::File::open(path).ok()?, at, end })).flatten()
    }

    /// Notes a request.
    fn enter(&self, request: &http::Request<Incoming>, connection: &Connection) -> Request {
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

    /// Asks the store.
    async fn forward(
        &self,
        mut request: http::Request<s3s::Body>,
        seen: &Request,
        ignore_range: bool,
    ) -> Result<http::Response<s3s::Body>, s3s::HttpError> {
        if ignore_range {
            // The signature covers the range: neither is passed on.
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

/// Changes what is noted of a request, unless it was forgotten.
pub(super) fn note(log: &Log, number: u64, change: impl FnOnce(&mut Exchange)) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(exchange) = log.iter_mut().rev().find(|exchange| exchange.request.number == number) {
        change(exchange);
    }
}

fn refusal(fault: &Fault) -> Option<http::Response<s3s::Body>> {
    let (status, body) = match fault {
        Fault::Status(status) => (*status, String::new()),
        Fault::Refuse(status, code, message) => {
            (*status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
        }
        Fault::Redirect(_) => (307, String::new()),
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

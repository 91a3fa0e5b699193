//! A stored object that is read over a network: opened by one GET, and pinned to its identity.
//!
//! ```text
//! open:  GET bytes=0-131071 ──▶ length, identity and head in one round trip
//! read:  see [`range`](super::range)
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use diskferry_core::internal::covering;
use diskferry_core::{
    BoxFuture, Capabilities, Error, ErrorKind, HeadTail, Identity, Result, StoredOffset, StoredRange,
    Traffic, Warning,
};
use http_body_util::BodyExt;

use super::hedge::Hedging;
use super::meter::Meter;
#[cfg(feature = "s3")]
use super::object_checksum::ObjectChecksum;
use super::part_size::request_bytes;
#[cfg(feature = "s3")]
use crate::concurrency::TABLE_BYTES;
use crate::concurrency::{ConcurrencyLimit, DEFAULT_REQUEST_BYTES};
#[cfg(feature = "s3")]
use crate::connection::{Checksum, in_region};
use crate::connection::{
    Client, Failure, HttpClient, HttpLocation, LastProgress, Object, ObjectLength, PinnedIdentity,
    RequestPurpose, Response, Retries, Timeouts, check_status, no_ranges, object_length, reason,
};

/// Maximum number of redirects that are followed while opening.
const MAX_REDIRECTS: u32 = 5;

/// Returns a fresh URL of the same object when the one in use has expired, see
/// [`HttpSource::open_renewing`](crate::HttpSource::open_renewing).
pub type RenewUrl = Arc<dyn Fn() -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// An opened object, and the state of reading it.
pub(crate) struct RemoteObject {
    object: RwLock<Arc<Object>>,
    /// How to get a fresh URL when the one in use no longer works.
    renewal: Option<Renewal>,
    /// Redirects that may still be followed: none after opening, some after a renewal.
    pub(super) redirects: AtomicU32,
    shown: Shown,
    len: u64,
    pub(super) pin: PinnedIdentity,
    identity: Identity,
    head: Bytes,
    pub(super) timeouts: Timeouts,
    /// When any of its requests last brought bytes.
    pub(super) progress: LastProgress,
    pub(super) concurrency: ConcurrencyLimit,
    pub(super) hedging: Hedging,
    meter: Meter,
    #[cfg(feature = "s3")]
    checksum: ObjectChecksum,
    /// Best length of a request; requests start at its multiples.
    request_bytes: u64,
    warnings: Vec<Warning>,
}

/// How an object is named in messages.
pub(crate) struct Shown {
    /// The URL, without secrets.
    pub(crate) url: String,
    /// The host and port that are connected to.
    pub(crate) peer: String,
}

/// How to get a fresh URL of the object.
pub(crate) struct Renewal {
    http: HttpClient,
    origin: UrlOrigin,
    /// Held while one reader renews; the others wait and use its URL.
    busy: tokio::sync::Mutex<()>,
}

pub(crate) enum UrlOrigin {
    /// The embedder creates fresh ones.
    Caller(RenewUrl),
    /// The server redirected from this URL, and may redirect to a fresh one.
    Redirect(HttpLocation),
}

impl Renewal {
    pub(super) fn new(http: &HttpClient, origin: UrlOrigin) -> Self {
        Self { http: http.clone(), origin, busy: tokio::sync::Mutex::new(()) }
    }
}

impl RemoteObject {
    /// Opens `object`, shown as `shown`: requests its head, and takes length and identity from the response.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn open(
        client: &Client,
        object: Object,
        shown: Shown,
        renewal: Option<Renewal>,
        warnings: Vec<Warning>,
    ) -> Result<Self> {
        let options = client.options();
        let mut remote = Self {
            object: RwLock::new(Arc::new(object)),
            renewal,
            redirects: AtomicU32::new(MAX_REDIRECTS),
            shown,
            len: 0,
            pin: PinnedIdentity::default(),
            identity: Identity::default(),
            head: Bytes::new(),
            timeouts: Timeouts::new(options),
            progress: LastProgress::default(),
            concurrency: ConcurrencyLimit::reading(options.connections),
            hedging: Hedging::default(),
            meter: Meter::default(),
            #[cfg(feature = "s3")]
            checksum: ObjectChecksum::new(options.checksum != Checksum::Off),
            request_bytes: DEFAULT_REQUEST_BYTES,
            warnings,
        };
        let response = remote.first_response().await?;
        remote.pin = response.identity.clone();
        remote.identity = {
            let mut identity = Identity::default();
            identity.etag = response.identity.etag.clone();
            identity.version_id = response.identity.version_id.clone();
            identity
        };
        match object_length(&response).map_err(|error| remote.named(error))? {
            ObjectLength::Known(len) => {
                remote.len = len;
                remote.head =
                    remote.fetch(StoredRange::first(len.min(HeadTail::HEAD)), Some(response)).await?;
            }
            ObjectLength::Unstated => {
                // A short object may come without its length; it must then end within the head.
                let head = remote.read_to_end(response).await?;
                remote.len = head.len() as u64;
                remote.head = head;
            }
        }
        #[cfg(feature = "s3")]
        remote.checksum.note(0, &remote.head);
        remote.request_bytes = request_bytes(remote.identity.etag.as_deref(), remote.len);
        *remote.redirects.get_mut() = 0;
        if remote.pin.etag.is_none() && remote.pin.last_modified.is_none() && remote.len > HeadTail::HEAD {
            remote.warnings.push(Warning::new(
                "source_unpinned",
                "the server states neither an ETag nor a modification time: if the object is replaced while it is read, only a change of its length is noticed",
            ));
        }
        remote.warn_if_expiring();
        tracing::debug!(url = %remote.url(), len = remote.len, etag = ?remote.identity.etag, "opened");
        Ok(remote)
    }

    /// The response to the request for the head, after redirects, renewals and retries.
    async fn first_response(&mut self) -> Result<Response> {
        let mut retries = Retries::reading(self.timeouts);
        let mut renewed = false;
        #[cfg(feature = "s3")]
        let mut moved = false;
        let mut range = Some((0, HeadTail::HEAD - 1));
        loop {
            let object = self.object();
            // The version in the URL, if there is one, is part of the object.
            let any = PinnedIdentity::default();
            let failure = match self.request(&object, range, &any, retries.limit()).await {
                Ok(response) => match (&*object, response.status) {
                    (Object::Http { client, at }, _) if response.redirect.is_some() => {
                        // Needed when the URL that it leads to no longer works.
                        if self.renewal.is_none() {
                            self.renewal = Some(Renewal::new(client, UrlOrigin::Redirect(at.clone())));
                        }
                        self.follow(&object, &response).map_err(|error| self.named(error))?;
                        continue;
                    }
                    #[cfg(feature = "s3")]
                    (Object::S3 { client, at }, 301 | 307 | 400)
                        if !moved && let Some(region) = other_region(client, &response) =>
                    {
                        moved = true;
                        tracing::debug!(region, "the bucket is in another region");
                        self.replace(Object::S3 { client: in_region(client, region), at: at.clone() });
                        continue;
                    }
                    // An empty object has no range: it is requested as a whole.
                    (_, 416) if range.is_some() => {
                        range = None;
                        continue;
                    }
                    _ => match check_status(&response, RequestPurpose::Open) {
                        Ok(()) => return Ok(response),
                        Err(failure) => failure,
                    },
                },
                Err(failure) => failure,
            };
            let failure = expired(failure, &object);
            match self.renewal_for(&failure) {
                Some(renewal) if !renewed => {
                    renewed = true;
                    self.renew(renewal, &object).await?;
                }
                _ => self.wait(&mut retries, failure).await?,
            }
        }
    }

    /// Sends one request, with a limit on the time to its response.
    async fn request(
        &self,
        object: &Object,
        range: Option<(u64, u64)>,
        pin: &PinnedIdentity,
        limit: Duration,
    ) -> Result<Response, Failure> {
        tokio::time::timeout(limit, self.get(object, range, pin))
            .await
            .map_err(|_| Failure::transient(format!("no response in {:.1} s", limit.as_secs_f64())))?
    }

    /// Sends one request.
    pub(super) async fn get(
        &self,
        object: &Object,
        range: Option<(u64, u64)>,
        pin: &PinnedIdentity,
    ) -> Result<Response, Failure> {
        self.meter.add_requests(1);
        let started = Instant::now();
        let response = object.get(range, pin).await?;
        let latency = started.elapsed();
        crate::metrics::first_byte(latency);
        self.meter.record_latency(latency);
        Ok(response)
    }

    /// The body of a response of unstated length, if it ends within the head.
    async fn read_to_end(&self, response: Response) -> Result<Bytes> {
        let mut got = BytesMut::new();
        let mut body = response.body;
        let read = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    let why = reason(&*error);
                    Error::new(ErrorKind::SourceUnavailable, format!("the response broke off: {why}"))
                })?;
                // A frame without data has trailers.
                let bytes = frame.into_data().unwrap_or_default();
                self.meter.add_bytes(bytes.len());
                got.extend_from_slice(&bytes);
                if got.len() as u64 > HeadTail::HEAD {
                    return Err(no_ranges("the whole object, without saying how long it is"));
                }
            }
            Ok(())
        };
        tokio::time::timeout(self.timeouts.stall, read)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::SourceUnavailable,
                    "the response, of unstated length, does not end",
                ))
            })
            .map_err(|error| self.named(error))?;
        Ok(got.freeze())
    }

    /// Waits before the next try, or returns the error if no try is left.
    pub(super) async fn wait(&self, retries: &mut Retries, failure: Failure) -> Result<()> {
        let wait = retries.next_wait(failure).map_err(|error| self.named(self.with_peer(error)))?;
        self.meter.add_retry();
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Continues at the URL that the response redirects to, unless another reader has done so already.
    pub(super) fn follow(&self, from: &Arc<Object>, response: &Response) -> Result<()> {
        let (Some((client, at)), Some(to)) = (from.as_http(), &response.redirect) else { return Ok(()) };
        if !Arc::ptr_eq(from, &self.object()) {
            return Ok(());
        }
        let less = |left: u32| left.checked_sub(1);
        if self.redirects.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            let why = format!("the server redirects more than {MAX_REDIRECTS} times");
            return Err(Error::new(ErrorKind::SourceUnavailable, why).retry(false));
        }
        let to = at.redirected(to)?;
        client.check(&to)?;
        tracing::debug!(%to, "redirected");
        self.replace(Object::Http { client: client.clone(), at: to });
        Ok(())
    }

    /// The renewal, if it may help after that failure: the URL has expired, or it was redirected to and is forbidden.
    /// Servers differ in how they say that such a URL is no longer valid.
    pub(super) fn renewal_for(&self, failure: &Failure) -> Option<&Renewal> {
        let renewal = self.renewal.as_ref()?;
        let helps = match failure {
            Failure::Expired(_) => true,
            Failure::Fatal(error) => {
                error.kind() == ErrorKind::SourceForbidden && matches!(renewal.origin, UrlOrigin::Redirect(_))
            }
            _ => false,
        };
        helps.then_some(renewal)
    }

    /// Replaces the URL of `stale` by a fresh one, unless another reader has done so already.
    pub(super) async fn renew(&self, renewal: &Renewal, stale: &Arc<Object>) -> Result<()> {
        let _alone = renewal.busy.lock().await;
        if !Arc::ptr_eq(stale, &self.object()) {
            return Ok(());
        }
        tracing::debug!(url = %self.url(), "renewing the URL");
        let at = match &renewal.origin {
            UrlOrigin::Caller(renew) => {
                let fresh = renew().await.map_err(|error| self.named(error))?;
                HttpLocation::parse(&fresh).map_err(|error| self.named(error))?
            }
            UrlOrigin::Redirect(at) => at.clone(),
        };
        renewal.http.check(&at)?;
        self.redirects.store(MAX_REDIRECTS, Ordering::Relaxed);
        self.replace(Object::Http { client: renewal.http.clone(), at });
        self.meter.add_retry();
        Ok(())
    }

    pub(super) fn object(&self) -> Arc<Object> {
        Arc::clone(&self.object.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, object: Object) {
        *self.object.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(object);
    }

    /// Warns if the URL may expire before the object is read.
    fn warn_if_expiring(&mut self) {
        /// Bytes per second that a conversion reads at least.
        const MIN_RATE: u64 = 20_000_000;
        const MARGIN: u64 = 300;
        let object = self.object();
        let Some(end) = object.as_http().and_then(|(_, at)| at.expires()) else { return };
        // No time is left after the end.
        let rest = end.duration_since(SystemTime::now()).unwrap_or_default();
        let needed = Duration::from_secs(self.len / MIN_RATE + MARGIN);
        if rest < needed && self.renewal.is_none() {
            self.warnings.push(Warning::new(
                "source_expires_soon",
                format!(
                    "the presigned URL is valid for {} s more, and reading {} bytes may take longer",
                    rest.as_secs(),
                    self.len
                ),
            ));
        }
    }

    /// An error of the connection, with host and port.
    fn with_peer(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::SourceUnavailable {
            return error;
        }
        // After a redirect it is another one.
        let peer = match self.object().as_http() {
            Some((_, at)) => format!("{}:{}", at.host(), at.port()),
            None => self.shown.peer.clone(),
        };
        // Errors of TLS and of proxies name it already.
        if error.message().contains(&peer) { error } else { error.context(peer) }
    }

    /// The error with the object's name in front.
    fn named(&self, error: Error) -> Error {
        error.context(self.url())
    }

    pub(super) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn url(&self) -> &str {
        &self.shown.url
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .request_bytes(self.request_bytes)
            .gap_bytes(self.meter.gap_bytes())
            // Fewer after the service throttled requests.
            .in_flight(self.concurrency.limit())
            .remote(true)
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    /// The bytes of a range within the object. The head is in memory.
    pub(super) async fn read(&self, range: StoredRange) -> Result<Bytes> {
        let in_head = |offset: StoredOffset| {
            usize::try_from(offset.get()).ok().filter(|offset| *offset <= self.head.len())
        };
        if let (Some(start), Some(end)) = (in_head(range.start()), in_head(range.end())) {
            return Ok(self.head.slice(start..end));
        }
        let (bytes, ()) = tokio::join!(self.fetch(range, None), self.fetch_checksum(range));
        bytes.inspect(|bytes| self.note_checksum(range, bytes))
    }

    /// The bytes of several ranges within the object, by one request.
    pub(super) async fn read_parts(
        &self,
        parts: &[StoredRange],
        give: &mut (dyn FnMut(usize, Bytes) + Send),
    ) -> Result<()> {
        let Some(all) = covering(parts) else { return Ok(()) };
        let mut note = |index: usize, bytes: Bytes| {
            parts.get(index).into_iter().for_each(|part| self.note_checksum(*part, &bytes));
            give(index, bytes);
        };
        tokio::join!(self.fetch_parts(all, parts, &mut note, None), self.fetch_checksum(all)).0
    }
}

/// Comparing the whole object with the checksum that the store has of it.
#[cfg(feature = "s3")]
impl RemoteObject {
    /// Before the first read of data, requests the store's checksum, if the whole object will be read. A short range is
    /// taken for a table.
    async fn fetch_checksum(&self, range: StoredRange) {
        if range.len() >= TABLE_BYTES && self.checksum.is_expected() {
            self.checksum.fetch(&self.object(), &self.pin, || self.meter.add_requests(1)).await;
        }
    }

    fn note_checksum(&self, range: StoredRange, bytes: &Bytes) {
        self.checksum.note(range.start().get(), bytes);
    }

    /// The whole object will be read.
    pub(super) fn expect_all(&self) {
        self.checksum.expect_all();
    }

    /// Compares what was read with the store's checksum. The identity was checked with each read.
    pub(super) fn verify(&self) -> Result<()> {
        match self.checksum.mismatch(self.len) {
            None => Ok(()),
            Some(what) => {
                let damaged = Error::new(ErrorKind::SourceChanged, what).retry(true);
                Err(self
                    .named(damaged.hint("start again; if it happens again, the stored object is damaged")))
            }
        }
    }
}

/// Plain HTTP has no checksum of a whole object.
#[cfg(not(feature = "s3"))]
#[expect(clippy::unused_self, clippy::unused_async, reason = "the same signatures as with S3")]
impl RemoteObject {
    async fn fetch_checksum(&self, _: StoredRange) {}

    fn note_checksum(&self, _: StoredRange, _: &Bytes) {}

    pub(super) fn expect_all(&self) {}

    pub(super) fn verify(&self) -> Result<()> {
        Ok(())
    }
}

/// The region that the store names, if it is not the one of the request.
#[cfg(feature = "s3")]
fn other_region<'a>(client: &aws_sdk_s3::Client, response: &'a Response) -> Option<&'a str> {
    let requested = client.config().region().map(AsRef::as_ref);
    response.region.as_deref().filter(|region| Some(*region) != requested)
}

/// Reports the refusal of a URL whose time is over as that, however the server describes it.
pub(super) fn expired(failure: Failure, object: &Object) -> Failure {
    let is_over = || {
        let end = object.as_http().and_then(|(_, at)| at.expires());
        end.is_some_and(|end| end <= SystemTime::now())
    };
    match failure {
        Failure::Fatal(error) if error.kind() == ErrorKind::SourceForbidden && is_over() => {
            Failure::Expired(Error::new(ErrorKind::SourceExpired, "the presigned URL has expired"))
        }
        failure => failure,
    }
}

impl std::fmt::Debug for RemoteObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteObject")
            .field("url", &self.shown.url)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Implements `Source` for a type with a field `remote`.
macro_rules! source_by_remote {
    ($type:ty) => {
        impl diskferry_core::Source for $type {
            fn url(&self) -> &str {
                self.remote.url()
            }

            fn len(&self) -> u64 {
                self.remote.len()
            }

            fn identity(&self) -> &diskferry_core::Identity {
                self.remote.identity()
            }

            fn capabilities(&self) -> diskferry_core::Capabilities {
                self.remote.capabilities()
            }

            fn traffic(&self) -> diskferry_core::Traffic {
                self.remote.traffic()
            }

            fn read(
                &self,
                range: diskferry_core::StoredRange,
            ) -> diskferry_core::BoxFuture<'_, diskferry_core::Result<bytes::Bytes>> {
                Box::pin(async move {
                    diskferry_core::internal::check_range(self, range)?;
                    self.remote.read(range).await
                })
            }

            fn read_parts<'a>(
                &'a self,
                parts: &'a [diskferry_core::StoredRange],
                give: &'a mut (dyn FnMut(usize, bytes::Bytes) + Send),
            ) -> diskferry_core::BoxFuture<'a, diskferry_core::Result<()>> {
                Box::pin(async move {
                    for part in parts {
                        diskferry_core::internal::check_range(self, *part)?;
                    }
                    self.remote.read_parts(parts, give).await
                })
            }

            fn expect_all(&self) {
                self.remote.expect_all();
            }

            /// Objects have no holes.
            fn segments(
                &self,
                range: diskferry_core::StoredRange,
            ) -> diskferry_core::BoxFuture<'_, diskferry_core::Result<Vec<diskferry_core::Segment>>> {
                let segment = diskferry_core::Segment { range, hole: false };
                Box::pin(async move { Ok(if range.is_empty() { Vec::new() } else { vec![segment] }) })
            }

            fn verify(&self) -> diskferry_core::BoxFuture<'_, diskferry_core::Result<()>> {
                Box::pin(async { self.remote.verify() })
            }
        }
    };
}
pub(super) use source_by_remote;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_the_end_of_a_url_means_that_it_has_expired() {
        let refused = |url: &str| {
            let at = HttpLocation::parse(url).unwrap();
            let object = Object::Http { client: HttpClient::unrestricted().unwrap(), at };
            expired(Failure::Fatal(Error::new(ErrorKind::SourceForbidden, "no")), &object)
        };
        let over = refused("https://h/k?sig=x&se=2013-05-24T00:00:00Z");
        assert!(matches!(over, Failure::Expired(error) if error.kind() == ErrorKind::SourceExpired));
        for url in ["https://h/k?sig=x&se=2999-05-24T00:00:00Z", "https://h/k"] {
            assert!(matches!(refused(url), Failure::Fatal(_)), "{url}");
        }
    }
}

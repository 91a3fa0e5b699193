//! A stored object that is read over a network: opened by one GET, pinned, its ranges resumed.
//!
//! ```text
//! open:  GET bytes=0-131071 ──▶ length, identity and head in one round trip
//! read:  see [`range`](crate::range)
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

use crate::answer::{Answer, Object, Pin};
use crate::client::{Checksum, Client, in_region};
use crate::concurrency::{ConcurrencyLimit, TABLE};
use crate::hedge::Hedges;
use crate::judge;
use crate::meter::Meter;
use crate::net::Net;
use crate::parted;
use crate::retry::{Failure, Patience, Tries};
use crate::url::HttpLocation;
use crate::whole::Whole;

/// Redirects followed while opening.
const REDIRECTS: u32 = 5;

/// Gives a fresh URL of the same object when the one in use has expired: see
/// [`HttpSource::open_renewing`](crate::HttpSource::open_renewing).
pub type Renew = Arc<dyn Fn() -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// The object, and what reading it takes.
pub(crate) struct Remote {
    object: RwLock<Arc<Object>>,
    /// How to get at the object again when its URL no longer works.
    renewal: Option<Renewal>,
    /// Redirects that may be followed yet: none after opening, some after a renewal.
    pub(crate) redirects: AtomicU32,
    shown: String,
    len: u64,
    pub(crate) pin: Pin,
    identity: Identity,
    head: Bytes,
    pub(crate) patience: Patience,
    pub(crate) concurrency: ConcurrencyLimit,
    pub(crate) hedges: Hedges,
    meter: Meter,
    whole: Whole,
    /// Best length of a request, and where requests are cut.
    request: u64,
    warnings: Vec<Warning>,
}

/// Where a URL comes from that works again.
pub(crate) struct Renewal {
    pub(crate) net: Net,
    pub(crate) from: Origin,
    /// Held while one reader renews: the others wait and use what it got.
    pub(crate) busy: tokio::sync::Mutex<()>,
}

pub(crate) enum Origin {
    /// The embedder makes fresh ones.
    Caller(Renew),
    /// The server redirected to it, and may redirect to a fresh one.
    Redirect(HttpLocation),
}

impl Renewal {
    pub(crate) fn new(net: &Net, from: Origin) -> Self {
        Self { net: net.clone(), from, busy: tokio::sync::Mutex::new(()) }
    }
}

impl Remote {
    /// Opens `object`, shown as `shown`: asks for its head and learns length and identity from the answer.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn open(
        client: &Client,
        object: Object,
        shown: String,
        renewal: Option<Renewal>,
        warnings: Vec<Warning>,
    ) -> Result<Self> {
        let options = client.options();
        let mut remote = Self {
            object: RwLock::new(Arc::new(object)),
            renewal,
            redirects: AtomicU32::new(REDIRECTS),
            shown,
            len: 0,
            pin: Pin::default(),
            identity: Identity::default(),
            head: Bytes::new(),
            patience: Patience::new(options),
            concurrency: ConcurrencyLimit::reading(options.connections),
            hedges: Hedges::default(),
            meter: Meter::default(),
            whole: Whole::new(options.checksum != Checksum::Off),
            request: parted::REQUEST,
            warnings,
        };
        let answer = remote.first_answer().await?;
        remote.pin = answer.pin.clone();
        remote.identity = {
            let mut identity = Identity::default();
            identity.etag = answer.pin.etag.clone();
            identity.version_id = answer.pin.version_id.clone();
            identity
        };
        match judge::opening(&answer).map_err(|error| remote.named(error))? {
            judge::Opened::Length(len) => {
                remote.len = len;
                remote.head = remote.fetch(StoredRange::first(len.min(HeadTail::HEAD)), Some(answer)).await?;
            }
            judge::Opened::Unstated => {
                // A short object may come without its length; it must then end within the head.
                let head = remote.unstated(answer).await?;
                remote.len = head.len() as u64;
                remote.head = head;
            }
        }
        remote.whole.note(0, &remote.head);
        remote.request = parted::request_bytes(remote.identity.etag.as_deref(), remote.len);
        *remote.redirects.get_mut() = 0;
        if remote.pin.etag.is_none() && remote.pin.last_modified.is_none() && remote.len > HeadTail::HEAD {
            remote.warnings.push(Warning::new(
                "source_unpinned",
                "the server states neither an ETag nor a modification time: that the object is replaced while it is read would be noticed by its length alone",
            ));
        }
        remote.expires_soon();
        tracing::debug!(url = %remote.shown, len = remote.len, etag = ?remote.identity.etag, "opened");
        Ok(remote)
    }

    /// The answer to the request for the head: after redirects, renewals and retries.
    async fn first_answer(&mut self) -> Result<Answer> {
        let mut tries = Tries::new(self.patience);
        let (mut regions, mut renewals) = (0, 0);
        let mut range = Some((0, HeadTail::HEAD - 1));
        loop {
            let object = self.object();
            let version = match &*object {
                Object::S3 { at, .. } => at.version_id.clone(),
                Object::Plain { .. } => None,
            };
            let pin = Pin { version_id: version, ..Pin::default() };
            let failure = match self.ask(&object, range, &pin).await {
                Ok(answer) => match (&*object, answer.status) {
                    (Object::Plain { net, at }, _) if answer.redirect.is_some() => {
                        // Kept for when the place that it leads to no longer works.
                        if self.renewal.is_none() {
                            self.renewal = Some(Renewal::new(net, Origin::Redirect(at.clone())));
                        }
                        self.follow(&object, &answer).map_err(|error| self.named(error))?;
                        continue;
                    }
                    (Object::S3 { client, at }, 301 | 307 | 400)
                        if regions == 0 && elsewhere(client, &answer).is_some() =>
                    {
                        regions += 1;
                        let region = elsewhere(client, &answer).unwrap_or_default();
                        tracing::debug!(region, "the bucket is in another region");
                        self.replace(Object::S3 { client: in_region(client, region), at: at.clone() });
                        continue;
                    }
                    // Nothing to range over: asked for as a whole, an empty object says what it is.
                    (_, 416) if range.is_some() => {
                        range = None;
                        continue;
                    }
                    _ => match judge::status(&answer, judge::Phase::Opening) {
                        Ok(()) => return Ok(answer),
                        Err(failure) => failure,
                    },
                },
                Err(failure) => failure,
            };
            let failure = expired(failure, &object);
            match self.renewal_for(&failure) {
                Some(renewal) if renewals == 0 => {
                    renewals += 1;
                    self.renew(renewal, &object).await?;
                }
                _ => self.wait(&mut tries, failure).await?,
            }
        }
    }

    /// Sends one request, and waits for its headers no longer than is sensible.
    async fn ask(&self, object: &Object, range: Option<(u64, u64)>, pin: &Pin) -> Result<Answer, Failure> {
        tokio::time::timeout(self.patience.silence, self.get(object, range, pin)).await.map_err(|_| {
            Failure::broken(format!("no answer in {:.1} s", self.patience.silence.as_secs_f64()))
        })?
    }

    /// Sends one request.
    pub(crate) async fn get(
        &self,
        object: &Object,
        range: Option<(u64, u64)>,
        pin: &Pin,
    ) -> Result<Answer, Failure> {
        self.meter.asked(1);
        let started = Instant::now();
        let answer = object.get(range, pin).await?;
        let latency = started.elapsed();
        crate::metrics::first_byte(latency);
        self.meter.measured(Some(latency), None);
        Ok(answer)
    }

    /// The whole of an answer that does not say how long it is, if it ends within the head.
    async fn unstated(&self, answer: Answer) -> Result<Bytes> {
        let mut got = BytesMut::new();
        let mut body = answer.body;
        let whole = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    let why = crate::net::causes(&*error);
                    Error::new(ErrorKind::SourceUnavailable, format!("the answer broke off: {why}"))
                })?;
                let bytes = frame.into_data().unwrap_or_default();
                self.meter.received(bytes.len());
                got.extend_from_slice(&bytes);
                if got.len() as u64 > HeadTail::HEAD {
                    return Err(judge::no_ranges("the whole object, without saying how long it is"));
                }
            }
            Ok(())
        };
        tokio::time::timeout(self.patience.stall, whole)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::SourceUnavailable, "the answer, of unstated length, does not end"))
            })
            .map_err(|error| self.named(error))?;
        Ok(got.freeze())
    }

    /// Waits before the next try, or says why there is none.
    pub(crate) async fn wait(&self, tries: &mut Tries, failure: Failure) -> Result<()> {
        let wait = tries.after(failure).map_err(|error| self.named(error))?;
        self.meter.asked_again();
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Goes on where the answer redirects to, unless another reader did so already.
    pub(crate) fn follow(&self, from: &Arc<Object>, answer: &Answer) -> Result<()> {
        let (Object::Plain { net, at }, Some(to)) = (&**from, &answer.redirect) else { return Ok(()) };
        if !Arc::ptr_eq(from, &self.object()) {
            return Ok(());
        }
        let less = |left: u32| left.checked_sub(1);
        if self.redirects.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            let why = format!("the server redirects more than {REDIRECTS} times");
            return Err(Error::new(ErrorKind::SourceUnavailable, why).retry(false));
        }
        let to = at.redirected(to)?;
        net.check(&to)?;
        tracing::debug!(%to, "redirected");
        self.replace(Object::Plain { net: net.clone(), at: to });
        Ok(())
    }

    /// What may help after that failure: a renewal where the URL has expired, and where it was redirected to,
    /// since servers differ in how they say that such a place is no longer valid.
    pub(crate) fn renewal_for(&self, failure: &Failure) -> Option<&Renewal> {
        let renewal = self.renewal.as_ref()?;
        let helps = match failure {
            Failure::Expired(_) => true,
            Failure::Fatal(error) => {
                error.kind() == ErrorKind::SourceForbidden && matches!(renewal.from, Origin::Redirect(_))
            }
            _ => false,
        };
        helps.then_some(renewal)
    }

    /// Puts a fresh URL in the place of `stale`, unless another reader did so already.
    pub(crate) async fn renew(&self, renewal: &Renewal, stale: &Arc<Object>) -> Result<()> {
        let _alone = renewal.busy.lock().await;
        if !Arc::ptr_eq(stale, &self.object()) {
            return Ok(());
        }
        tracing::debug!(url = %self.shown, "renewing the URL");
        let at = match &renewal.from {
            Origin::Caller(renew) => {
                let fresh = renew().await.map_err(|error| self.named(error))?;
                HttpLocation::parse(&fresh).map_err(|error| self.named(error))?
            }
            Origin::Redirect(at) => at.clone(),
        };
        renewal.net.check(&at)?;
        self.redirects.store(REDIRECTS, Ordering::Relaxed);
        self.replace(Object::Plain { net: renewal.net.clone(), at });
        self.meter.asked_again();
        Ok(())
    }

    pub(crate) fn object(&self) -> Arc<Object> {
        Arc::clone(&self.object.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, object: Object) {
        *self.object.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(object);
    }

    /// Warns where the right to read may end before the work does.
    fn expires_soon(&mut self) {
        /// What a conversion is sure to move in a second.
        const PACE: u64 = 20_000_000;
        const MARGIN: u64 = 300;
        let Object::Plain { at, .. } = &*self.object() else { return };
        let Some(rest) = at.expires().map(|at| at.duration_since(SystemTime::now()).unwrap_or_default())
        else {
            return;
        };
        let needed = Duration::from_secs((self.len / PACE).saturating_add(MARGIN));
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

    /// The error with the object's name in front.
    fn named(&self, error: Error) -> Error {
        judge::named(&self.shown, &error)
    }

    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn url(&self) -> &str {
        &self.shown
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(self.request).gap_bytes(self.meter.gap()).// Fewer after the service asked for less.
            in_flight(self.concurrency.limit()).remote(true)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    /// The bytes of a range within the object; those of the head from memory.
    pub(crate) async fn read(&self, range: StoredRange) -> Result<Bytes> {
        if StoredRange::between(StoredOffset::ZERO, StoredOffset::new(self.head.len() as u64)).contains(range)
        {
            let place = |offset: StoredOffset| usize::try_from(offset.get()).unwrap_or(usize::MAX);
            return Ok(self.head.slice(place(range.start())..place(range.end())));
        }
        let (bytes, ()) = tokio::join!(self.fetch(range, None), self.learn(range));
        bytes.inspect(|bytes| self.whole.note(range.start().get(), bytes))
    }

    /// The bytes of several ranges within the object, by one request.
    pub(crate) async fn read_parts(
        &self,
        parts: &[StoredRange],
        give: &mut (dyn FnMut(usize, Bytes) + Send),
    ) -> Result<()> {
        let Some(all) = covering(parts) else { return Ok(()) };
        let mut note = |index: usize, bytes: Bytes| {
            parts.get(index).into_iter().for_each(|part| self.whole.note(part.start().get(), &bytes));
            give(index, bytes);
        };
        tokio::join!(self.fetch_parts(all, parts, &mut note, None), self.learn(all)).0
    }

    /// Before the first read of data, asks for what the store keeps of the whole, if all of it is going to be read. A short
    /// range is taken for a table.
    async fn learn(&self, range: StoredRange) {
        if range.len() >= TABLE && self.whole.is_expected() {
            self.whole.learn(&self.object(), &self.pin, || self.meter.asked(1)).await;
        }
    }

    /// All of it is going to be read.
    pub(crate) fn expect_all(&self) {
        self.whole.expect();
    }

    /// Every read was held to the identity already. What all of them brought together is held to what the store keeps of
    /// the whole.
    pub(crate) fn verify(&self) -> Result<()> {
        match self.whole.differs(self.len) {
            None => Ok(()),
            Some(what) => {
                let damaged = Error::new(ErrorKind::SourceChanged, what).retry(true);
                Err(self.named(
                    damaged.hint("start again; where it is so once more, the stored object is damaged"),
                ))
            }
        }
    }
}

/// The region that the store names, where it is not the one that was asked.
fn elsewhere<'a>(client: &aws_sdk_s3::Client, answer: &'a Answer) -> Option<&'a str> {
    let asked = client.config().region().map(AsRef::as_ref);
    answer.region.as_deref().filter(|region| Some(*region) != asked)
}

/// A refusal of a URL whose time is over is that, whatever words the server has for it.
pub(crate) fn expired(failure: Failure, object: &Object) -> Failure {
    match (failure, object) {
        (Failure::Fatal(error), Object::Plain { at, .. })
            if error.kind() == ErrorKind::SourceForbidden
                && at.expires().is_some_and(|end| end <= SystemTime::now()) =>
        {
            Failure::Expired(Error::new(ErrorKind::SourceExpired, "the presigned URL has expired"))
        }
        (failure, _) => failure,
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("url", &self.shown).field("len", &self.len).finish_non_exhaustive()
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

            /// A store knows of no holes.
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
pub(crate) use source_by_remote;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_the_time_is_over_means_that_it_is_over() {
        let refused = |url: &str| {
            let at = HttpLocation::parse(url).unwrap();
            let object = Object::Plain { net: Net::new(false).unwrap(), at };
            expired(Failure::Fatal(Error::new(ErrorKind::SourceForbidden, "no")), &object)
        };
        let over = refused("https://h/k?sig=x&se=2013-05-24T00:00:00Z");
        assert!(matches!(over, Failure::Expired(error) if error.kind() == ErrorKind::SourceExpired));
        for url in ["https://h/k?sig=x&se=2999-05-24T00:00:00Z", "https://h/k"] {
            assert!(matches!(refused(url), Failure::Fatal(_)), "{url}");
        }
    }
}

//! Reading one range of an object: resumed if a response breaks off, requested a second time if it is stuck.
//!
//! ```text
//! permit ──▶ GET, If-Match ──▶ check the response ──▶ body into a buffer for each part
//!     ▲                                │ stuck: a second GET from the byte reached; the first to deliver continues
//!     │                                │ broken, silent, short
//!     └── wait (full jitter), from the byte reached ◀┘
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use diskferry_core::internal::PartsBuffer;
use diskferry_core::{Error, Result, StoredRange};
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug_span};

use super::remote::{RemoteObject, expired};
use crate::concurrency::Permit;
use crate::connection::{
    Failure, HttpBody, Object, RequestPurpose, RequestedRange, Response, Retries, body_length, check_status,
    reason,
};

/// A response whose body is being read.
struct OpenBody {
    body: HttpBody,
    /// Length of the whole body, and what has not been received yet.
    promised: u64,
    missing: u64,
    since: Instant,
}

/// How long a response may take.
#[derive(Clone, Copy)]
struct Patience {
    /// The range is stuck after this time without a byte.
    threshold: Duration,
    /// The try fails after this time without a byte.
    silence: Duration,
    /// The time that is left until the stall timeout.
    left: Duration,
}

/// The next bytes, and the body that they are of; `None` if the response was a redirect.
type NextBytes = Option<(OpenBody, Bytes)>;

/// Bytes `start..end` of the object while they are fetched, and the parts that they are for.
struct FetchState<'a> {
    start: u64,
    end: u64,
    got: PartsBuffer<'a>,
    retries: Retries,
}

impl FetchState<'_> {
    /// The first byte that is missing.
    fn reached(&self) -> Result<u64, Error> {
        let reached = self.start.checked_add(self.got.filled());
        reached.ok_or_else(|| Error::internal("a range ends beyond 64 bits"))
    }

    /// Whether all bytes are there.
    fn is_complete(&self) -> Result<bool, Error> {
        Ok(self.reached()? >= self.end)
    }

    /// The range to request, of an object of `len` bytes.
    fn missing(&self, len: u64) -> Result<RequestedRange, Failure> {
        let first = self.reached().map_err(Failure::Fatal)?;
        let last = self.end.checked_sub(1).filter(|last| first <= *last);
        let last = last.ok_or_else(|| Failure::Fatal(Error::internal("an empty range is requested")))?;
        Ok(RequestedRange { first, last, len })
    }
}

impl RemoteObject {
    /// The bytes of `range`. `first` is a response whose body begins at its start, if there is one already.
    pub(super) async fn fetch(&self, range: StoredRange, first: Option<Response>) -> Result<Bytes> {
        let mut all = Bytes::new();
        if !range.is_empty() {
            self.fetch_parts(range, &[range], &mut |_, bytes| all = bytes, first).await?;
        }
        Ok(all)
    }

    /// Requests `range`, and gives each of its `parts` as soon as its last byte was received.
    pub(super) async fn fetch_parts(
        &self,
        range: StoredRange,
        parts: &[StoredRange],
        give: &mut (dyn FnMut(usize, Bytes) + Send),
        mut first: Option<Response>,
    ) -> Result<()> {
        let (start, end) = (range.start().get(), range.end().get());
        let span = debug_span!("range", from = start, to = end);
        let got = PartsBuffer::new(start, parts, give);
        let state = FetchState { start, end, got, retries: Retries::reading(self.timeouts) };
        self.fetch_in_span(state, &mut first).instrument(span).await
    }

    async fn fetch_in_span(&self, mut state: FetchState<'_>, first: &mut Option<Response>) -> Result<()> {
        let mut renewed_at = None;
        while !state.is_complete()? {
            let object = self.object();
            let before = state.reached()?;
            let failure = {
                let queued = Instant::now();
                let permit = self.concurrency.acquire(state.end.abs_diff(before)).await;
                state.retries.begin(queued.elapsed(), &self.progress);
                match self.attempt(&object, &mut state, first.take(), &permit).await {
                    // The server sent less than requested. It may do so, but not for ever.
                    Ok(()) if !state.is_complete()? && state.reached()? > before => {
                        let length = state.reached()?.abs_diff(before);
                        Failure::transient(format!("the response had {length} bytes"))
                    }
                    Ok(()) => continue,
                    Err(failure) => failure,
                }
            };
            let reached = state.reached()?;
            let failure = expired(failure, &object);
            match self.renewal_for(&failure) {
                Some(renewal) if renewed_at != Some(reached) => {
                    renewed_at = Some(reached);
                    self.renew(renewal, &object).await?;
                }
                _ => self.wait(&mut state.retries, failure).await.map_err(|error| error.at(reached))?,
            }
        }
        Ok(())
    }

    /// One request for what is missing, and a second one if it is stuck.
    async fn attempt(
        &self,
        object: &Arc<Object>,
        state: &mut FetchState<'_>,
        first: Option<Response>,
        permit: &Permit<'_>,
    ) -> Result<(), Failure> {
        let threshold = self.hedging.threshold();
        let mut longest = Duration::ZERO;
        let mut open = match first {
            Some(response) => match self.accept(object, response, &state.missing(self.len())?)? {
                Some(open) => Some(open),
                None => return Ok(()),
            },
            None => None,
        };
        while open.as_ref().is_none_or(|open| open.missing > 0) {
            let since = Instant::now();
            let missing = state.missing(self.len())?;
            let patience = Patience {
                threshold,
                // A response that has begun gets its time: it is the stalled one that must be left.
                silence: if open.is_none() { state.retries.limit() } else { self.timeouts.silence },
                left: state.retries.left(),
            };
            let next = self.next_hedged(object, missing, open, permit, patience).await;
            let next = next.inspect_err(|failure| {
                if matches!(failure, Failure::Throttled { .. }) {
                    permit.throttled();
                }
            })?;
            let Some((now, bytes)) = next else { return Ok(()) };
            longest = longest.max(since.elapsed());
            state.got.push(&bytes).map_err(Failure::Fatal)?;
            state.retries.received(state.got.filled())?;
            open = Some(now);
        }
        if let Some(open) = open {
            self.meter().record_body(open.promised, open.since.elapsed());
        }
        self.hedging.record(longest);
        permit.succeeded();
        Ok(())
    }

    /// The next bytes of `open`, or the first bytes of a response to a request for `missing`. After a silence of `threshold`
    /// a second request is made, and the first to deliver bytes continues.
    async fn next_hedged(
        &self,
        object: &Arc<Object>,
        missing: RequestedRange,
        open: Option<OpenBody>,
        permit: &Permit<'_>,
        patience: Patience,
    ) -> Result<NextBytes, Failure> {
        let Patience { threshold, silence, left } = patience;
        let silent = {
            let open = open.as_ref().map(|open| (open.missing, open.promised));
            move || {
                let seconds = silence.as_secs_f64();
                Failure::transient(match open {
                    None => format!("no response in {seconds:.1} s"),
                    Some((missing, promised)) => format!(
                        "the response fell silent for {seconds:.1} s, {missing} of its {promised} bytes missing"
                    ),
                })
            }
        };
        let mut first = pin!(self.next(object, missing, open, permit));
        let soon = threshold.min(silence);
        if let Ok(next) = timeout(soon, &mut first).await {
            return next;
        }
        let rest = silence.saturating_sub(soon);
        let hedge = if rest.is_zero() { None } else { self.hedging.try_start(self.traffic().bytes) };
        let Some(_hedge) = hedge else {
            return timeout(rest, first).await.unwrap_or_else(|_| Err(silent()));
        };
        crate::metrics::second();
        tracing::debug!(from = missing.first, after = ?soon, "stuck: sending a second request");
        // The second response may take as long as the first, but not beyond the stall timeout.
        let silence = silence.min(left.saturating_sub(soon)).max(rest);
        let mut second = pin!(timeout(silence, self.next(object, missing, None, permit)));
        let mut over = pin!(sleep(rest));
        let mut failed = None;
        let mut second_failed = false;
        loop {
            tokio::select! {
                biased;
                next = &mut first, if failed.is_none() => match next {
                    Err(failure) if !second_failed && !matches!(failure, Failure::Fatal(_)) => failed = Some(failure),
                    next => return next,
                },
                next = &mut second, if !second_failed => match (next, failed.take()) {
                    (Ok(Ok(next)), _) => return Ok(next),
                    (Ok(Err(failure @ Failure::Fatal(_))), _) => return Err(failure),
                    (_, Some(failure)) => return Err(failure),
                    (_, None) => second_failed = true,
                },
                () = &mut over, if failed.is_none() => {
                    if second_failed {
                        return Err(silent());
                    }
                    failed = Some(silent());
                }
            }
        }
    }

    /// The next bytes of `open`, or the first bytes of a response to a request for `missing`.
    async fn next(
        &self,
        object: &Arc<Object>,
        missing: RequestedRange,
        open: Option<OpenBody>,
        permit: &Permit<'_>,
    ) -> Result<NextBytes, Failure> {
        let mut open = match open {
            Some(open) => open,
            None => {
                let response = self.get(object, Some((missing.first, missing.last)), &self.pin).await?;
                match self.accept(object, response, &missing)? {
                    Some(open) => open,
                    None => return Ok(None),
                }
            }
        };
        let missing = |open: &OpenBody| format!("{} of its {} bytes missing", open.missing, open.promised);
        let mut bytes = match open.body.frame().await {
            // A frame without data has trailers.
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                let why = reason(&*error);
                return Err(Failure::transient(format!("the response broke off, {}: {why}", missing(&open))));
            }
            None => return Err(Failure::transient(format!("the response ended early, {}", missing(&open)))),
        };
        self.meter().add_bytes(bytes.len());
        self.progress.note();
        permit.received(bytes.len());
        match open.missing.checked_sub(bytes.len() as u64) {
            Some(missing) => open.missing = missing,
            // More than promised is ignored.
            None => {
                bytes.truncate(usize::try_from(open.missing).unwrap_or(bytes.len()));
                open.missing = 0;
            }
        }
        Ok(Some((open, bytes)))
    }

    /// The body of the response, if it has what is `missing`; `None` if it was a redirect, which is followed.
    fn accept(
        &self,
        object: &Arc<Object>,
        response: Response,
        missing: &RequestedRange,
    ) -> Result<Option<OpenBody>, Failure> {
        if response.redirect.is_some() && self.redirects.load(Ordering::Relaxed) > 0 {
            self.follow(object, &response).map_err(Failure::Fatal)?;
            return Ok(None);
        }
        check_status(&response, RequestPurpose::Read)?;
        let promised = body_length(&response, missing, &self.pin)?;
        Ok(Some(OpenBody { body: response.body, promised, missing: promised, since: Instant::now() }))
    }
}

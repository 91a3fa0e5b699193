//! Reading one range of an object: resumed where it breaks off, asked for a second time where it is stuck.
//!
//! ```text
//! permit ──▶ GET, If-Match ──▶ check the answer ──▶ body into a buffer for each part
//!     ▲                                │ stuck: GET from the byte reached, the first to bring one goes on
//!     │                                │ broken, silent, short
//!     └── wait (full jitter), from the byte reached ◀┘
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use diskferry_core::internal::PartsBuffer;
use diskferry_core::{Result, StoredRange};
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug_span};

use crate::answer::{Answer, Object};
use crate::concurrency::Permit;
use crate::judge::{self, Asked};
use crate::remote::{Remote, expired};
use crate::retry::{Failure, Tries};

/// An answer whose body is being read.
struct Open {
    body: SdkBody,
    /// Bytes that the whole body has, and those that have not come yet.
    promised: u64,
    left: u64,
    since: Instant,
}

/// The next bytes and the answer that they are of; none where it only said where to ask instead.
type Next = Option<(Open, Bytes)>;

impl Remote {
    /// The bytes of `range`. `first` is an answer at hand whose body begins at its start.
    pub(crate) async fn fetch(&self, range: StoredRange, first: Option<Answer>) -> Result<Bytes> {
        let mut all = Bytes::new();
        if !range.is_empty() {
            self.fetch_parts(range, &[range], &mut |_, bytes| all = bytes, first).await?;
        }
        Ok(all)
    }

    /// Asks for `range`, and gives each of the `parts` of it when its last byte has come.
    pub(crate) async fn fetch_parts(
        &self,
        range: StoredRange,
        parts: &[StoredRange],
        give: &mut (dyn FnMut(usize, Bytes) + Send),
        mut first: Option<Answer>,
    ) -> Result<()> {
        let (start, end) = (range.start().get(), range.end().get());
        let span = debug_span!("range", from = start, to = end);
        let got = PartsBuffer::new(start, parts, give);
        self.fetch_in_span(start, end, got, &mut first).instrument(span).await
    }

    async fn fetch_in_span(
        &self,
        start: u64,
        end: u64,
        mut got: PartsBuffer<'_>,
        first: &mut Option<Answer>,
    ) -> Result<()> {
        let want = end.saturating_sub(start);
        let mut tries = Tries::new(self.patience);
        let mut renewed_at = None;
        while got.filled() < want {
            let object = self.object();
            let before = got.filled();
            let failure = {
                let queued = Instant::now();
                let permit = self.concurrency.enter(want.saturating_sub(before)).await;
                tries.begin(queued.elapsed());
                match self.attempt(&object, start, end, &mut got, &mut tries, first.take(), &permit).await {
                    // A part of it is right; too many small ones are as good as none.
                    Ok(()) if got.filled() < want && got.filled() > before => {
                        Failure::broken(format!("the answer held {} bytes", got.filled() - before))
                    }
                    Ok(()) => continue,
                    Err(failure) => failure,
                }
            };
            let reached = start.saturating_add(got.filled());
            let failure = expired(failure, &object);
            match self.renewal_for(&failure) {
                Some(renewal) if renewed_at != Some(reached) => {
                    renewed_at = Some(reached);
                    self.renew(renewal, &object).await?;
                }
                _ => self.wait(&mut tries, failure).await.map_err(|error| error.at(reached))?,
            }
        }
        Ok(())
    }

    /// One request for what is missing in `got`, and a second one where it is stuck.
    #[expect(clippy::too_many_arguments, reason = "the state of one range's loop, used by it alone")]
    async fn attempt(
        &self,
        object: &Arc<Object>,
        start: u64,
        end: u64,
        got: &mut PartsBuffer<'_>,
        tries: &mut Tries,
        first: Option<Answer>,
        permit: &Permit<'_>,
    ) -> Result<(), Failure> {
        let stuck = self.hedges.stuck();
        let mut longest = Duration::ZERO;
        let missing = |got: &PartsBuffer<'_>| Asked {
            first: start.saturating_add(got.filled()),
            last: end.saturating_sub(1),
            len: self.len(),
        };
        let mut open = match first {
            Some(answer) => match self.accepted(object, answer, &missing(got))? {
                Some(open) => Some(open),
                None => return Ok(()),
            },
            None => None,
        };
        while open.as_ref().is_none_or(|open| open.left > 0) {
            let since = Instant::now();
            let next =
                self.unstuck(object, missing(got), open, permit, stuck).await.inspect_err(|failure| {
                    if matches!(failure, Failure::Busy { .. }) {
                        permit.slow_down();
                    }
                })?;
            let Some((now, bytes)) = next else { return Ok(()) };
            longest = longest.max(since.elapsed());
            got.push(&bytes).map_err(Failure::Fatal)?;
            tries.came(got.filled())?;
            open = Some(now);
        }
        if let Some(open) = open {
            self.meter().measured(None, Some((open.promised, open.since.elapsed())));
        }
        self.hedges.silence(longest);
        permit.went_well();
        Ok(())
    }

    /// The next bytes of `open`, or the first of an answer to what is `missing`. After a silence of `stuck` that is asked for
    /// a second time, and the first to bring bytes goes on.
    async fn unstuck(
        &self,
        object: &Arc<Object>,
        missing: Asked,
        open: Option<Open>,
        permit: &Permit<'_>,
        stuck: Duration,
    ) -> Result<Next, Failure> {
        let silence = self.patience.silence;
        let silent = {
            let left = open.as_ref().map(|open| (open.left, open.promised));
            move || {
                let seconds = silence.as_secs_f64();
                Failure::broken(match left {
                    None => format!("no answer in {seconds:.1} s"),
                    Some((left, promised)) => format!(
                        "the answer fell silent for {seconds:.1} s, {left} of its {promised} bytes missing"
                    ),
                })
            }
        };
        let mut first = pin!(self.next(object, missing, open, permit));
        let soon = stuck.min(silence);
        if let Ok(next) = timeout(soon, &mut first).await {
            return next;
        }
        let rest = silence.saturating_sub(soon);
        let leave = if rest.is_zero() { None } else { self.hedges.leave(self.traffic().bytes) };
        let Some(_leave) = leave else {
            return timeout(rest, first).await.unwrap_or_else(|_| Err(silent()));
        };
        crate::metrics::second();
        tracing::debug!(from = missing.first, after = ?soon, "stuck: asking for it a second time");
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

    /// The next bytes of `open`, or the first of an answer to what is `missing`.
    async fn next(
        &self,
        object: &Arc<Object>,
        missing: Asked,
        open: Option<Open>,
        permit: &Permit<'_>,
    ) -> Result<Next, Failure> {
        let mut open = match open {
            Some(open) => open,
            None => {
                let answer = self.get(object, Some((missing.first, missing.last)), &self.pin).await?;
                match self.accepted(object, answer, &missing)? {
                    Some(open) => open,
                    None => return Ok(None),
                }
            }
        };
        let missing = |open: &Open| format!("{} of its {} bytes missing", open.left, open.promised);
        let mut bytes = match open.body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                let why = crate::net::causes(&*error);
                return Err(Failure::broken(format!("the answer broke off, {}: {why}", missing(&open))));
            }
            None => return Err(Failure::broken(format!("the answer ended early, {}", missing(&open)))),
        };
        self.meter().received(bytes.len());
        permit.received(bytes.len());
        // More than promised is not taken.
        bytes.truncate(usize::try_from(open.left).unwrap_or(usize::MAX));
        open.left = open.left.saturating_sub(bytes.len() as u64);
        Ok(Some((open, bytes)))
    }

    /// The answer, if it has what is `missing`; none where it was a redirect, which is followed.
    fn accepted(
        &self,
        object: &Arc<Object>,
        answer: Answer,
        missing: &Asked,
    ) -> Result<Option<Open>, Failure> {
        if answer.redirect.is_some() && self.redirects.load(Ordering::Relaxed) > 0 {
            self.follow(object, &answer).map_err(Failure::Fatal)?;
            return Ok(None);
        }
        judge::status(&answer, judge::Phase::Reading)?;
        let promised = judge::range(&answer, missing, &self.pin)?;
        Ok(Some(Open { body: answer.body, promised, left: promised, since: Instant::now() }))
    }
}

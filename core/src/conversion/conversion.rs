//! A conversion from end to end: measured and limited on the way, published only when whole.

use std::panic::catch_unwind;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, debug, info_span};

use crate::error::{Error, ErrorKind, Result};
use crate::layout::Target;
use crate::limits::Limits;
use crate::progress::Progress;

use crate::conversion::input::Input;
use crate::conversion::metrics;
use crate::conversion::report::Report;
use crate::conversion::resources::Resources;
use crate::conversion::run::{Run, RunOptions, cancelled};

/// Reads a disk to its end, and writes it to a target if there is one.
///
/// Nothing runs before [`run`](Self::run) is awaited, and nothing runs on after its future is dropped: the requests
/// under way are dropped with it, and the target is undone.
pub struct Conversion {
    input: Input,
    target: Option<Target>,
    limits: Limits,
    resources: Resources,
    progress: Option<Sender<Progress>>,
    cancel: Option<CancellationToken>,
    digest: bool,
    verify: bool,
    resume: bool,
    stall: Option<Duration>,
}

impl Conversion {
    /// Converts `input` to `target`.
    pub fn new(input: impl Into<Input>, target: Target) -> Self {
        Self { target: Some(target), ..Self::reading(input) }
    }

    /// Reads `input` without writing it: for its digest and its real content.
    pub fn reading(input: impl Into<Input>) -> Self {
        Self {
            input: input.into(),
            target: None,
            limits: Limits::default(),
            resources: Resources::default(),
            progress: None,
            cancel: None,
            digest: true,
            verify: false,
            resume: false,
            stall: Some(Duration::from_secs(60)),
        }
    }

    /// What the image is measured against; by default the image limit of the service, and no capacity. A rule that fails
    /// ends the conversion as soon as the facts allow.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Budget, CPU workers and connections.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Where to show how far it is.
    #[must_use]
    pub fn on_progress(mut self, progress: Sender<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Cancelling the token ends the run with `cancelled`, the target undone; or, where that was being published at this
    /// moment, with its report. A target that is read back after it was published is taken back. Undoing waits for what the
    /// destination was sent and did not answer yet, which where that is silent takes up to the stall timeout; dropping the
    /// future instead leaves that to the background.
    #[must_use]
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// Whether to compute the digest of the guest disk; by default it is.
    #[must_use]
    pub fn digest(mut self, wanted: bool) -> Self {
        self.digest = wanted;
        self
    }

    /// Whether to read the target back through its own reader and to compare the digests; by default it is not. A target
    /// that must be published to be read is taken back where it fails, if it is still ours.
    #[must_use]
    pub fn verify(mut self, wanted: bool) -> Self {
        self.verify = wanted;
        self
    }

    /// Whether to continue an interrupted run of the same source, target and options, if the sink has one; by default
    /// everything is done from the start. The result is byte-identical. What does not fit is dropped, with the warning
    /// `resume_started_over`.
    #[must_use]
    pub fn resume(mut self, wanted: bool) -> Self {
        self.resume = wanted;
        self
    }

    /// How long to continue without any progress; by default 60 seconds. Needs a tokio runtime with its timers on.
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.stall = timeout;
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Any kind of the contract except those of opening; `usage` outside of a tokio runtime, or without its timers if there
    /// is a stall timeout. On an error the target is undone before this returns.
    pub async fn run(self) -> Result<Report> {
        let source = match &self.input {
            Input::Disk(disk) => disk.files().first().map_or("-", |file| file.url()),
            Input::Stream(_) => "-",
        };
        let target = self.target.as_ref().map(|target| target.sink.url());
        let span = info_span!(
            "conversion",
            source,
            target,
            requests = Empty,
            bytes = Empty,
            retries = Empty,
            written = Empty
        );
        let ended = self.run_in_span().instrument(span).await;
        metrics::ended(ended.as_ref().map(|report| &report.stats.timing));
        ended
    }

    async fn run_in_span(self) -> Result<Report> {
        let Self { input, target, limits, resources, progress, cancel, digest, verify, resume, stall } = self;
        needs_runtime(stall.is_some())?;
        let (layout, sink) = match target {
            Some(Target { layout, sink }) => (Some(layout), Some(sink)),
            None => (None, None),
        };
        let run = async {
            let options = RunOptions { digest, verify, resume, stall, cancel: cancel.clone() };
            let run = Run::new(layout.zip(sink.as_deref()), limits, progress, options);
            run.go(input, &resources).await
        };
        let ended: Result<Report> = match &cancel {
            None => run.await,
            Some(token) => {
                let mut run = std::pin::pin!(run);
                match (token.run_until_cancelled(run.as_mut()).await, &sink) {
                    (Some(ended), _) => ended,
                    // It came too late: the target is published, and an error beside it would be a lie.
                    (None, Some(sink)) if !sink.abort().await => run.await,
                    (None, _) => Err(cancelled()),
                }
            }
        };
        match (ended, &sink) {
            (Err(error), Some(sink)) => {
                debug!(%error, "undoing the target");
                // What turned out wrong is not continued.
                if matches!(error.kind(), ErrorKind::VerificationFailed | ErrorKind::Internal)
                    && let Some(journal) = sink.journal()
                    && let Err(error) = journal.drop_saved().await
                {
                    tracing::warn!(%error, "a journal stays behind");
                }
                sink.abort().await;
                const KEPT: &str = "what is needed to go on was kept: run it again with --resume";
                const NOT_KEPT: &str =
                    "nothing was kept to resume from: the run ended before its first checkpoint";
                let may_continue = error.kind() == ErrorKind::Cancelled || error.is_retryable();
                let what = match sink.journal() {
                    Some(journal) if journal.stays() => KEPT,
                    Some(_) if resume && may_continue => NOT_KEPT,
                    _ => return Err(error),
                };
                let hint =
                    error.hint_text().map_or_else(|| what.to_owned(), |hint| format!("{hint}; {what}"));
                Err(error.hint(hint))
            }
            (ended, _) => ended,
        }
    }
}

/// Checks that a tokio runtime is there, and its timers if they are needed: without them tokio panics in the middle of a run.
///
/// # Errors
/// `usage`.
fn needs_runtime(timers: bool) -> Result<()> {
    let missing = |what: &str| {
        Error::new(ErrorKind::Usage, format!("a conversion needs {what}"))
            .hint("run it inside of a tokio runtime that was built with `enable_all`")
    };
    if Handle::try_current().is_err() {
        return Err(missing("a tokio runtime"));
    }
    // tokio has no way to ask whether timers are enabled; making one panics if they are not.
    if timers && catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
        return Err(missing("the timers of its tokio runtime for the stall timeout"));
    }
    Ok(())
}

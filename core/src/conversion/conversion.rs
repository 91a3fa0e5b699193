//! A conversion from end to end. It measures and limits the image on the way, and publishes only a complete target.

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
/// Nothing runs before [`run`](Self::run) is awaited. Dropping its future stops everything: requests under way are
/// dropped and the target is undone.
///
/// ```
/// # use std::sync::Arc;
/// # use diskferry_core::{
/// #     BlockMap, BoxFuture, Disk, Extent, ExtentKind, FileIndex, GuestRange, ImageInfo, MemorySource, Result, Source,
/// #     Stored, StoredOffset, StoredRange, Warnings,
/// # };
/// # struct Flat;
/// #
/// # impl BlockMap for Flat {
/// #     fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
/// #         let start = StoredOffset::new(window.start().get());
/// #         Box::pin(async move {
/// #             let range = StoredRange::new(start, window.len()).expect("as long as the window");
/// #             let stored = Stored { file: FileIndex(0), range };
/// #             Ok(vec![Extent::new(window, ExtentKind::Data(stored))])
/// #         })
/// #     }
/// #
/// #     fn allocated_without_tables(&self) -> Option<u64> {
/// #         None
/// #     }
/// # }
/// # #[tokio::main]
/// # async fn main() -> Result<()> {
/// # let source = Arc::new(MemorySource::new("disk.raw", vec![7; 8192]));
/// # let info = ImageInfo::default().format("raw").virtual_bytes(source.len());
/// # let disk = Disk::new(info, vec![source], Box::new(Flat), Warnings::new(), Vec::new());
/// use diskferry_core::{Budget, Conversion, Limits, Resources};
///
/// // `disk` is an opened image: 8 KiB, of which no byte is zero.
/// let report = Conversion::reading(disk)
///     .limits(Limits::default().capacity(Some(40 << 30)))
///     .resources(Resources::default().budget(Some(Budget::new(64 << 20))))
///     .run()
///     .await?;
///
/// assert!(report.verdict.accepted());
/// assert_eq!(report.sizes.content_bytes, Some(8192));
/// println!("{}", report.digest.expect("it is computed by default"));
/// # Ok(())
/// # }
/// ```
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

    /// Reads `input` without writing it, to compute its digest and its real content.
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

    /// The limits for the image. By default: the service's image limit, and no capacity. A rule that fails ends the
    /// conversion as soon as the sizes are known.
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

    /// The channel for progress reports.
    #[must_use]
    pub fn on_progress(mut self, progress: Sender<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Cancelling the token ends the run with `cancelled` and undoes the target. If the target is being published at
    /// that moment, the run ends with its report instead. A target that was published to be read back is retracted.
    /// Undoing waits for requests that the destination has not answered, at most for the stall timeout. Dropping the
    /// future instead leaves the undoing to the background.
    #[must_use]
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// Whether to compute the digest of the guest disk. Default: true.
    #[must_use]
    pub fn digest(mut self, wanted: bool) -> Self {
        self.digest = wanted;
        self
    }

    /// Whether to read the target back through its own reader and compare the digests. Default: false. If a target
    /// that must be published first fails, it is retracted, provided that it is still the one this run wrote.
    #[must_use]
    pub fn verify(mut self, wanted: bool) -> Self {
        self.verify = wanted;
        self
    }

    /// Whether to continue an interrupted run of the same source, target and options, if the sink has one. Default:
    /// false, everything starts over. The result is byte-identical. A checkpoint that does not fit is dropped, with
    /// the warning `resume_started_over`.
    #[must_use]
    pub fn resume(mut self, wanted: bool) -> Self {
        self.resume = wanted;
        self
    }

    /// How long the run may make no progress before it fails. Default: 60 seconds. Needs a tokio runtime with timers
    /// enabled.
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.stall = timeout;
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Any error kind except those of opening. `usage` outside of a tokio runtime, or without its timers if there is
    /// a stall timeout. If it fails, the target is undone before this returns.
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
                    // Cancelled too late: the target is published, and returning an error would be wrong.
                    (None, Some(sink)) if !sink.abort().await => run.await,
                    (None, _) => Err(cancelled()),
                }
            }
        };
        match (ended, &sink) {
            (Err(error), Some(sink)) => {
                debug!(%error, "undoing the target");
                // A target that failed verification must not be continued.
                if matches!(error.kind(), ErrorKind::VerificationFailed | ErrorKind::Internal)
                    && let Some(journal) = sink.journal()
                    && let Err(error) = journal.drop_saved().await
                {
                    tracing::warn!(%error, "the journal could not be removed");
                }
                sink.abort().await;
                const KEPT: &str = "the partial target and its journal were kept: run it again with --resume";
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

/// Checks that there is a tokio runtime, and that its timers are enabled if they are needed. Without them tokio would
/// panic during the run.
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

//! Progress display: a bar for a terminal, or JSON events for a program.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::Duration;

use diskferry_core::internal::HumanBytes;
use diskferry_core::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::args::{Common, ProgressMode};
use crate::{output, render};
use diskferry::json::Progress as Event;

/// Whether the bar stays on the terminal when the work is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Afterwards {
    /// The bar is cleared; the printed result replaces it.
    Gone,
    /// The bar stays visible.
    Stays,
}

/// Runs `work` and displays the progress that it sends.
pub(crate) async fn shown<T, F>(
    common: &Common,
    name: &str,
    afterwards: Afterwards,
    work: impl FnOnce(watch::Sender<Progress>) -> F,
) -> T
where
    F: Future<Output = T>,
{
    let (sender, mut receiver) = watch::channel(Progress::default());
    let mut show = Show::new(common, name);
    let mut ticks = tokio::time::interval(show.pace());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(work(sender));
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = ticks.tick() => {
                if receiver.has_changed().unwrap_or(true) || show.is_first() {
                    let progress = *receiver.borrow_and_update();
                    show.update(&progress);
                }
            }
        }
    };
    let last = *receiver.borrow_and_update();
    show.end(&last, afterwards);
    done
}

enum Show {
    Nothing,
    Bar(Box<ProgressBar>),
    Events { last: Option<Progress> },
}

impl Show {
    fn new(common: &Common, name: &str) -> Self {
        let terminal = io::stderr().is_terminal();
        match common.progress {
            // Log lines would break up the bar.
            ProgressMode::Auto if terminal && !common.quiet && common.verbose == 0 => {
                Self::bar(name, terminal)
            }
            ProgressMode::Auto | ProgressMode::None => Self::Nothing,
            ProgressMode::Bar => Self::bar(name, terminal),
            ProgressMode::Json => Self::Events { last: None },
        }
    }

    fn bar(name: &str, terminal: bool) -> Self {
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::term_like_with_hz(Box::new(Plain), 4)
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(false));
        bar.set_prefix(diskferry_core::internal::printable(name));
        Self::Bar(Box::new(bar))
    }

    fn pace(&self) -> Duration {
        match self {
            Self::Nothing => Duration::from_secs(3600),
            Self::Bar(_) => Duration::from_millis(100),
            Self::Events { .. } => Duration::from_millis(250),
        }
    }

    fn is_first(&self) -> bool {
        matches!(self, Self::Events { last: None })
    }

    fn update(&mut self, progress: &Progress) {
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => draw(bar, progress),
            Self::Events { last } => {
                if *last != Some(*progress) {
                    *last = Some(*progress);
                    // Numbers always serialise.
                    let line = output::json(&Event::from(progress)).unwrap_or_default();
                    render::to_stderr(&(line + "\n"));
                }
            }
        }
    }

    /// Shows the final state.
    fn end(&mut self, progress: &Progress, afterwards: Afterwards) {
        self.update(progress);
        match self {
            Self::Bar(bar) if afterwards == Afterwards::Stays => {
                bar.abandon();
                // The bar leaves the cursor at its end.
                render::to_stderr("\n");
            }
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Nothing | Self::Events { .. } => {}
        }
    }
}

/// The bar's style, with or without a known total. On a narrow terminal the message is truncated.
fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "  {prefix} {bar:16} {percent:>3}% {wide_msg}"
    } else {
        "  {prefix} {spinner} {wide_msg}"
    };
    // The templates are constant and valid.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("█▉▊▋▌▍▎▏ ")
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let done = HumanBytes(progress.done_bytes);
    let mut message = match progress.total_bytes {
        Some(total) => format!("{done} of {}", HumanBytes(total)),
        None => done.to_string(),
    };
    message += &format!(", {} fetched", HumanBytes(progress.fetched_bytes));
    if progress.elapsed_s > 0.5 && progress.phase == Phase::Transfer {
        message +=
            &format!(", {}/s", HumanBytes((progress.fetched_bytes as f64 / progress.elapsed_s) as u64));
    }
    let eta = progress.eta_s.filter(|_| progress.phase == Phase::Transfer && progress.elapsed_s > 1.0);
    if let Some(eta) = eta {
        message += &format!(", {} left", render::seconds(eta));
    }
    if progress.total_bytes.is_some() && bar.length().is_none() {
        bar.set_style(style(true));
    }
    bar.update(|state| {
        state.set_pos(progress.done_bytes);
        if let Some(total) = progress.total_bytes {
            state.set_len(total);
        }
    });
    bar.set_message(message);
}

/// Standard error that is not a terminal, for `--progress bar`.
#[derive(Debug)]
struct Plain;

impl Plain {
    fn put(text: &str) -> io::Result<()> {
        io::Write::write_all(&mut io::stderr().lock(), text.as_bytes())
    }
}

impl TermLike for Plain {
    fn width(&self) -> u16 {
        120
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        Self::put(line)?;
        Self::put("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        Self::put(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        Self::put("\r")
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

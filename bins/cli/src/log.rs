//! Log output and panic messages.

use std::sync::{Mutex, PoisonError};

use diskferry_core::Error;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::Common;

/// Logs events of the diskferry crates on standard error. Other crates are excluded: HTTP clients log headers, which
/// contain signatures.
pub(crate) fn start(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => return,
        (false, 0) => Level::WARN,
        (false, 1) => Level::INFO,
        (false, 2) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let ours = ["diskferry", "diskferry_core", "diskferry_formats", "diskferry_s3io"];
    let filter = Targets::new().with_targets(ours.map(|name| (name, level)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).compact();
    tracing_subscriber::registry().with(filter).with(lines).init();
}

static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Records a panic's message for the final error, instead of printing a trace in the middle of the output.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or_else(String::new, |location| format!(" at {location}"));
        let text = panic.payload_as_str().unwrap_or("no message");
        let mut recorded = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.get_or_insert_with(|| format!("panicked{location}: {text}"));
    }));
}

/// Returns the error for a run that panicked.
pub(crate) fn panicked() -> Error {
    let recorded = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    Error::internal(recorded.unwrap_or_else(|| "panicked".to_owned()))
        .hint("this is a bug in diskferry; please report it")
}

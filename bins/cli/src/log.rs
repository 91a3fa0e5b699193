//! What the libraries tell on the way, and panics.

use std::sync::{Mutex, PoisonError};

use diskferry_core::Error;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::Common;

/// Shows events of our own crates on standard error. Those of others stay out: HTTP clients tell of headers, and
/// headers have signatures.
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

/// Keeps what a panic says for the error that the run ends with, instead of a trace in the middle of the output.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        let text = panic.payload_as_str().unwrap_or("no message");
        let mut kept = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert_with(|| format!("a panic{place}: {text}"));
    }));
}

/// The error that a panic ends the run with.
pub(crate) fn panicked() -> Error {
    let kept = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    Error::internal(kept.unwrap_or_else(|| "a panic".to_owned()))
        .hint("this is a defect of diskferry: please report it")
}

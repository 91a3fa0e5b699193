//! The `diskferry` program: arguments, progress display, JSON output and exit codes. All other work is in the libraries.

mod args;
mod cli;
mod context;
mod destination;
mod exit;
mod log;
mod output;
mod progress;
mod render;
mod sandbox;
mod signals;
mod source;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use diskferry_core::{Error, Result};
use tokio_util::sync::CancellationToken;

use args::{Cli, Command};
use context::Context;
use exit::Answer;

fn main() -> ExitCode {
    log::catch_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Parsing failed, so the raw arguments are searched for `--json`.
            let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
            let ended = exit::usage(&error).and_then(|help| {
                runtime()?.block_on(output::print(&help))?;
                Ok(Answer::Yes)
            });
            return exit::end(&ended, json, false);
        }
    };
    log::start(&cli.common);
    // Must run before the first thread starts: Landlock applies to the calling thread and its descendants.
    sandbox::confine(&cli);
    let (json, verbose) = (cli.common.json, cli.common.verbose > 0);
    let ended = catch_unwind(AssertUnwindSafe(|| run(cli))).unwrap_or_else(|_| Err(log::panicked()));
    exit::end(&ended, json, verbose)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    /// Enough for sockets, timers and TLS; decoding and hashing run on a separate pool.
    const MOST_WORKERS: usize = 8;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_WORKERS))
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the async runtime failed to start").caused_by(error))
}

fn run(cli: Cli) -> Result<Answer> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let cancel = CancellationToken::new();
        signals::listen(cancel.clone())?;
        let ctx = Context { common: cli.common, cancel };
        match cli.command {
            Command::Info(args) => cli::info::run(&ctx, &args).await,
            Command::Map(args) => cli::map::run(&ctx, &args).await,
            Command::Measure(args) => cli::measure::run(&ctx, &args).await,
            Command::Convert(args) => cli::convert::run(&ctx, &args).await,
            Command::Compare(args) => cli::compare::run(&ctx, &args).await,
            Command::Digest(args) => cli::digest::run(&ctx, &args).await,
            #[cfg(feature = "demo")]
            Command::Demo => cli::demo::run(&ctx).await,
        }
    });
    // At most a blocked system call is left. A read from a dead network file system must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

//! The program: arguments, a bar on a terminal, JSON, exit codes. Everything else is in the libraries.

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
            // What did not parse cannot be asked for --json, so the arguments are looked at as they are.
            let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
            let ended = exit::usage(&error).and_then(|help| {
                runtime()?.block_on(output::print(&help))?;
                Ok(Answer::Yes)
            });
            return exit::end(&ended, json, false);
        }
    };
    log::start(&cli.common);
    // Before the first thread: it holds for the one that calls it, and for those that come from it.
    sandbox::confine(&cli);
    let (json, verbose) = (cli.common.json, cli.common.verbose > 0);
    let ended = catch_unwind(AssertUnwindSafe(|| run(cli))).unwrap_or_else(|_| Err(log::panicked()));
    exit::end(&ended, json, verbose)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    /// Sockets, timers and TLS; decoding and hashing have workers of their own.
    const MOST_WORKERS: usize = 8;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_WORKERS))
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the runtime does not start").caused_by(error))
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
    // What is left is at most a system call that nobody waits for: a read of a dead network file system must not hold
    // the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

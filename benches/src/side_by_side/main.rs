//! Compares diskferry with qemu-img and with lower bounds, in one run, on real content.
//!
//! `cargo run --release -p diskferry-benches --bin side-by-side` creates the inputs once, runs every row of the
//! tables in PERFORMANCE.md, and rewrites the tables and the plot. The ways of a row run in turns, so that other load
//! on the machine affects all of them.
//!
//! ```text
//! inputs ──▶ bench: ours · qemu-img · floor, in turns ──▶ outcome ──▶ table, plot
//!              │ each in its own process (run, part)
//!              └ store: the embedded S3 server, in its own process
//! ```

mod bench;
mod failure;
mod form;
mod fragment;
mod inputs;
mod machine;
mod outcome;
mod part;
mod plot;
mod report;
mod rows;
mod run;
mod stats;
mod store;
mod streaming;
mod table;
mod tools;
mod tree;

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use bench::Bench;
use failure::{Failure, Result};
use inputs::{Inputs, Sizes};
use part::Part;
use rows::Row;
use table::Conditions;

/// diskferry beside qemu-img and the floors, in one run
#[derive(Debug, Parser)]
#[command(name = "side-by-side", subcommand_negates_reqs = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// Runs of each way
    #[arg(long, default_value = "5")]
    runs: NonZeroUsize,
    /// Only these rows, printed and not written to PERFORMANCE.md
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    rows: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Every row once with tiny inputs: whether it works, not how fast; nothing is kept or written
    #[arg(long, conflicts_with_all = ["runs", "content", "disk"])]
    test: bool,
    /// Programs and libraries on the disk
    #[arg(long, value_name = "SIZE", value_parser = diskferry_core::internal::parse_size, default_value = "600MB")]
    content: u64,
    /// The disk
    #[arg(long, value_name = "SIZE", value_parser = diskferry_core::internal::parse_size, default_value = "10G")]
    disk: u64,
    /// The program to measure [default: diskferry beside this one]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Where inputs are kept and targets are written [default: side-by-side-work in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    let ended = match cli.part.take() {
        Some(part) => part.run(),
        None => compare(&cli),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("side-by-side: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare(cli: &Cli) -> Result<()> {
    if cli.list {
        rows::all().iter().for_each(|row| println!("{:<14} {}", row.name, row.work.title()));
        return Ok(());
    }
    let rows = picked(&cli.rows)?;
    let program = program(cli)?;
    tools::qemu_img()?;
    tools::mke2fs()?;
    let machine = machine::described(&program)?;
    // The directory of a trial is removed at the end.
    let mut scratch = None;
    let work = match &cli.work {
        Some(work) => work.clone(),
        None if cli.test => {
            let dir = tempfile::tempdir().map_err(Failure::io("making a temporary directory"))?;
            scratch.insert(dir).path().to_owned()
        }
        None => target_dir()?.join("side-by-side-work"),
    };
    fs::create_dir_all(&work).map_err(Failure::at("making", &work))?;
    let work = fs::canonicalize(&work).map_err(Failure::at("finding", &work))?;
    let sizes = if cli.test { TINY } else { Sizes { content: cli.content, disk: cli.disk, ..USUAL } };
    let runs = if cli.test { 1 } else { cli.runs.get() };
    let mut bench = Bench::new(program, work.clone(), Inputs::new(&work, sizes)?, runs)?;
    let mut outcomes = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        eprintln!("{} of {}: {} ({})", index + 1, rows.len(), row.work.title(), row.name);
        let outcome = bench.row(*row)?;
        // If the run is interrupted, finished results are printed.
        for (lane, series) in &outcome.times {
            eprintln!("    {lane:?} {:.3} s", series.median());
        }
        outcomes.push(outcome);
    }
    let conditions =
        Conditions { machine, runs, content: sizes.content, disk: sizes.disk, streaming: bench.streaming() };
    let (tables, plot) = (table::tables(&outcomes, &conditions), plot::svg(&outcomes));
    if cli.test {
        println!("all {} rows ran; nothing was measured", outcomes.len());
        return Ok(());
    }
    println!("{tables}");
    if cli.rows.is_empty() { report::write(&tables, &plot) } else { Ok(()) }
}

const USUAL: Sizes = Sizes { content: 600_000_000, disk: 10 << 30, fetched: 1 << 30, large: 46 << 30 };
const TINY: Sizes = Sizes { content: 6_000_000, disk: 64 << 20, fetched: 16 << 20, large: 256 << 20 };

/// The rows with those names; all rows if there are no names.
fn picked(names: &[String]) -> Result<Vec<Row>> {
    let all = rows::all();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|row| row.name != name.as_str())) {
        return Err(Failure::Odd(format!("there is no row {unknown:?}; --list prints them")));
    }
    let wanted = |row: &Row| names.is_empty() || names.iter().any(|name| name == row.name);
    Ok(all.into_iter().filter(wanted).collect())
}

/// The program to measure, from the same build profile as this one.
fn program(cli: &Cli) -> Result<PathBuf> {
    let program = match &cli.program {
        Some(program) => program.clone(),
        None => profile_dir()?.join("diskferry"),
    };
    fs::canonicalize(&program).map_err(|_| Failure::NotBuilt { program, release: !cfg!(debug_assertions) })
}

/// The directory of this program: `target/release`.
fn profile_dir() -> Result<PathBuf> {
    let this = env::current_exe().map_err(Failure::io("finding this program"))?;
    Ok(this.parent().map(Path::to_owned).unwrap_or_default())
}

fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile.parent().map(Path::to_owned).unwrap_or(profile))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rows_are_picked_by_name_in_the_order_of_the_tables() {
        let names = ["s3-raw", "raw-raw"].map(str::to_owned);
        let picked: Vec<&str> = picked(&names).unwrap().iter().map(|row| row.name).collect();
        assert_eq!(picked, ["raw-raw", "s3-raw"]);
        assert!(super::picked(&["nothing".to_owned()]).is_err());
        assert_eq!(super::picked(&[]).unwrap().len(), rows::all().len());
    }
}

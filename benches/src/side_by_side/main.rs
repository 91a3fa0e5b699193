//! Compares diskferry with qemu-img and with floors in one run, on real content.
//!
//! `cargo run --release -p diskferry-benches --bin side-by-side` makes the inputs once, runs every row of PERFORMANCE.md's
//! tables, and rewrites the tables and the plot. The methods of a row run alternately, so that other load on the machine
//! affects all of them.
//!
//! ```text
//! inputs ──▶ bench: ours · qemu-img · floor, alternately ──▶ outcome ──▶ table, plot
//!              │ each in a separate process (run, part)
//!              └ store: the embedded S3 server in a separate process
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

/// Compare diskferry with qemu-img and with floors
#[derive(Debug, Parser)]
#[command(name = "side-by-side", subcommand_negates_reqs = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// Number of runs per method
    #[arg(long, default_value = "5")]
    runs: NonZeroUsize,
    /// Run only these rows; print the result instead of writing PERFORMANCE.md
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    rows: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Run every row once with tiny inputs, as a test; keep and write nothing
    #[arg(long, conflicts_with_all = ["runs", "content", "disk"])]
    test: bool,
    /// Total size of the programs and libraries on the disk
    #[arg(long, value_name = "SIZE", value_parser = diskferry_core::internal::parse_size, default_value = "600MB")]
    content: u64,
    /// Size of the disk
    #[arg(long, value_name = "SIZE", value_parser = diskferry_core::internal::parse_size, default_value = "10G")]
    disk: u64,
    /// Program to measure [default: diskferry in this program's directory]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Directory for inputs and targets [default: side-by-side-work in cargo's target directory]
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
    // A test run uses a temporary directory.
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
        // Printed per row, so that an interrupted run keeps its results.
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

/// Returns the rows with these names, or all rows if no name is given.
fn picked(names: &[String]) -> Result<Vec<Row>> {
    let all = rows::all();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|row| row.name != name.as_str())) {
        return Err(Failure::Odd(format!("unknown row {unknown:?}; --list prints all rows")));
    }
    let wanted = |row: &Row| names.is_empty() || names.iter().any(|name| name == row.name);
    Ok(all.into_iter().filter(wanted).collect())
}

/// Returns the program to measure: the one built with the same profile as this one.
fn program(cli: &Cli) -> Result<PathBuf> {
    let program = match &cli.program {
        Some(program) => program.clone(),
        None => profile_dir()?.join("diskferry"),
    };
    fs::canonicalize(&program).map_err(|_| Failure::NotBuilt { program, release: !cfg!(debug_assertions) })
}

/// Returns the directory of this program: `target/release`.
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
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rows_are_selected_by_name_in_table_order() {
        let names = ["s3-raw", "raw-raw"].map(str::to_owned);
        let picked: Vec<&str> = picked(&names).unwrap().iter().map(|row| row.name).collect();
        assert_eq!(picked, ["raw-raw", "s3-raw"]);
        assert!(super::picked(&["nothing".to_owned()]).is_err());
        assert_eq!(super::picked(&[]).unwrap().len(), rows::all().len());
    }
}

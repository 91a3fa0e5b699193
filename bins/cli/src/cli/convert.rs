//! `convert`: converts an image to another format and enforces the limits while converting.

use std::ffi::OsStr;

use diskferry_core::internal::printable;
use diskferry_core::{
    Conversion, Depth, Error, ErrorKind, Input, Preallocation, Report, Resources, Result, measure_at,
};
use diskferry_formats::{self as formats, Format, TargetOptions};

use crate::args::{Convert, TargetOption};
use crate::context::Context;
use crate::destination::{self, Destination, Writing};
use crate::exit::Answer;
use crate::progress::Afterwards;
use crate::render::{self, Facts};
use crate::source::{self, Location, Opener};
use crate::{output, progress};
use diskferry::json;

pub(crate) async fn run(ctx: &Context, args: &Convert) -> Result<Answer> {
    if args.target.options.contains(&TargetOption::Help) {
        output::print(&options_help()).await?;
        return Ok(Answer::Yes);
    }
    let (Some(src), Some(dst)) = (&args.src, &args.dst) else {
        let missing = if args.src.is_none() { "SRC and DST are required" } else { "DST is required" };
        return Err(Error::new(ErrorKind::Usage, missing).hint("diskferry convert SRC DST"));
    };
    let dst = destination::parse(dst)?;
    if args.resume {
        check_resumable(src, &dst)?;
    }
    let format = args.target.to.unwrap_or_else(|| dst.format());
    let (options, preallocation) = target_options(format, &args.target.options)?;
    // A format that DST does not support is refused before anything is opened.
    formats::layout(format, &options, dst.order())?;
    let writing = Writing { force: args.force, sync: !args.no_sync, resume: args.resume, preallocation };
    let opener = Opener::new(ctx, &args.source);
    ctx.guard(dst.admit(&opener, writing)).await?;

    let (input, source) = open(ctx, &opener, args, src, &dst).await?;
    if let Input::Disk(disk) = &input {
        // The limits are checked before the sink creates files next to DST.
        let (limits, resources) = (args.limits.limits(), Resources::default());
        let known = measure_at(disk, &limits, Depth::Quick, None, &resources).await?;
        known.verdict.enforce()?;
    }
    let sink = ctx.guard(dst.sink(&opener, writing)).await?;
    let target = formats::create(format, sink, &options)?;
    let conversion = Conversion::new(input, target)
        .limits(args.limits.limits())
        .resources(ctx.resources()?)
        .digest(!args.no_digest)
        .verify(args.verify)
        .resume(args.resume)
        .stall_timeout(Some(ctx.common.stall_timeout))
        .cancel(ctx.cancel.clone());
    let name = source.url.clone();
    let run = |sender| ctx.stopping(conversion.on_progress(sender).run());
    let report = progress::shown(&ctx.common, &name, Afterwards::Gone, run).await?;
    tell(ctx, source, &report, &dst, args.verify).await?;
    Ok(Answer::Yes)
}

/// Fails if `--resume` does not support this source or destination.
fn check_resumable(src: &OsStr, dst: &Destination) -> Result<()> {
    let refuse = |message, hint| Err(Error::unsupported(message).hint(hint));
    match dst {
        _ if source::parse(src)? == Location::StandardInput => {
            refuse("--resume does not support standard input", "give the source as a path or URL")
        }
        Destination::File(_) | Destination::S3(_) => Ok(()),
        Destination::Device(_) | Destination::StandardOutput => refuse(
            "--resume supports only file and S3 destinations, not a block device or a pipe",
            "write to a file or to s3://bucket/key, or omit --resume",
        ),
    }
}

/// Opens the source.
async fn open(
    ctx: &Context,
    opener: &Opener<'_>,
    args: &Convert,
    src: &OsStr,
    dst: &Destination,
) -> Result<(Input, json::Source)> {
    if source::parse(src)? == Location::StandardInput {
        let stream = ctx.guard(opener.stream(args.source.from)).await?;
        return Ok((stream.into(), json::Source::at("-")));
    }
    let disk = opener.disk(src, args.source.from).await?;
    dst.is_no_source(&disk)?;
    let source = json::Source::from(&*disk);
    Ok((disk.into(), source))
}

/// Separates the options of the format from `preallocation`, which applies to the destination.
pub(crate) fn target_options(
    format: Format,
    given: &[TargetOption],
) -> Result<(TargetOptions, Option<Preallocation>)> {
    let mut pairs = Vec::new();
    let mut preallocation = None;
    for option in given {
        match option {
            TargetOption::Pair(key, value) if key == "preallocation" => {
                preallocation = Some(match value.as_str() {
                    "off" => Preallocation::Off,
                    "falloc" => Preallocation::Falloc,
                    _ => {
                        let message = format!("preallocation must be off or falloc, not {value:?}");
                        return Err(Error::new(ErrorKind::Usage, message));
                    }
                });
            }
            TargetOption::Pair(key, value) => pairs.push((key.as_str(), value.as_str())),
            TargetOption::Help => {}
        }
    }
    Ok((TargetOptions::from_pairs(format, pairs)?, preallocation))
}

/// Returns the text of `-o help`.
pub(crate) fn options_help() -> String {
    let places = "files of every format\n  preallocation=off|falloc    falloc reserves disk space for the whole file first\n";
    format!("Target options, as -o KEY=VALUE:\n\n{}{places}", formats::options_help())
}

async fn tell(
    ctx: &Context,
    source: json::Source,
    report: &Report,
    dst: &Destination,
    verified: bool,
) -> Result<()> {
    let document = document(source, report)?;
    let text =
        if ctx.common.json { output::json(&document)? + "\n" } else { text(&document, report, verified) };
    if !ctx.common.json {
        ctx.warn(&report.warnings);
    }
    if *dst != Destination::StandardOutput {
        return output::print(&text).await;
    }
    // Standard output carries the image, so the report goes to standard error.
    if ctx.common.json || !ctx.common.quiet {
        render::to_stderr(&text);
    }
    Ok(())
}

/// Builds the JSON document of the report.
pub(crate) fn document(source: json::Source, report: &Report) -> Result<json::Converted> {
    let mut document = json::Converted::new(source, report)
        .ok_or_else(|| Error::internal("the report of the conversion has no target"))?;
    if let Some(peak) = peak_memory_bytes() {
        document.transfer.peak_memory_bytes = peak;
    }
    Ok(document)
}

fn text(document: &json::Converted, report: &Report, verified: bool) -> String {
    let transfer = &document.transfer;
    let mut facts = Facts::under(&document.target.url);
    let (source, what) = (printable(&document.measured.source.url), render::format(&report.image));
    facts.fact("from", format!("{source} ({what})"));
    facts.fact("format", target_format(&document.target));
    render::sizes(&mut facts, &report.sizes, false);
    if let Some(digest) = &report.digest {
        let verified = if verified { " (verified)" } else { "" };
        facts.fact("digest", format!("sha256:{digest}{verified}"));
    }
    let retries = match transfer.retries {
        0 => String::new(),
        some => format!(", {some} of them retries"),
    };
    let requests = render::counted(transfer.requests, "request");
    facts.fact("fetched", format!("{} in {requests}{retries}", render::bytes(transfer.bytes_fetched)));
    facts.fact("written", render::bytes(transfer.bytes_written));
    facts.fact("peak memory", render::bytes(transfer.peak_memory_bytes));
    facts.fact("time", render::seconds(transfer.seconds) + &went_to(report));
    facts.done()
}

/// Lists the stages that took at least 5 % of the time, longest first.
fn went_to(report: &Report) -> String {
    let whole = report.stats.seconds;
    let mut parts = report.stats.timing.parts();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told =
        parts.iter().filter(|(_, seconds)| *seconds >= whole / 20.0 && whole > 0.0).map(|(part, seconds)| {
            let what = match *part {
                "plan" => "planning",
                "source" => "waiting for the source",
                "cpu" => "waiting for the CPU",
                "destination" => "waiting for the destination",
                "memory" => "waiting for the shared memory budget",
                "finish" => "finishing",
                _ => "verifying",
            };
            format!("{:.0} % {what}", seconds / whole * 100.0)
        });
    let told: Vec<String> = told.collect();
    if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
}

fn target_format(target: &json::Target) -> String {
    if target.variant == target.format {
        return target.format.to_string();
    }
    format!("{} {}", target.format, target.variant)
}

/// Returns the peak resident memory of the process (VmHWM).
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

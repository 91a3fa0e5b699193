//! `convert`: into another format, measured and limited on the way.

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
        let missing = if args.src.is_none() { "SRC and DST are needed" } else { "DST is needed" };
        return Err(Error::new(ErrorKind::Usage, missing).hint("diskferry convert SRC DST"));
    };
    let dst = destination::parse(dst)?;
    if args.resume {
        can_go_on(src, &dst)?;
    }
    let format = args.target.to.unwrap_or_else(|| dst.format());
    let (options, preallocation) = target_options(format, &args.target.options)?;
    // A target that cannot be written there is refused before anything is opened.
    formats::layout(format, &options, dst.order())?;
    let writing = Writing { force: args.force, sync: !args.no_sync, resume: args.resume, preallocation };
    let opener = Opener::new(ctx, &args.source);
    ctx.guard(dst.admit(&opener, writing)).await?;

    let (input, source) = open(ctx, &opener, args, src, &dst).await?;
    if let Input::Disk(disk) = &input {
        // What the facts already forbid leaves no trace beside DST.
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

/// Refuses what cannot be gone on with.
fn can_go_on(src: &OsStr, dst: &Destination) -> Result<()> {
    let refuse = |message, hint| Err(Error::unsupported(message).hint(hint));
    match dst {
        _ if source::parse(src)? == Location::StandardInput => {
            refuse("a stream on standard input cannot be gone on with", "name the source by its path or URL")
        }
        Destination::File(_) | Destination::S3(_) => Ok(()),
        Destination::Device(_) | Destination::StandardOutput => refuse(
            "--resume is for files: what is on a device or in a pipe cannot be gone on with",
            "write to a file",
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

/// The options of the format, and that of the destination.
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
                        let message = format!("preallocation is off or falloc, not {value:?}");
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

/// What `-o help` prints.
pub(crate) fn options_help() -> String {
    let places =
        "files of every format\n  preallocation=off|falloc    take the room of the whole file at once\n";
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
    // Standard output has the image.
    if ctx.common.json || !ctx.common.quiet {
        render::to_stderr(&text);
    }
    Ok(())
}

/// The report as the contract has it.
pub(crate) fn document(source: json::Source, report: &Report) -> Result<json::Converted> {
    let mut document =
        json::Converted::new(source, report).ok_or_else(|| Error::internal("a conversion has no target"))?;
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
        let verified = if verified { ", read back and the same" } else { "" };
        facts.fact("digest", format!("sha256:{digest}{verified}"));
    }
    let retries = match transfer.retries {
        0 => String::new(),
        some => format!(", {some} of them again"),
    };
    let requests = render::counted(transfer.requests, "request");
    facts.fact("fetched", format!("{} in {requests}{retries}", render::bytes(transfer.bytes_fetched)));
    facts.fact("written", render::bytes(transfer.bytes_written));
    facts.fact("peak memory", render::bytes(transfer.peak_memory_bytes));
    facts.fact("time", render::seconds(transfer.seconds) + &went_to(report));
    facts.done()
}

/// What took the time: what is a twentieth of it or more, the longest first.
fn went_to(report: &Report) -> String {
    let whole = report.stats.seconds;
    let mut parts = report.stats.timing.parts();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told =
        parts.iter().filter(|(_, seconds)| *seconds >= whole / 20.0 && whole > 0.0).map(|(part, seconds)| {
            let what = match *part {
                "plan" => "to plan",
                "source" => "for the source",
                "cpu" => "for the processors",
                "destination" => "for the destination",
                "memory" => "for memory that others hold",
                "finish" => "to finish",
                _ => "to verify",
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

/// The most memory that the process ever had, as the kernel counted it.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

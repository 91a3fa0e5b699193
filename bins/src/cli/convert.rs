//! `convert`: into another format, measured and limited on the way.

use std::ffi::OsStr;
use std::path::Path;

use diskferry_core::conversion::{Conversion, Input, Report, Resources};
use diskferry_core::error::{Error, ErrorKind, Result, printable};
use diskferry_core::measure::{Depth, measure_at};
use diskferry_core::sink::WriteOrder;
use diskferry_core::sink::file::{FileSink, FileSinkOptions, Preallocation};
use diskferry_formats as formats;
use diskferry_formats::{Format, TargetOptions};

use crate::args::{Convert, TargetOption};
use crate::context::Context;
use crate::exit::Answer;
use crate::progress::Afterwards;
use crate::render::{self, Facts};
use crate::source::{self, Location, Opener};
use crate::{destination, json, output, progress};

pub(crate) async fn run(ctx: &Context, args: &Convert) -> Result<Answer> {
    if args.options.contains(&TargetOption::Help) {
        output::print(OPTIONS).await?;
        return Ok(Answer::Yes);
    }
    let (Some(src), Some(dst)) = (&args.src, &args.dst) else {
        let missing = if args.src.is_none() { "SRC and DST are needed" } else { "DST is needed" };
        return Err(Error::new(ErrorKind::Usage, missing).hint("diskferry convert SRC DST"));
    };
    let dst = destination::parse(dst)?;
    let format = args.to.unwrap_or_else(|| destination::format_of(&dst));
    let (options, preallocation) = admit(args, format)?;
    ctx.guard(FileSink::admit(&dst, args.force)).await?;

    let (input, source) = open(ctx, args, src, &dst).await?;
    let mut sink_options = FileSinkOptions::default();
    sink_options.force = args.force;
    sink_options.sync = !args.no_sync;
    sink_options.preallocation = preallocation;
    if let Input::Disk(disk) = &input {
        // What the facts already forbid leaves no trace beside DST.
        let known = measure_at(disk, &args.limits.limits(), Depth::Quick, &Resources::default()).await?;
        known.verdict.enforce()?;
    }
    let sink = ctx.guard(FileSink::create(&dst, sink_options)).await?;
    let target = formats::create(format, Box::new(sink), &options)?;
    let conversion = Conversion::new(input, target)
        .limits(args.limits.limits())
        .resources(ctx.resources()?)
        .digest(!args.no_digest)
        .stall_timeout(Some(ctx.common.stall_timeout))
        .cancel(ctx.cancel.clone());
    let name = source.url.clone();
    let report =
        progress::shown(&ctx.common, &name, Afterwards::Gone, |sender| conversion.on_progress(sender).run())
            .await?;
    tell(ctx, source, &report).await?;
    Ok(Answer::Yes)
}

/// Opens the source.
async fn open(ctx: &Context, args: &Convert, src: &OsStr, dst: &Path) -> Result<(Input, json::Source)> {
    let opener = Opener::new(ctx, &args.source);
    if source::parse(src)? == Location::StandardInput {
        let stream = ctx.guard(opener.stream(args.source.from)).await?;
        return Ok((stream.into(), json::Source { url: "-".to_owned(), ..json::Source::default() }));
    }
    let disk = opener.disk(src, args.source.from).await?;
    destination::is_no_source(dst, &disk)?;
    let source = json::Source::of(&disk);
    Ok((disk.into(), source))
}

/// What is asked for and not built is refused before anything is touched.
fn admit(args: &Convert, format: Format) -> Result<(TargetOptions, Preallocation)> {
    let not_yet = |what: &str| Err(Error::unsupported(format!("{what} is not built yet")));
    if args.resume {
        return not_yet("--resume");
    }
    if args.verify {
        return not_yet("--verify").map_err(|error| error.hint("compare the two with `diskferry compare`"));
    }
    let mut options = TargetOptions::default();
    let mut preallocation = Preallocation::Off;
    for option in &args.options {
        match option {
            TargetOption::Pair(key, value) if key == "preallocation" => {
                preallocation = match value.as_str() {
                    "off" => Preallocation::Off,
                    "falloc" => Preallocation::Falloc,
                    _ => {
                        let message = format!("preallocation is off or falloc, not {value:?}");
                        return Err(Error::new(ErrorKind::Usage, message));
                    }
                }
            }
            TargetOption::Pair(key, value) => options.pairs.push((key.clone(), value.clone())),
            TargetOption::Help => {}
        }
    }
    formats::layout(format, &options, WriteOrder::Any)?;
    Ok((options, preallocation))
}

async fn tell(ctx: &Context, source: json::Source, report: &Report) -> Result<()> {
    let document = document(source, report)?;
    if ctx.common.json {
        return output::print_json(&document).await;
    }
    ctx.warn(&report.warnings);
    output::print(&text(&document, report)).await
}

/// The report as the contract has it.
pub(crate) fn document(source: json::Source, report: &Report) -> Result<json::Converted> {
    let (format, variant, receipt) =
        report.target.as_ref().ok_or_else(|| Error::internal("a conversion has no target"))?;
    let movement = &report.movement;
    Ok(json::Converted {
        measured: json::Measured::new(
            json::Source { object_bytes: report.sizes.object_bytes, ..source },
            &report.geometry,
            &report.sizes,
            &report.verdict,
            &report.warnings,
            movement.source,
        ),
        target: json::Target {
            url: receipt.url.clone(),
            format,
            variant: variant.clone(),
            bytes: receipt.bytes,
        },
        digest: report.digest.map(json::Digest::from),
        transfer: json::Transfer {
            requests: movement.source.requests,
            bytes_fetched: movement.source.bytes,
            bytes_written: movement.bytes_written,
            retries: movement.source.retries,
            resumed_bytes: movement.resumed_bytes,
            peak_memory_bytes: peak_memory_bytes().unwrap_or(movement.peak_budget_bytes),
            seconds: movement.seconds,
        },
    })
}

fn text(document: &json::Converted, report: &Report) -> String {
    let transfer = &document.transfer;
    let mut facts = Facts::under(&document.target.url);
    let (source, what) = (printable(&document.measured.source.url), render::format(&report.geometry));
    facts.fact("from", format!("{source} ({what})"));
    render::sizes(&mut facts, &report.sizes);
    if let Some(digest) = &report.digest {
        facts.fact("digest", format!("sha256:{digest}"));
    }
    let retries = match transfer.retries {
        0 => String::new(),
        some => format!(", {some} of them again"),
    };
    let requests = render::counted(transfer.requests, "request");
    facts.fact("fetched", format!("{} in {requests}{retries}", render::bytes(transfer.bytes_fetched)));
    facts.fact("written", render::bytes(transfer.bytes_written));
    facts.fact("peak memory", render::bytes(transfer.peak_memory_bytes));
    facts.fact("time", render::seconds(transfer.seconds));
    facts.done()
}

/// The most memory that the process ever had, as the kernel counted it.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

const OPTIONS: &str = "\
Target options, as -o KEY=VALUE:

  raw     preallocation=off|falloc                    take the room of the whole file at once
  qcow2   cluster_size=SIZE                           not built yet
          compression=none|zlib|zstd  level=N         not built yet
  vhd     subformat=dynamic|fixed  align=SIZE         not built yet
  vmdk    subformat=monolithicSparse|streamOptimized  not built yet
          level=N  align=SIZE                         not built yet
";

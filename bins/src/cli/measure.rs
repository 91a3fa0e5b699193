//! `measure`: the real sizes, and the verdict against the limits.

use std::sync::Arc;

use diskferry_core::conversion::Conversion;
use diskferry_core::disk::Disk;
use diskferry_core::error::Result;
use diskferry_core::limits::{ImageLimit, Limits};
use diskferry_core::measure::{Depth, Measured, measure_at};
use diskferry_formats::Format;

use crate::args::Measure;
use crate::context::Context;
use crate::exit::Answer;
use crate::json;
use crate::progress::Afterwards;
use crate::render::{self, Facts};
use crate::source::Opener;
use crate::{output, progress};

pub(crate) async fn run(ctx: &Context, args: &Measure) -> Result<Answer> {
    let disk = Opener::new(ctx, &args.source).disk(&args.src, args.source.from).await?;
    let limits = args.limits.limits();
    let mut measured = match (args.quick, args.scan) {
        (true, _) => at(ctx, &disk, &limits, Depth::Quick).await?,
        (false, false) => at(ctx, &disk, &limits, Depth::Tables).await?,
        (false, true) => scan(ctx, &disk, &limits).await?,
    };
    // What the other formats take is known with their writers.
    measured.sizes.output_bytes = (args.to == Format::Raw).then(|| disk.virtual_bytes());
    let source = json::Source::of(&disk);
    let Measured { sizes, verdict, warnings, cost } = &measured;
    if ctx.common.json {
        let document = json::Measured::new(source, disk.geometry(), sizes, verdict, warnings, *cost);
        output::print_json(&document).await?;
    } else {
        let mut facts = Facts::under(&source.url);
        facts.fact("format", render::format(disk.geometry()));
        render::sizes(&mut facts, sizes);
        render::rules(&mut facts, verdict);
        facts.fact("verdict", if verdict.accepted() { "accepted" } else { "refused" });
        if let Some(gib) = verdict.smallest_capacity_gib {
            facts.fact("needs", format!("a system disk of at least {gib} GiB"));
        }
        facts.fact(
            "cost",
            format!("{}, {}", render::counted(cost.requests, "request"), render::bytes(cost.bytes)),
        );
        facts.text(&render::warnings(warnings));
        output::print(&facts.done()).await?;
    }
    Ok(if measured.verdict.accepted() { Answer::Yes } else { Answer::No })
}

async fn at(ctx: &Context, disk: &Arc<Disk>, limits: &Limits, depth: Depth) -> Result<Measured> {
    ctx.guard(measure_at(disk, limits, depth, &diskferry_core::conversion::Resources::default())).await
}

/// Reads the data too.
async fn scan(ctx: &Context, disk: &Arc<Disk>, limits: &Limits) -> Result<Measured> {
    let name = json::Source::of(disk).url;
    let reading = Conversion::reading(Arc::clone(disk))
        .limits(Limits { image: ImageLimit::None, capacity: None })
        .digest(false)
        .resources(ctx.resources()?)
        .stall_timeout(Some(ctx.common.stall_timeout))
        .cancel(ctx.cancel.clone());
    let report =
        progress::shown(&ctx.common, &name, Afterwards::Gone, |sender| reading.on_progress(sender).run())
            .await?;
    Ok(Measured::of_reading(&report, limits))
}

//! `measure`: measures the sizes and checks them against the limits.

use std::sync::Arc;

use diskferry_core::{
    Conversion, Depth, Disk, Error, ErrorKind, ImageLimit, Layout, Limits, Measure as Measured, Resources,
    Result, WriteOrder, measure_at,
};
use diskferry_formats::{self as formats, Format};

use crate::args::{Measure, TargetOption};
use crate::cli::convert;
use crate::context::Context;
use crate::exit::Answer;
use crate::progress::Afterwards;
use crate::render::{self, Facts};
use crate::source::Opener;
use crate::{output, progress};
use diskferry::json;

pub(crate) async fn run(ctx: &Context, args: &Measure) -> Result<Answer> {
    if args.target.options.contains(&TargetOption::Help) {
        output::print(&convert::options_help()).await?;
        return Ok(Answer::Yes);
    }
    let Some(src) = &args.src else {
        return Err(Error::new(ErrorKind::Usage, "SRC is required").hint("diskferry measure SRC"));
    };
    let format = args.target.to.unwrap_or(Format::Raw);
    let (options, _) = convert::target_options(format, &args.target.options)?;
    let layout = formats::layout(format, &options, WriteOrder::Any)?;
    let disk = Opener::new(ctx, &args.source).disk(src, args.source.from).await?;
    let limits = args.limits.limits();
    let measured = match (args.quick, args.scan) {
        (true, _) => at(ctx, &disk, &limits, Depth::Quick, &*layout).await?,
        (false, false) => at(ctx, &disk, &limits, Depth::Tables, &*layout).await?,
        (false, true) => scan(ctx, &disk, &limits, &*layout).await?,
    };
    let Measured { sizes, verdict, warnings, output, cost, .. } = &measured;
    if ctx.common.json {
        output::print_json(&json::Measured::new(&disk, &measured)).await?;
    } else {
        let upper_bound = output.is_some_and(|output| !output.exact);
        let mut facts = Facts::under(&json::Source::from(&*disk).url);
        facts.fact("format", render::format(disk.info()));
        render::sizes(&mut facts, sizes, upper_bound);
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

async fn at(
    ctx: &Context,
    disk: &Arc<Disk>,
    limits: &Limits,
    depth: Depth,
    layout: &dyn Layout,
) -> Result<Measured> {
    ctx.guard(measure_at(disk, limits, depth, Some(layout), &Resources::default())).await
}

/// Measures with `--scan`: reads the data to find the real content.
async fn scan(ctx: &Context, disk: &Arc<Disk>, limits: &Limits, layout: &dyn Layout) -> Result<Measured> {
    let name = json::Source::from(&**disk).url;
    let reading = Conversion::reading(Arc::clone(disk))
        .limits(Limits::default().image(ImageLimit::None))
        .digest(false)
        .resources(ctx.resources()?)
        .stall_timeout(Some(ctx.common.stall_timeout))
        .cancel(ctx.cancel.clone());
    let report =
        progress::shown(&ctx.common, &name, Afterwards::Gone, |sender| reading.on_progress(sender).run())
            .await?;
    let mut measured = Measured::of_reading(&report, limits);
    ctx.guard(measured.predict(disk, layout)).await?;
    Ok(measured)
}

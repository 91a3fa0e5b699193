//! `compare`: checks whether two images have the same guest content.

use std::sync::Arc;

use diskferry::json::Compared;
use diskferry_core::{Comparison, Disk, Error, Result, Warning, compare};

use crate::args::Compare;
use crate::context::Context;
use crate::exit::Answer;
use crate::source::Opener;
use crate::{output, render};

pub(crate) async fn run(ctx: &Context, args: &Compare) -> Result<Answer> {
    let opener = Opener::new(ctx, &args.source);
    let a =
        opener.disk(&args.a, args.source.from).await.and_then(admitted).map_err(|error| of("A", error))?;
    let b = opener.disk(&args.b, args.from_b).await.and_then(admitted).map_err(|error| of("B", error))?;
    let resources = ctx.resources()?;
    let found = ctx.guard(compare(&a, &b, &resources)).await?;
    let mut warnings: Vec<Warning> = a.warnings().list();
    warnings.extend(b.warnings().list());
    ctx.warn(&warnings);
    if ctx.common.json {
        output::print_json(&Compared::from(&found)).await?;
    } else {
        output::print(&sentence(&found)).await?;
    }
    Ok(if found.equal { Answer::Yes } else { Answer::No })
}

fn admitted(disk: Arc<Disk>) -> Result<Arc<Disk>> {
    disk.admit()?;
    Ok(disk)
}

/// Prefixes an error with the image that it concerns: A or B.
fn of(which: &str, error: Error) -> Error {
    error.context(which)
}

fn sentence(found: &Comparison) -> String {
    let [a, b] = found.virtual_bytes;
    match found.first_difference {
        _ if found.equal => format!("the disks are identical: {}\n", render::bytes(a)),
        Some(at) => format!("the disks differ; the first difference is at byte {at} of {a}\n"),
        None => format!("the disks differ in size: {} and {}\n", render::bytes(a), render::bytes(b)),
    }
}

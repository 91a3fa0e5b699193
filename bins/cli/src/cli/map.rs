//! `map`: lists the extents of the disk in guest order.

use diskferry::json::Extent;
use diskferry_core::internal::printable;
use diskferry_core::{Disk, Result, Walk};

use crate::args::OneSource;
use crate::context::Context;
use crate::exit::Answer;
use crate::output::{self, Output};
use crate::source::Opener;

pub(crate) async fn run(ctx: &Context, args: &OneSource) -> Result<Answer> {
    let disk = Opener::new(ctx, &args.source).disk(&args.src, args.source.from).await?;
    disk.admit()?;
    ctx.guard(print(ctx, &disk)).await?;
    ctx.warn(&disk.warnings().list());
    Ok(Answer::Yes)
}

/// Prints one batch at a time, so that memory use does not grow with the map.
async fn print(ctx: &Context, disk: &Disk) -> Result<()> {
    let mut out = Output::new();
    let mut walk = Walk::new(disk);
    let json = ctx.common.json;
    let mut text = String::new();
    if !json {
        text =
            format!("{:>16} {:>16}  {:<10} {:>16} {:>16}\n", "start", "length", "kind", "offset", "stored");
    }
    let mut first = true;
    while let Some(stretches) = walk.next().await? {
        for stretch in &stretches {
            let row = Extent::new(disk, stretch);
            if json {
                text += if first { "[" } else { ",\n " };
                text += &output::json(&row)?;
            } else {
                text += &line(&row);
            }
            first = false;
        }
        if !out.write(&text).await? {
            return Ok(());
        }
        text.clear();
    }
    if json {
        text += if first { "[]\n" } else { "]\n" };
    }
    out.write(&text).await.map(drop)
}

fn line(row: &Extent) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let (offset, stored) = (number(row.offset), number(row.stored));
    let file = row.file.as_deref().map(|file| format!("  {}", printable(file))).unwrap_or_default();
    format!("{:>16} {:>16}  {:<10} {offset:>16} {stored:>16}{file}\n", row.start, row.length, row.kind)
}

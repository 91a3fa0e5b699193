//! `map`: the extents of the disk, in guest order, as they are found.

use diskferry_core::internal::printable;
use diskferry_core::{Disk, Result, Stretch, Walk};

use crate::args::OneSource;
use crate::context::Context;
use crate::exit::Answer;
use crate::json::MapRow;
use crate::output::{self, Output};
use crate::source::Opener;

pub(crate) async fn run(ctx: &Context, args: &OneSource) -> Result<Answer> {
    let disk = Opener::new(ctx, &args.source).disk(&args.src, args.source.from).await?;
    disk.admit()?;
    ctx.guard(print(ctx, &disk)).await?;
    ctx.warn(&disk.warnings().list());
    Ok(Answer::Yes)
}

/// Prints a batch at a time, so that memory does not grow with the map.
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
            let row = row(disk, stretch);
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

fn row<'a>(disk: &'a Disk, stretch: &Stretch) -> MapRow<'a> {
    let several = disk.files().len() > 1;
    let file = stretch.stored.filter(|_| several).and_then(|stored| disk.file(stored.file).ok());
    MapRow {
        start: stretch.guest.start().get(),
        length: stretch.guest.len(),
        kind: stretch.kind.name(),
        offset: stretch.stored.map(|stored| stored.range.start().get()),
        stored: stretch.stored.map(|stored| stored.range.len()),
        file: file.map(|file| name(file.url())),
    }
}

/// The name of a file of a set: they lie in one directory or under one prefix.
fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn line(row: &MapRow<'_>) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let (offset, stored) = (number(row.offset), number(row.stored));
    let file = row.file.map(|file| format!("  {}", printable(file))).unwrap_or_default();
    format!("{:>16} {:>16}  {:<10} {offset:>16} {stored:>16}{file}\n", row.start, row.length, row.kind)
}

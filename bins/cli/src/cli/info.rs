//! `info`: describes an image and the partitions of its disk.

use diskferry::json::{self, Info};
use diskferry_core::internal::HumanBytes;
use diskferry_core::{Disk, Error, Result, occupancy};
use diskferry_formats::{DiskContents, PartitionTable, inspect_disk};

use crate::args::OneSource;
use crate::context::Context;
use crate::exit::Answer;
use crate::render::{self, Facts};
use crate::source::Opener;
use crate::{exit, output};

/// Number of cells in the occupancy strip.
const CELLS: usize = 64;
/// The strip is omitted if the tables are larger than this. 64 MiB of L2 tables map 512 GiB with 64 KiB clusters.
const STRIP_TABLES: u64 = 64 << 20;

pub(crate) async fn run(ctx: &Context, args: &OneSource) -> Result<Answer> {
    let disk = Opener::new(ctx, &args.source).disk(&args.src, args.source.from).await?;
    let layout = ctx.guard(inspect_disk(&disk)).await?;
    layout.warnings.iter().for_each(|warning| disk.warnings().add(warning.clone()));
    if ctx.common.json {
        output::print_json(&Info::new(&disk, &layout)).await?;
    } else {
        let strip = ctx.guard(async { Ok(strip(&disk).await) }).await?;
        output::print(&text(&disk, &layout, &strip)).await?;
    }
    Ok(Answer::Yes)
}

/// Draws where the disk has data, or says why that is not shown.
pub(crate) async fn strip(disk: &Disk) -> String {
    if !disk.refusals().is_empty() {
        return "not shown: the image is refused".to_owned();
    }
    // Such an image has no usable tables: building its map requires reading the whole object.
    if disk.warnings().list().iter().any(|warning| warning.code == "recovered_by_scan") {
        return "not shown: this requires reading the whole object; use `map`".to_owned();
    }
    if disk.virtual_bytes() == 0 {
        return "none: the disk is empty".to_owned();
    }
    match occupancy(disk, CELLS, STRIP_TABLES).await {
        Ok(Some(shares)) => {
            let cell = HumanBytes(disk.virtual_bytes().div_ceil(CELLS as u64));
            format!(
                "{}\n{CELLS} cells of {cell}: · empty  ░▒▓ partly allocated  █ fully allocated",
                render::strip(&shares)
            )
        }
        Ok(None) => format!("not shown: the tables are larger than {}; use `map`", HumanBytes(STRIP_TABLES)),
        Err(error) => format!("unknown: {}", exit::as_text(&error, false).trim_end()),
    }
}

/// Formats the result of `info` as text.
pub(crate) fn text(disk: &Disk, layout: &DiskContents, strip: &str) -> String {
    let geometry = disk.info();
    let source = json::Source::from(disk);
    let mut facts = Facts::under(&source.url);
    facts.fact("format", render::format(geometry));
    if let Some(unit) = geometry.cluster_bytes {
        facts.fact("unit", HumanBytes(unit));
    }
    if !geometry.features.is_empty() {
        facts.fact("features", geometry.features.join(", "));
    }
    facts.fact("object", render::bytes(source.object_bytes));
    for file in disk.files().iter().filter(|_| disk.files().len() > 1) {
        facts.fact(
            "",
            format!("{}, {}", diskferry_core::internal::printable(file.url()), render::bytes(file.len())),
        );
    }
    facts.fact("virtual disk", render::bytes(geometry.virtual_bytes));
    if let Some(etag) = &source.etag {
        facts.fact("etag", diskferry_core::internal::printable(etag));
    }
    if let Some(version) = &source.version_id {
        facts.fact("version", diskferry_core::internal::printable(version));
    }
    partitions(&mut facts, layout);
    facts.fact("data", strip);
    let cost = disk.traffic();
    facts.fact(
        "cost",
        format!("{}, {}", render::counted(cost.requests, "request"), render::bytes(cost.bytes)),
    );
    facts.text(&render::warnings(&disk.warnings().list()));
    for refusal in disk.refusals() {
        facts.text(&exit::as_text(&Error::from(refusal), false).replacen("error[", "refused[", 1));
    }
    facts.done()
}

fn partitions(facts: &mut Facts, layout: &DiskContents) {
    let name = match layout.table {
        None => "unknown: the disk was not read",
        Some(PartitionTable::Absent) => "no partition table",
        Some(PartitionTable::Mbr) => "MBR",
        Some(PartitionTable::Gpt) => "GPT",
    };
    let whole = layout.filesystem.map(|found| format!(", {} on the whole disk", found.name()));
    let mut value = format!("{name}{}", whole.unwrap_or_default());
    let rows: Vec<Vec<String>> = layout
        .partitions
        .iter()
        .map(|partition| {
            vec![
                partition.index.to_string(),
                format!("from {}", HumanBytes(partition.start)),
                HumanBytes(partition.bytes).to_string(),
                partition.kind.to_string(),
                partition.filesystem.map(|found| found.name().to_owned()).unwrap_or_default(),
                if partition.bootable { "bootable".to_owned() } else { String::new() },
            ]
        })
        .collect();
    if !rows.is_empty() {
        value += "\n";
        value += render::table(&rows, &[0, 2]).trim_end();
    }
    facts.fact("partitions", value);
}

//! The tables, in Markdown.

use std::fmt::Write;

use crate::bench::Lane;
use crate::outcome::Outcome;
use crate::rows::{Floor, Work};
use crate::stats::Ratio;
use crate::streaming::{HOW_TO_INSTALL, Streaming};

/// The measurement setup.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Conditions {
    pub(crate) machine: String,
    pub(crate) runs: usize,
    /// Total size of the files on the disk.
    pub(crate) content: u64,
    pub(crate) disk: u64,
    pub(crate) streaming: Option<Streaming>,
}

/// A cell without a value.
const NOTHING: &str = "";

/// Formats all tables with their introductions.
pub(crate) fn tables(outcomes: &[Outcome], conditions: &Conditions) -> String {
    let Conditions { machine, runs, content, disk, streaming } = conditions;
    let mut text = format!(
        "Measured on {machine}. A disk of {} GiB with {} MB of programs and libraries on an ext4 file system; {runs} alternating \
         runs of each method. Times are medians in seconds. Ratios are of medians; brackets show the smallest and largest ratio of a round. Warm cache, \
         a new target for each run, no sync for any program. qemu-img ran with `-m 16`, and with `-W` if that was faster in a trial.\n",
        disk >> 30,
        content / 1_000_000
    );
    let of = |pick: fn(Work) -> bool| {
        outcomes.iter().filter(move |outcome| pick(outcome.row.work)).collect::<Vec<_>>()
    };
    section(
        &mut text,
        "Local files, no digest. The floor is `cp --sparse=always` of the raw disk if bytes are only copied (\"copy\"), else the named \
         operation on one thread per core, with the map read beforehand.",
        &[
            "from → to",
            "ours",
            "qemu-img",
            "qemu-img / ours",
            "floor",
            "ours / floor",
            "size / qemu-img's",
            "peak MiB",
            "goal",
            "met",
        ],
        of(|work| matches!(work, Work::Convert { .. } | Work::Digest { .. }))
            .iter()
            .map(|outcome| local(outcome)),
    );
    section(
        &mut text,
        "Local raw → raw with and without the digest, and SHA-256 alone on all cores.",
        &["work", "with", "without", "SHA-256 alone", "(with − without) / alone", "peak MiB"],
        of(|work| work == Work::WithDigest).iter().map(|outcome| digest(outcome)),
    );
    let tool = match streaming {
        Some(tool) => format!("The streaming tool is {}, run once.", tool.name()),
        None => format!("No streaming tool was installed ({HOW_TO_INSTALL})."),
    };
    section(
        &mut text,
        &format!(
            "S3 → raw from a server in a separate process, with the digest, over three simulated networks: 30 ms to the first byte, 100 MB/s per \
             connection and 125 MB/s in total; 80 ms and 50 MB/s per connection; 1 ms without caps. \"16 ranges\" is a simple client that \
             shares no code with diskferry. It fetches the object in ranges of 8 MiB, 16 at a time, and discards them. The floor \
             fetches the ranges of our run again, 16 at a time, or only decodes on all cores, whichever takes longer. \"Parallel\" \
             downloads 16 concurrent ranges of 8 MiB and then runs qemu-img; \"plain\" downloads on one connection. The spread is that of \
             our times around their median. \"Bytes\" is sent bytes divided by the stored bytes of extents and tables. {tool}"
        ),
        &[
            "line",
            "object",
            "ours",
            "spread",
            "16 ranges",
            "ours / 16 ranges",
            "floor",
            "ours / floor",
            "parallel / ours",
            "plain / ours",
            "streaming / ours",
            "requests",
            "bytes",
            "peak MiB",
            "goal",
            "met",
        ],
        of(|work| matches!(work, Work::Import { .. })).iter().map(|outcome| import(outcome)),
    );
    if let Some(ratio) = fragmented(outcomes) {
        let _fits = writeln!(text, "\nFragmented / contiguous: {} (goal: ≤ 1.3).", shown(Some(ratio)));
    }
    section(
        &mut text,
        "`measure` of a fully allocated QCOW2 of 46 GiB with 64 KiB clusters, over the first network.",
        &["command", "seconds", "peak MiB", "goal", "met"],
        of(|work| matches!(work, Work::Verdict { .. })).iter().map(|outcome| verdict(outcome)),
    );
    text
}

/// Formats a table with its introduction; nothing if it has no rows.
fn section(text: &mut String, said: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rows: String = rows.map(|row| line(&row)).collect();
    if rows.is_empty() {
        return;
    }
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    text.extend(["\n", said, "\n\n", &line(&head), &rule, &rows]);
}

fn local(outcome: &Outcome) -> Vec<String> {
    let flag = if outcome.out_of_order == Some(true) { " (-W)" } else { "" };
    let qemu = outcome.median(Lane::Qemu).map(|median| format!("{}{flag}", seconds(Some(median))));
    let floor =
        outcome.median(Lane::Floor).map(|median| format!("{} {}", seconds(Some(median)), floor_of(outcome)));
    vec![
        outcome.row.work.title(),
        seconds(outcome.median(Lane::Ours)),
        qemu.unwrap_or_default(),
        shown(outcome.slower(Lane::Qemu)),
        floor.unwrap_or_default(),
        shown(outcome.above_floor()),
        outcome.size().map_or_else(String::new, |size| format!("{size:.3}")),
        peak(outcome),
        outcome.row.goal.to_string(),
        met(outcome),
    ]
}

fn floor_of(outcome: &Outcome) -> &'static str {
    match outcome.row.work {
        Work::Convert { floor: Some(floor), .. } => match floor {
            Floor::Copy => "copy",
            Floor::DecodeAndWrite => "decode and write",
            Floor::Decode => "decode alone",
            Floor::Compress(how) => how.name(),
        },
        _ => NOTHING,
    }
}

fn digest(outcome: &Outcome) -> Vec<String> {
    let medians = [Lane::Ours, Lane::OursBare, Lane::Floor].map(|lane| outcome.median(lane));
    let share = match medians {
        [Some(with), Some(without), Some(alone)] if alone > 0.0 => format!("{:.2}", (with - without) / alone),
        _ => String::new(),
    };
    let [with, without, alone] = medians.map(seconds);
    vec![outcome.row.work.title(), with, without, alone, share, peak(outcome)]
}

fn import(outcome: &Outcome) -> Vec<String> {
    let floor = outcome.floor().map(|floor| floor.median());
    let traffic = outcome.traffic.filter(|traffic| traffic.needed > 0);
    let line = match outcome.row.work {
        Work::Import { line, .. } => line.name(),
        _ => NOTHING,
    };
    vec![
        line.to_owned(),
        outcome.row.work.title(),
        seconds(outcome.median(Lane::Ours)),
        outcome.spread().map_or_else(String::new, |spread| format!("{:.1} %", spread * 100.0)),
        seconds(outcome.median(Lane::Fixed)),
        shown(outcome.above(Lane::Fixed)),
        seconds(floor),
        shown(outcome.above_floor()),
        shown(outcome.slower(Lane::Parallel)),
        shown(outcome.slower(Lane::Plain)),
        shown(outcome.slower(Lane::Streaming)),
        traffic.map_or_else(String::new, |traffic| traffic.requests.to_string()),
        traffic.map_or_else(String::new, |traffic| {
            format!("{:.3}", traffic.fetched as f64 / traffic.needed as f64)
        }),
        peak(outcome),
        outcome.row.goal.to_string(),
        met(outcome),
    ]
}

fn verdict(outcome: &Outcome) -> Vec<String> {
    vec![
        outcome.row.work.title(),
        seconds(outcome.median(Lane::Ours)),
        peak(outcome),
        outcome.row.goal.to_string(),
        met(outcome),
    ]
}

/// Returns the ratio of the fragmented image to the contiguous one.
fn fragmented(outcomes: &[Outcome]) -> Option<Ratio> {
    let ours = |name| outcomes.iter().find(|outcome| outcome.row.name == name)?.times.get(&Lane::Ours);
    ours("s3-fragmented")?.over(ours("s3-plain")?)
}

/// Formats seconds.
pub(crate) fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(String::new, |seconds| {
        let decimals = if seconds < 0.1 { 3 } else { 2 };
        format!("{seconds:.decimals$}")
    })
}

fn shown(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(String::new, |Ratio { medians, least, most }| {
        format!("{medians:.2} [{least:.2}–{most:.2}]")
    })
}

fn peak(outcome: &Outcome) -> String {
    (outcome.peak_bytes >> 20).to_string()
}

fn met(outcome: &Outcome) -> String {
    match outcome.met() {
        Some(true) => "yes".to_owned(),
        Some(false) => "**no**".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::made::outcome;

    fn conditions() -> Conditions {
        Conditions {
            machine: "2 cores".to_owned(),
            runs: 3,
            content: 600_000_000,
            disk: 10 << 30,
            streaming: None,
        }
    }

    #[test]
    fn row_has_medians_ratios_goal_and_outcome() {
        let lanes: [(Lane, &[f64]); 3] = [
            (Lane::Ours, &[0.5, 0.8, 0.7]),
            (Lane::Qemu, &[2.5, 2.4, 2.1]),
            (Lane::Floor, &[0.6, 0.6, 0.05]),
        ];
        let mut row = outcome("zlib-raw", &lanes);
        row.out_of_order = Some(true);
        let text = tables(&[row], &conditions());
        let line = text.lines().find(|line| line.contains("→ raw")).unwrap();
        assert_eq!(
            line,
            "| zlib QCOW2 → raw | 0.70 | 2.40 (-W) | 3.43 [3.00–5.00] | 0.60 decode and write | 1.17 [0.83–14.00] |  | 96 \
             | ≥ 3 × qemu-img, ≤ 1.40 × floor | yes |"
        );
        assert!(!text.contains("S3"), "a table without rows is omitted");
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let outcomes: Vec<Outcome> = crate::rows::all()
            .iter()
            .map(|row| outcome(row.name, &[(Lane::Ours, &[0.05]), (Lane::Floor, &[0.05])]))
            .collect();
        let text = tables(&outcomes, &conditions());
        let mut columns = 0;
        for line in text.lines() {
            let cells = line.matches('|').count();
            if line.starts_with("| ") && columns != 0 {
                assert_eq!(cells, columns, "{line}");
            }
            columns = cells;
        }
        let rows = text.lines().filter(|line| line.starts_with("| ")).count();
        assert_eq!(rows, outcomes.len() + 4, "four tables with a header each");
        assert!(text.contains("Fragmented / contiguous: 1.00"));
    }
}

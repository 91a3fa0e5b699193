//! Results as a person reads them.

use std::io::Write;

use diskferry_core::internal::{HumanBytes, printable};
use diskferry_core::{ImageInfo, Outcome, Sizes, Verdict, Warning};

/// Writes to standard error; nobody can be told where that fails.
pub(crate) fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// `1.23 GiB (1320702444 bytes)`.
pub(crate) fn bytes(count: u64) -> String {
    if count < 1024 {
        HumanBytes(count).to_string()
    } else {
        format!("{} ({count} bytes)", HumanBytes(count))
    }
}

/// The same where it may be unknown.
pub(crate) fn maybe_bytes(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".to_owned(), bytes)
}

/// Format and variant: `qcow2 v3`, and `raw` alone.
pub(crate) fn format(geometry: &ImageInfo) -> String {
    if geometry.variant.is_empty() || geometry.variant == geometry.format {
        return geometry.format.to_owned();
    }
    format!("{} {}", geometry.format, printable(&geometry.variant))
}

/// `1 request`, `7 requests`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Seconds as `5 ms`, `4.21 s`, `7 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        0..10 => format!("{seconds:.2} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Lines of a name and a value, the values below each other.
#[derive(Default)]
pub(crate) struct Facts(String);

impl Facts {
    /// Under a heading, which may come from outside.
    pub(crate) fn under(heading: &str) -> Self {
        Self(printable(heading) + "\n")
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        // What continues a value stands below it.
        let value = value.replace('\n', &format!("\n{:18}", ""));
        self.0 += format!("  {name:<15} {value}").trim_end();
        self.0.push('\n');
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.0 += text;
    }

    pub(crate) fn done(self) -> String {
        self.0
    }
}

/// Warnings, each on its line.
pub(crate) fn warnings(all: &[Warning]) -> String {
    all.iter().map(|warning| format!("warning[{}]: {}\n", warning.code, warning.message)).collect()
}

/// The sizes that are known; `upper_bound` says that the target's is no more than that.
pub(crate) fn sizes(facts: &mut Facts, sizes: &Sizes, upper_bound: bool) {
    facts.fact("object", bytes(sizes.object_bytes));
    facts.fact("virtual disk", maybe_bytes(sizes.virtual_bytes));
    facts.fact("allocated", maybe_bytes(sizes.allocated_bytes));
    if let Some(content) = sizes.content_bytes {
        let end = sizes.content_end.filter(|_| content > 0);
        let end = end.map_or_else(String::new, |end| format!(", the last of it before {}", bytes(end)));
        facts.fact("real content", bytes(content) + &end);
    }
    if let Some(output) = sizes.output_bytes {
        let most = if upper_bound { "at most " } else { "" };
        facts.fact("output", format!("{most}{}", bytes(output)));
    }
}

/// The rules, one a line.
pub(crate) fn rules(facts: &mut Facts, verdict: &Verdict) {
    for rule in &verdict.rules {
        let code = match rule.outcome {
            Outcome::Fail => format!(" [{}]", rule.kind),
            Outcome::Pass | Outcome::Warn => String::new(),
        };
        let hint = match (&rule.hint, rule.outcome) {
            (Some(hint), Outcome::Fail) => format!("\nhint: {hint}"),
            _ => String::new(),
        };
        facts.fact(rule.rule, format!("{}{code}: {}{hint}", rule.outcome.name(), rule.message));
    }
}

/// The strip of `info`: one cell a part of the disk, the fuller the darker.
pub(crate) fn strip(shares: &[f64]) -> String {
    let cell = |share: &f64| match *share {
        share if share <= 0.0 => '·',
        share if share < 1.0 / 3.0 => '░',
        share if share < 2.0 / 3.0 => '▒',
        share if share < 1.0 => '▓',
        _ => '█',
    };
    shares.iter().map(cell).collect()
}

/// A table: columns as wide as their widest cell; those named in `right` are set to the right.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            line += &if right.contains(&column) {
                format!("{gap}{cell:>width$}")
            } else {
                format!("{gap}{cell:<width$}")
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["a", "bytes", "x"]), row(["longer", "7", ""])], &[1]);
        assert_eq!(text, "a       bytes  x\nlonger      7\n");
    }

    #[test]
    fn a_cell_is_empty_or_full_only_where_the_part_is() {
        assert_eq!(strip(&[0.0, 0.001, 0.5, 0.999, 1.0]), "·░▒▓█");
    }

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(seconds(0.0421), "42 ms");
        assert_eq!(seconds(0.6955), "696 ms");
        assert_eq!(seconds(0.9999), "1.00 s");
        assert_eq!(seconds(59.6), "1 min 0 s");
        assert_eq!(seconds(7500.0), "2 h 5 min");
    }
}

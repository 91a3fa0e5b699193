//! Formats results as text.

use std::io::Write;

use diskferry_core::internal::{HumanBytes, printable};
use diskferry_core::{ImageInfo, Outcome, Sizes, Verdict, Warning};

/// Writes to standard error. A failure is ignored: there is no place to report it.
pub(crate) fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Formats as `1.23 GiB (1320702444 bytes)`.
pub(crate) fn bytes(count: u64) -> String {
    if count < 1024 {
        HumanBytes(count).to_string()
    } else {
        format!("{} ({count} bytes)", HumanBytes(count))
    }
}

/// Like [`bytes`], or `unknown`.
pub(crate) fn maybe_bytes(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".to_owned(), bytes)
}

/// Format and variant, as `qcow2 v3`; without a variant only the format, as `raw`.
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

/// Lines of a name and a value, with aligned values.
#[derive(Default)]
pub(crate) struct Facts(String);

impl Facts {
    /// Starts with a heading. It may be untrusted: control characters are escaped.
    pub(crate) fn under(heading: &str) -> Self {
        Self(printable(heading) + "\n")
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        // Continuation lines are aligned with the value.
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

/// Formats warnings, one per line.
pub(crate) fn warnings(all: &[Warning]) -> String {
    all.iter().map(|warning| format!("warning[{}]: {}\n", warning.code, warning.message)).collect()
}

/// Adds the known sizes. `upper_bound` marks the output size as an upper bound.
pub(crate) fn sizes(facts: &mut Facts, sizes: &Sizes, upper_bound: bool) {
    facts.fact("object", bytes(sizes.object_bytes));
    facts.fact("virtual disk", maybe_bytes(sizes.virtual_bytes));
    facts.fact("allocated", maybe_bytes(sizes.allocated_bytes));
    if let Some(content) = sizes.content_bytes {
        let end = sizes.content_end.filter(|_| content > 0);
        let end = end.map_or_else(String::new, |end| format!(", ends at {}", bytes(end)));
        facts.fact("real content", bytes(content) + &end);
    }
    if let Some(output) = sizes.output_bytes {
        let most = if upper_bound { "at most " } else { "" };
        facts.fact("output", format!("{most}{}", bytes(output)));
    }
}

/// Adds the rules, one per line.
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

/// Draws the strip of `info`: one cell per part of the disk, darker for more allocated data.
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

/// Formats a table. Each column is as wide as its widest cell; columns in `right` are right-aligned.
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
    fn cell_is_empty_or_full_only_if_its_part_is() {
        assert_eq!(strip(&[0.0, 0.001, 0.5, 0.999, 1.0]), "·░▒▓█");
    }

    #[test]
    fn times_are_formatted_with_suitable_units() {
        assert_eq!(seconds(0.0421), "42 ms");
        assert_eq!(seconds(0.6955), "696 ms");
        assert_eq!(seconds(0.9999), "1.00 s");
        assert_eq!(seconds(59.6), "1 min 0 s");
        assert_eq!(seconds(7500.0), "2 h 5 min");
    }
}

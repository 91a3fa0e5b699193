//! The plot: an SVG with one panel for local files and one for the network, and a group of bars per row. The output is
//! deterministic. The colours are readable on white and on black.

use std::fmt::Write;

use crate::bench::Lane;
use crate::outcome::Outcome;
use crate::part::serve::Line;
use crate::rows::Work;
use crate::table::seconds;

/// Width of the plot, and of the areas to the left and right of the bars.
const WIDTH: usize = 860;
const LEFT: usize = 230;
const RIGHT: usize = 70;
const BAR: usize = 11;
const GROUP_GAP: usize = 10;
/// Height of a panel's heading with its legend.
const HEADING: usize = 56;
/// Contrast ratio 4.5 to both black and white.
const TEXT: &str = "#767676";

/// A kind of bar: each row of a panel has one.
struct Kind {
    name: &'static str,
    colour: &'static str,
    of: fn(&Outcome) -> Option<f64>,
}

const OURS: Kind = Kind { name: "diskferry", colour: "#2a7de1", of: |outcome| outcome.median(Lane::Ours) };
const FLOOR: Kind =
    Kind { name: "floor", colour: "#8c8c8c", of: |outcome| outcome.floor().map(|floor| floor.median()) };
const QEMU: Kind = Kind { name: "qemu-img", colour: "#d9822b", of: |outcome| outcome.median(Lane::Qemu) };
const PARALLEL: Kind = Kind {
    name: "parallel download, then qemu-img",
    colour: "#d9822b",
    of: |outcome| outcome.median(Lane::Parallel),
};
const PLAIN: Kind = Kind {
    name: "plain download, then qemu-img",
    colour: "#b0529c",
    of: |outcome| outcome.median(Lane::Plain),
};

/// Draws the conversions among `outcomes`.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let pick = |keep: fn(Work) -> bool| -> Vec<&Outcome> {
        outcomes.iter().filter(|outcome| keep(outcome.row.work)).collect()
    };
    let local = pick(|work| matches!(work, Work::Convert { floor: Some(_), .. }));
    let remote = pick(|work| matches!(work, Work::Import { line: Line::Near, .. }));
    let mut body = String::new();
    let mut height = 0;
    if !local.is_empty() {
        height = panel(&mut body, height, "Local files", &[OURS, FLOOR, QEMU], &local);
    }
    if !remote.is_empty() {
        let kinds = [OURS, FLOOR, PARALLEL, PLAIN];
        height = panel(&mut body, height, "S3 → raw: 30 ms, 125 MB/s", &kinds, &remote);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"{TEXT}\">\n<title>diskferry beside qemu-img and the floors, in seconds</title>\n{body}</svg>\n"
    )
}

/// Draws one panel from `top`. Each row has its own scale: its slowest method has the full width. Returns the panel's end.
fn panel(body: &mut String, top: usize, title: &str, kinds: &[Kind], rows: &[&Outcome]) -> usize {
    let _fits = writeln!(
        body,
        "<text x=\"8\" y=\"{}\" font-size=\"15\" font-weight=\"bold\">{title} <tspan font-size=\"12\" \
         font-weight=\"normal\">(seconds; each row has its own scale)</tspan></text>",
        top + 20
    );
    let mut x = 8;
    for kind in kinds {
        let (Kind { name, colour, .. }, y) = (kind, top + 30);
        let _fits = writeln!(
            body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{BAR}\" height=\"{BAR}\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            x + BAR + 5,
            y + BAR - 1
        );
        x += BAR + 25 + name.len() * 7;
    }
    let mut y = top + HEADING;
    for row in rows {
        let bars: Vec<(&Kind, f64)> = kinds.iter().filter_map(|kind| Some((kind, (kind.of)(row)?))).collect();
        let longest = bars.iter().map(|(_, median)| *median).fold(f64::MIN_POSITIVE, f64::max);
        let middle = y + bars.len() * BAR / 2 + 4;
        let _fits = writeln!(
            body,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            LEFT - 8,
            row.row.work.title()
        );
        for (Kind { colour, .. }, median) in bars {
            let width = (WIDTH - LEFT - RIGHT) as f64 * median / longest;
            let _fits = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" \
                 y=\"{}\" font-size=\"10\">{}</text>",
                BAR - 1,
                LEFT as f64 + width + 4.0,
                y + BAR - 2,
                seconds(Some(median))
            );
            y += BAR;
        }
        y += GROUP_GAP;
    }
    y + GROUP_GAP
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::made::outcome;

    fn plotted() -> String {
        svg(&[
            outcome("zlib-raw", &[(Lane::Ours, &[0.5]), (Lane::Qemu, &[2.0]), (Lane::Floor, &[0.4])]),
            outcome("s3-raw", &[(Lane::Ours, &[9.0]), (Lane::Plain, &[30.0]), (Lane::Floor, &[8.9])]),
            outcome("empty-raw", &[(Lane::Ours, &[0.1])]),
        ])
    }

    #[test]
    fn bars_are_scaled_to_the_slowest_method_of_the_row() {
        let svg = plotted();
        let width = |seconds: f64| format!("width=\"{seconds:.1}\" height=\"10\"");
        assert!(svg.contains(&width(560.0)) && svg.contains(&width(140.0)), "{svg}");
        assert!(svg.contains(&width(560.0 * 0.3)), "{svg}");
    }

    #[test]
    fn plot_has_two_panels_with_the_rows_that_have_a_floor() {
        let svg = plotted();
        assert_eq!(svg.matches("each row has its own scale").count(), 2);
        assert!(svg.contains("zlib QCOW2 → raw") && !svg.contains("8 TiB"));
        assert_eq!(svg, plotted());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}

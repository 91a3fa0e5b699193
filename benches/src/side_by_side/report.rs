//! Writes PERFORMANCE.md: the tables between two markers, and the plot in a separate file.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};

const BEGIN: &str = "<!-- side-by-side: begin; written by the program of that name -->\n";
const END: &str = "<!-- side-by-side: end -->\n";
/// Path of the plot, relative to PERFORMANCE.md.
const PLOT: &str = "benches/side-by-side.svg";

/// Writes tables and plot to the source tree that this program was built from.
///
/// # Errors
/// If the markers are missing, or a file cannot be written.
pub(crate) fn write(tables: &str, plot: &str) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let page = root.join("PERFORMANCE.md");
    let text = fs::read_to_string(&page).map_err(Failure::at("reading", &page))?;
    let text = replaced(&text, tables).ok_or_else(|| {
        Failure::Odd(format!(
            "PERFORMANCE.md must contain these lines at the place of the tables:\n{BEGIN}{END}"
        ))
    })?;
    let file = root.join(PLOT);
    fs::write(&file, plot).map_err(Failure::at("writing", &file))?;
    fs::write(&page, text).map_err(Failure::at("writing", &page))
}

/// Returns the page with these tables between its markers. `None` if it has no markers.
fn replaced(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let image = format!("![Times beside qemu-img and the floors]({PLOT})");
    Some(format!("{before}{BEGIN}{tables}\n{image}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        let once = replaced(&page, "new\n").unwrap();
        assert!(once.starts_with("before\n<!--") && once.ends_with("-->\nafter\n"));
        assert!(once.contains("\nnew\n") && !once.contains("old"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert_eq!(replaced("no marks", "new"), None);
        let real = include_str!("../../../PERFORMANCE.md");
        assert!(replaced(real, "new").is_some(), "the page has the markers");
    }
}

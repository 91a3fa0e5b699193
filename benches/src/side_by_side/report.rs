//! Updates PERFORMANCE.md: the tables are between two marks, the plot is in a separate file.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};

const BEGIN: &str = "<!-- side-by-side: begin; written by the program of that name -->\n";
const END: &str = "<!-- side-by-side: end -->\n";
/// Relative to the directory of PERFORMANCE.md.
const PLOT: &str = "benches/side-by-side.svg";

/// Writes tables and plot into the source tree that this program was built from.
///
/// # Errors
/// If the marks are missing, or a file cannot be written.
pub(crate) fn write(tables: &str, plot: &str) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let page = root.join("PERFORMANCE.md");
    let text = fs::read_to_string(&page).map_err(Failure::at("reading", &page))?;
    let text = replaced(&text, tables).ok_or_else(|| {
        Failure::Odd(format!("PERFORMANCE.md needs the lines\n{BEGIN}{END}where the tables are to stand"))
    })?;
    let file = root.join(PLOT);
    fs::write(&file, plot).map_err(Failure::at("writing", &file))?;
    fs::write(&page, text).map_err(Failure::at("writing", &page))
}

/// The page with these tables between its marks. `None` if it has no marks.
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
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        let once = replaced(&page, "new\n").unwrap();
        assert!(once.starts_with("before\n<!--") && once.ends_with("-->\nafter\n"));
        assert!(once.contains("\nnew\n") && !once.contains("old"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert_eq!(replaced("no marks", "new"), None);
        let real = include_str!("../../../PERFORMANCE.md");
        assert!(replaced(real, "new").is_some(), "the page has the marks");
    }
}

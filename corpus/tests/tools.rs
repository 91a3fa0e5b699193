//! `.ci/tools` lists all programs that tests, benchmarks and `corpus/make` run. All programs are started through it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use diskferry_corpus::tools;

/// Rust sources of the workspace and `corpus/make`, by path in the repository. This file is omitted: it contains the patterns.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeMap::new();
    let mut dirs: Vec<PathBuf> =
        ["benches", "bins", "core", "corpus", "examples", "formats", "fuzz", "s3io", "src", "tests"]
            .map(|dir| root.join(dir))
            .into();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                dirs.push(path);
            } else if (name.ends_with(".rs") && name != "corpus/tests/tools.rs") || name == "corpus/make" {
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 100 && found.contains_key("corpus/make"), "{:?}", found.keys());
    found
}

/// Returns the text after each occurrence of `what`, with its line number.
fn after<'a>(text: &'a str, what: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(what).map(move |(at, _)| (text[..at].lines().count(), &text[at + what.len()..]))
}

#[test]
fn list_is_well_formed_and_sorted() {
    let list: Vec<_> = tools::list().collect();
    assert!(list.is_sorted_by(|a, b| a.0 < b.0), "{list:?}");
    for (program, package) in list {
        let plain = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
        };
        assert!(plain(program) && plain(package), "{program} {package}");
    }
}

#[test]
fn every_listed_program_is_installed() {
    let missing: BTreeSet<_> =
        tools::list().filter(|(program, _)| tools::find(program).is_none()).map(|(_, p)| p).collect();
    assert!(missing.is_empty(), "run .ci/test, which installs {missing:?}");
}

#[test]
fn every_program_is_started_through_the_list() {
    // The diskferry program, the test binary as a child process, and cargo.
    let allowed =
        ["env!(\"CARGO_BIN_EXE_", "env!(\"CARGO\")", "std::env::current_exe()", "env::current_exe()"];
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for (line, argument) in after(&text, "Command::new(") {
            // The side-by-side benchmark finds its programs in its tools.rs, and reports a missing one as its own error.
            let known = name == "corpus/src/tools.rs"
                || allowed.iter().any(|start| argument.starts_with(start))
                || (name.starts_with("benches/src/side_by_side/") && !argument.starts_with('"'));
            if !known {
                wrong.push(format!("{name}:{line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "use diskferry_corpus::tools::command, or oracle::tool: {wrong:?}");
}

#[test]
fn every_program_named_in_a_source_is_listed() {
    let calls =
        ["command(\"", "tool(\"", "tool_fed(\"", "capture(\"", "capture_fed(\"", "run(\"", "required(\""];
    let listed: BTreeSet<_> = tools::list().map(|(program, _)| program).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, text) in sources() {
        for call in calls {
            // A call named "run" starts a program in a few files only; elsewhere it is a benchmark or a subcommand.
            let programs = ["formats/src/partition/tests/", "core/tests/core/file_source.rs", "corpus/make"];
            if call == "run(\"" && !programs.iter().any(|place| name.starts_with(place)) {
                continue;
            }
            for (line, rest) in after(&text, call) {
                let program = rest.split('"').next().unwrap();
                seen += 1;
                if !listed.contains(program) {
                    wrong.push(format!("{name}:{line}: {program}"));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} calls were found: has a function been renamed?");
    assert!(wrong.is_empty(), "not in .ci/tools: {wrong:?}");
}

#[test]
fn every_listed_program_is_used() {
    let all = sources();
    let unused: Vec<_> = tools::list()
        .filter(|(program, _)| {
            let quoted = format!("\"{program}\"");
            !all.values().any(|text| text.contains(&quoted))
        })
        .collect();
    assert!(unused.is_empty(), "remove from .ci/tools: {unused:?}");
}

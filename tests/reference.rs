//! `docs/reference.md` has an entry for every code, JSON member, metric, span and option of the code, and for nothing else.
//!
//! Warning codes, metrics, spans and options are found in the source text, so that a new one cannot be forgotten. Examples
//! of JSON documents must read as their types and serialize to the same value.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use diskferry::{ErrorKind, json};
use serde::Serialize;
use serde::de::DeserializeOwned;

const REFERENCE: &str = include_str!("../docs/reference.md");
/// The crates that report warnings, metrics and spans.
const SOURCES: [&str; 5] = ["core/src", "formats/src", "s3io/src", "bins/cli/src", "src"];

/// A source file without its unit tests.
struct File {
    path: PathBuf,
    text: String,
}

fn files() -> Vec<File> {
    fn collect(dir: &Path, files: &mut Vec<File>) {
        for entry in std::fs::read_dir(dir).expect("a source directory").map(|entry| entry.expect("an entry"))
        {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "tests" && name != "server" && name != "conformance" {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                files.push(File { path, text });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in SOURCES {
        collect(&root.join(dir), &mut files);
    }
    assert!(files.len() > 50, "only {} source files were found", files.len());
    files
}

/// What follows each occurrence of `pattern`, without leading white space.
fn after<'a>(text: &'a str, pattern: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(pattern).map(move |(at, _)| text[at + pattern.len()..].trim_start())
}

/// The string literal that `text` begins with.
fn literal(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.split('"').next()
}

/// The value of the string constant `name` in `text`.
fn constant<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = text.split_once(&format!("const {name}: &str ="))?;
    literal(value.trim_start())
}

/// The text of the section `## title`.
fn section(title: &str) -> &'static str {
    let (_, rest) = REFERENCE.split_once(&format!("\n## {title}\n")).expect("the section is there");
    rest.split("\n## ").next().unwrap_or_default()
}

/// The cells of the rows of the tables in a section whose first cell is code.
fn rows(title: &str) -> Vec<Vec<&'static str>> {
    let rows = section(title).lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

fn entries(title: &str) -> BTreeSet<String> {
    let names: Vec<&str> = rows(title).iter().map(|row| row[0]).collect();
    let set: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(set.len(), names.len(), "an entry of {title:?} is there twice");
    set
}

#[track_caller]
fn assert_same(title: &str, code: &BTreeSet<String>) {
    let listed = entries(title);
    let missing: Vec<_> = code.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/reference.md, {title:?}: missing {missing:?}, not in the code {unknown:?}"
    );
}

#[test]
fn every_error_code_is_listed_with_its_exit_code_and_retryability() {
    assert_same("Error codes", &ErrorKind::ALL.iter().map(|kind| kind.code().to_owned()).collect());
    for row in rows("Error codes") {
        let kind = ErrorKind::ALL.iter().find(|kind| kind.code() == row[0]).expect("a code");
        assert_eq!(row.len(), 5, "{row:?}");
        assert_eq!(row[1], kind.exit_code().to_string(), "{}", row[0]);
        assert_eq!(row[2], if kind.retryable() { "yes" } else { "no" }, "{}", row[0]);
        assert!(row[3..].iter().all(|cell| !cell.is_empty()), "{} has no cause or no cure", row[0]);
    }
}

#[test]
fn every_exit_code_is_listed() {
    let listed: BTreeSet<u8> = section("Exit codes")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    let of_errors = ErrorKind::ALL.iter().map(|kind| kind.exit_code());
    assert_eq!(listed, of_errors.chain([0, 1]).collect());
}

#[test]
fn every_warning_code_is_listed() {
    let mut codes = BTreeSet::new();
    for File { path, text } in files() {
        for argument in after(&text, "Warning::new(") {
            let name = argument.split([',', ')']).next().unwrap_or_default();
            let code = literal(argument).or_else(|| constant(&text, name));
            match code {
                Some(code) => drop(codes.insert(code.to_owned())),
                // Collected by code, and given below.
                None if path.ends_with("partition/findings.rs") => {}
                None => panic!("{}: the code {name:?} of a warning is not a string literal", path.display()),
            }
        }
        if path.components().any(|part| part.as_os_str() == "partition") {
            for call in ["findings.add(", "self.add("] {
                codes.extend(after(&text, call).filter_map(literal).map(str::to_owned));
            }
        }
    }
    assert_same("Warning codes", &codes);
    for row in rows("Warning codes") {
        assert!(row.len() == 3 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn every_json_member_is_named() {
    let documents = [section("Sizes"), section("JSON documents")].concat();
    let source = include_str!("../src/json.rs");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((name, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) else {
            continue;
        };
        if name.contains(['(', ' ']) {
            continue;
        }
        let before = if at > 0 { lines[at - 1] } else { "" };
        if before.contains("serde(flatten)") {
            continue;
        }
        let renamed = after(before, "rename =").next().and_then(literal);
        let name = renamed.unwrap_or(name);
        seen += 1;
        assert!(
            documents.contains(&format!("`{name}`")),
            "docs/reference.md does not name the member {name:?}"
        );
    }
    assert!(seen > 60, "only {seen} members were found");
}

/// The examples of the document `name`: blocks that are marked `json name`.
fn examples(name: &str) -> Vec<&'static str> {
    let fence = format!("\n```json {name}\n");
    let blocks = REFERENCE.split(&fence).skip(1);
    let examples: Vec<_> = blocks.map(|rest| rest.split("\n```").next().unwrap_or_default()).collect();
    assert!(!examples.is_empty(), "docs/reference.md has no example of {name}");
    examples
}

#[track_caller]
fn assert_reads_as<T: Serialize + DeserializeOwned>(name: &str) {
    for example in examples(name) {
        let value: serde_json::Value = serde_json::from_str(example).expect("an example is JSON");
        let document: T = serde_json::from_str(example).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(serde_json::to_value(&document).expect("it serializes"), value, "{name}");
    }
}

#[test]
fn every_json_example_is_a_document_of_its_type() {
    assert_reads_as::<json::Info>("info");
    assert_reads_as::<Vec<json::Extent>>("map");
    assert_reads_as::<json::Measured>("measure");
    assert_reads_as::<json::Converted>("convert");
    assert_reads_as::<json::Compared>("compare");
    assert_reads_as::<json::Digested>("digest");
    assert_reads_as::<json::Failure>("error");
    assert_reads_as::<json::Progress>("progress");
}

#[test]
fn every_metric_is_listed() {
    let mut names = BTreeSet::new();
    for File { path, text } in files() {
        let metrics: Vec<&str> = after(&text, ": &str =")
            .filter_map(literal)
            .filter(|name| name.starts_with("diskferry_"))
            .collect();
        for call in ["counter!(", "gauge!(", "histogram!("] {
            let unnamed = after(&text, call).find_map(literal);
            assert!(unnamed.is_none(), "{}: the metric {unnamed:?} has no constant", path.display());
        }
        names.extend(metrics.into_iter().map(str::to_owned));
    }
    assert_same("Metrics", &names);
}

#[test]
fn every_span_is_listed() {
    let mut names = BTreeSet::new();
    for File { text, .. } in files() {
        for level in ["trace", "debug", "info", "warn", "error"] {
            let call = format!("{level}_span!(");
            names.extend(after(&text, &call).filter_map(literal).map(str::to_owned));
        }
        let attributes = ["#[instrument", "#[tracing::instrument"];
        assert!(
            !attributes.iter().any(|attribute| text.contains(attribute)),
            "spans by attribute are not searched"
        );
    }
    assert_same("Spans and log events", &names);
}

#[test]
fn every_option_is_named() {
    let options = section("Commands and options");
    let source = include_str!("../bins/cli/src/args.rs");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let mut seen = 0;
    for pair in lines.windows(2) {
        let [attribute, field] = pair else { continue };
        let is_option = attribute.starts_with("#[arg(") && attribute.contains("long");
        if let (true, Some((field, _))) = (is_option, field.split_once(':')) {
            let renamed = after(attribute, "long =").next().and_then(literal).map(str::to_owned);
            let field = field.rsplit(' ').next().unwrap_or_default();
            let name = renamed.unwrap_or_else(|| field.replace('_', "-"));
            seen += 1;
            assert!(
                [' ', '`'].iter().any(|end| options.contains(&format!("--{name}{end}"))),
                "docs/reference.md does not name the option --{name}"
            );
        }
    }
    assert!(seen > 20, "only {seen} options were found");
}

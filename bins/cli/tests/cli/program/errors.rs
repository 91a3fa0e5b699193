//! Errors as text and as JSON: code, exit code, message and hint.

use crate::program::support::{Dir, keys};
use crate::run;

#[test]
fn error_is_one_line_with_code_and_a_hint() {
    let said = run!("info", "/nowhere/x.raw").ends(5);
    let first = said.err.lines().next().unwrap();
    assert!(first.starts_with("error[source_not_found]: "), "{first}");
    assert!(first.contains("/nowhere/x.raw"), "{first}");
    assert!(said.out.is_empty());
}

#[test]
fn json_error_is_one_document_on_standard_error() {
    let said = run!("info", "--json", "/nowhere/x.raw").ends(5);
    let error = said.error();
    assert_eq!(error["code"], "source_not_found");
    assert_eq!(error["retryable"], false);
    assert!(error["offset"].is_null());
    assert!(error["message"].as_str().unwrap().contains("/nowhere/x.raw"));
}

#[test]
fn usage_error_exits_with_2_and_reports_its_code() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &[1; 512]);
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["info"],
        &["info", "a", "b"],
        &["info", "x", "--no-such-option"],
        &["info", "x", "-f", "iso"],
        &["convert", "x"],
        &["convert"],
        &["compare", "x"],
        &["measure", "x", "--scan", "--quick"],
        &["measure", "x", "--capacity", "much"],
        &["measure", "x", "--limit", "-1"],
        &["info", "x", "--memory", "15M"],
        &["info", "x", "--threads", "0"],
        &["info", "x", "--connections", "0"],
        &["info", "x", "--stall-timeout", "0"],
        &["info", "x", "--progress", "loud"],
        &["info", "x", "-v", "-q"],
        &["info", ""],
        &["info", "-"],
        &["digest", "-"],
        &["info", "ftp://host/x"],
        &["convert", "x", "y", "-o", "nonsense"],
    ];
    for case in cases {
        let said = crate::program::support::run(*case).ends(2);
        let first = said.err.lines().next().unwrap_or_default();
        assert!(first.starts_with("error[usage]: "), "{case:?}: {first}");
        assert!(said.err.contains("\n  hint: "), "{case:?}: {}", said.err);
        let said = crate::program::support::run(case.iter().chain(&["--json"])).ends(2);
        assert_eq!(said.error()["code"], "usage", "{case:?}");
    }
    // A word after `--` is not an option.
    let said = run!("info", raw, "--", "--json").ends(2);
    assert!(said.err.starts_with("error[usage]: "), "{}", said.err);
    // An unknown target option is a usage error too.
    let target = dir.join("out.raw");
    let said = run!("convert", raw, target, "-f", "raw", "-o", "level=9", "--json").ends(2);
    assert_eq!(said.error()["code"], "usage");
}

#[test]
fn help_and_version_are_printed_on_standard_output() {
    for args in [&["--help"][..], &["-h"], &["--version"], &["convert", "--help"], &["map", "-h"]] {
        let said = crate::program::support::run(args).ends(0);
        assert!(said.err.is_empty(), "{args:?}: {}", said.err);
        assert!(!said.out.is_empty(), "{args:?}");
    }
    let help = run!("--help").ends(0).out;
    for command in ["info", "map", "measure", "convert", "compare", "digest", "demo"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    let options = run!("convert", "-o", "help").ends(0).out;
    for key in ["cluster_size", "compression", "subformat", "align", "preallocation", "level"] {
        assert!(options.contains(key), "{key}: {options}");
    }
}

#[test]
fn unsupported_resume_is_refused_before_anything_is_created() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &[1; 512]);
    let target = dir.join("out.raw");
    for (from, to) in [(raw.as_path(), "-".as_ref()), ("-".as_ref(), target.as_path())] {
        let error = run!("convert", "-f", "raw", from, to, "--resume", "--json").ends(3).error();
        assert_eq!(error["code"], "unsupported_feature");
        assert!(error["message"].as_str().unwrap().contains("--resume"), "{error}");
    }
    assert_eq!(dir.names(), ["a.raw"]);
}

#[test]
fn unusable_resume_data_is_removed_with_a_warning() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &[1; 512]);
    let target = dir.join("out.raw");
    for resume in [true, false] {
        dir.file(".out.raw.diskferry.partial", &[9; 100_000]);
        dir.file(".out.raw.diskferry.journal", b"of another version");
        let mut args = vec!["convert".as_ref(), "--json".as_ref(), "-f".as_ref(), "raw".as_ref()];
        args.extend([raw.as_os_str(), target.as_os_str()]);
        args.extend(resume.then_some(std::ffi::OsStr::new("--resume")));
        let report = crate::program::support::run(args).ends(0).json();
        let codes: Vec<_> =
            report["warnings"].as_array().unwrap().iter().map(|warning| &warning["code"]).collect();
        assert_eq!(codes.contains(&&serde_json::Value::from("resume_started_over")), resume, "{report}");
        assert_eq!(report["transfer"]["resumed_bytes"], 0);
        assert_eq!(std::fs::read(&target).unwrap(), [1; 512]);
        assert_eq!(dir.names(), ["a.raw", "out.raw"]);
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn declared_format_must_agree_with_the_detected_format() {
    let dir = Dir::new();
    let odd = dir.file("odd.bin", &[7; 4096]);
    let error = run!("info", odd, "--json").ends(3).error();
    assert_eq!(error["code"], "unknown_format");
    assert!(error["hint"].as_str().unwrap().contains("-f raw"), "{error}");
    run!("info", odd, "-f", "raw").ends(0);
    let qcow2 = dir.sample("qcow2-v3");
    let error = run!("info", qcow2, "-f", "vmdk", "--json").ends(4).error();
    assert_eq!(error["code"], "format_mismatch");
    let vhd = dir.sample("vhd-fixed");
    assert_eq!(run!("info", vhd, "-f", "vpc", "--json").ends(0).json()["format"], "vhd");
}

#[test]
fn directory_is_refused_as_a_source() {
    let dir = Dir::new();
    let error = run!("info", dir.path(), "--json").ends(2).error();
    assert_eq!(error["code"], "usage");
}

#[test]
fn control_characters_in_names_are_escaped() {
    let said = run!("info", "/nowhere/\u{1b}[31mred").ends(5);
    assert!(!said.err.contains('\u{1b}'), "{:?}", said.err);
    let dir = Dir::new();
    let raw = dir.file("\u{1b}[31mred.raw", &[7; 512]);
    for command in ["info", "measure", "digest"] {
        let said = run!(command, raw, "-f", "raw").ends(0);
        assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'), "{command}: {:?}", said.out);
    }
    let json = run!("info", raw, "-f", "raw", "--json").ends(0).json();
    assert_eq!(json["source"]["url"].as_str().unwrap(), raw.to_str().unwrap(), "JSON has its own escapes");
    assert_eq!(keys(&json["source"]), ["etag", "object_bytes", "url", "version_id"]);
}

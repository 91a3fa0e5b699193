//! `convert`: the report, the limits, and no leftovers next to the target.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::program::support::{Dir, keys, noise};
use crate::run;

#[test]
fn every_sample_converts_to_its_raw_disk() {
    let dir = Dir::new();
    for sample in diskferry_corpus::samples() {
        let image = dir.sample(sample.name);
        let out = dir.join("out.raw");
        let report = run!("convert", image, out, "--json", "--force").ends(0).json();
        assert_eq!(report["digest"]["hex"], sample.digest_hex, "{}", sample.name);
        assert_eq!(report["target"]["bytes"], sample.virtual_bytes, "{}", sample.name);
        assert_eq!(std::fs::metadata(&out).unwrap().len(), sample.virtual_bytes, "{}", sample.name);
        let digest = run!("digest", out, "-f", "raw", "--json").ends(0).json();
        assert_eq!(digest["hex"], sample.digest_hex, "{}", sample.name);
    }
}

#[test]
fn preallocation_reserves_space_for_the_whole_file() {
    let dir = Dir::new();
    let image = dir.sample("vmdk-split-sparse");
    for (preallocation, whole) in [("off", false), ("falloc", true)] {
        let out = dir.join("out.raw");
        let option = format!("preallocation={preallocation}");
        let call = ["convert", image.to_str().unwrap(), out.to_str().unwrap(), "--force", "-o", &option];
        crate::program::support::run(call).ends(0);
        let meta = std::fs::metadata(&out).unwrap();
        assert_eq!(meta.blocks() * 512 >= meta.len(), whole, "{preallocation}");
    }
    let out = dir.join("other.raw");
    let error = run!("convert", image, out, "-o", "preallocation=full", "--json").ends(2).error();
    assert_eq!(error["code"], "usage");
}

#[test]
fn report_has_the_keys_of_the_interface() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-40g-ext4");
    let out = dir.join("out.raw");
    let report = run!("convert", image, out, "--json").ends(0).json();
    let expected = [
        "accepted",
        "cost",
        "digest",
        "format",
        "rules",
        "sizes",
        "smallest_capacity_gib",
        "source",
        "target",
        "transfer",
        "variant",
        "warnings",
    ];
    assert_eq!(keys(&report), expected);
    assert_eq!(keys(&report["target"]), ["bytes", "format", "url", "variant"]);
    assert_eq!(keys(&report["digest"]), ["algorithm", "hex"]);
    let transfer = [
        "bytes_fetched",
        "bytes_written",
        "peak_memory_bytes",
        "requests",
        "resumed_bytes",
        "retries",
        "seconds",
        "time",
    ];
    assert_eq!(keys(&report["transfer"]), transfer);
    let parts = ["cpu", "destination", "finish", "memory", "plan", "source", "verify"];
    assert_eq!(keys(&report["transfer"]["time"]), parts);
    let seconds = report["transfer"]["seconds"].as_f64().unwrap();
    let sum: f64 = parts.iter().map(|part| report["transfer"]["time"][part].as_f64().unwrap()).sum();
    assert!((sum - seconds).abs() <= seconds / 20.0 + 0.001, "{sum} of {seconds}");
    assert_eq!(report["target"]["format"], "raw");
    assert_eq!(report["target"]["url"], out.to_str().unwrap());
    let sizes = &report["sizes"];
    for size in
        ["object_bytes", "virtual_bytes", "allocated_bytes", "content_bytes", "content_end", "output_bytes"]
    {
        assert!(sizes[size].is_u64(), "{size} is known now: {sizes}");
    }
    assert_eq!(sizes["output_bytes"], 40u64 << 30);
    // A nearly empty disk of 40 GiB takes almost no space.
    assert!(std::fs::metadata(&out).unwrap().blocks() * 512 < 2 << 20);
    assert_eq!(report["transfer"]["bytes_written"], sizes["content_bytes"]);
    assert!(report["transfer"]["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(report["transfer"]["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(report["cost"]["requests"], report["transfer"]["requests"]);
}

#[test]
fn text_report_has_the_main_facts() {
    let dir = Dir::new();
    let sample = diskferry_corpus::sample("vmdk-stream");
    let said = run!("convert", dir.sample(sample.name), dir.join("out.raw")).ends(0);
    for fact in ["virtual disk", "real content", sample.digest_hex, "fetched", "peak memory"] {
        assert!(said.out.contains(fact), "{fact}: {}", said.out);
    }
    assert!(said.err.is_empty(), "standard error is not a terminal, so there is no bar: {}", said.err);
}

#[test]
fn no_digest_omits_the_digest() {
    let dir = Dir::new();
    let report =
        run!("convert", dir.sample("vmdk-sparse"), dir.join("out.raw"), "--no-digest", "--no-sync", "--json");
    assert!(report.ends(0).json()["digest"].is_null());
}

#[test]
fn disk_larger_than_the_capacity_is_refused_and_leaves_no_files() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-40g-ext4");
    let said = run!("convert", image, dir.join("out.raw"), "--capacity", "20G").ends(4);
    assert_eq!(
        said.err,
        "error[capacity_exceeded]: the virtual disk is 40 GiB, the declared system disk is 20 GiB\n  hint: declare at least 40 GiB\n"
    );
    for (option, value, code) in
        [("--capacity", "40GB", "capacity_exceeded"), ("--limit", "1K", "object_too_large")]
    {
        let error = run!("convert", image, dir.join("out.raw"), option, value, "--json").ends(4).error();
        assert_eq!(error["code"], code);
    }
    assert_eq!(dir.names(), ["linux-40g.qcow2"]);
    run!("convert", image, dir.join("out.raw"), "--capacity", "40G").ends(0);
}

#[test]
fn content_above_the_limit_fails_the_conversion_and_leaves_no_files() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-zstd");
    let object = std::fs::metadata(&image).unwrap().len();
    // The compressed object is smaller than its content.
    let limit = (object + 1).to_string();
    let error = run!("convert", image, dir.join("out.raw"), "--limit", limit, "--json").ends(4).error();
    assert_eq!(error["code"], "content_too_large");
    assert_eq!(dir.names(), ["zstd.qcow2"]);
}

#[test]
fn existing_target_is_kept_without_force() {
    let dir = Dir::new();
    let image = dir.sample("vhd-fixed");
    let out = dir.file("out.raw", b"precious");
    let said = run!("convert", image, out).ends(6);
    assert!(said.err.starts_with("error[destination_exists]: "), "{}", said.err);
    assert!(said.err.contains("--force"), "{}", said.err);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    // The target is checked before the source is opened.
    run!("convert", "/nowhere/x.qcow2", out).ends(6);
    run!("convert", image, out, "--force").ends(0);
    assert_eq!(std::fs::metadata(&out).unwrap().len(), 522_240);
    // A failed run with --force keeps the existing file.
    run!("convert", dir.sample("qcow2-40g-ext4"), out, "--force", "--capacity", "1G").ends(4);
    assert_eq!(std::fs::metadata(&out).unwrap().len(), 522_240);
    assert_eq!(dir.names(), ["fixed.vhd", "linux-40g.qcow2", "out.raw"]);
}

#[test]
fn target_must_not_be_a_source_file() {
    let dir = Dir::new();
    let raw = dir.sample("raw-mbr-fat-ext4");
    let before = std::fs::read(&raw).unwrap();
    let error = run!("convert", raw, raw, "--force", "--json").ends(2).error();
    assert_eq!(error["code"], "usage");
    let link = dir.join("link.raw");
    std::os::unix::fs::symlink(&raw, &link).unwrap();
    run!("convert", link, raw, "--force").ends(2);
    run!("convert", raw, link, "--force").ends(2);
    // Nor a sibling file of the source.
    let vmdk = dir.sample("vmdk-flat");
    run!("convert", vmdk, dir.join("flat-flat.vmdk"), "--force", "-O", "raw").ends(2);
    assert_eq!(std::fs::read(&raw).unwrap(), before);
}

#[test]
fn unwritable_destinations_have_their_codes() {
    let dir = Dir::new();
    let image = dir.sample("vhd-fixed");
    for (dst, code) in [
        (dir.path().to_owned(), "destination_unsuitable"),
        (dir.join("missing/out.raw"), "destination_unavailable"),
        ("/dev/null".into(), "destination_unsuitable"),
        (dir.join("fixed.vhd/out.raw"), "destination_unsuitable"),
    ] {
        let error = run!("convert", image, dst, "-O", "raw", "--json").ends(6).error();
        assert_eq!(error["code"], code, "{}: {error}", dst.display());
    }
}

#[test]
fn file_size_limit_is_destination_full_and_does_not_kill_the_process() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &noise(4 << 20));
    let script = format!(
        "ulimit -f 1024; exec {} convert -f raw {} {} --json",
        env!("CARGO_BIN_EXE_diskferry"),
        raw.display(),
        dir.join("out.raw").display()
    );
    let output = diskferry_corpus::tools::command("bash").args(["-c", &script]).output().unwrap();
    let said = crate::program::support::Said::of(output).ends(6);
    assert_eq!(said.error()["code"], "destination_full");
    assert_eq!(dir.names(), ["a.raw"]);
}

#[test]
fn new_file_has_default_permissions_and_replaced_file_keeps_its_own() {
    let dir = Dir::new();
    let image = dir.sample("vhd-fixed");
    let out = dir.file("out.raw", b"");
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o640)).unwrap();
    run!("convert", image, out, "--force").ends(0);
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn malformed_image_leaves_no_target() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-zlib");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&image, bytes).unwrap();
    let said = run!("convert", image, dir.join("out.raw"), "--json").ends(3);
    let error = said.error();
    assert!(["truncated", "malformed"].contains(&error["code"].as_str().unwrap()), "{error}");
    assert!(error["offset"].is_u64(), "{error}");
    assert_eq!(dir.names(), ["zlib.qcow2"]);
}

#[test]
fn smallest_budget_and_one_thread_suffice() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &noise(24 << 20));
    let out = dir.join("out.raw");
    let report = run!(
        "convert",
        "-f",
        "raw",
        raw,
        out,
        "--memory",
        "16M",
        "--threads",
        "1",
        "--connections",
        "1",
        "--json"
    );
    let report = report.ends(0).json();
    assert!(std::fs::read(&raw).unwrap() == std::fs::read(&out).unwrap());
    let peak = report["transfer"]["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak <= (16 + 64) << 20, "{peak}");
}

#[test]
fn progress_events_never_decrease_and_reach_the_total() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &noise(8 << 20));
    let said = run!("convert", "-f", "raw", raw, dir.join("out.raw"), "--progress", "json", "--json").ends(0);
    said.json();
    let events: Vec<serde_json::Value> =
        said.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        "done_bytes",
        "elapsed_s",
        "eta_s",
        "event",
        "fetched_bytes",
        "phase",
        "total_bytes",
        "written_bytes",
    ];
    let mut done = 0;
    for event in &events {
        assert_eq!(keys(event), expected);
        assert_eq!(event["event"], "progress");
        assert!(["plan", "transfer", "finish", "verify"].contains(&event["phase"].as_str().unwrap()));
        assert!(event["done_bytes"].as_u64().unwrap() >= done, "{event}");
        done = event["done_bytes"].as_u64().unwrap();
    }
    let last = events.last().unwrap();
    assert_eq!((&last["done_bytes"], &last["total_bytes"]), (&(8u64 << 20).into(), &(8u64 << 20).into()));
    assert_eq!(last["phase"], "finish");
}

#[test]
fn bar_works_without_a_terminal() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &noise(1 << 20));
    let said = run!("convert", "-f", "raw", raw, dir.join("out.raw"), "--progress", "bar").ends(0);
    assert!(said.err.contains('%'), "{:?}", said.err);
    let said = run!("convert", "-f", "raw", raw, dir.join("out2.raw"), "--progress", "none").ends(0);
    assert!(said.err.is_empty(), "{:?}", said.err);
}

#[test]
fn warnings_are_printed_on_standard_error_unless_quiet() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-40g-ext4");
    let said = run!("convert", image, dir.join("a.raw"), "--capacity", "40G").ends(0);
    assert!(said.err.starts_with("warning[capacity_equal]: "), "{}", said.err);
    let said = run!("convert", image, dir.join("b.raw"), "--capacity", "40G", "-q").ends(0);
    assert!(said.err.is_empty(), "{}", said.err);
    let said = run!("convert", image, dir.join("c.raw"), "--capacity", "40G", "--json").ends(0);
    assert!(said.err.is_empty(), "{}", said.err);
    assert_eq!(said.json()["warnings"][0]["code"], "capacity_equal");
}

//! The results of `info`, `map`, `measure`, `compare` and `digest`, checked key by key.

use serde_json::Value;

use crate::program::support::{Dir, keys, noise};
use crate::run;

/// Overwrites bytes of a file.
fn patch(path: &std::path::Path, at: usize, bytes: &[u8]) {
    let mut content = std::fs::read(path).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(path, content).unwrap();
}

#[test]
fn info_has_the_keys_of_the_interface() {
    let dir = Dir::new();
    for sample in diskferry_corpus::samples() {
        let image = dir.sample(sample.name);
        let info = run!("info", image, "--json").ends(0).json();
        let expected = [
            "cluster_bytes",
            "cost",
            "features",
            "format",
            "partition_table",
            "partitions",
            "refusals",
            "source",
            "variant",
            "virtual_bytes",
            "warnings",
        ];
        assert_eq!(keys(&info), expected, "{}", sample.name);
        assert_eq!(keys(&info["source"]), ["etag", "object_bytes", "url", "version_id"]);
        assert_eq!(keys(&info["cost"]), ["bytes", "requests"]);
        assert_eq!(info["format"], sample.format, "{}", sample.name);
        assert_eq!(info["virtual_bytes"], sample.virtual_bytes, "{}", sample.name);
        assert_eq!(info["source"]["object_bytes"], sample.object_bytes(), "{}", sample.name);
        assert_eq!(info["refusals"], Value::Array(Vec::new()));
        assert!(!info["partitions"].as_array().unwrap().is_empty(), "{}", sample.name);
        for partition in info["partitions"].as_array().unwrap() {
            assert_eq!(keys(partition), ["bootable", "bytes", "filesystem", "index", "start", "type"]);
        }
        assert!(info["cost"]["requests"].as_u64().unwrap() > 0);
    }
}

#[test]
fn info_lists_partitions_file_systems_and_import_service_warnings() {
    let dir = Dir::new();
    let gpt = run!("info", dir.sample("qcow2-extended-l2-gpt"), "--json").ends(0).json();
    assert_eq!(gpt["partition_table"], "gpt");
    assert_eq!(gpt["partitions"][1]["filesystem"], "ext4");
    assert_eq!(gpt["warnings"][0]["code"], "partition_table_gpt");
    assert_eq!(keys(&gpt["warnings"][0]), ["code", "message"]);
    let ntfs = run!("info", dir.sample("vhd-dynamic-ntfs"), "--json").ends(0).json();
    assert_eq!(
        (&ntfs["partition_table"], &ntfs["partitions"][0]["filesystem"]),
        (&"mbr".into(), &"ntfs".into())
    );
    assert_eq!(ntfs["partitions"][0]["bootable"], true);
}

#[test]
fn info_draws_where_the_disk_has_data() {
    let dir = Dir::new();
    let mut disk = vec![0; 64 << 20];
    disk[..1 << 20].copy_from_slice(&noise(1 << 20));
    let raw = dir.join("a.raw");
    // A file with explicit holes, so that the result does not depend on how the file system stores zeros.
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &disk[..1 << 20], 32 << 20).unwrap();
    let said = run!("info", raw, "-f", "raw").ends(0);
    let strip = format!("{}█{}", "·".repeat(32), "·".repeat(31));
    assert!(said.out.contains(&strip), "{}", said.out);
}

#[test]
fn info_describes_an_image_that_other_commands_refuse() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-v3");
    // The encryption method in the QCOW2 header: 1 is AES.
    patch(&image, 32, &1u32.to_be_bytes());
    let info = run!("info", image, "--json").ends(0).json();
    assert_eq!(info["virtual_bytes"], 522_240);
    assert_eq!(info["refusals"][0]["code"], "encrypted_refused");
    assert_eq!(keys(&info["refusals"][0]), ["code", "message"]);
    assert!(info["partition_table"].is_null());
    assert_eq!(info["partitions"], Value::Array(Vec::new()));
    let said = run!("info", image).ends(0);
    assert!(said.out.contains("refused[encrypted_refused]: "), "{}", said.out);
    for command in ["map", "measure", "digest"] {
        let error = run!(command, image, "--json").ends(4).error();
        assert_eq!(error["code"], "encrypted_refused", "{command}");
    }
    run!("compare", image, image).ends(4);
    run!("measure", image, "--quick").ends(4);
    run!("convert", image, dir.join("out.raw")).ends(4);
    assert_eq!(dir.names(), ["v3.qcow2"]);
}

#[test]
fn map_covers_the_disk_without_gaps_or_overlaps() {
    let dir = Dir::new();
    for sample in diskferry_corpus::samples() {
        let image = dir.sample(sample.name);
        let map = run!("map", image, "--json").ends(0).json();
        let mut at = 0;
        for row in map.as_array().unwrap() {
            assert_eq!(keys(row), ["file", "kind", "length", "offset", "start", "stored"]);
            assert_eq!(row["start"], at, "{}", sample.name);
            at += row["length"].as_u64().unwrap();
            let kind = row["kind"].as_str().unwrap();
            assert!(["data", "compressed", "zero", "hole"].contains(&kind), "{kind}");
            let stored = matches!(kind, "data" | "compressed");
            assert_eq!(row["offset"].is_u64(), stored, "{row}");
            assert_eq!(row["stored"].is_u64(), stored, "{row}");
            assert_eq!(row["file"].is_string(), stored && sample.files.len() > 1, "{row}");
            if kind == "data" {
                assert_eq!(row["stored"], row["length"], "{row}");
            }
        }
        assert_eq!(at, sample.virtual_bytes, "{}", sample.name);
        for pair in map.as_array().unwrap().windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let follows = a["offset"].as_u64().map(|offset| offset + a["stored"].as_u64().unwrap());
            let one = a["kind"] == b["kind"]
                && a["kind"] != "compressed"
                && a["file"] == b["file"]
                && follows == b["offset"].as_u64();
            assert!(!one, "{}: {a} and {b} could be one", sample.name);
        }
    }
}

#[test]
fn map_offsets_locate_the_data() {
    let dir = Dir::new();
    let raw = std::fs::read(dir.sample("raw-mbr-fat-ext4")).unwrap();
    for name in ["qcow2-v3", "qcow2-v2-snapshot", "vmdk-sparse", "vmdk-flat", "vhd-fixed"] {
        let image = dir.sample(name);
        let map = run!("map", image, "--json").ends(0).json();
        let mut seen = 0;
        for row in map.as_array().unwrap().iter().filter(|row| row["kind"] == "data") {
            let number = |key: &str| row[key].as_u64().unwrap() as usize;
            let file = row["file"].as_str().map_or(image.clone(), |file| dir.join(file));
            let stored = std::fs::read(file).unwrap();
            let stored = &stored[number("offset")..number("offset") + number("stored")];
            assert_eq!(stored, &raw[number("start")..number("start") + number("length")], "{name}: {row}");
            seen += stored.len();
        }
        assert!(seen > 0, "{name}");
    }
}

#[test]
fn text_map_has_a_heading_and_one_line_per_extent() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-v3");
    let rows = run!("map", image, "--json").ends(0).json().as_array().unwrap().len();
    let text = run!("map", image).ends(0).out;
    assert_eq!(text.lines().count(), rows + 1);
    assert!(
        text.lines().next().unwrap().split_whitespace().eq(["start", "length", "kind", "offset", "stored"])
    );
}

#[test]
fn empty_disk_has_an_empty_map() {
    let dir = Dir::new();
    let raw = dir.file("empty.raw", b"");
    assert_eq!(run!("map", raw, "-f", "raw", "--json").ends(0).json(), Value::Array(Vec::new()));
    assert_eq!(run!("info", raw, "-f", "raw", "--json").ends(0).json()["virtual_bytes"], 0);
    run!("info", raw, "-f", "raw").ends(0);
    run!("measure", raw, "-f", "raw").ends(0);
    run!("compare", raw, raw, "-f", "raw", "-F", "raw").ends(0);
    run!("convert", raw, dir.join("out.raw"), "-f", "raw").ends(0);
    assert_eq!(std::fs::read(dir.join("out.raw")).unwrap(), b"");
}

#[test]
fn measure_has_the_keys_of_the_interface() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-40g-ext4");
    let measured = run!("measure", image, "--json", "--capacity", "40G").ends(0).json();
    let expected = [
        "accepted",
        "cost",
        "format",
        "rules",
        "sizes",
        "smallest_capacity_gib",
        "source",
        "variant",
        "warnings",
    ];
    assert_eq!(keys(&measured), expected);
    let sizes =
        ["allocated_bytes", "content_bytes", "content_end", "object_bytes", "output_bytes", "virtual_bytes"];
    assert_eq!(keys(&measured["sizes"]), sizes);
    assert_eq!(measured["sizes"]["virtual_bytes"], 40u64 << 30);
    assert_eq!(measured["sizes"]["output_bytes"], 40u64 << 30);
    assert!(measured["sizes"]["allocated_bytes"].is_u64());
    assert!(measured["sizes"]["content_bytes"].is_null());
    assert_eq!(measured["smallest_capacity_gib"], 40);
    assert_eq!(measured["accepted"], true);
    let rules = measured["rules"].as_array().unwrap();
    assert_eq!(
        rules.iter().map(|rule| &rule["rule"]).collect::<Vec<_>>(),
        ["object_size", "capacity", "content_size"]
    );
    for rule in rules {
        assert_eq!(keys(rule), ["actual", "code", "limit", "message", "outcome", "rule"]);
        assert!(rule["code"].is_null());
    }
    assert_eq!(rules[1]["outcome"], "warn");
    assert_eq!(measured["warnings"][0]["code"], "capacity_equal");
}

#[test]
fn failed_rule_exits_with_1() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-40g-ext4");
    let measured = run!("measure", image, "--json", "--capacity", "40GB").ends(1).json();
    assert_eq!(measured["accepted"], false);
    assert_eq!(measured["rules"][1]["outcome"], "fail");
    assert_eq!(measured["rules"][1]["code"], "capacity_exceeded");
    assert_eq!(measured["rules"][1]["actual"], 40u64 << 30);
    assert_eq!(measured["rules"][1]["limit"], 40_000_000_000u64);
    let said = run!("measure", image, "--limit", "1K").ends(1);
    assert!(said.out.contains("fail [object_too_large]"), "{}", said.out);
    let measured = run!("measure", image, "--limit", "none", "--json").ends(0).json();
    assert_eq!(measured["rules"], Value::Array(Vec::new()));
}

#[test]
fn measure_reads_only_what_its_depth_requires() {
    let dir = Dir::new();
    let image = dir.sample("qcow2-40g-ext4");
    let quick = run!("measure", image, "--json", "--quick").ends(0).json();
    assert!(quick["sizes"]["allocated_bytes"].is_null());
    assert!(quick["sizes"]["content_bytes"].is_null());
    let scan = run!("measure", image, "--json", "--scan").ends(0).json();
    let content = scan["sizes"]["content_bytes"].as_u64().unwrap();
    assert!(content > 0 && content <= scan["sizes"]["allocated_bytes"].as_u64().unwrap());
    assert!(scan["sizes"]["content_end"].as_u64().unwrap() > content);
    // A failed rule does not stop the scan: the sizes are still reported.
    let limited = run!("measure", image, "--json", "--scan", "--limit", "4K").ends(1).json();
    assert_eq!(limited["sizes"]["content_bytes"], content);
    assert_eq!(limited["rules"][1]["code"], "content_too_large");
}

#[test]
fn digest_is_the_same_in_every_format() {
    let dir = Dir::new();
    for sample in diskferry_corpus::samples() {
        let image = dir.sample(sample.name);
        let document = run!("digest", image, "--json").ends(0).json();
        assert_eq!(keys(&document), ["algorithm", "hex", "virtual_bytes"]);
        assert_eq!(document["algorithm"], "fsverity-sha256");
        assert_eq!(document["hex"], sample.digest_hex, "{}", sample.name);
        assert_eq!(document["virtual_bytes"], sample.virtual_bytes);
        let text = run!("digest", image).ends(0).out;
        assert_eq!(text, format!("sha256:{} {}\n", sample.digest_hex, image.display()));
    }
}

#[test]
fn compare_reports_the_first_difference() {
    let dir = Dir::new();
    let raw = dir.sample("raw-mbr-fat-ext4");
    for name in ["vhd-fixed", "qcow2-zstd", "vmdk-stream"] {
        let other = dir.sample(name);
        let same = run!("compare", raw, other, "--json").ends(0).json();
        assert_eq!(keys(&same), ["equal", "first_difference", "virtual_bytes"], "{name}");
        assert_eq!(same["equal"], true, "{name}");
        assert!(same["first_difference"].is_null());
        assert_eq!(same["virtual_bytes"], serde_json::json!([522_240, 522_240]));
    }
    let other = dir.join("other.raw");
    std::fs::copy(&raw, &other).unwrap();
    let byte = std::fs::read(&other).unwrap()[300_001];
    patch(&other, 300_001, &[byte ^ 1]);
    let found = run!("compare", dir.join("stream.vmdk"), other, "-F", "raw", "--json").ends(1).json();
    assert_eq!(found["equal"], false);
    assert_eq!(found["first_difference"], 300_001);
    let said = run!("compare", raw, other).ends(1);
    assert!(said.out.contains("300001"), "{}", said.out);
    let smaller = dir.file("smaller.raw", &[0; 512]);
    let found = run!("compare", raw, smaller, "-F", "raw", "--json").ends(1).json();
    assert_eq!(found["virtual_bytes"], serde_json::json!([522_240, 512]));
    assert!(found["first_difference"].is_null());
}

#[test]
fn memory_mapped_source_reads_the_same() {
    let dir = Dir::new();
    for name in ["qcow2-v3", "vmdk-flat"] {
        let image = dir.sample(name);
        assert_eq!(run!("digest", image, "--mmap").ends(0).out, run!("digest", image).ends(0).out);
    }
}

#[test]
fn compare_error_names_the_unreadable_image() {
    let dir = Dir::new();
    let raw = dir.sample("raw-mbr-fat-ext4");
    let error = run!("compare", raw, dir.join("none"), "--json").ends(5).error();
    assert_eq!(error["code"], "source_not_found");
    assert!(error["message"].as_str().unwrap().starts_with("B: "), "{error}");
    let broken = dir.sample("qcow2-v3");
    let bytes = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, &bytes[..50]).unwrap();
    let error = run!("compare", broken, raw, "--json").ends(3).error();
    assert!(error["message"].as_str().unwrap().starts_with("A: "), "{error}");
}

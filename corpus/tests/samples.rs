//! Independent readers confirm that the samples match the manifest.

use std::collections::HashSet;

use diskferry_corpus::oracle::{
    dissect, fsverity_digest, qemu_check, qemu_virtual_bytes, to_raw, tool, yal_outcome, yal_to_raw,
};
use diskferry_corpus::{sample, samples};

/// Larger, mostly empty disks are read by `corpus/make --check` only.
const WHOLE: u64 = 1 << 30;

#[test]
fn every_format_has_samples_and_names_are_unique() {
    let names: HashSet<_> = samples().iter().map(|s| s.name).collect();
    assert_eq!(names.len(), samples().len());
    for format in ["raw", "vhd", "qcow2", "vmdk"] {
        assert!(samples().iter().any(|s| s.format == format), "{format}");
    }
    let total: u64 = samples().iter().map(|s| s.object_bytes()).sum();
    assert!(total < 7 << 20, "the samples have grown to {total} bytes");
}

#[test]
fn files_match_the_manifest() {
    let manifest: serde_json::Value = serde_json::from_str(include_str!("../manifest.json")).unwrap();
    let listed = manifest["samples"].as_array().unwrap();
    assert_eq!(listed.len(), samples().len());
    let dir = tempfile::tempdir().unwrap();
    for (entry, sample) in listed.iter().zip(samples()) {
        sample.write_to(dir.path()).unwrap();
        for file in entry["files"].as_array().unwrap() {
            let path = dir.path().join(file["name"].as_str().unwrap());
            assert_eq!(std::fs::metadata(&path).unwrap().len(), file["bytes"].as_u64().unwrap());
            let sum = tool("sha256sum", &[path.to_str().unwrap()]);
            assert_eq!(sum.split_whitespace().next(), file["sha256"].as_str(), "{}", path.display());
        }
    }
}

#[test]
fn qemu_agrees_on_every_size_and_on_the_digest_of_samples_below_one_gibibyte() {
    for sample in samples() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample.write_to(dir.path()).unwrap();
        assert_eq!(qemu_virtual_bytes(&image, sample.format), sample.virtual_bytes, "{}", sample.name);
        if sample.format == "qcow2" {
            qemu_check(&image, sample.format);
        }
        if sample.virtual_bytes < WHOLE {
            let raw = dir.path().join("guest.raw");
            to_raw(&image, sample.format, &raw);
            assert_eq!(fsverity_digest(&raw), sample.digest_hex, "{}", sample.name);
        }
    }
}

#[test]
fn libyal_agrees_on_every_sample_that_it_can_read() {
    for sample in samples().iter().filter(|s| s.virtual_bytes < WHOLE && s.format != "raw") {
        let dir = tempfile::tempdir().unwrap();
        let image = sample.write_to(dir.path()).unwrap();
        let raw = dir.path().join("guest.raw");
        let known = ["qcow2-zstd", "qcow2-extended-l2-gpt", "vmdk-stream-vmdkstream"];
        if known.contains(&sample.name) {
            let same =
                yal_outcome(&image, sample.format, &raw).ok && fsverity_digest(&raw) == sample.digest_hex;
            assert!(!same, "libyal has learnt {}: correct corpus/README.md and this test", sample.name);
            continue;
        }
        yal_to_raw(&image, sample.format, &raw);
        assert_eq!(fsverity_digest(&raw), sample.digest_hex, "{}", sample.name);
    }
}

#[test]
fn dissect_agrees_on_every_sample_that_it_can_read() {
    for sample in samples().iter().filter(|s| s.virtual_bytes < WHOLE && s.format != "raw") {
        let dir = tempfile::tempdir().unwrap();
        let image = sample.write_to(dir.path()).unwrap();
        // With extended L2, it reads the file repeatedly until it runs out of memory.
        if sample.name == "qcow2-extended-l2-gpt" {
            continue;
        }
        let bytes = dissect(&image, sample.format).unwrap_or_else(|e| panic!("{}: {e}", sample.name));
        assert_eq!(fsverity_of(&bytes), sample.digest_hex, "{}", sample.name);
    }
}

#[test]
fn dissect_reports_its_errors_and_refuses_a_disk_too_large_for_memory() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.qcow2");
    std::fs::write(&junk, [7; 4096]).unwrap();
    let error = dissect(&junk, "qcow2").unwrap_err();
    assert!(error.contains("InvalidHeaderError"), "{error}");
    let large = sample("qcow2-40g-ext4").write_to(dir.path()).unwrap();
    let error = dissect(&large, "qcow2").unwrap_err();
    assert_eq!(error, "the disk has 42949672960 bytes, more than the 268435456 that are read");
}

#[test]
fn tiny_disk_has_the_same_digest_in_all_formats() {
    let digests: HashSet<_> = samples().iter().filter(|s| s.disk == "tiny").map(|s| s.digest_hex).collect();
    assert_eq!(digests.len(), 1);
    assert_eq!(fsverity_of(sample("raw-mbr-fat-ext4").bytes()), sample("vmdk-flat").digest_hex);
}

fn fsverity_of(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    fsverity_digest(file.path())
}

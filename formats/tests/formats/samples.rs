//! The corpus: images of real tools with known content, opened with detection.

use std::path::Path;
use std::sync::Arc;

use crate::support::*;
use diskferry_core::{Conversion, Disk, FileGate, FileSource, Source};
use diskferry_corpus::oracle::yal_to_raw;
use diskferry_corpus::samples;
use diskferry_formats::{Declared, open_with};

/// Disks up to this size are compared byte for byte.
const WHOLE: u64 = 1 << 30;

async fn open(path: &Path) -> Disk {
    let gate = Arc::new(FileGate::beside(path).await.unwrap());
    let source: Arc<dyn Source> = Arc::new(FileSource::open(path).await.unwrap());
    open_with(source, Declared::Unknown, gate)
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn digest(path: &Path) -> String {
    let report =
        block_on(async { Conversion::reading(open(path).await).stall_timeout(None).run().await }).unwrap();
    report.digest.unwrap().to_string()
}

#[test]
fn every_sample_is_detected_and_reads_as_its_original_disk() {
    for sample in samples() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample.write_to(dir.path()).unwrap();
        let disk = block_on(open(&path));
        let geometry = disk.info();
        assert_eq!(geometry.format, sample.format, "{}", sample.name);
        assert_eq!(disk.virtual_bytes(), sample.virtual_bytes, "{}", sample.name);
        assert_eq!(disk.object_bytes(), sample.object_bytes(), "{}", sample.name);
        let mut words = sample.variant.split(' ');
        assert_eq!(Some(geometry.variant.as_str()), words.next(), "{}", sample.name);
        for word in words {
            let feature = word.replace('-', "_");
            let named = |known: &String| *known == feature || *known == format!("compression: {feature}");
            assert!(
                geometry.features.iter().any(named),
                "{}: {feature} {:?}",
                sample.name,
                geometry.features
            );
        }
        assert_eq!(digest(&path), sample.digest_hex, "{}", sample.name);
    }
}

#[test]
fn libyal_reads_the_same_where_it_is_reliable() {
    // corpus/README.md explains the exceptions.
    let doubtful =
        ["qcow2-zlib", "qcow2-zstd", "qcow2-40g-ext4", "qcow2-extended-l2-gpt", "vmdk-stream-vmdkstream"];
    for sample in samples() {
        if sample.virtual_bytes > WHOLE || sample.format == "raw" || doubtful.contains(&sample.name) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = sample.write_to(dir.path()).unwrap();
        let raw = dir.path().join("guest.raw");
        yal_to_raw(&path, sample.format, &raw);
        assert_same(&read_all(&block_on(open(&path))), &std::fs::read(&raw).unwrap(), sample.name);
    }
}

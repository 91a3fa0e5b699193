//! The examples do what they say.

#[allow(dead_code, unreachable_pub)]
#[path = "../examples/custom_source.rs"]
mod custom_source;
#[allow(dead_code, unreachable_pub)]
#[path = "../examples/one_budget.rs"]
mod one_budget;

use std::path::PathBuf;
use std::sync::Arc;

use diskferry::{Budget, Result};

const SAMPLES: [&str; 4] = ["qcow2-40g-ext4", "vmdk-stream", "qcow2-zstd", "vhd-dynamic-ntfs"];

fn samples(dir: &std::path::Path) -> Vec<(&'static diskferry_corpus::Sample, PathBuf)> {
    let named = diskferry_corpus::samples().iter().filter(|sample| SAMPLES.contains(&sample.name));
    named.map(|sample| (sample, sample.write_to(dir).expect("the sample is written"))).collect()
}

#[tokio::test]
async fn a_custom_source_serves_detection_and_measuring() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    for (sample, path) in samples(dir.path()) {
        let source = Arc::new(custom_source::LoggedFile::open(&path)?);
        let measure = custom_source::measured(Arc::clone(&source)).await?;
        assert_eq!(measure.sizes.virtual_bytes, Some(sample.virtual_bytes), "{}", sample.name);
        assert!(!source.reads().is_empty(), "{}", sample.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_conversions_share_one_budget() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let samples = samples(dir.path());
    let eight: Vec<_> = samples.iter().cycle().take(8).collect();
    let images: Vec<PathBuf> = eight.iter().map(|(_, path)| path.clone()).collect();
    let targets = tempfile::tempdir().expect("a directory");
    let budget = Budget::new(64 << 20);
    let reports = one_budget::convert_all(&images, targets.path(), &budget).await?;
    for ((sample, _), report) in eight.iter().zip(reports) {
        assert_eq!(report.digest.map(|digest| digest.to_string()).as_deref(), Some(sample.digest_hex));
    }
    assert!(budget.peak() <= budget.total() && budget.used() == 0, "{budget:?}");
    Ok(())
}

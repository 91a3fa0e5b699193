//! One suite, every layout.

use diskferry_core::WriteOrder::{self, Any, Ascending, Sequential};
use diskferry_core::conformance::check_layout;
use diskferry_formats::{Format, TargetOptions, layout};

const EVERY_ORDER: [WriteOrder; 3] = [Any, Ascending, Sequential];

async fn check(format: Format, options: &[(&str, &str)], orders: &[WriteOrder], unit: u64, multiple: u64) {
    let options = TargetOptions::from_pairs(format, options.iter().copied()).unwrap();
    check_layout(&|order| layout(format, &options, order), orders, unit, multiple).await;
}

#[tokio::test]
async fn raw_conforms() {
    check(Format::Raw, &[], &EVERY_ORDER, 65536, 1).await;
}

#[tokio::test]
async fn qcow2_conforms() {
    // The suite's disks consist of blocks; smaller units are checked inside them.
    for (size, unit) in [("512", 4096), ("4K", 4096), ("64K", 65536)] {
        check(Format::Qcow2, &[("cluster_size", size)], &EVERY_ORDER, unit, 1).await;
    }
}

#[tokio::test]
async fn compressed_qcow2_conforms() {
    for compression in ["zlib", "zstd"] {
        for (size, unit) in [("512", 4096), ("8K", 8192), ("64K", 65536)] {
            let options = [("cluster_size", size), ("compression", compression)];
            check(Format::Qcow2, &options, &[Any, Ascending], unit, 1).await;
        }
    }
}

#[tokio::test]
async fn dynamic_vhd_conforms() {
    check(Format::Vhd, &[], &EVERY_ORDER, 2 << 20, 512).await;
    check(Format::Vhd, &[("align", "1M")], &EVERY_ORDER, 2 << 20, 1).await;
}

#[tokio::test]
async fn fixed_vhd_conforms() {
    check(Format::Vhd, &[("subformat", "fixed")], &EVERY_ORDER, 65536, 512).await;
    check(Format::Vhd, &[("subformat", "fixed"), ("align", "512")], &EVERY_ORDER, 65536, 1).await;
}

#[tokio::test]
async fn monolithic_sparse_vmdk_conforms() {
    check(Format::Vmdk, &[], &EVERY_ORDER, 65536, 512).await;
    check(Format::Vmdk, &[("align", "4K")], &EVERY_ORDER, 65536, 1).await;
}

#[tokio::test]
async fn stream_optimized_vmdk_conforms() {
    let kind = ("subformat", "streamOptimized");
    check(Format::Vmdk, &[kind], &EVERY_ORDER, 65536, 512).await;
    check(Format::Vmdk, &[kind, ("align", "1M"), ("level", "1")], &EVERY_ORDER, 65536, 1).await;
}

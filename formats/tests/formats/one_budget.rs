//! Concurrent conversions of every kind with one small budget and one worker: none blocks forever, and all are correct.

use std::sync::Arc;

use crate::support::*;
use diskferry_core::{Budget, Conversion, CpuPool, MemorySink, Resources, conformance::digest_of};
use diskferry_formats::{Format, TargetOptions, create};
use futures_util::future::{FutureExt, try_join_all};

const TARGETS: [(Format, &[(&str, &str)]); 9] = [
    (Format::Raw, &[]),
    (Format::Vhd, &[]),
    (Format::Vhd, &[("subformat", "fixed")]),
    (Format::Qcow2, &[]),
    (Format::Qcow2, &[("compression", "zlib"), ("cluster_size", "512")]),
    (Format::Qcow2, &[("compression", "zlib")]),
    (Format::Qcow2, &[("compression", "zstd"), ("cluster_size", "2M")]),
    (Format::Vmdk, &[]),
    (Format::Vmdk, &[("subformat", "streamOptimized")]),
];

#[test]
fn conversions_of_every_kind_share_the_smallest_budget_and_one_worker() {
    // Runs end inside units, and all conversions together need far more than the budget.
    let disk: Vec<u8> = (0..3)
        .flat_map(|seed| [noise(700_416, seed), vec![0; 600_064], pattern(699_904, seed)].concat())
        .collect();
    assert!(disk.len() as u64 > Budget::SMALLEST / 3 && disk.len().is_multiple_of(512));
    let expected = digest_of(&disk);
    let budget = Budget::new(Budget::SMALLEST);
    let pool = Arc::new(CpuPool::new(1).unwrap());
    let to = |format: Format, image: &[u8], (target, pairs): (Format, &[(&str, &str)])| {
        let options = TargetOptions::from_pairs(target, pairs.iter().copied()).unwrap();
        let sink = MemorySink::new();
        let written = create(target, sink.clone(), &options).unwrap();
        let (budget, pool) = (Some(budget.clone()), Some(Arc::clone(&pool)));
        let run = Conversion::new(open_as(format, image.to_vec()).unwrap(), written)
            .resources(Resources::default().budget(budget).pool(pool).connections(Some(1)))
            .verify(true)
            .stall_timeout(None)
            .run();
        let run = async move { run.await.map(|report| (report.digest, sink.published().unwrap())) };
        run.boxed_local()
    };
    let runs = TARGETS.map(|target| to(Format::Raw, &disk, target));
    let images = block_on(try_join_all(runs)).unwrap();
    // Each format into all others, including recompression.
    let pairs = images.iter().zip(TARGETS).flat_map(|((_, image), (format, _))| {
        let to = &to;
        [1, 3, 5, 6, 8].map(|target| to(format, image, TARGETS[target]))
    });
    let again = block_on(try_join_all(pairs)).unwrap();
    assert!(images.iter().chain(&again).all(|(digest, _)| *digest == Some(expected)));
    assert!(budget.peak() <= budget.total());
    assert_eq!(budget.used(), 0);
}

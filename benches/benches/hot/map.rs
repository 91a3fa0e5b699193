//! Walks the map of 50 GiB in 64 KiB units, table by table.

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use diskferry_benches::images::{
    Clusters, Grains, Order, Skeleton, UNIT, qcow2, vhd, vmdk_sparse, vmdk_stream,
};
use diskferry_core::{Disk, Limits, Walk, measure};
use diskferry_formats::{Declared, open};

use super::block_on;

const DISK: u64 = 50 << 30;

/// Measures a disk from its tables. It is opened each time, because a disk caches its tables.
fn measured(disk: &Arc<Disk>) -> u64 {
    block_on(measure(disk, &Limits::default()))
        .expect("a sound image")
        .sizes
        .allocated_bytes
        .expect("tables tell")
}

/// Name, constructor, and mapped guest bytes of an image.
type Image = (&'static str, fn() -> Skeleton, u64);

/// Opens an image and measures it.
pub(super) fn walks(c: &mut Criterion) {
    let mut group = c.benchmark_group("map");
    group.sample_size(20);
    let images: [Image; 9] = [
        ("qcow2_in_order", || qcow2(DISK, Clusters::Plain, Order::Guest), DISK),
        ("qcow2_fragmented", || qcow2(DISK, Clusters::Plain, Order::Shuffled), DISK),
        ("qcow2_compressed", || qcow2(DISK, Clusters::Compressed, Order::Guest), DISK),
        ("vhd", || vhd(DISK, Order::Shuffled), DISK),
        ("vmdk_in_order", || vmdk_sparse(DISK, Grains::All(Order::Guest)), DISK),
        ("vmdk_fragmented", || vmdk_sparse(DISK, Grains::All(Order::Shuffled)), DISK),
        ("vmdk_empty_2TiB", || vmdk_sparse(2 << 40, Grains::None), 0),
        ("vmdk_stream", || vmdk_stream(DISK), DISK),
        ("vmdk_stream_1TiB", || vmdk_stream(1 << 40), 1 << 40),
    ];
    for (name, make, allocated) in images {
        let source = make().source();
        let disk =
            || Arc::new(block_on(open(Arc::clone(&source), Declared::Unknown)).expect("a sound image"));
        group.throughput(Throughput::Elements(disk().virtual_bytes() / UNIT));
        assert_eq!(measured(&disk()), allocated, "{name}");
        group.bench_function(name, |b| b.iter_with_setup(disk, |disk| measured(&disk)));
    }
    // Like the command `map`.
    let source = qcow2(DISK, Clusters::Plain, Order::Shuffled).source();
    let disk = || block_on(open(Arc::clone(&source), Declared::Unknown)).expect("a sound image");
    group.throughput(Throughput::Elements(DISK / UNIT));
    group.bench_function("stretches_of_qcow2_fragmented", |b| {
        b.iter_with_setup(disk, |disk| {
            block_on(async {
                let (mut walk, mut count) = (Walk::new(&disk), 0);
                while let Some(stretches) = walk.next().await.expect("a sound image") {
                    count += stretches.len();
                }
                count
            })
        });
    });
    group.finish();
}

//! What is hot: the zero scan, the digest, inflating a cluster, planning.

use std::hint::black_box;
use std::io::Write as _;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_main};
use diskferry_benches::content;
use diskferry_core::address::{FileIndex, GuestOffset, GuestRange, StoredOffset, StoredRange};
use diskferry_core::digest::{Tree, hash_block};
use diskferry_core::extent::{Extent, ExtentKind, Stored};
use diskferry_core::plan::{Request, plan};
use diskferry_core::scan::{Scanned, is_zero};
use diskferry_formats::codec::inflate_raw;

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    let (zeros, data) = (vec![0; 1 << 20], content(1 << 20));
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("zeros_1MiB", |b| b.iter(|| is_zero(black_box(&zeros))));
    group.bench_function("sha256_4KiB_blocks_1MiB", |b| {
        b.iter(|| {
            data.chunks(4096).map(hash_block).fold(0, |sum: u32, hash| sum.wrapping_add(hash[0].into()))
        });
    });
    let (bytes, leaf) = (Bytes::from(data), Tree::new().zero_block());
    group.bench_function("scan_and_hash_1MiB", |b| {
        b.iter(|| Scanned::new(GuestOffset::ZERO, bytes.clone(), Some(leaf)));
    });
    group.finish();
}

fn tree(c: &mut Criterion) {
    c.bench_function("digest/64TiB_of_zeros", |b| {
        b.iter(|| {
            let mut tree = Tree::new();
            tree.add_zeros(0, (64 << 40) / 4096);
            tree.finish(64 << 40)
        });
    });
}

fn inflate(c: &mut Criterion) {
    let data = content(64 << 10);
    let mut deflater = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    deflater.write_all(&data).expect("a vector takes every byte");
    let stored = deflater.finish().expect("a vector takes every byte");
    let mut out = vec![0; data.len()];
    let mut group = c.benchmark_group("inflate");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("cluster_64KiB", |b| b.iter(|| inflate_raw(black_box(&stored), &mut out)));
    group.finish();
}

fn planner(c: &mut Criterion) {
    const CLUSTER: u64 = 64 << 10;
    // 65,536 clusters, stored in an order that has nothing to do with the guest's.
    let extents: Vec<Extent> = (0..65_536u64)
        .map(|n| {
            let guest = GuestRange::new(GuestOffset::new(n * CLUSTER), CLUSTER);
            let stored = StoredRange::new(StoredOffset::new((n * 40_503 % 65_536) * CLUSTER), CLUSTER);
            let (guest, range) = (guest.expect("fits"), stored.expect("fits"));
            Extent::new(guest, ExtentKind::Data(Stored { file: FileIndex(0), range }))
        })
        .collect();
    let request = Request { bytes: 8 << 20, decoded: 32 << 20, gap: 1 << 20 };
    let mut group = c.benchmark_group("plan");
    group.throughput(Throughput::Elements(extents.len() as u64));
    group.bench_function("fragmented_4GiB", |b| b.iter(|| plan(black_box(&extents), 1 << 20, |_| request)));
    group.finish();
}

mod group {
    #![allow(missing_docs, reason = "the macro makes a public function")]
    use super::{inflate, planner, scan, tree};

    criterion::criterion_group!(hot, scan, tree, inflate, planner);
}
use group::hot;

criterion_main!(hot);

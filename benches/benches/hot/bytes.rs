//! Work per guest byte: the zero scan and the digest.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use diskferry_benches::content;
use diskferry_core::internal::{BLOCK, DigestTree, hash_block, is_zero};
use diskferry_core::{GuestOffset, Scanned};

const MIB: usize = 1 << 20;

/// The zero scan, alone and combined with hashing.
pub(super) fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Bytes(MIB as u64));
    let (zeros, data) = (Bytes::from(vec![0; MIB]), Bytes::from(content(MIB)));
    group.bench_function("zeros_1MiB", |b| b.iter(|| is_zero(black_box(&zeros))));
    let leaf = Some(DigestTree::new().zero_block());
    for (name, bytes, leaf) in [
        ("blocks_of_zeros_1MiB", &zeros, None),
        ("blocks_of_content_1MiB", &data, None),
        ("blocks_of_zeros_hashed_1MiB", &zeros, leaf),
        ("blocks_of_content_hashed_1MiB", &data, leaf),
    ] {
        group.bench_function(name, |b| b.iter(|| Scanned::new(GuestOffset::ZERO, bytes.clone(), leaf)));
    }
    group.finish();
}

/// The digest: leaves, inner nodes, and zeros.
pub(super) fn digest(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    let data = content(MIB);
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("leaves_1MiB", |b| {
        b.iter(|| data.chunks(BLOCK as usize).map(hash_block).fold(0, |sum, hash| sum ^ hash[0]));
    });
    const LEAVES: u64 = 1 << 18;
    let leaves: Vec<_> = (0..LEAVES).map(|number| hash_block(&number.to_le_bytes())).collect();
    group.throughput(Throughput::Bytes(LEAVES * BLOCK));
    group.sample_size(20);
    group.bench_function("tree_over_1GiB", |b| {
        b.iter(|| {
            let mut tree = DigestTree::new();
            for (first, leaves) in (0..).step_by(256).zip(leaves.chunks(256)) {
                tree.add(first, leaves);
            }
            tree.finish(LEAVES * BLOCK)
        });
    });
    group.throughput(Throughput::Bytes(64 << 40));
    group.bench_function("zeros_64TiB", |b| {
        b.iter(|| {
            let mut tree = DigestTree::new();
            tree.add_zeros(0, (64 << 40) / BLOCK);
            tree.finish(64 << 40)
        });
    });
    group.finish();
}

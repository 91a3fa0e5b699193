//! Plans requests for extents.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use diskferry_core::internal::{RequestLimits, plan};
use diskferry_core::{
    Extent, ExtentKind, FileIndex, GuestOffset, GuestRange, Stored, StoredOffset, StoredRange,
};

const CLUSTER: u64 = 64 << 10;
const CLUSTERS: u64 = 65_536;

/// Returns clusters that are stored at the positions that `place` returns, without overlap.
fn clusters(place: impl Fn(u64) -> u64) -> Vec<Extent> {
    let extent = |number: u64| {
        let guest = GuestRange::new(GuestOffset::new(number * CLUSTER), CLUSTER).expect("fits");
        let range = StoredRange::new(StoredOffset::new(place(number)), CLUSTER).expect("fits");
        Extent::new(guest, ExtentKind::Data(Stored { file: FileIndex(0), range }))
    };
    (0..CLUSTERS).map(extent).collect()
}

/// Plans a window of 4 GiB.
pub(super) fn planner(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.throughput(Throughput::Elements(CLUSTERS));
    let request = RequestLimits { bytes: 8 << 20, decoded: 32 << 20, gap: 1 << 20 };
    for (name, extents) in [
        ("in_order_4GiB", clusters(|number| number * CLUSTER)),
        ("with_gaps_4GiB", clusters(|number| number * (CLUSTER + 4096))),
        ("shuffled_4GiB", clusters(|number| number * 40_503 % CLUSTERS * CLUSTER)),
    ] {
        group.bench_function(name, |b| b.iter(|| plan(black_box(&extents), 1 << 20, |_| request)));
    }
    group.finish();
}

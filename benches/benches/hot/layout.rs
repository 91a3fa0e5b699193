//! Places 50 GiB in each format: computes all offsets and tables without copying data.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use diskferry_core::{
    BlockRun, Coding, Encoded, GuestOffset, GuestRange, Layout, LayoutFacts, LayoutInput, Part, Scanned,
    UnitMap, WriteOrder,
};
use diskferry_formats::{Format, TargetOptions, layout};

const DISK: u64 = 50 << 30;
/// Guest bytes per call, as workers pass them on.
const PIECE: u64 = 1 << 20;
/// Compressed size of a unit: small, so that copying does not dominate the measurement.
const STREAM: usize = 512;

/// Places a full disk and returns the size of the target.
fn place(layout: &mut dyn Layout) -> u64 {
    let map = layout.unit().map(|unit| UnitMap::full(unit, DISK));
    let facts = LayoutFacts::default().virtual_bytes(Some(DISK)).map(map);
    layout.begin(&facts).expect("it fits").for_each(|write| drop(black_box(write)));
    match layout.input() {
        LayoutInput::Bytes(_) => {
            let bytes = Bytes::from(vec![7; PIECE as usize]);
            for number in 0..DISK / PIECE {
                let guest = GuestRange::new(GuestOffset::new(number * PIECE), PIECE).expect("fits");
                let runs = vec![BlockRun { bytes: PIECE, zero: false }];
                let (leaves, streams) = (Vec::new(), Vec::new());
                let part = Part::Bytes(Scanned { guest, bytes: bytes.clone(), runs, leaves, streams });
                black_box(layout.place(part).expect("it fits"));
            }
        }
        LayoutInput::Units(encoder) => {
            let bytes = Bytes::from(vec![7; STREAM]);
            for unit in 0..DISK.div_ceil(encoder.unit_bytes()) {
                let encoded = Encoded { unit, coding: Coding::Coded(STREAM), bytes: bytes.clone() };
                black_box(layout.place(Part::Unit(encoded)).expect("it fits"));
            }
        }
    }
    let (writes, len) = layout.finish(DISK).expect("it fits");
    writes.for_each(|write| drop(black_box(write)));
    len
}

/// Every layout, for a destination that supports writes in any order.
pub(super) fn layouts(c: &mut Criterion) {
    let mut group = c.benchmark_group("layout");
    group.throughput(Throughput::Bytes(DISK));
    group.sample_size(10);
    for (name, format, options) in [
        ("raw", Format::Raw, &[][..]),
        ("vhd_fixed", Format::Vhd, &[("subformat", "fixed")]),
        ("vhd_dynamic", Format::Vhd, &[]),
        ("qcow2", Format::Qcow2, &[]),
        ("qcow2_zlib", Format::Qcow2, &[("compression", "zlib")]),
        ("vmdk_sparse", Format::Vmdk, &[("subformat", "monolithicSparse")]),
        ("vmdk_stream", Format::Vmdk, &[("subformat", "streamOptimized")]),
    ] {
        let options = TargetOptions::from_pairs(format, options.iter().copied()).expect("it exists");
        let new = || layout(format, &options, WriteOrder::Any).expect("it exists");
        group.bench_function(name, |b| b.iter_with_setup(new, |mut layout| place(&mut *layout)));
    }
    group.finish();
}

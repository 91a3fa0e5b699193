//! Compression and decompression of 64 KiB units that compress like programs and text.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use diskferry_benches::units;
use diskferry_core::Result;
use diskferry_formats::internal as codec;

const UNIT: usize = 64 << 10;
const UNITS: usize = 16;
/// Size of the output buffer: large enough for every encoded unit.
const MOST: usize = 2 * UNIT;

/// Decodes units that `encode` has produced.
fn decode(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    encode: impl Fn(&[u8], &mut [u8]) -> usize,
    decode: impl Fn(&[u8], &mut [u8]) -> Result<usize>,
) {
    let streams: Vec<Vec<u8>> = units(UNITS, UNIT)
        .iter()
        .map(|unit| {
            let mut stream = vec![0; MOST];
            let len = encode(unit, &mut stream);
            stream.truncate(len);
            stream
        })
        .collect();
    let mut out = vec![0; UNIT];
    group.bench_function(name, |b| {
        b.iter(|| {
            for stream in &streams {
                decode(black_box(stream), &mut out).expect("its own stream");
            }
        });
    });
}

/// Encodes units.
fn encode(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, encode: impl Fn(&[u8], &mut [u8]) -> usize) {
    let units = units(UNITS, UNIT);
    let mut out = vec![0; MOST];
    group.bench_function(name, |b| {
        b.iter(|| units.iter().map(|unit| encode(black_box(unit), &mut out)).sum::<usize>());
    });
}

fn zlib(level: u32) -> impl Fn(&[u8], &mut [u8]) -> usize {
    move |unit, out| codec::deflate_zlib(level, unit, out).expect("there is room")
}

/// With the 4 KiB window of QCOW2.
fn raw(level: u32) -> impl Fn(&[u8], &mut [u8]) -> usize {
    move |unit, out| codec::deflate_raw(level, 12, unit, out).expect("levels exist").expect("there is room")
}

fn zstd(level: u32) -> impl Fn(&[u8], &mut [u8]) -> usize {
    move |unit, out| codec::zstd(level, unit, out).expect("there is memory").expect("there is room")
}

/// All codecs.
pub(super) fn codecs(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes((UNIT * UNITS) as u64));
    decode(&mut group, "zlib", zlib(6), codec::inflate_zlib);
    decode(&mut group, "deflate_4KiB_window", raw(6), codec::inflate_raw);
    decode(&mut group, "zstd", zstd(3), codec::unzstd);
    group.finish();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Bytes((UNIT * UNITS) as u64));
    group.sample_size(20);
    encode(&mut group, "zlib_1", zlib(1));
    encode(&mut group, "zlib_6", zlib(6));
    encode(&mut group, "deflate_4KiB_window_1", raw(1));
    encode(&mut group, "deflate_4KiB_window_6", raw(6));
    encode(&mut group, "zstd_3", zstd(3));
    group.finish();
}

//! End-to-end conversion: from an image in a store on a slow network to a raw disk in memory.
//!
//! The store is the embedded S3 server of the tests, in this process. Environment variables set the simulated network and the
//! disk size: `BENCH_LATENCY_MS` (default 5), `BENCH_MBPS` for all connections (default 250, in 10⁶ bytes per second) and
//! `BENCH_MIB` (default 32). This benchmark shows the effect of a change; the program `side-by-side` compares other tools.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_main};
use diskferry_benches::disk;
use diskferry_core::{
    Conversion, Depth, Disk, FileSink, FileSinkOptions, Limits, MemorySink, MemorySource, Report, Sink,
    Source, measure_at,
};
use diskferry_formats::{Declared, Format, TargetOptions, create, open};
use diskferry_s3io::server::{Server, ServerOptions, Shape};
use diskferry_s3io::{Client, S3Source};
use tokio::runtime::Runtime;

const BUCKET: &str = "images";

/// Returns a number from the environment, or the default.
fn set(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number, not {text}")),
        Err(_) => usual,
    }
}

async fn convert(disk: Disk, format: Format, options: TargetOptions, sink: Box<dyn Sink>) -> Report {
    let target = create(format, sink, &options).expect("it exists");
    Conversion::new(disk, target).run().await.expect("a valid image")
}

async fn stored(client: &Client, name: &str, format: Format) -> Disk {
    let source = S3Source::open(client, &format!("s3://{BUCKET}/{name}")).await.expect("the object exists");
    open(Arc::new(source), Declared::Format(format)).await.expect("a valid image")
}

/// Makes an image of `raw` and uploads it to the store.
async fn put(
    server: &Server,
    dir: &Path,
    raw: &bytes::Bytes,
    name: &str,
    format: Format,
    options: TargetOptions,
) {
    let source: Arc<dyn Source> = Arc::new(MemorySource::new("disk", raw.clone()));
    let disk = open(source, Declared::Format(Format::Raw)).await.expect("a disk");
    let path = dir.join(name);
    let mut place = FileSinkOptions::default();
    place.sync = false;
    let sink = FileSink::create(&path, place).await.expect("a file");
    convert(disk, format, options, Box::new(sink)).await;
    server.put_file(BUCKET, name, &path).await.expect("the object is stored");
}

fn from_a_store(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let server = Server::start(ServerOptions::default()).expect("a port");
    let dir = tempfile::tempdir().expect("a directory");
    let len = set("BENCH_MIB", 32) as usize * (1 << 20);
    // One third of the disk has content.
    let raw = bytes::Bytes::from(disk(len, len / 3));
    let images = [
        ("raw", Format::Raw, &[][..]),
        ("vhd_dynamic", Format::Vhd, &[]),
        ("qcow2", Format::Qcow2, &[]),
        ("qcow2_zlib", Format::Qcow2, &[("compression", "zlib")]),
        ("vmdk_stream", Format::Vmdk, &[("subformat", "streamOptimized")]),
    ];
    let client = runtime.block_on(async {
        server.create_bucket(BUCKET).await.expect("a bucket");
        for (name, format, options) in images {
            let options = TargetOptions::from_pairs(format, options.iter().copied()).expect("it exists");
            put(&server, dir.path(), &raw, name, format, options).await;
        }
        Client::new(server.client_options()).await.expect("a client")
    });
    server.set_shape(Shape {
        latency: Duration::from_millis(set("BENCH_LATENCY_MS", 5)),
        each: None,
        all: Some(set("BENCH_MBPS", 250) * 1_000_000),
    });
    let mut group = c.benchmark_group("end_to_end");
    group.throughput(Throughput::Bytes(len as u64)).sample_size(10);
    for (name, format, _) in images {
        group.bench_function(format!("{name}_to_raw"), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let disk = stored(&client, name, format).await;
                    convert(disk, Format::Raw, TargetOptions::default(), Box::new(MemorySink::new())).await
                })
            });
        });
        group.bench_function(format!("{name}_verdict"), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let disk = Arc::new(stored(&client, name, format).await);
                    let (limits, resources) = (Limits::default(), Default::default());
                    measure_at(&disk, &limits, Depth::Quick, None, &resources).await.expect("a valid image")
                })
            });
        });
    }
    group.finish();
}

mod group {
    #![allow(missing_docs, reason = "the macro makes a public function")]
    use super::from_a_store;

    criterion::criterion_group!(end_to_end, from_a_store);
}
use group::end_to_end;

criterion_main!(end_to_end);

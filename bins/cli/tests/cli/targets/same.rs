//! Output is deterministic. The same source, options and kind of destination give the same bytes, with any number of
//! threads and connections, any memory budget and any order of responses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diskferry_core::Disk;
use diskferry_corpus::oracle::make;
use diskferry_formats::{Declared, open};
use diskferry_s3io::S3Source;
use diskferry_s3io::server::Fault;

use crate::targets::support::{
    BUCKET, Bench, Content, KINDS, MIB, Place, made, program, resources, same_bytes,
};

/// Runs of every kind, over several upload parts and VHD blocks. Their ends are not aligned to any format's units.
fn disk() -> Vec<u8> {
    let mib = MIB as usize;
    made(&[
        (mib + 700, Content::Text(1)),
        (3 * mib - 33, Content::Noise(2)),
        (4 * mib + 5000, Content::Zeros),
        (9, Content::Noise(3)),
        (5 * mib, Content::Zeros),
        (6 * mib + 12_345, Content::Noise(4)),
        (65_536, Content::Zeros),
        (2 * mib, Content::Text(5)),
        (9 * mib - 700 - 5000 + 33 - 9 - 12_345 - 65_536, Content::Zeros),
        (mib + 512, Content::Noise(6)),
    ])
}

async fn stored(bench: &Bench, key: &str, format: &str) -> Disk {
    let source = S3Source::open(&bench.client, &format!("s3://{BUCKET}/{key}")).await.unwrap();
    open(Arc::new(source), Declared::Format(format.parse().unwrap())).await.unwrap()
}

async fn always_the_same(bench: &Bench, key: &str, format: &str) {
    // Responses arrive out of order.
    bench.server.set_faults(|request| match request.method.as_str() {
        "GET" => vec![Fault::Delay(Duration::from_millis(request.number * 7919 % 31))],
        _ => Vec::new(),
    });
    for kind in KINDS {
        for place in Place::ALL {
            if place == Place::Pipe && !kind.flows() {
                continue;
            }
            let mut first: Option<std::path::PathBuf> = None;
            for (threads, connections, mib) in [(1, 1, 256), (2, 8, 64), (5, 8, 16)] {
                // The upload parts must fit into the budget too.
                let mib = if place == Place::S3 { mib.max(32) } else { mib };
                let what = format!(
                    "{key} to {} at {place:?}, {threads} threads, {connections} connections, {mib} MiB",
                    kind.name
                );
                let name = format!("{key}-{}-{place:?}-{threads}-{connections}", kind.name);
                let disk = stored(bench, key, format).await;
                let options = kind.options(&[]);
                let resources = resources(mib * MIB, threads, Some(connections));
                let written = bench.convert(disk, &options, (place, &name), &resources).await;
                let written = written.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert!(written.report.stats.peak_budget_bytes <= mib * MIB, "{what}");
                match &first {
                    None => first = Some(written.path),
                    Some(first) => {
                        assert!(same_bytes(first, &written.path), "{what}: other bytes");
                        std::fs::remove_file(written.path).unwrap();
                    }
                }
            }
            std::fs::remove_file(first.unwrap()).unwrap();
        }
    }
}

async fn put(bench: &Bench, key: &str, file: &Path) {
    bench.server.put_file(BUCKET, key, file).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_source_gives_the_same_bytes_every_time() {
    let bench = Bench::new().await;
    bench.server.put(BUCKET, "disk.raw", disk()).await.unwrap();
    always_the_same(&bench, "disk.raw", "raw").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_with_passthrough_units_gives_the_same_bytes_every_time() {
    let bench = Bench::new().await;
    let (raw, image) = (bench.dir.path().join("disk.raw"), bench.dir.path().join("disk.vmdk"));
    std::fs::write(&raw, disk()).unwrap();
    make(&raw, "vmdk", &["subformat=streamOptimized"], &[], &image);
    put(&bench, "disk.vmdk", &image).await;
    always_the_same(&bench, "disk.vmdk", "vmdk").await;
}

#[test]
fn resource_options_do_not_change_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    std::fs::write(&raw, disk()).unwrap();
    for kind in KINDS {
        let mut first = None;
        for (turn, switches) in [
            &["--threads", "1", "--connections", "1", "--memory", "16M"][..],
            &["--threads", "5", "--connections", "8", "--memory", "64M", "--mmap"],
            &["--no-digest"],
        ]
        .into_iter()
        .enumerate()
        {
            let out = dir.path().join(format!("{turn}.{}", kind.format));
            let mut program = program();
            program.arg("convert").args([&raw, &out]).args(switches).args(["-f", "raw", "--no-sync"]);
            for (key, value) in kind.options {
                program.args(["-o", &format!("{key}={value}")]);
            }
            let said = program.output().unwrap();
            assert!(said.status.success(), "{}: {}", kind.name, String::from_utf8_lossy(&said.stderr));
            let first = first.get_or_insert_with(|| out.clone());
            assert!(same_bytes(first, &out), "{} with {switches:?}: other bytes", kind.name);
        }
        (0..3).for_each(|turn| {
            std::fs::remove_file(dir.path().join(format!("{turn}.{}", kind.format))).unwrap();
        });
    }
}

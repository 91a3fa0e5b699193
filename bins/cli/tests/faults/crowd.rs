//! Hundreds of conversions in one process that share a budget and the CPU workers.

use std::path::Path;
use std::sync::Arc;

use diskferry_core::{Conversion, ImageLimit, Limits, Source};
use diskferry_formats::{Declared, Format, TargetOptions, create, open};
use diskferry_s3io::{Client, ClientOptions, Keys, S3Source};
use futures_util::future::try_join_all;

use crate::support::{
    Bench, IMAGE_KINDS, LIBRARY, MIB, child_arguments, digest, file, in_a_child_process, names, object,
    resources,
};

const RUNS: usize = 200;
const BUDGET: u64 = 128 * MIB;

/// The kinds of targets.
const TARGETS: [(Format, &[(&str, &str)]); 5] = [
    (Format::Raw, &[]),
    (Format::Qcow2, &[]),
    (Format::Qcow2, &[("compression", "zlib")]),
    (Format::Vhd, &[]),
    (Format::Vmdk, &[("subformat", "streamOptimized")]),
];

#[test]
fn two_hundred_concurrent_conversions_are_correct_and_share_one_budget() {
    const NAME: &str = "crowd::two_hundred_concurrent_conversions_are_correct_and_share_one_budget";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some([endpoint, access, secret, dir, expected]) = child_arguments() {
        return runtime.block_on(all(&endpoint, (access, secret), Path::new(&dir), &expected));
    }
    // The store's memory does not count.
    let bench = runtime.block_on(Bench::new(16, &IMAGE_KINDS));
    let dir = bench.dir.path().to_str().unwrap();
    let (endpoint, keys) = (bench.server.endpoint(), bench.server.keys());
    in_a_child_process(NAME, &[&endpoint, &keys.access_key, &keys.secret_key, dir, &bench.digest]);
    for number in 0..RUNS {
        let path = match number % 3 {
            0 => bench.dir.path().join(number.to_string()),
            _ => bench.stored(&number.to_string()),
        };
        let found = runtime.block_on(digest(&path, TARGETS[number % TARGETS.len()].0));
        assert_eq!(found, bench.digest, "{number}");
    }
    let files = names(bench.dir.path()).len() + names(&bench.server.root().join(LIBRARY)).len();
    assert_eq!(files, RUNS);
}

async fn all(endpoint: &str, (access, secret): (String, String), dir: &Path, expected: &str) {
    let options = ClientOptions::default()
        .endpoint_url(Some(endpoint.into()))
        .region(Some("us-east-1".into()))
        .keys(Some(Keys::new(access, secret)));
    let client = Client::new(options).await.unwrap();
    let shared = resources(BUDGET);
    let before = resident("VmRSS:");
    let convert = async |number: usize| {
        let image = IMAGE_KINDS[number % IMAGE_KINDS.len()];
        let (format, options) = TARGETS[number % TARGETS.len()];
        let name = number.to_string();
        let sink = match number % 3 {
            0 => file(&dir.join(&name), false).await?,
            _ => object(&client, &name, false).await?,
        };
        let source: Arc<dyn Source> = Arc::new(S3Source::open(&client, &image.url()).await?);
        let disk = open(source, Declared::Format(image.format)).await?;
        let target = create(format, sink, &TargetOptions::from_pairs(format, options.iter().copied())?)?;
        let limits = Limits::default().image(ImageLimit::None);
        Conversion::new(disk, target).limits(limits).resources(shared.clone()).run().await
    };
    let reports = try_join_all((0..RUNS).map(convert)).await.unwrap();
    for (number, report) in reports.iter().enumerate() {
        assert_eq!(report.digest.unwrap().to_string(), expected, "{number}");
    }
    let peak = shared.budget.as_ref().unwrap().peak();
    assert!(peak <= BUDGET, "{peak} bytes in flight");
    let grown = resident("VmHWM:").saturating_sub(before);
    println!("{} MiB in flight, {} MiB more resident", peak / MIB, grown / MIB);
    // Each conversion also holds the head of its image, cached tables and its connections, outside the budget.
    assert!(grown <= BUDGET + 64 * MIB + RUNS as u64 * MIB / 2, "{} MiB", grown / MIB);
}

/// Reads a memory figure of this process from the kernel, in bytes.
fn resident(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

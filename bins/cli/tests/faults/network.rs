//! Network and store faults, one at a time and mixed.
//!
//! `FAULTS_EVERYWHERE=1` tests each fault with every format, and more seeds of the mixture.

use std::time::Duration;

use diskferry_core::ErrorKind;
use diskferry_formats::Format;
use diskferry_s3io::server::{Fault, Request};

use crate::support::{Bench, IMAGE_KINDS, Image, MEMORY, MIB, digest, is_data};

/// Size of the disk.
const DISK_MIB: u64 = 1024;

/// Faults that a retry recovers from.
const PASSING: [&str; 11] =
    ["500", "503", "429", "cut", "reset", "silence", "late", "hangup", "cut at once", "reset at once", "502"];

/// Faults that a retry cannot recover from, and responses that must not be trusted.
const LASTING: [(&str, &[ErrorKind]); 7] = [
    ("403", &[ErrorKind::SourceForbidden, ErrorKind::DestinationForbidden]),
    ("404", &[ErrorKind::SourceNotFound, ErrorKind::DestinationUnavailable]),
    ("expired", &[ErrorKind::SourceExpired, ErrorKind::DestinationForbidden]),
    ("range ignored", &[ErrorKind::SourceNoRanges, ErrorKind::SourceChanged]),
    ("other range", &[ErrorKind::SourceNoRanges]),
    ("other etag", &[ErrorKind::SourceChanged]),
    ("412", &[ErrorKind::SourceChanged]),
];

/// Returns the fault with this name for this request; `random` selects the position in the body.
fn fault(name: &str, request: &Request, random: u64) -> Vec<Fault> {
    let len = request.range.map_or(1, |(first, last)| last.saturating_sub(first) + 1);
    let inside = random % len;
    // The store did what was requested and the response is lost; or the body stops midway.
    vec![match name {
        "500" => Fault::Status(500),
        "502" => Fault::Status(502),
        "503" => Fault::Refuse(503, "SlowDown", "Please reduce your request rate."),
        "429" => Fault::Status(429),
        "cut" => Fault::Truncate(inside),
        "reset" => Fault::Reset(inside),
        "cut at once" => Fault::Truncate(0),
        "reset at once" => Fault::Reset(0),
        "silence" => Fault::Stall(inside),
        "late" => Fault::Delay(Duration::from_millis(300)),
        "hangup" => Fault::Hangup,
        "403" => Fault::Refuse(403, "AccessDenied", "Access Denied"),
        "404" if request.method == "GET" => Fault::Refuse(404, "NoSuchKey", "gone"),
        "404" => Fault::Refuse(404, "NoSuchBucket", "gone"),
        "expired" => Fault::Refuse(400, "ExpiredToken", "The provided token has expired."),
        "412" => Fault::Refuse(412, "PreconditionFailed", "no"),
        "range ignored" => Fault::IgnoreRange,
        "other range" => Fault::Header("content-range", "bytes 1-2/*".into()),
        "other etag" => Fault::Header("etag", "\"another\"".into()),
        other => panic!("no fault {other}"),
    }]
}

/// Returns how many source bytes a conversion without faults fetches.
async fn clean(bench: &Bench, image: Image) -> u64 {
    bench.server.set_faults(|_| Vec::new());
    bench.server.forget();
    let sink = bench.object("clean", false).await.unwrap();
    let report = bench.convert(image, sink, Format::Qcow2).await.unwrap();
    assert_eq!(report.digest.unwrap().to_string(), bench.digest, "{image:?}");
    std::fs::remove_file(bench.stored("clean")).unwrap();
    report.stats.source.bytes
}

/// Converts to S3 while faults are injected, and checks the outcome. Returns the number of faults.
async fn holds(bench: &Bench, image: Image, what: &str, stored: u64, may_fail: &[ErrorKind]) -> u64 {
    let what = format!("{what} with {}", image.name);
    bench.server.forget();
    let ended = match bench.object("target", false).await {
        Ok(sink) => bench.convert(image, sink, Format::Qcow2).await,
        Err(error) => Err(error),
    };
    bench.client.settle().await;
    bench.server.set_faults(|_| Vec::new());
    let asked = bench.server.exchanges().len() as u64;
    match ended {
        Ok(report) => {
            assert_eq!(report.digest.unwrap().to_string(), bench.digest, "{what}");
            assert_eq!(
                digest(&bench.stored("target"), Format::Qcow2).await,
                bench.digest,
                "{what}: the target"
            );
            let source = report.stats.source;
            // Hedged requests are limited to a share of the requested bytes.
            assert!(source.bytes <= stored + stored / 50 + 8 * MIB, "{what}: {} of {stored}", source.bytes);
            // An interrupted response loses the bytes in transit.
            let sent = bench.sent();
            let most = source.bytes + (source.retries + 4) * 2 * MIB;
            assert!(sent <= most, "{what}: {sent} sent for {} received, {source:?}", source.bytes);
            assert!(report.stats.peak_budget_bytes <= MEMORY, "{what}");
            println!("{what}: {asked} requests, {} retries", source.retries);
            std::fs::remove_file(bench.stored("target")).unwrap();
        }
        Err(error) => {
            assert!(may_fail.contains(&error.kind()), "{what}: {error:?}");
            println!("{what}: {asked} requests, {}", error.kind());
        }
    }
    let left = bench.left();
    assert!(left.is_empty(), "{what}: {left:?}");
    asked
}

/// Runs all faults on all images of a format.
async fn all(format: Format) {
    let everywhere = std::env::var_os("FAULTS_EVERYWHERE").is_some();
    for (number, image) in IMAGE_KINDS.into_iter().enumerate().filter(|(_, image)| image.format == format) {
        let bench = Bench::new(DISK_MIB, &[image]).await;
        let stored = clean(&bench, image).await;
        for seed in 0..if everywhere { 5 } else { 1 } {
            bench.server.set_seeded_faults(seed, 50, |request, random| {
                let name = PASSING[(random % PASSING.len() as u64) as usize];
                fault(name, request, random / 16)
            });
            holds(&bench, image, &format!("mixture {seed}"), stored, &[]).await;
        }
        let its = |at: usize| everywhere || at % IMAGE_KINDS.len() == number;
        for (_, name) in PASSING.into_iter().enumerate().filter(|(at, _)| its(*at)) {
            // Several silent responses in a row are a stalled store.
            let of_a_thousand = if name == "silence" { 50 } else { 150 };
            bench.server.set_seeded_faults(1, of_a_thousand, |request, random| fault(name, request, random));
            holds(&bench, image, name, stored, &[]).await;
        }
        for (_, (name, kinds)) in LASTING.into_iter().enumerate().filter(|(at, _)| its(*at + 3)) {
            // Only part uploads of the destination: an upload that the store does not abort remains, and a journal is optional.
            let of_parts = number % 2 == 1 && kinds.len() == 2 && kinds[1].exit_code() == 6;
            bench.server.set_seeded_faults(2, 150, move |request, random| {
                let counts = if of_parts { request.part.is_some() } else { is_data(request) };
                if counts { fault(name, request, random) } else { Vec::new() }
            });
            holds(&bench, image, name, stored, kinds).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_conversion_is_correct_or_fails_cleanly_under_network_faults() {
    all(Format::Raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vhd_conversion_is_correct_or_fails_cleanly_under_network_faults() {
    all(Format::Vhd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qcow2_conversion_is_correct_or_fails_cleanly_under_network_faults() {
    all(Format::Qcow2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vmdk_conversion_is_correct_or_fails_cleanly_under_network_faults() {
    all(Format::Vmdk).await;
}

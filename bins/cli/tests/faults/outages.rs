//! Whole conversions while a store is away: the run ends right when it is back, or says which store did not come back.
//!
//! `FULL=1` also has the long outages, of 15 and 45 seconds.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use diskferry_core::{Conversion, ErrorKind, FileSource, ImageLimit, Limits, Result, Sink};
use diskferry_formats::{Declared, Format, TargetOptions, create, open};
use diskferry_s3io::server::{Outage, Shape};
use diskferry_s3io::{Client, S3Source};

use crate::support::{Bench, Image, LIBRARY, MEMORY, MIB, digest, file, object, resources};

const KINDS: [Outage; 4] = [Outage::Unavailable, Outage::Closed, Outage::Refused, Outage::Silent];
const DISK_MIB: u64 = 160;

fn lengths() -> Vec<u64> {
    if std::env::var_os("FULL").is_some() { vec![2, 15, 45] } else { vec![2] }
}

/// Takes the server away after some of the source was sent or of the target was received.
async fn away(bench: &Bench, outage: Outage, seconds: Option<u64>) {
    let moved = || {
        let exchanges = bench.server.exchanges();
        let sent = exchanges.iter().map(|seen| seen.sent).sum::<u64>();
        let received = exchanges.iter().filter(|seen| seen.over).map(|seen| seen.request.body).sum::<u64>();
        sent + received
    };
    for _ in 0..6000 {
        if moved() > 24 * MIB {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.server.set_outage(Some(outage));
    if let Some(seconds) = seconds {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        bench.server.set_outage(None);
    }
}

async fn conversion(source: Arc<dyn diskferry_core::Source>, sink: Box<dyn Sink>) -> Result<Conversion> {
    let disk = open(source, Declared::Format(Format::Raw)).await?;
    let target = create(Format::Raw, sink, &TargetOptions::default())?;
    let limits = Limits::default().image(ImageLimit::None);
    Ok(Conversion::new(disk, target).limits(limits).resources(resources(MEMORY)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversion_outlasts_an_outage_of_source_and_destination() {
    let image = Image::named("raw");
    let bench = Bench::new(DISK_MIB, &[image]).await;
    // The default timeouts: of the client, and of the watchdog over both ends.
    let client = Client::new(bench.server.client_options()).await.unwrap();
    for seconds in lengths() {
        for outage in KINDS {
            bench.server.set_shape(Shape { all: Some(60_000_000), ..Shape::default() });
            bench.server.forget();
            let source = S3Source::open(&client, &image.url()).await.unwrap();
            let sink = object(&client, "target", false).await.unwrap();
            let running = conversion(Arc::new(source), sink).await.unwrap();
            let (ended, ()) = tokio::join!(running.run(), away(&bench, outage, Some(seconds)));
            let report = ended.unwrap_or_else(|error| panic!("{outage:?} of {seconds} s: {error:?}"));
            bench.server.set_shape(Shape::default());
            assert_eq!(report.digest.unwrap().to_string(), bench.digest, "{outage:?}");
            assert_eq!(digest(&bench.stored("target"), Format::Raw).await, bench.digest, "{outage:?}");
            // What was in flight is at most what the budget holds.
            let sent = bench.sent();
            assert!(sent <= DISK_MIB * MIB + MEMORY, "{outage:?}: {sent} sent");
            std::fs::remove_file(bench.stored("target")).unwrap();
            assert!(bench.left().is_empty(), "{outage:?}: {:?}", bench.left());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_away_is_named_by_its_own_error_and_not_by_the_watchdog() {
    const STALL: Duration = Duration::from_secs(3);
    let image = Image::named("raw");
    let bench = Bench::new(DISK_MIB, &[image]).await;
    let client = Client::new(bench.server.client_options().stall_timeout(STALL)).await.unwrap();
    let address = bench.server.endpoint().trim_start_matches("http://").to_owned();
    let raw = bench.dir.path().join("source");
    std::fs::copy(bench.server.root().join("images/raw"), &raw).unwrap();
    for outage in KINDS {
        for from_store in [true, false] {
            bench.server.set_shape(Shape {
                all: Some(60_000_000),
                latency: Duration::from_millis(100),
                ..Shape::default()
            });
            bench.server.forget();
            let path = bench.dir.path().join("target");
            let (running, kind) = if from_store {
                let source = S3Source::open(&client, &image.url()).await.unwrap();
                let sink = file(&path, false).await.unwrap();
                (conversion(Arc::new(source), sink).await, ErrorKind::SourceUnavailable)
            } else {
                let source = FileSource::open(&raw).await.unwrap();
                let sink = object(&client, "target", false).await.unwrap();
                (conversion(Arc::new(source), sink).await, ErrorKind::DestinationUnavailable)
            };
            let running = running.unwrap().stall_timeout(Some(STALL));
            let (ended, ()) = tokio::join!(running.run(), away(&bench, outage, None));
            bench.server.set_outage(None);
            let error = ended.unwrap_err();
            assert_eq!(error.kind(), kind, "{outage:?}: {error:?}");
            let message = error.message();
            assert!(
                message.contains(&address) && message.contains("without progress"),
                "{outage:?}: {message}"
            );
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--stall-timeout")), "{error:?}");
        }
    }
    assert!(!bench.stored("target").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_says_which_server_is_away_and_how_long_it_tried() {
    let bench = Bench::new(8, &[Image::named("raw")]).await;
    let keys = bench.server.keys();
    bench.server.set_outage(Some(Outage::Refused));
    let target = format!("s3://{LIBRARY}/target");
    let out = bench.dir.path().join("out.raw");
    for (source, target, code) in
        [("s3://images/raw", out.to_str().unwrap(), 5), (file!(), target.as_str(), 6)]
    {
        // A source that exists, for the run that fails at its target.
        let source = if code == 6 { std::env::current_exe().unwrap() } else { source.into() };
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
        let output = command
            .args(["--json", "--stall-timeout", "2", "convert", "-f", "raw", "--limit", "none"])
            .args(["--endpoint-url", &bench.server.endpoint()])
            .args([source.as_os_str(), target.as_ref()])
            .env("AWS_ACCESS_KEY_ID", &keys.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret_key)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        let address = bench.server.endpoint().trim_start_matches("http://").to_owned();
        assert!(said.contains(&format!("{address}: the connection was refused")), "{said}");
        assert!(said.contains("without progress") && said.contains("--stall-timeout"), "{said}");
        assert!(said.contains("\"retryable\":true"), "{said}");
    }
}

//! A server that is away for a while: the run continues when it is back, at both ends.
//!
//! `FULL=1` also has the long outages, of 15 and 45 seconds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::{ErrorKind, Source, conformance::pattern};
use diskferry_s3io::server::{Outage, Server, Shape};
use diskferry_s3io::{Client, S3Sink, S3Source};

use crate::support::{URL, content, empty, gets, leftovers, names, puts, range, serve, stored};
use crate::uploads::{PART, options, sink, upload};

const KINDS: [Outage; 4] = [Outage::Unavailable, Outage::Closed, Outage::Refused, Outage::Silent];

/// How long the server is away, in seconds.
fn lengths() -> Vec<u64> {
    if std::env::var_os("FULL").is_some() { vec![2, 15, 45] } else { vec![2] }
}

/// A client with the default timeouts.
async fn patient(server: &Server) -> Client {
    Client::new(server.client_options()).await.unwrap()
}

/// A client that gives up after two seconds.
async fn impatient(server: &Server) -> Client {
    Client::new(server.client_options().stall_timeout(Duration::from_secs(2))).await.unwrap()
}

/// Ends an outage that begins now.
fn back_after(server: &Arc<Server>, outage: Outage, seconds: u64) -> tokio::task::JoinHandle<()> {
    server.set_outage(Some(outage));
    let server = Arc::clone(server);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        server.set_outage(None);
    })
}

/// Waits for the condition; a defect fails the test and does not hang it.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_away_at_the_beginning_is_opened_when_it_is_back() {
    let bytes = content(1 << 20, 1);
    for seconds in lengths() {
        let outages = KINDS.map(|outage| {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let server = Arc::new(serve(&bytes).await);
                let client = patient(&server).await;
                let back = back_after(&server, outage, seconds);
                let source = S3Source::open(&client, URL).await.unwrap();
                assert!(source.read(range(0, 1 << 20)).await.unwrap() == bytes, "{outage:?}");
                back.await.unwrap();
            })
        });
        for outage in outages {
            outage.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_away_in_the_middle_is_read_on_when_it_is_back() {
    const LEN: u64 = 24 << 20;
    const RANGE: u64 = 4 << 20;
    let bytes = Bytes::from(content(LEN as usize, 2));
    for seconds in lengths() {
        let outages = KINDS.map(|outage| {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let server = Arc::new(serve(&bytes).await);
                server.set_shape(Shape { all: Some(20_000_000), ..Shape::default() });
                let source = S3Source::open(&patient(&server).await, URL).await.unwrap();
                server.forget();
                let before = source.traffic().bytes;
                let reads = (0..LEN / RANGE).map(|number| source.read(range(number * RANGE, RANGE)));
                let read = futures_util::future::try_join_all(reads);
                let away = async {
                    let sent = || gets(&server).iter().map(|exchange| exchange.sent).sum::<u64>();
                    until(|| sent() > 4 << 20).await;
                    back_after(&server, outage, seconds).await.unwrap();
                };
                let (read, ()) = tokio::join!(read, away);
                assert!(read.unwrap().concat() == bytes, "{outage:?}");
                // What is in flight in buffers of this host when a connection ends is lost, and fetched again.
                let sent: u64 = gets(&server).iter().map(|exchange| exchange.sent).sum();
                assert!(sent <= LEN + LEN / RANGE * (4 << 20), "{outage:?}: {sent}");
                let taken = source.traffic().bytes - before;
                assert!(taken <= LEN + LEN / 50, "{outage:?}: {taken}, no byte is taken twice");
            })
        });
        for outage in outages {
            outage.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_away_at_the_beginning_is_written_when_it_is_back() {
    let truth = Bytes::from(pattern(2 * PART + 1, 3));
    for seconds in lengths() {
        let outages = KINDS.map(|outage| {
            let truth = truth.clone();
            tokio::spawn(async move {
                let server = Arc::new(empty().await);
                let client = patient(&server).await;
                let back = back_after(&server, outage, seconds);
                upload(&sink(&client, false, 2).await, &truth).await.unwrap();
                assert!(stored(&server).unwrap() == truth, "{outage:?}");
                assert_eq!(names(&server), ["disk.img"], "{outage:?}");
                back.await.unwrap();
            })
        });
        for outage in outages {
            outage.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_away_in_the_middle_or_at_the_end_is_completed_when_it_is_back() {
    const PARTS: usize = 6;
    let truth = Bytes::from(pattern(PARTS * PART, 4));
    for seconds in lengths() {
        for at_end in [false, true] {
            let outages = KINDS.map(|outage| {
                let truth = truth.clone();
                tokio::spawn(async move {
                    let server = Arc::new(empty().await);
                    // A request that was lost in silence is sent again after the stall timeout.
                    let options = server.client_options().stall_timeout(Duration::from_secs(seconds + 6));
                    let sink = sink(&Client::new(options).await.unwrap(), false, 2).await;
                    server.set_shape(Shape { latency: Duration::from_millis(100), ..Shape::default() });
                    let published = upload(&sink, &truth);
                    let away = async {
                        let parts = || puts(&server).iter().filter(|put| put.over).count();
                        until(|| parts() >= if at_end { PARTS } else { 2 }).await;
                        back_after(&server, outage, seconds).await.unwrap();
                    };
                    let (published, ()) = tokio::join!(published, away);
                    published.unwrap();
                    assert!(stored(&server).unwrap() == truth, "{outage:?}");
                    assert_eq!(leftovers(&server).await, Vec::<String>::new(), "{outage:?}");
                    // A part that was in flight is sent again. A refusal comes after a body was sent.
                    let sent = puts(&server).iter().filter(|put| put.status == 200).count();
                    assert!(sent <= PARTS + 2, "{outage:?}: {sent} parts");
                })
            });
            for outage in outages {
                outage.await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_is_given_up_with_its_address_and_the_option() {
    for outage in KINDS {
        let server = serve(&content(3 << 20, 5)).await;
        let source = S3Source::open(&impatient(&server).await, URL).await.unwrap();
        server.set_outage(Some(outage));
        let errors = [
            source.read(range(1 << 20, 1 << 20)).await.unwrap_err(),
            S3Source::open(&impatient(&server).await, URL).await.unwrap_err(),
            S3Sink::create_with(&impatient(&server).await, "s3://images/new", options(false))
                .await
                .unwrap_err(),
        ];
        let kinds =
            [ErrorKind::SourceUnavailable, ErrorKind::SourceUnavailable, ErrorKind::DestinationUnavailable];
        let address = server.endpoint().trim_start_matches("http://").to_owned();
        for (error, kind) in errors.iter().zip(kinds) {
            let message = error.message();
            assert_eq!(error.kind(), kind, "{outage:?}: {error}");
            assert!(error.is_retryable(), "{outage:?}: {error}");
            assert!(
                message.contains(&address) && message.contains("without progress"),
                "{outage:?}: {message}"
            );
            assert!(!message.contains("dispatch failure") && !message.contains("client error"), "{message}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--stall-timeout")), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_an_address_is_named_and_given_up_at_the_stall_timeout() {
    let options = diskferry_s3io::ClientOptions::default().stall_timeout(Duration::from_secs(1));
    let client = Client::new(options).await.unwrap();
    let url = "http://does-not-exist.invalid/disk.img";
    let error = diskferry_s3io::HttpSource::open(&client, url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
    assert!(
        error.message().contains("does-not-exist.invalid:80: the host name cannot be resolved"),
        "{error}"
    );
}

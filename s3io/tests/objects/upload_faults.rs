//! An upload is complete or leaves nothing, whatever the store does and wherever it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use diskferry_core::{ErrorKind, Sink, conformance::pattern};
use diskferry_s3io::server::{Fault, Request, Server};
use futures_util::FutureExt;

use crate::support::{client, empty, leftovers, puts, stored};
use crate::uploads::{PART, completions, sink, upload, write};

/// A rule for the requests that `meant` selects, which is passed the number of those before.
fn only(
    meant: fn(&Request) -> bool,
    rule: impl Fn(u64) -> Vec<Fault> + Send + Sync + 'static,
) -> impl Fn(&Request) -> Vec<Fault> + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move |request| if meant(request) { rule(count.fetch_add(1, Ordering::SeqCst)) } else { Vec::new() }
}

fn is_part(request: &Request) -> bool {
    request.method == "PUT" && request.part.is_some()
}

fn is_completion(request: &Request) -> bool {
    request.method == "POST" && request.upload_id.is_some()
}

fn is_object(request: &Request) -> bool {
    request.method == "PUT" && request.part.is_none()
}

async fn nothing_stays(server: &Server) {
    assert_eq!(leftovers(server).await, Vec::<String>::new());
    assert_eq!(stored(server), None);
}

/// Waits for the condition; a defect fails the test and does not hang it.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that");
}

#[tokio::test]
async fn failed_parts_are_sent_again() {
    let truth = Bytes::from(pattern(4 * PART + 5, 1));
    for fault in [
        Fault::Status(503),
        Fault::Status(500),
        Fault::Refuse(503, "SlowDown", "Reduce your request rate"),
        Fault::Refuse(400, "BadDigest", "The CRC32 you specified did not match"),
        Fault::Truncate(0),
        Fault::Reset(0),
        Fault::Without("etag"),
    ] {
        let server = empty().await;
        let sink = sink(&client(&server).await, false, 4).await;
        let shown = fault.clone();
        server.set_faults(only(is_part, move |count| {
            if count % 2 == 0 && count < 6 { vec![fault.clone()] } else { Vec::new() }
        }));
        let receipt = upload(&sink, &truth).await.unwrap_or_else(|error| panic!("{shown:?}: {error:?}"));
        assert!(stored(&server).unwrap() == truth, "{shown:?}");
        assert_eq!(receipt.written, truth.len() as u64, "{shown:?}: what is sent twice counts once");
        assert_eq!(puts(&server).len(), 8, "{shown:?}");
    }
}

#[tokio::test]
async fn a_permanent_failure_has_its_kind_and_leaves_nothing() {
    for (fault, kind) in [
        (Fault::Refuse(403, "AccessDenied", "no"), ErrorKind::DestinationForbidden),
        (Fault::Refuse(404, "NoSuchUpload", "gone"), ErrorKind::DestinationUnavailable),
        (Fault::Refuse(404, "NoSuchBucket", "gone"), ErrorKind::DestinationUnavailable),
        (Fault::Refuse(400, "EntityTooLarge", "no"), ErrorKind::DestinationUnsuitable),
        (Fault::Refuse(507, "XMinioStorageFull", "no"), ErrorKind::DestinationFull),
        (Fault::Refuse(403, "QuotaExceeded", "no"), ErrorKind::DestinationFull),
        (Fault::Status(503), ErrorKind::DestinationUnavailable),
    ] {
        for (meant, len) in
            [(is_part as fn(&Request) -> bool, 3 * PART), (is_completion, 3 * PART), (is_object, 100)]
        {
            let server = empty().await;
            let client = client(&server).await;
            let sink = sink(&client, false, 3).await;
            let always = fault.clone();
            server.set_faults(only(meant, move |_| vec![always.clone()]));
            let ended = upload(&sink, &Bytes::from(pattern(len, 2))).await;
            let error = ended.unwrap_err();
            assert_eq!(error.kind(), kind, "{fault:?}: {error}");
            assert!(sink.abort().await);
            nothing_stays(&server).await;
            drop(sink);
            client.settle().await;
        }
    }
}

#[tokio::test]
async fn a_silent_store_fails_in_time() {
    let server = empty().await;
    let client = client(&server).await;
    let sink = sink(&client, false, 3).await;
    server.set_faults(only(is_part, |_| vec![Fault::Stall(0)]));
    let started = Instant::now();
    let error = upload(&sink, &Bytes::from(pattern(3 * PART, 2))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    nothing_stays(&server).await;
}

#[tokio::test]
async fn a_completion_whose_response_is_lost_is_checked_and_not_repeated() {
    for fault in [Fault::Truncate(0), Fault::Reset(0)] {
        for len in [1000, 2 * PART] {
            let truth = Bytes::from(pattern(len, 3));
            let server = empty().await;
            let sink = sink(&client(&server).await, false, 2).await;
            let lose = fault.clone();
            server.set_faults(only(
                |request| is_completion(request) || is_object(request),
                move |_| vec![lose.clone()],
            ));
            let receipt = upload(&sink, &truth).await.unwrap();
            assert!(stored(&server).unwrap() == truth);
            assert!(receipt.etag.is_some());
            let asked = completions(&server).len()
                + puts(&server).iter().filter(|put| is_object(&put.request)).count();
            assert_eq!(asked, 1, "{fault:?}");
            assert!(!sink.abort().await, "it is published");
            assert!(sink.retract(&receipt).await.unwrap());
        }
    }
}

#[tokio::test]
async fn an_error_in_a_body_with_a_successful_status_is_an_error() {
    let truth = Bytes::from(pattern(PART + 1, 4));
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    server.set_faults(only(is_completion, |count| {
        if count < 2 {
            vec![Fault::Refuse(200, "InternalError", "We encountered an internal error")]
        } else {
            Vec::new()
        }
    }));
    upload(&sink, &truth).await.unwrap();
    assert_eq!(completions(&server).len(), 3);
    assert!(stored(&server).unwrap() == truth);
}

#[tokio::test]
async fn another_object_is_not_taken_for_a_lost_completion() {
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    let len = 2 * PART;
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    std::fs::write(&other, pattern(len, 6)).unwrap();
    // It appears with the completion, after the store was asked whether the object exists.
    server.set_faults(only(is_completion, move |_| vec![Fault::Replace(other.clone()), Fault::Status(500)]));
    write(&sink, &Bytes::from(pattern(len, 5)), 0).await.unwrap();
    let error = sink.finish(len as u64).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
    assert!(stored(&server).unwrap() == pattern(len, 6));
    assert_eq!(leftovers(&server).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_abort_takes_effect_before_or_after_publishing() {
    let truth = Bytes::from(pattern(2 * PART, 7));
    for late in [true, false] {
        let server = empty().await;
        let sink = sink(&client(&server).await, false, 2).await;
        let slow = Duration::from_millis(300);
        if late {
            server.set_faults(only(is_completion, move |_| vec![Fault::Delay(slow)]));
        } else {
            server.set_faults(only(is_part, move |_| vec![Fault::Delay(slow)]));
        }
        write(&sink, &truth, 0).await.unwrap();
        let mut finish = sink.finish(truth.len() as u64);
        assert!((&mut finish).now_or_never().is_none());
        if late {
            until(|| !completions(&server).is_empty()).await;
        }
        // The finish is not polled meanwhile.
        assert_eq!(sink.abort().await, !late);
        match finish.await {
            Ok(_) => assert!(late && stored(&server).unwrap() == truth),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                assert!(!late);
                nothing_stays(&server).await;
            }
        }
    }
}

#[tokio::test]
async fn an_abort_ends_a_write_that_waits_for_memory() {
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    server.set_faults(only(is_part, |_| vec![Fault::Delay(Duration::from_millis(300))]));
    let truth = Bytes::from(pattern(4 * PART, 8));
    let mut writing = Box::pin(write(&sink, &truth, 0));
    assert!((&mut writing).now_or_never().is_none(), "two of four parts have room");
    assert!(sink.abort().await);
    nothing_stays(&server).await;
    assert_eq!(writing.await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_sink_dropped_with_parts_in_flight_leaves_nothing_and_no_part_arrives_later() {
    let truth = Bytes::from(pattern(4 * PART, 9));
    for delay in [0, 20, 200] {
        let server = empty().await;
        let client = client(&server).await;
        let sink = Arc::new(sink(&client, false, 8).await);
        server.set_faults(only(is_part, move |_| vec![Fault::Delay(Duration::from_millis(delay))]));
        write(&sink, &truth, 0).await.unwrap();
        until(|| !puts(&server).is_empty()).await;
        drop(sink);
        client.settle().await;
        nothing_stays(&server).await;
        assert!(server.exchanges().iter().any(|exchange| exchange.request.method == "DELETE"));
    }
}

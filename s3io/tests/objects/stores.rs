//! Stores that differ from Amazon S3 in what they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::{ErrorKind, Sink, StoredRange, conformance::pattern};
use diskferry_s3io::server::{Fault, Outage, Request};
use diskferry_s3io::{Client, S3Sink, S3Source};

use crate::support::{BUCKET, URL, client, content, empty, gets, leftovers, names, serve, stored};
use crate::uploads::{PART, options, sink, upload, write};

fn is_completion(request: &Request) -> bool {
    request.method == "POST" && request.upload_id.is_some()
}

fn is_creation(request: &Request) -> bool {
    request.method == "POST" && request.upload_id.is_none()
}

fn is_journal(request: &Request) -> bool {
    request.object.ends_with("-journal")
}

const NO_ETAG: &str = "<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>";

#[tokio::test]
async fn an_empty_etag_of_a_completion_is_none() {
    let truth = Bytes::from(pattern(PART + 1000, 1));
    let server = empty().await;
    server.set_faults(|request| match is_completion(request) {
        true => vec![Fault::Body(NO_ETAG.into())],
        false => Vec::new(),
    });
    let sink = sink(&client(&server).await, false, 2).await;
    let receipt = upload(&sink, &truth).await.unwrap();
    assert!(receipt.etag.as_ref().is_some_and(|etag| etag.ends_with("-2\"")), "{receipt:?}");
    let source = sink.read_back(truth.len() as u64).await.unwrap();
    assert!(source.read(StoredRange::first(truth.len() as u64)).await.unwrap() == truth);
    assert!(sink.retract(&receipt).await.unwrap(), "it is ours");
    assert_eq!(stored(&server), None);
}

#[tokio::test]
async fn an_object_without_an_etag_that_says_something_is_known_by_its_metadata() {
    let truth = Bytes::from(pattern(PART + 1000, 2));
    let server = empty().await;
    // As an encrypting store does: no ETag follows from the parts.
    server.set_faults(|request| match &*request.method {
        "POST" if is_completion(request) => vec![Fault::Body(NO_ETAG.into())],
        "HEAD" | "GET" => vec![Fault::Header("etag", "\"encrypted-and-different\"".into())],
        _ => Vec::new(),
    });
    let sink = sink(&client(&server).await, false, 2).await;
    let receipt = upload(&sink, &truth).await.unwrap();
    assert_eq!(receipt.etag.as_deref(), Some("\"encrypted-and-different\""));
    sink.read_back(truth.len() as u64).await.unwrap();
}

#[tokio::test]
async fn an_object_that_appears_is_not_replaced_by_a_store_that_ignores_conditions() {
    for len in [100, 2 * PART] {
        let server = empty().await;
        let client = client(&server).await;
        let sink = sink(&client, false, 2).await;
        let bytes = Bytes::from(pattern(len, 3));
        if len > 100 {
            write(&sink, &bytes, 0).await.unwrap();
        }
        server.put(BUCKET, "disk.img", "other").await.unwrap();
        // Only the HEAD protects it: the condition would be refused here, and is ignored elsewhere.
        server.forget();
        let error = match len {
            100 => upload(&sink, &bytes).await.unwrap_err(),
            _ => sink.finish(len as u64).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
        let published = server.exchanges().into_iter().filter(|seen| {
            is_completion(&seen.request)
                || (seen.request.method == "PUT"
                    && seen.request.object.ends_with("disk.img")
                    && seen.request.part.is_none())
        });
        assert_eq!(published.count(), 0, "nothing that could replace it was sent");
        assert_eq!(stored(&server).unwrap(), b"other");
        assert_eq!(leftovers(&server).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_journal_that_cannot_be_deleted_does_not_lock_the_key() {
    let server = empty().await;
    server.set_faults(|request| match request.method == "DELETE" && is_journal(request) {
        true => vec![Fault::Refuse(403, "AccessDenied", "Access Denied")],
        false => Vec::new(),
    });
    let client = client(&server).await;
    for (run, force) in [(1, false), (2, true), (3, true)] {
        let truth = Bytes::from(pattern(PART + run, 4));
        let receipt = upload(&sink(&client, force, 2).await, &truth).await.unwrap();
        assert!(stored(&server).unwrap() == truth, "run {run}");
        let codes: Vec<_> = receipt.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["journal_left"], "run {run}");
        assert!(receipt.warnings[0].message.contains("disk.img.diskferry-journal"), "{receipt:?}");
    }
    server.set_faults(|_| Vec::new());
    let receipt = upload(&sink(&client, true, 2).await, &Bytes::from(pattern(PART, 5))).await.unwrap();
    assert!(receipt.warnings.is_empty());
    assert_eq!(names(&server), ["disk.img"], "a run that may delete it does");
}

#[tokio::test]
async fn a_request_for_another_region_is_signed_for_the_one_that_the_store_names() {
    let document = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>Authorization header malformed, unexpected scope</Message><Region>garage</Region></Error>";
    let wrong = move |count: &AtomicU64, most: u64| {
        let wrong = count.fetch_add(1, Ordering::SeqCst) < most;
        if wrong { vec![Fault::Respond(400, document.into())] } else { Vec::new() }
    };
    let server = serve(b"image").await;
    let count = AtomicU64::new(0);
    server.set_faults(move |_| wrong(&count, 1));
    S3Source::open(&client(&server).await, URL).await.unwrap();
    assert_eq!(gets(&server).len(), 2);
    // A store that says so whatever the region is.
    let count = AtomicU64::new(0);
    server.set_faults(move |_| wrong(&count, u64::MAX));
    let source = S3Source::open(&client(&server).await, URL).await.unwrap_err();
    let target = S3Sink::create_with(&client(&server).await, URL, options(true)).await.unwrap_err();
    for error in [source, target] {
        assert!(error.message().contains("the store's is garage"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--region garage")), "{error:?}");
    }
}

#[tokio::test]
async fn a_creation_that_is_answered_in_another_way_is_tried_once_and_ended() {
    let server = empty().await;
    // The store began an upload. Its answer has no id, and the list has one.
    let list = "<ListMultipartUploadsResult><Upload><Key>disk.img</Key><UploadId>it-made-this</UploadId><Initiated>2999-01-01T00:00:00.000Z</Initiated></Upload><Upload><Key>disk.img</Key><UploadId>older</UploadId><Initiated>2020-01-01T00:00:00.000Z</Initiated></Upload></ListMultipartUploadsResult>";
    for (answer, id) in [
        ("<Another><Thing>1</Thing></Another>", "it-made-this"),
        ("<Another><UploadId>said-here</UploadId></Another>", "said-here"),
    ] {
        server.set_faults(move |request| match &*request.method {
            "POST" if is_creation(request) => vec![Fault::Respond(200, answer.into())],
            "GET" if request.object.trim_end_matches('/') == BUCKET => vec![Fault::Respond(200, list.into())],
            "DELETE" => vec![Fault::Respond(204, String::new())],
            _ => Vec::new(),
        });
        server.forget();
        let sink = sink(&client(&server).await, false, 2).await;
        let error = upload(&sink, &Bytes::from(pattern(2 * PART, 6))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error}");
        assert!(error.message().contains("was ended"), "{error}");
        let seen = server.exchanges();
        assert_eq!(seen.iter().filter(|seen| is_creation(&seen.request)).count(), 1);
        let ended: Vec<_> = seen
            .iter()
            .filter(|seen| seen.request.method == "DELETE" && !is_journal(&seen.request))
            .map(|seen| seen.request.upload_id.clone().unwrap())
            .collect();
        assert_eq!(ended, [id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_away_says_what_becomes_of_the_parts_and_the_next_run_cleans_up() {
    let server = Arc::new(empty().await);
    let options = server.client_options().stall_timeout(Duration::from_secs(2));
    let client = Client::new(options).await.unwrap();
    let first = sink(&client, false, 2).await;
    let truth = Bytes::from(content(3 * PART, 7));
    write(&first, &truth.slice(..PART), 0).await.unwrap();
    while names(&server).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.set_outage(Some(Outage::Refused));
    let error = async {
        write(&first, &truth.slice(..), PART).await?;
        first.finish(truth.len() as u64).await
    };
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error}");
    assert!(
        error.hint_text().is_some_and(|hint| hint.contains("removed by the next conversion")),
        "{error:?}"
    );
    first.abort().await;
    server.set_outage(None);
    assert!(!leftovers(&server).await.is_empty(), "the store was away when it was ended");
    let second = sink(&client, false, 2).await;
    upload(&second, &truth).await.unwrap();
    assert_eq!(leftovers(&server).await, Vec::<String>::new());
    assert_eq!(names(&server), ["disk.img"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_away_after_publishing_gives_a_warning() {
    let server = Arc::new(empty().await);
    let options = server.client_options().stall_timeout(Duration::from_secs(2));
    let sink = sink(&Client::new(options).await.unwrap(), false, 2).await;
    server.set_faults(|request| match request.method == "DELETE" {
        true => vec![Fault::Status(503)],
        false => Vec::new(),
    });
    let receipt = upload(&sink, &Bytes::from(pattern(2 * PART, 8))).await.unwrap();
    assert_eq!(receipt.warnings.len(), 1, "{receipt:?}");
    assert!(receipt.warnings[0].message.contains("the next conversion to this key"), "{receipt:?}");
}

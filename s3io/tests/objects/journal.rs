//! The journal beside an object that is being written.

use bytes::Bytes;
use diskferry_core::{ErrorKind, Journal, Sink, SinkHint, conformance::pattern};
use diskferry_s3io::S3Sink;
use diskferry_s3io::server::{Fault, Server};

use crate::support::{URL, client, empty, leftovers, names, stored};
use crate::uploads::{PART, options, sink, write};

async fn resumable(server: &Server) -> S3Sink {
    let mut options = options(false);
    options.resume = true;
    S3Sink::create_with(&client(server).await, URL, options).await.unwrap()
}

fn room() -> SinkHint {
    SinkHint::default().memory(2 * PART as u64)
}

#[tokio::test]
async fn an_interrupted_upload_can_be_resumed_and_completed() {
    let truth = Bytes::from(pattern(4 * PART + 77, 1));
    let server = empty().await;
    let first = resumable(&server).await;
    assert!(first.load().await.unwrap().is_none());
    first.prepare(room()).await.unwrap();
    write(&first, &truth.slice(..3 * PART + 5), 512).await.unwrap();
    first.save(2 * PART as u64 + 9, Bytes::from_static(b"how")).await.unwrap();
    first.abort().await;
    drop(first);
    assert_eq!(names(&server), ["disk.img.diskferry-journal"]);

    let second = resumable(&server).await;
    let saved = second.load().await.unwrap().unwrap();
    assert_eq!(saved.state, "how");
    // The first part waited for its head. How many of the others were uploaded is not defined.
    assert!(saved.target.start == PART as u64 && saved.target.end >= 3 * PART as u64, "{:?}", saved.target);
    second.prepare(room()).await.unwrap();
    // The lost head, and what follows the checkpoint; stored parts are skipped.
    write(&second, &truth.slice(..PART + 1000), 512).await.unwrap();
    write(&second, &truth, 2 * PART + 9).await.unwrap();
    second.write(diskferry_core::TargetOffset::ZERO, vec![truth.slice(..512)]).await.unwrap();
    second.finish(truth.len() as u64).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
    assert_eq!(names(&server), ["disk.img"]);
    assert!(leftovers(&server).await.is_empty());
}

#[tokio::test]
async fn a_second_run_is_refused_while_the_first_is_active_and_does_no_harm() {
    let truth = Bytes::from(pattern(2 * PART, 2));
    let server = empty().await;
    let client = client(&server).await;
    let first = sink(&client, false, 2).await;
    write(&first, &truth, 0).await.unwrap();
    // The journal is written with the first part, which may take a moment.
    while names(&server).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let error = S3Sink::create_with(&client, URL, options(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationBusy, "{error:?}");
    first.finish(truth.len() as u64).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
    assert_eq!(names(&server), ["disk.img"]);
}

#[tokio::test]
async fn an_aborted_upload_without_resume_leaves_nothing() {
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    write(&sink, &Bytes::from(pattern(3 * PART, 3)), 0).await.unwrap();
    sink.save(PART as u64, Bytes::from_static(b"how")).await.unwrap();
    sink.abort().await;
    assert!(names(&server).is_empty());
    assert!(leftovers(&server).await.is_empty());
}

#[tokio::test]
async fn without_permission_for_a_journal_the_upload_has_none() {
    let truth = Bytes::from(pattern(2 * PART + 1, 4));
    let server = empty().await;
    server.set_faults(|request| match request.object.ends_with("-journal") {
        true => vec![Fault::Refuse(403, "AccessDenied", "Access Denied")],
        false => Vec::new(),
    });
    let sink = sink(&client(&server).await, false, 2).await;
    write(&sink, &truth, 0).await.unwrap();
    sink.finish(truth.len() as u64).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
}

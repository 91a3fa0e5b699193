//! The requests of an upload, and the object that it publishes.

use std::time::Duration;

use bytes::Bytes;
use diskferry_core::{
    Error, ErrorKind, Receipt, Result, Sink, SinkHint, StoredRange, TargetOffset, TargetRange,
    conformance::pattern,
};
use diskferry_s3io::server::{Exchange, Fault, Server, Shape};
use diskferry_s3io::{Checksum, Client, S3Sink, S3SinkOptions};

use crate::support::{BUCKET, KEY, URL, client, empty, hasty, leftovers, puts, stored};

pub(crate) const PART: usize = 5 << 20;

pub(crate) fn options(force: bool) -> S3SinkOptions {
    let mut options = S3SinkOptions::default();
    options.force = force;
    options.part_bytes = Some(PART as u64);
    options
}

/// A sink with memory for `parts` parts.
pub(crate) async fn sink(client: &Client, force: bool, parts: usize) -> S3Sink {
    let sink = S3Sink::create_with(client, URL, options(force)).await.unwrap();
    sink.prepare(SinkHint::default().memory((parts * PART) as u64)).await.unwrap();
    sink
}

/// Writes the bytes from `from` on, in steps of about a MiB.
pub(crate) async fn write(sink: &S3Sink, bytes: &Bytes, from: usize) -> Result<()> {
    const STEP: usize = 1_000_000;
    for at in (from..bytes.len()).step_by(STEP) {
        let piece = bytes.slice(at..bytes.len().min(at + STEP));
        sink.write(TargetOffset::new(at as u64), vec![piece]).await?;
    }
    Ok(())
}

pub(crate) async fn upload(sink: &S3Sink, bytes: &Bytes) -> Result<Receipt> {
    write(sink, bytes, 0).await?;
    sink.finish(bytes.len() as u64).await
}

/// The requests that publish.
pub(crate) fn completions(server: &Server) -> Vec<Exchange> {
    let posts = server.exchanges().into_iter().filter(|exchange| exchange.request.method == "POST");
    posts.filter(|exchange| exchange.request.upload_id.is_some()).collect()
}

#[tokio::test]
async fn parts_are_equal_except_the_last_and_the_first_is_uploaded_when_it_is_written() {
    let truth = Bytes::from(pattern(3 * PART + 77, 1));
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    write(&sink, &truth, 512).await.unwrap();
    sink.write(TargetOffset::ZERO, vec![truth.slice(..512)]).await.unwrap();
    let receipt = sink.finish(truth.len() as u64).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
    assert_eq!((receipt.bytes, receipt.written), (truth.len() as u64, truth.len() as u64));
    assert!(receipt.etag.is_some_and(|etag| etag.ends_with("-4\"")));
    let mut parts: Vec<_> =
        puts(&server).iter().map(|put| (put.request.part.unwrap(), put.request.body)).collect();
    // Except the last one, which is not known to be the last until the head is written.
    assert!(parts.iter().position(|part| part.0 == 1) >= Some(2), "{parts:?}");
    parts.sort_unstable();
    let part = PART as u64;
    assert_eq!(parts, [(1, part), (2, part), (3, part), (4, 77)]);
    let completions = completions(&server);
    assert_eq!(completions.len(), 1);
    assert_eq!(completions[0].request.if_none_match.as_deref(), Some("*"));
}

#[tokio::test]
async fn parts_are_uploaded_concurrently_within_the_memory() {
    const ROOM: usize = 4;
    let server = empty().await;
    let sink = sink(&client(&server).await, false, ROOM).await;
    server.set_shape(Shape { latency: Duration::from_millis(200), ..Shape::default() });
    let truth = Bytes::from(pattern(12 * PART, 2));
    let most = async {
        let mut most = 0;
        loop {
            most = most.max(puts(&server).iter().filter(|put| !put.over).count());
            if !completions(&server).is_empty() {
                return most;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (published, most) = tokio::join!(upload(&sink, &truth), most);
    published.unwrap();
    assert!((2..=ROOM).contains(&most), "{most} at once");
    assert!(stored(&server).unwrap() == truth);
}

#[tokio::test]
async fn parts_of_the_head_take_no_memory_until_they_are_written() {
    // The head has two and a half parts, with memory for two.
    let truth = Bytes::from(pattern(5 * PART + 9, 3));
    let left_out = 5 * PART / 2;
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    write(&sink, &truth, left_out).await.unwrap();
    for at in (0..left_out).step_by(PART / 3) {
        let piece = truth.slice(at..left_out.min(at + PART / 3));
        sink.write(TargetOffset::new(at as u64), vec![piece]).await.unwrap();
    }
    sink.finish(truth.len() as u64).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
}

#[tokio::test]
async fn zeros_are_uploaded_as_full_parts() {
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    let len = 20 * PART as u64 + 5;
    sink.zero(TargetRange::first(len - 2)).await.unwrap();
    sink.write(TargetOffset::new(len - 2), vec![Bytes::from_static(b"ab")]).await.unwrap();
    sink.finish(len).await.unwrap();
    let stored = stored(&server).unwrap();
    assert!(stored.iter().take(20 * PART + 3).all(|byte| *byte == 0) && stored.ends_with(b"ab"));
    assert_eq!((stored.len() as u64, puts(&server).len()), (len, 21));
}

#[tokio::test]
async fn a_target_of_less_than_a_part_is_one_request_after_a_look() {
    for len in [0, 1, PART - 1] {
        let truth = Bytes::from(pattern(len, 4));
        let server = empty().await;
        let sink = sink(&client(&server).await, false, 2).await;
        server.forget();
        upload(&sink, &truth).await.unwrap();
        let seen = server.exchanges();
        let methods: Vec<_> = seen.iter().map(|exchange| &*exchange.request.method).collect();
        assert_eq!(methods, ["HEAD", "PUT"]);
        assert_eq!(seen[1].request.if_none_match.as_deref(), Some("*"));
        assert!(stored(&server).unwrap() == truth);
    }
}

#[tokio::test]
async fn an_object_that_exists_is_refused_early_and_replaced_only_by_force() {
    let server = empty().await;
    server.put(BUCKET, KEY, "old").await.unwrap();
    let client = client(&server).await;
    for error in [
        S3Sink::create(&client, URL).await.unwrap_err(),
        S3Sink::admit(&client, URL, false).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
        assert!(error.message().starts_with(URL), "{error}");
    }
    S3Sink::admit(&client, URL, true).await.unwrap();
    let truth = Bytes::from(pattern(2 * PART, 5));
    let sink = sink(&client, true, 2).await;
    write(&sink, &truth, 0).await.unwrap();
    assert_eq!(stored(&server).unwrap(), b"old");
    sink.finish(truth.len() as u64).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
    assert_eq!(completions(&server)[0].request.if_none_match, None);
}

#[tokio::test]
async fn an_object_that_appears_during_the_upload_stays() {
    for len in [100, 2 * PART] {
        let server = empty().await;
        let client = client(&server).await;
        let sink = sink(&client, false, 2).await;
        server.put(BUCKET, KEY, "other").await.unwrap();
        let error = upload(&sink, &Bytes::from(pattern(len, 6))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
        assert_eq!(stored(&server).unwrap(), b"other");
        assert_eq!(leftovers(&server).await, Vec::<String>::new(), "taken back before it is answered");
        assert!(sink.abort().await);
    }
}

async fn refused(client: &Client, url: &str) -> Error {
    let error = S3Sink::admit(client, url, false).await.unwrap_err();
    assert_eq!(S3Sink::create(client, url).await.unwrap_err().kind(), error.kind());
    error
}

#[tokio::test]
async fn an_impossible_target_is_refused_before_anything_is_written() {
    let server = empty().await;
    let client = client(&server).await;
    let error = refused(&client, "s3://nobody/key").await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error}");
    assert!(!error.is_retryable() && error.message().contains("bucket"), "{error}");
    for (url, kind) in [
        ("s3://images/", ErrorKind::Usage),
        ("s3://images", ErrorKind::Usage),
        ("s3://images/key?versionId=7", ErrorKind::Usage),
        ("https://images/key", ErrorKind::Usage),
        ("s3://images/folder/", ErrorKind::DestinationUnsuitable),
    ] {
        assert_eq!(refused(&client, url).await.kind(), kind, "{url}");
    }
    let mut small = options(false);
    small.part_bytes = Some(PART as u64 - 1);
    let error = S3Sink::create_with(&client, URL, small).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[tokio::test]
async fn without_permission_to_write_creation_fails() {
    let server = empty().await;
    server.set_faults(|_| vec![Fault::Refuse(403, "AccessDenied", "Access Denied")]);
    let client = client(&server).await;
    let error = S3Sink::create(&client, URL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("s3:PutObject")), "{error}");
}

#[tokio::test]
async fn permission_to_write_is_enough() {
    let hidden = |request: &diskferry_s3io::server::Request| match &*request.method {
        "HEAD" | "GET" => vec![Fault::Status(403)],
        _ => Vec::new(),
    };
    for len in [10, PART + 1] {
        let server = empty().await;
        server.set_faults(hidden);
        let client = client(&server).await;
        let truth = Bytes::from(pattern(len, 7));
        upload(&sink(&client, false, 2).await, &truth).await.unwrap();
        assert!(stored(&server).unwrap() == truth);
        drop(S3Sink::create(&client, "s3://images/unused").await.unwrap());
        client.settle().await;
        assert_eq!(leftovers(&server).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_bucket_in_another_region_is_written_there() {
    let server = empty().await;
    server.set_faults(|request| {
        let moved = vec![Fault::Status(301), Fault::Header("x-amz-bucket-region", "eu-north-1".into())];
        // Request 0 created the bucket.
        if request.number == 1 { moved } else { Vec::new() }
    });
    server.forget();
    let truth = Bytes::from(pattern(10, 8));
    upload(&sink(&client(&server).await, false, 2).await, &truth).await.unwrap();
    assert!(stored(&server).unwrap() == truth);
}

#[tokio::test]
async fn more_than_ten_thousand_parts_are_refused_with_numbers() {
    let server = empty().await;
    let sink = sink(&client(&server).await, false, 2).await;
    let last = 10_000 * PART as u64 - 1;
    sink.write(TargetOffset::new(last), vec![Bytes::from_static(b"a")]).await.unwrap();
    let error = sink.zero(TargetRange::new(TargetOffset::new(last + 1), 1).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error}");
    assert!(error.message().contains("10000 parts of 5242880 bytes"), "{error}");
}

#[tokio::test]
async fn too_little_memory_is_refused_with_the_memory_needed() {
    let server = empty().await;
    let sink = S3Sink::create(&client(&server).await, URL).await.unwrap();
    let expected = SinkHint::default().most_bytes(Some(1 << 40)).exact(false).memory(64 << 20);
    let error = sink.prepare(expected).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("840M")), "{error}");
}

async fn upload_with(server: &Server, checksum: Checksum, len: usize) -> Result<Receipt> {
    let client = Client::new(hasty(server).checksum(checksum)).await.unwrap();
    server.forget();
    upload(&sink(&client, true, 2).await, &Bytes::from(pattern(len, 9))).await
}

#[tokio::test]
async fn checksums_are_sent_as_configured() {
    let server = empty().await;
    for (checksum, sent) in [(Checksum::Auto, true), (Checksum::Required, true), (Checksum::Off, false)] {
        for len in [100, PART + 100] {
            upload_with(&server, checksum, len).await.unwrap();
            let puts = puts(&server);
            assert!(puts.iter().all(|put| put.request.checksum.is_some() == sent), "{checksum:?} {puts:?}");
        }
    }
}

#[tokio::test]
async fn a_store_that_refuses_checksums_gets_none_unless_they_are_required() {
    for (status, code) in [(400, "InvalidArgument"), (501, "NotImplemented"), (400, "InvalidChecksumHeader")]
    {
        for spared in ["POST", "none"] {
            for len in [100, 3 * PART] {
                let server = empty().await;
                server.set_faults(move |request| {
                    let refuse = request.checksum.is_some() && request.method != spared;
                    if refuse { vec![Fault::Refuse(status, code, "not this")] } else { Vec::new() }
                });
                upload_with(&server, Checksum::Auto, len).await.unwrap();
                assert!(stored(&server).unwrap() == pattern(len, 9));
                upload_with(&server, Checksum::Off, len).await.unwrap();
                let error = upload_with(&server, Checksum::Required, len).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error}");
                assert!(error.hint_text().is_some_and(|hint| hint.contains("--s3-checksum")), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn without_support_for_conditions_the_store_is_checked_before_publishing() {
    for len in [100, PART + 100] {
        let server = empty().await;
        server.set_faults(|request| match request.if_none_match {
            Some(_) => vec![Fault::Refuse(501, "NotImplemented", "a header")],
            None => Vec::new(),
        });
        let client = client(&server).await;
        let truth = Bytes::from(pattern(len, 10));
        upload(&sink(&client, false, 2).await, &truth).await.unwrap();
        assert!(stored(&server).unwrap() == truth);
        std::fs::remove_file(server.root().join(BUCKET).join(KEY)).unwrap();
        let late = sink(&client, false, 2).await;
        server.put(BUCKET, KEY, "other").await.unwrap();
        let error = upload(&late, &truth).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
        assert_eq!(stored(&server).unwrap(), b"other");
    }
}

#[tokio::test]
async fn read_back_and_retract_apply_to_the_published_object() {
    for len in [1000, PART + 1000] {
        let server = empty().await;
        let client = client(&server).await;
        let truth = Bytes::from(pattern(len, 11));
        let one = sink(&client, false, 2).await;
        let receipt = upload(&one, &truth).await.unwrap();
        let source = one.read_back(len as u64).await.unwrap();
        assert!(source.read(StoredRange::first(len as u64)).await.unwrap() == truth);
        assert_eq!(source.identity().etag, receipt.etag);
        server.put(BUCKET, KEY, pattern(len, 12)).await.unwrap();
        assert_eq!(one.read_back(len as u64).await.unwrap_err().kind(), ErrorKind::VerificationFailed);
        assert!(!one.retract(&receipt).await.unwrap(), "it is somebody else's now");
        assert!(stored(&server).is_some());
        let two = sink(&client, true, 2).await;
        let receipt = upload(&two, &truth).await.unwrap();
        assert!(two.retract(&receipt).await.unwrap());
        assert_eq!(stored(&server), None);
        assert!(!two.retract(&receipt).await.unwrap(), "it is gone");
    }
}

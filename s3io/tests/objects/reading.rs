//! Objects are read exactly, with few requests.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{BUCKET, KEY, URL, client, content, gets, open, range, serve, serve_as};
use diskferry_core::{ErrorKind, Gate, HeadTail, HeadTailSource, SiblingName, Source};
use diskferry_s3io::server::{Fault, Server, ServerOptions};
use diskferry_s3io::{S3Gate, S3Source, open_source};

const HEAD: usize = HeadTail::HEAD as usize;

#[tokio::test]
async fn ranges_are_exact_at_any_offset() {
    let bytes = content(3_000_001, 1);
    let server = serve(&bytes).await;
    let source = open(&server).await;
    assert_eq!(source.len(), bytes.len() as u64);
    assert_eq!(source.url(), URL);
    assert!(source.identity().etag.as_deref().is_some_and(|etag| etag.starts_with('"')));
    for (start, len) in [
        (0, 1),
        (0, bytes.len()),
        (HEAD - 1, 2),
        (HEAD, 1),
        (1_234_567, 765_432),
        (bytes.len() - 1, 1),
        (bytes.len(), 0),
        (0, 0),
    ] {
        let read = source.read(range(start as u64, len as u64)).await.unwrap();
        assert!(read == bytes[start..start + len], "{len} bytes at {start}");
    }
    let error = source.read(range(bytes.len() as u64, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    source.verify().await.unwrap();
}

#[tokio::test]
async fn opening_and_the_head_cost_one_request() {
    let bytes = content(HEAD * 3, 2);
    let server = serve(&bytes).await;
    let source: Arc<dyn Source> = Arc::new(open(&server).await);
    let kept = HeadTailSource::open(Arc::clone(&source)).await.unwrap();
    assert!(kept.head() == &bytes[..HEAD]);
    let seen = gets(&server);
    assert_eq!(seen.len(), 2, "the head with opening, and the tail");
    assert_eq!(seen[0].request.range, Some((0, HEAD as u64 - 1)));
    assert_eq!(seen[0].request.if_match, None);
    assert_eq!(seen[1].request.if_match, source.identity().etag);
    assert_eq!(server.exchanges().len(), 2, "no HEAD");
    let traffic = source.traffic();
    assert_eq!((traffic.requests, traffic.retries), (2, 0));
    assert_eq!(traffic.bytes, (HEAD + kept.tail().len()) as u64);
    assert_eq!(traffic.bytes, seen.iter().map(|exchange| exchange.sent).sum::<u64>());
}

#[tokio::test]
async fn short_and_empty_objects_open() {
    for len in [0, 1, HEAD - 1, HEAD, HEAD + 1] {
        let bytes = content(len, 3);
        let server = serve(&bytes).await;
        let source = open(&server).await;
        assert_eq!(source.len(), len as u64);
        assert!(source.read(range(0, len as u64)).await.unwrap() == bytes, "{len}");
        assert_eq!(gets(&server).len(), if len == 0 || len > HEAD { 2 } else { 1 }, "{len}");
    }
}

#[tokio::test]
async fn a_short_object_needs_no_ranges_and_a_long_one_does() {
    for (len, ranges_needed) in
        [(0, false), (1000, false), (HEAD, false), (HEAD + 1, true), (2_000_000, true)]
    {
        let bytes = content(len, 4);
        let server = serve(&bytes).await;
        // Also if the server does not state the length.
        for faults in [vec![Fault::IgnoreRange], vec![Fault::IgnoreRange, Fault::Without("content-length")]] {
            server.forget();
            server.set_faults(move |_| faults.clone());
            match S3Source::open(&client(&server).await, URL).await {
                Ok(source) => {
                    assert!(!ranges_needed, "{len}");
                    assert!(source.read(range(0, len as u64)).await.unwrap() == bytes, "{len}");
                }
                Err(error) => {
                    assert!(ranges_needed, "{len}: {error}");
                    assert_eq!(error.kind(), ErrorKind::SourceNoRanges);
                }
            }
            assert_eq!(gets(&server).len(), 1);
        }
    }
}

#[tokio::test]
async fn a_part_without_a_range_is_not_taken_for_the_whole_object() {
    for len in [1000, HEAD, 2_000_000] {
        let server = serve_as(ServerOptions::default().public(true), &content(len, 5)).await;
        let client = client(&server).await;
        let presigned = server.presign(BUCKET, KEY, Duration::from_secs(600)).await.unwrap();
        for faults in [
            vec![Fault::Without("content-range")],
            vec![Fault::Without("content-range"), Fault::Without("content-length")],
        ] {
            server.set_faults(move |_| faults.clone());
            for url in [URL, &presigned] {
                let error = open_source(&client, url).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::SourceNoRanges, "{len}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn keys_may_contain_any_character() {
    let server = Server::start(ServerOptions::default()).unwrap();
    server.create_bucket(BUCKET).await.unwrap();
    let client = client(&server).await;
    for key in ["a b+c%20d", "ünï/日本.vmdk", "q?x=1&y#z", "d/e;f,g='(h)!*~$@:i", "100%", "a=b"] {
        let bytes = content(1000, key.len() as u64);
        server.put(BUCKET, key, bytes.clone()).await.unwrap();
        let opened = open_source(&client, &format!("s3://{BUCKET}/{key}")).await.unwrap();
        assert!(opened.source.read(range(0, 1000)).await.unwrap() == bytes, "{key}");
        let opened = open_source(&client, &server.object_url(BUCKET, key)).await.unwrap();
        assert!(opened.source.read(range(0, 1000)).await.unwrap() == bytes, "{key}");
    }
}

#[tokio::test]
async fn the_gate_opens_siblings_under_the_same_prefix() {
    let server = serve(b"descriptor").await;
    server.put(BUCKET, "set/disk-s001.vmdk", b"extent".to_vec()).await.unwrap();
    let client = client(&server).await;
    let gate = S3Gate::beside(&client, "s3://images/set/disk.vmdk").unwrap();
    let name = SiblingName::new("disk-s001.vmdk").unwrap();
    let source = gate.open(&name).await.unwrap();
    assert_eq!(source.url(), "s3://images/set/disk-s001.vmdk");
    assert_eq!(source.read(range(0, 6)).await.unwrap(), "extent");
    let missing = gate.open(&SiblingName::new(KEY).unwrap()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::SourceNotFound);
}

#[tokio::test]
async fn reads_are_concurrent_up_to_the_limit() {
    let bytes = content(4 << 20, 5);
    let server = serve(&bytes).await;
    let source = open(&server).await;
    let reads = (0..32).map(|i| source.read(range((i + 1) * 120_000, 100_000)));
    let reads = futures_util::future::try_join_all(reads).await.unwrap();
    for (i, read) in (0usize..).zip(reads) {
        assert!(read == bytes[(i + 1) * 120_000..][..100_000], "{i}");
    }
    assert!((1..=32).contains(&source.capabilities().in_flight));
    assert_eq!(gets(&server).len(), 33);
}

#[tokio::test]
async fn a_missing_object_and_a_missing_bucket_are_not_found() {
    let server = serve(b"x").await;
    let client = client(&server).await;
    for url in ["s3://images/none", "s3://nowhere/none"] {
        let error = S3Source::open(&client, url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceNotFound, "{error}");
        assert!(error.message().starts_with(url), "{error}");
    }
    assert_eq!(gets(&server).len(), 2, "asked once each");
}

//! A source returns the right bytes or an error, whatever the server does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diskferry_core::{Error, ErrorKind, Source};
use diskferry_s3io::S3Source;
use diskferry_s3io::server::{Fault, Request, Server, Shape};

use crate::support::{BUCKET, KEY, URL, client, content, gets, open, range, serve};

const LEN: usize = 3 << 20;
const FAR: u64 = 1 << 20;

/// A rule for the GETs after the head, which is passed the number of those before.
pub(crate) fn behind_head(
    rule: impl Fn(u64) -> Vec<Fault> + Send + Sync + 'static,
) -> impl Fn(&Request) -> Vec<Fault> + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move |request| match request.range {
        Some((first, _)) if first > 0 => rule(count.fetch_add(1, Ordering::SeqCst)),
        _ => Vec::new(),
    }
}

/// The error of a read after the head if every response has this fault, and the number of requests.
async fn read_fails(fault: Fault) -> (ErrorKind, String, usize) {
    let server = serve(&content(LEN, 1)).await;
    let source = open(&server).await;
    server.set_faults(behind_head(move |_| vec![fault.clone()]));
    server.forget();
    let error = source.read(range(FAR, 500_000)).await.unwrap_err();
    assert!(error.message().starts_with(URL), "{error}");
    (error.kind(), error.message().to_owned(), gets(&server).len())
}

#[tokio::test]
async fn a_replaced_object_is_detected_even_if_if_match_is_ignored() {
    let server = serve(&content(LEN, 1)).await;
    let source = open(&server).await;
    source.read(range(FAR, 1000)).await.unwrap();
    server.put(BUCKET, KEY, content(LEN, 2)).await.unwrap();
    let error = source.read(range(FAR, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
    assert_eq!(error.offset(), Some(FAR));
    server.put(BUCKET, KEY, content(LEN - 1, 1)).await.unwrap();
    let error = source.read(range(FAR, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
    server.put(BUCKET, KEY, content(1000, 1)).await.unwrap();
    let error = source.read(range(FAR, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
}

#[tokio::test]
async fn a_response_that_contradicts_the_opened_object_is_source_changed() {
    let asked = format!("bytes {FAR}-{}/{}", FAR + 499_999, LEN + 1);
    for fault in [
        Fault::Status(412),
        Fault::Status(416),
        Fault::Header("etag", "\"other\"".into()),
        Fault::Without("etag"),
        Fault::Header("content-range", asked),
    ] {
        let (kind, message, requests) = read_fails(fault.clone()).await;
        assert_eq!((kind, requests), (ErrorKind::SourceChanged, 1), "{fault:?}: {message}");
    }
}

#[tokio::test]
async fn a_version_is_requested_by_its_id_and_pinned() {
    let server = serve(&content(LEN, 9)).await;
    let client = client(&server).await;
    server.set_faults(|_| vec![Fault::Header("x-amz-version-id", "v+1".into())]);
    for (url, first) in [(URL.to_owned(), None), (format!("{URL}?versionId=v+1"), Some("v+1".to_owned()))] {
        server.forget();
        let source = S3Source::open(&client, &url).await.unwrap();
        assert_eq!(source.identity().version_id.as_deref(), Some("v+1"));
        source.read(range(FAR, 1000)).await.unwrap();
        let asked: Vec<_> = gets(&server).into_iter().map(|exchange| exchange.request.version_id).collect();
        assert_eq!(asked, [first, Some("v+1".to_owned())]);
    }
    let source = S3Source::open(&client, URL).await.unwrap();
    server.set_faults(|_| vec![Fault::Header("x-amz-version-id", "v2".into())]);
    let error = source.read(range(FAR, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
}

#[tokio::test]
async fn a_range_that_was_not_requested_is_refused() {
    let whole = LEN as u64;
    for fault in [
        Fault::IgnoreRange,
        Fault::Header("content-range", format!("bytes 0-499999/{whole}")),
        Fault::Header("content-range", format!("bytes {FAR}-{}/{whole}", FAR + 500_000)),
        Fault::Header("content-range", format!("bytes {}-{}/{whole}", FAR + 1, FAR + 499_999)),
        Fault::Header("content-range", format!("bytes */{whole}")),
        Fault::Header("content-range", "pages 1-2/3".into()),
    ] {
        let (kind, message, requests) = read_fails(fault.clone()).await;
        assert_eq!((kind, requests), (ErrorKind::SourceNoRanges, 1), "{fault:?}: {message}");
    }
    // The range begins at the right byte, but the length contradicts it: none of it can be trusted.
    let short = Fault::Header("content-range", format!("bytes {FAR}-{}/{whole}", FAR + 9));
    let (kind, message, _) = read_fails(short).await;
    assert_eq!(kind, ErrorKind::SourceUnavailable, "{message}");
}

#[tokio::test]
async fn refusals_have_their_own_kinds_and_are_not_retried() {
    for (fault, kind) in [
        (Fault::Refuse(403, "AccessDenied", "Access Denied"), ErrorKind::SourceForbidden),
        (Fault::Status(401), ErrorKind::SourceForbidden),
        (Fault::Refuse(400, "ExpiredToken", "The provided token has expired."), ErrorKind::SourceExpired),
        (Fault::Refuse(404, "NoSuchKey", "gone"), ErrorKind::SourceNotFound),
        (Fault::Status(418), ErrorKind::SourceUnavailable),
        (Fault::Redirect("http://127.0.0.1:1/x".into()), ErrorKind::SourceUnavailable),
    ] {
        let (found, message, requests) = read_fails(fault.clone()).await;
        assert_eq!((found, requests), (kind, 1), "{fault:?}: {message}");
    }
}

#[tokio::test]
async fn transient_failures_are_retried_until_the_stall_timeout() {
    for fault in [
        Fault::Refuse(503, "SlowDown", "Please reduce your request rate."),
        Fault::Status(500),
        Fault::Status(429),
        Fault::Truncate(0),
        Fault::Reset(0),
    ] {
        let (kind, message, requests) = read_fails(fault.clone()).await;
        assert_eq!(kind, ErrorKind::SourceUnavailable, "{fault:?}: {message}");
        assert!(requests > 5, "{fault:?}: {requests} requests");
        assert!(message.contains("without progress") && message.contains("127.0.0.1:"), "{message}");
    }
}

#[tokio::test]
async fn a_broken_body_is_resumed_at_the_byte_reached() {
    let bytes = content(LEN, 3);
    for cut in [Fault::Truncate(700_000), Fault::Reset(700_000), Fault::Stall(700_000)] {
        let server = serve(&bytes).await;
        let source = open(&server).await;
        let fault = cut.clone();
        // 2 MiB in three pieces.
        server.set_faults(behind_head(move |count| if count < 2 { vec![fault.clone()] } else { Vec::new() }));
        server.forget();
        let before = source.traffic();
        let read = source.read(range(FAR, 2 << 20)).await.unwrap();
        assert!(read == bytes[FAR as usize..], "{cut:?}");
        let seen = gets(&server);
        assert_eq!(seen.len(), 3, "{cut:?}");
        for (earlier, later) in seen.iter().zip(seen.iter().skip(1)) {
            let (first, next) = (earlier.request.range.unwrap(), later.request.range.unwrap());
            assert!(next.0 > first.0 && next.1 == first.1, "{cut:?}: {first:?} then {next:?}");
            assert_eq!(later.request.if_match, source.identity().etag);
        }
        let traffic = source.traffic();
        assert_eq!((traffic.requests - before.requests, traffic.retries), (3, 2));
        assert_eq!(traffic.bytes - before.bytes, 2 << 20, "{cut:?}: no byte is taken twice");
        // Bytes in flight on a connection that was reset are lost, and requested again.
        let lost = seen.iter().map(|exchange| exchange.sent).sum::<u64>() - (2 << 20);
        assert!(lost <= 2 * (512 << 10), "{cut:?}: {lost}");
    }
}

#[tokio::test]
async fn opening_survives_a_broken_head() {
    let bytes = content(LEN, 4);
    let server = serve(&bytes).await;
    let count = AtomicU64::new(0);
    server.set_faults(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => vec![Fault::Status(503)],
        1 => vec![Fault::Truncate(70_000)],
        _ => Vec::new(),
    });
    let source = open(&server).await;
    assert!(source.read(range(0, LEN as u64)).await.unwrap() == bytes);
    let seen = gets(&server);
    assert_eq!(seen[2].request.range.map(|(_, last)| last), Some(131_071));
    assert!(seen[2].request.if_match.is_some(), "what comes after the first answer is pinned to it");
}

#[tokio::test]
async fn a_server_that_sends_few_bytes_per_response_fails() {
    let (kind, message, _) = read_fails(Fault::Truncate(10)).await;
    assert_eq!(kind, ErrorKind::SourceUnavailable, "{message}");
}

#[tokio::test]
async fn a_silent_server_fails_in_time() {
    let started = Instant::now();
    let (kind, message, _) = read_fails(Fault::Stall(0)).await;
    assert_eq!(kind, ErrorKind::SourceUnavailable, "{message}");
    // Three tries of a third of the stall timeout each, and the waits between.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_drips_fails_in_time() {
    let server = serve(&content(LEN, 1)).await;
    let source = open(&server).await;
    server.set_shape(Shape { each: Some(2000), ..Shape::default() });
    let started = Instant::now();
    let error = source.read(range(FAR, 500_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable, "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn throttling_lowers_the_requests_in_flight() {
    let bytes = content(LEN, 5);
    let server = serve(&bytes).await;
    let source = open(&server).await;
    let before = source.capabilities().in_flight;
    server.set_faults(behind_head(|count| if count == 0 { vec![Fault::Status(503)] } else { Vec::new() }));
    assert!(source.read(range(FAR, 1000)).await.unwrap() == bytes[FAR as usize..][..1000]);
    // Halved, and raised a little by the next success.
    assert!(source.capabilities().in_flight < before, "{before}");
    assert_eq!(source.traffic().retries, 1);
}

#[tokio::test]
async fn consecutive_reads_share_a_connection() {
    let server = serve(&content(LEN, 6)).await;
    let client = client(&server).await;
    for _ in 0..3 {
        let source = S3Source::open(&client, URL).await.unwrap();
        source.read(range(FAR, 1_000_000)).await.unwrap();
    }
    let connections: Vec<u64> = gets(&server).iter().map(|exchange| exchange.connection).collect();
    assert!(connections.iter().all(|number| *number == connections[0]), "{connections:?}");
}

#[tokio::test]
async fn dropping_a_read_ends_its_request() {
    let server = serve(&content(LEN, 7)).await;
    let source = open(&server).await;
    server.forget();
    server.set_faults(behind_head(|_| vec![Fault::Stall(300_000)]));
    let seen = async |what: &dyn Fn(&Server) -> bool| {
        // Waits for the condition; a defect fails the test and does not hang it.
        for _ in 0..1000 {
            if what(&server) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    tokio::select! {
        read = source.read(range(FAR, 1_000_000)) => panic!("{read:?}"),
        stalled = seen(&|server| gets(server).iter().any(|exchange| exchange.sent == 300_000)) => assert!(stalled),
    }
    assert!(
        seen(&|server| gets(server).iter().all(|exchange| exchange.over)).await,
        "the server still sends"
    );
    assert_eq!(gets(&server).len(), 1);
}

#[tokio::test]
async fn a_slow_link_gives_the_same_bytes_and_measures_the_gap() {
    let bytes = content(LEN, 8);
    let server = serve(&bytes).await;
    let source = open(&server).await;
    assert_eq!(source.capabilities().gap_bytes, 1 << 20);
    server.set_shape(Shape {
        latency: Duration::from_millis(20),
        each: Some(20_000_000),
        all: Some(50_000_000),
    });
    assert!(source.read(range(FAR, 2 << 20)).await.unwrap() == bytes[FAR as usize..]);
    let gap = source.capabilities().gap_bytes;
    assert!((256 << 10..=4 << 20).contains(&gap), "{gap}");
}

/// Serves an object for which the store keeps this checksum, reads all of it as an engine does, and says whether that is
/// what the store keeps.
async fn read_all(
    bytes: &[u8],
    checksum: &str,
    kept: &str,
    type_of: &str,
    damage: Option<u64>,
) -> Result<(), Error> {
    let server = serve(bytes).await;
    let (name, kept, type_of) = (format!("x-amz-checksum-{checksum}"), kept.to_owned(), type_of.to_owned());
    let name: &'static str = name.leak();
    server.set_faults(move |request| match (request.method.as_str(), request.range) {
        ("HEAD", _) => {
            vec![Fault::Header(name, kept.clone()), Fault::Header("x-amz-checksum-type", type_of.clone())]
        }
        (_, Some((first, last))) => {
            let inside = damage.filter(|at| (first..=last).contains(at));
            inside.map(|at| Fault::Flip(at - first)).into_iter().collect()
        }
        _ => Vec::new(),
    });
    let source = open(&server).await;
    let len = bytes.len() as u64;
    source.expect_all();
    // The head is in memory, and the tail is read first.
    source.read(range(len - 5000, 5000)).await?;
    for (from, to) in [(128 << 10, 2_000_000), (3_100_000, len - 5000), (2_000_000, 3_100_000)] {
        source.read(range(from, to - from)).await?;
    }
    source.verify().await
}

#[tokio::test]
async fn a_complete_read_is_compared_with_the_checksum_of_the_store() {
    let bytes = content(5 << 20, 8);
    let crc = u32::to_be_bytes(crc32fast::hash(&bytes));
    let right = aws_smithy_types::base64::encode(crc);
    let wrong = aws_smithy_types::base64::encode(u32::to_be_bytes(1));
    read_all(&bytes, "crc32", &right, "FULL_OBJECT", None).await.unwrap();
    for (kept, damage) in [(&wrong, None), (&right, Some(2_500_000)), (&right, Some((5 << 20) - 1))] {
        let error = read_all(&bytes, "crc32", kept, "FULL_OBJECT", damage).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
        assert!(error.is_retryable() && error.message().contains("CRC-32"), "{error}");
    }
    // A checksum of checksums of parts, or of an unknown kind, is not compared.
    read_all(&bytes, "crc32", &format!("{wrong}-3"), "COMPOSITE", None).await.unwrap();
    read_all(&bytes, "sha1", &wrong, "COMPOSITE", None).await.unwrap();
}

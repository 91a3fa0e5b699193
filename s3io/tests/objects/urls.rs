//! URLs of every kind open the object or fail with the right error, and show no secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diskferry_core::{Error, ErrorKind, Source};
use diskferry_s3io::server::{Fault, Server, ServerOptions};
use diskferry_s3io::{Client, ClientOptions, HttpSource, Keys, RenewUrl, S3Source, open_source};

use crate::support::{BUCKET, KEY, URL, client, content, gets, hasty, range, serve, serve_as};

const LEN: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

async fn public(bytes: &[u8]) -> Server {
    serve_as(ServerOptions::default().public(true), bytes).await
}

/// A client without endpoint and credentials.
async fn stranger() -> Client {
    let options = ClientOptions::default().stall_timeout(Duration::from_secs(3));
    Client::new(options.anonymous(true)).await.unwrap()
}

/// The URL with a signature that is some years old.
fn aged(presigned: &str) -> String {
    let (before, date) = presigned.split_once("X-Amz-Date=20").unwrap();
    format!("{before}X-Amz-Date=1999{}", &date[2..])
}

#[tokio::test]
async fn a_presigned_url_is_read_by_gets_alone() {
    let bytes = content(LEN, 1);
    let server = serve(&bytes).await;
    let url = server.presign(BUCKET, KEY, HOUR).await.unwrap();
    // Also by a client whose own credentials are not valid there.
    for client in [stranger().await, client(&server).await] {
        server.forget();
        let source = HttpSource::open(&client, &url).await.unwrap();
        assert!(source.read(range(0, LEN as u64)).await.unwrap() == bytes);
        assert_eq!(source.url(), server.object_url(BUCKET, KEY));
        assert!(source.warnings().is_empty());
        assert!(server.exchanges().iter().all(|exchange| exchange.request.method == "GET"));
        assert_eq!(server.exchanges().len(), 2);
    }
}

#[tokio::test]
async fn an_expired_url_is_refused_without_a_request() {
    let server = serve(&content(LEN, 2)).await;
    let url = aged(&server.presign(BUCKET, KEY, HOUR).await.unwrap());
    let error = HttpSource::open(&stranger().await, &url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceExpired, "{error}");
    assert!(server.exchanges().is_empty());
}

#[tokio::test]
async fn a_url_that_expires_soon_gives_a_warning() {
    let server = serve(&content(LEN, 3)).await;
    let url = server.presign(BUCKET, KEY, Duration::from_secs(100)).await.unwrap();
    let opened = open_source(&stranger().await, &url).await.unwrap();
    assert_eq!(
        opened.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(),
        ["source_expires_soon"]
    );
}

#[tokio::test]
async fn a_url_that_expires_during_reading_fails_or_is_renewed() {
    let bytes = content(LEN, 4);
    let server = Arc::new(serve(&bytes).await);
    let expired = || Fault::Refuse(403, "AccessDenied", "Request has expired");
    let url = server.presign(BUCKET, KEY, HOUR).await.unwrap();
    let client = stranger().await;

    let source = HttpSource::open(&client, &url).await.unwrap();
    server.set_faults(move |_| vec![expired()]);
    let error = source.read(range(500_000, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceExpired, "{error}");

    server.set_faults(|_| Vec::new());
    let asked = Arc::new(AtomicU64::new(0));
    let renew: RenewUrl = {
        let (server, asked) = (Arc::clone(&server), Arc::clone(&asked));
        Arc::new(move || {
            let (server, asked) = (Arc::clone(&server), Arc::clone(&asked));
            Box::pin(async move {
                asked.fetch_add(1, Ordering::SeqCst);
                server.presign(BUCKET, KEY, HOUR).await
            })
        })
    };
    // Expired before the start: renewed at once.
    let source = HttpSource::open_renewing(&client, &aged(&url), Arc::clone(&renew)).await.unwrap();
    assert_eq!(asked.swap(0, Ordering::SeqCst), 1);
    // Expired during many reads: renewed once.
    let refuse = Mutex::new(8);
    server.set_faults(move |_| {
        let mut left = refuse.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return vec![expired()];
        }
        Vec::new()
    });
    let reads = (0..8).map(|i| source.read(range(200_000 + i * 100_000, 100_000)));
    for (i, read) in (0usize..).zip(futures_util::future::try_join_all(reads).await.unwrap()) {
        assert!(read == bytes[200_000 + i * 100_000..][..100_000]);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // The object at the fresh URL must have the identity of the first.
    server.put(BUCKET, KEY, content(LEN, 5)).await.unwrap();
    let error = source.read(range(500_000, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
}

#[tokio::test]
async fn a_plain_url_under_the_endpoint_is_signed_if_there_are_credentials() {
    let bytes = content(LEN, 6);
    let server = serve(&bytes).await;
    let url = server.object_url(BUCKET, KEY);
    let source = HttpSource::open(&client(&server).await, &url).await.unwrap();
    assert!(source.read(range(0, LEN as u64)).await.unwrap() == bytes);
    assert_eq!(source.url(), url);
    assert!(gets(&server).iter().all(|exchange| exchange.request.signed));

    let error = HttpSource::open(&stranger().await, &url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceForbidden);
    let anonymous = Client::new(hasty(&server).anonymous(true)).await.unwrap();
    for url in [&*url, URL] {
        let error = open_source(&anonymous, url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceForbidden, "{error}");
    }
}

#[tokio::test]
async fn a_public_object_is_read_without_credentials_or_with_bad_ones() {
    let bytes = content(LEN, 7);
    let server = public(&bytes).await;
    let url = server.object_url(BUCKET, KEY);
    let anonymous = Client::new(hasty(&server).anonymous(true)).await.unwrap();
    let keys = Keys::new("NOBODY", "hush");
    let wrong = Client::new(hasty(&server).keys(Some(keys))).await.unwrap();
    for (client, url) in [(&stranger().await, &*url), (&anonymous, &*url), (&anonymous, URL), (&wrong, &*url)]
    {
        let opened = open_source(client, url).await.unwrap();
        assert!(opened.source.read(range(0, LEN as u64)).await.unwrap() == bytes, "{url}");
    }
    assert_eq!(open_source(&wrong, URL).await.unwrap_err().kind(), ErrorKind::SourceForbidden);
}

#[tokio::test]
async fn a_redirect_is_followed_once_and_remembered() {
    let bytes = content(LEN, 8);
    let (front, back) = (serve(b"").await, serve(&bytes).await);
    let to = back.presign(BUCKET, KEY, HOUR).await.unwrap();
    front.set_faults(move |_| vec![Fault::Redirect(to.clone())]);
    let url = front.object_url(BUCKET, "anything");
    let source = HttpSource::open(&stranger().await, &url).await.unwrap();
    assert!(source.read(range(0, LEN as u64)).await.unwrap() == bytes);
    assert!(source.read(range(7, LEN as u64 - 7)).await.unwrap() == bytes[7..]);
    assert_eq!((front.exchanges().len(), back.exchanges().len()), (1, 3));
    assert_eq!(source.traffic().requests, 4);
    assert_eq!(source.url(), url);

    // If the target of the redirect no longer works, the redirect is requested once more.
    let refused = AtomicU64::new(0);
    back.set_faults(move |_| match refused.fetch_add(1, Ordering::SeqCst) {
        0 => vec![Fault::Status(403)],
        _ => Vec::new(),
    });
    assert!(source.read(range(7, LEN as u64 - 7)).await.unwrap() == bytes[7..]);
    assert_eq!((front.exchanges().len(), back.exchanges().len()), (2, 5));
}

#[tokio::test]
async fn redirects_in_a_circle_and_to_another_scheme_end() {
    let server = serve(b"").await;
    let url = server.object_url(BUCKET, KEY);
    for (to, requests) in
        [(url.clone(), 6), ("https://127.0.0.1:1/x".to_owned(), 1), ("file:///etc/passwd".to_owned(), 1)]
    {
        server.set_faults(move |_| vec![Fault::Redirect(to.clone())]);
        server.forget();
        let error = HttpSource::open(&stranger().await, &url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceUnavailable, "{error}");
        assert!(!error.is_retryable());
        assert_eq!(server.exchanges().len(), requests, "{error}");
    }
}

#[tokio::test]
async fn a_confined_client_reaches_public_addresses_only() {
    let server = public(&content(LEN, 9)).await;
    let port = server.endpoint().rsplit_once(':').unwrap().1.to_owned();
    let options = ClientOptions::default().public_only(true).anonymous(true);
    let client = Client::new(options).await.unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "127.1"] {
        let error =
            HttpSource::open(&client, &format!("http://{host}:{port}/{BUCKET}/{KEY}")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceForbidden, "{host}: {error}");
    }
    assert!(server.exchanges().is_empty());
    // The caller's own endpoint is not restricted.
    let client = Client::new(hasty(&server).public_only(true)).await.unwrap();
    S3Source::open(&client, URL).await.unwrap();
}

#[tokio::test]
async fn the_bucket_must_be_in_the_required_region() {
    let at = |region: Option<&str>| ServerOptions::default().region(region.map(Into::into));
    let require = |server: &Server| hasty(server).require_region(Some("eu-west-1".into()));

    let server = serve_as(at(Some("eu-west-1")), b"x").await;
    let source = S3Source::open(&Client::new(require(&server)).await.unwrap(), URL).await.unwrap();
    assert!(source.warnings().is_empty());
    assert_eq!(source.traffic().requests, 2);

    let server = serve_as(at(Some("us-west-2")), b"x").await;
    let error = S3Source::open(&Client::new(require(&server)).await.unwrap(), URL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RegionMismatch);
    assert!(error.message().contains("us-west-2") && error.message().contains("eu-west-1"), "{error}");

    let server = serve_as(at(None), b"x").await;
    let client = Client::new(require(&server)).await.unwrap();
    let presigned = server.presign(BUCKET, KEY, HOUR).await.unwrap();
    for url in [URL, &server.object_url(BUCKET, KEY), &presigned] {
        let opened = open_source(&client, url).await.unwrap();
        assert_eq!(
            opened.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(),
            ["region_unknown"]
        );
    }
}

#[tokio::test]
async fn the_region_that_the_store_names_is_used() {
    let bytes = content(LEN, 10);
    let server = serve(&bytes).await;
    let wrong =
        "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'";
    for fault in [
        vec![Fault::Status(301), Fault::Header("x-amz-bucket-region", "eu-central-1".into())],
        vec![Fault::Refuse(400, "AuthorizationHeaderMalformed", wrong)],
    ] {
        server.forget();
        let moved = Mutex::new(Some(fault));
        server.set_faults(move |_| moved.lock().unwrap().take().unwrap_or_default());
        let source = S3Source::open(&client(&server).await, URL).await.unwrap();
        assert!(source.read(range(0, LEN as u64)).await.unwrap() == bytes);
        assert_eq!(gets(&server).len(), 3);
    }
}

#[tokio::test]
async fn a_missing_host_is_source_unavailable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/image?token=hush");
    let error = HttpSource::open(&stranger().await, &url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
    assert!(error.is_retryable() && !shown(&error).contains("hush"), "{error}");
}

/// Everything that an error can show.
fn shown(error: &Error) -> String {
    format!("{error} {error:?} {error:#?} {:?}", error.hint_text())
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let server = serve(&content(LEN, 11)).await;
    let keys = server.keys();
    let presigned = server.presign(BUCKET, KEY, HOUR).await.unwrap();
    let signature = presigned.split_once("X-Amz-Signature=").unwrap().1.split('&').next().unwrap().to_owned();
    let secrets = [&*signature, &*keys.secret_key, &*keys.access_key, "X-Amz", "hush"];
    let check = |text: String| {
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    };
    let client = client(&server).await;
    check(format!("{client:?} {:?}", client.options()));
    let with_user = presigned.replace("http://", "http://me:hush@");
    let echo: &'static str =
        "The request signature X-Amz-Signature=hush does not match; AWSAccessKeyId DISKFERRYEMBEDDED";
    for url in [URL, &presigned, &with_user] {
        server.set_faults(|_| Vec::new());
        let opened = open_source(&client, url).await.unwrap();
        check(format!("{opened:?} {}", opened.source.url()));
        for fault in [
            Fault::Refuse(403, "SignatureDoesNotMatch", echo),
            Fault::Refuse(400, "Whatever", echo),
            Fault::Refuse(500, "InternalError", echo),
            Fault::Status(404),
            Fault::Status(412),
            Fault::Truncate(3),
            Fault::IgnoreRange,
            Fault::Header("content-range", "bytes 1-2/3".into()),
        ] {
            let rule = fault.clone();
            server.set_faults(move |_| vec![rule.clone()]);
            let error = opened.source.read(range(500_000, 1000)).await.unwrap_err();
            check(shown(&error));
            // Transient failures are retried; one failed read shows enough of them.
            let passing = matches!(fault, Fault::Refuse(500, ..) | Fault::Truncate(_));
            if !passing && let Err(error) = open_source(&client, url).await {
                check(shown(&error));
            }
        }
    }
    let wrong = hasty(&server).keys(Some(Keys::new(keys.access_key.clone(), "hush")));
    server.set_faults(|_| Vec::new());
    let error = S3Source::open(&Client::new(wrong).await.unwrap(), URL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceForbidden);
    check(shown(&error));
}

#[tokio::test]
async fn without_an_etag_the_modification_time_pins_and_without_both_a_warning_says_so() {
    let bytes = content(LEN, 12);
    let server = public(&bytes).await;
    let url = server.object_url(BUCKET, KEY);
    let client = stranger().await;
    server.set_faults(|_| vec![Fault::Without("etag")]);
    let source = HttpSource::open(&client, &url).await.unwrap();
    assert!(source.warnings().is_empty());
    assert!(source.read(range(0, LEN as u64)).await.unwrap() == bytes);
    server.set_faults(|_| {
        vec![Fault::Without("etag"), Fault::Header("last-modified", "Tue, 01 Jan 2030 00:00:00 GMT".into())]
    });
    let error = source.read(range(0, LEN as u64)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);

    server.set_faults(|_| vec![Fault::Without("etag"), Fault::Without("last-modified")]);
    let opened = open_source(&client, &url).await.unwrap();
    assert_eq!(opened.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["source_unpinned"]);
    assert!(opened.source.read(range(0, LEN as u64)).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_weak_etag_is_compared_here_and_not_sent() {
    let server = public(&content(LEN, 13)).await;
    server.set_faults(|_| vec![Fault::Header("etag", "W/\"1\"".into())]);
    let source = HttpSource::open(&stranger().await, &server.object_url(BUCKET, KEY)).await.unwrap();
    source.read(range(500_000, 1000)).await.unwrap();
    assert!(gets(&server).iter().all(|exchange| exchange.request.if_match.is_none()));
    server.set_faults(|_| vec![Fault::Header("etag", "W/\"2\"".into())]);
    assert_eq!(source.read(range(500_000, 1000)).await.unwrap_err().kind(), ErrorKind::SourceChanged);
}

#[tokio::test]
async fn an_endpoint_with_a_password_is_refused_and_not_shown() {
    let options = ClientOptions::default().endpoint_url(Some("http://me:hush@127.0.0.1:1/".into()));
    assert!(!format!("{options:?}").contains("hush"));
    let error = Client::new(options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(!shown(&error).contains("hush"));
}

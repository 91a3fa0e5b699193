//! Hostile servers: each response is written by the test, byte for byte.
//!
//! The runtime is multi-threaded: it must close connections while a test waits for its server to end.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use diskferry_core::{Error, ErrorKind, Result, Source};
use diskferry_s3io::{Client, ClientOptions, HttpSource};

use crate::support::range;

const LEN: u64 = 1 << 20;

type Answer = dyn Fn((u64, u64), &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// Responds to every request for a range, each on its own connection.
struct Liar {
    url: String,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    requests: Arc<AtomicU64>,
}

impl Liar {
    fn new(
        answer: impl Fn((u64, u64), &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
        let (over, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (Arc::clone(&over), Arc::clone(&requests));
        let answer: Arc<Answer> = Arc::new(answer);
        let thread = std::thread::spawn(move || {
            let mut talks = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
                talks.push(std::thread::spawn(move || {
                    if let Some(range) = asked(&stream) {
                        count.fetch_add(1, Ordering::SeqCst);
                        // The client has closed the connection.
                        let _ = answer(range, &mut stream);
                    }
                }));
            }
            talks.into_iter().for_each(|talk| talk.join().unwrap());
        });
        Self { url, over, thread: Some(thread), requests }
    }

    async fn open(&self) -> Result<HttpSource> {
        let options = ClientOptions::default().anonymous(true).stall_timeout(Duration::from_secs(3));
        HttpSource::open(&Client::new(options).await.unwrap(), &self.url).await
    }

    /// The error of opening it, or of reading after the head.
    async fn fails(&self) -> Error {
        match self.open().await {
            Err(error) => error,
            Ok(source) => source.read(range(LEN / 2, 300_000)).await.unwrap_err(),
        }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the server's thread.
        drop(TcpStream::connect(self.url.trim_start_matches("http://").trim_end_matches("/disk.img")));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The requested range; everything if there is none.
fn asked(stream: &TcpStream) -> Option<(u64, u64)> {
    let mut found = (0, LEN - 1);
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            return Some(found);
        }
        if let Some((first, last)) =
            line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-'))
        {
            found = (first.parse().ok()?, last.parse().ok()?);
        }
    }
    None
}

/// The headers of a correct response to `first..=last`, and additional ones.
fn partial((first, last): (u64, u64), more: &str) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"e\"\r\ncontent-range: bytes {first}-{last}/{LEN}\r\n{more}\r\n"
    )
}

fn bytes((first, last): (u64, u64)) -> Vec<u8> {
    (first..=last).map(|at| (at / 1000) as u8).collect()
}

fn honest(range: (u64, u64), stream: &mut TcpStream) -> std::io::Result<()> {
    let length = format!("content-length: {}\r\n", range.1 - range.0 + 1);
    stream.write_all(partial(range, &length).as_bytes())?;
    stream.write_all(&bytes(range))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_assembled_from_short_responses_and_too_short_ones_fail() {
    for (part, enough) in [(100_000, true), (20_000, true), (1, false)] {
        let liar =
            Liar::new(move |(first, last), stream| honest((first, last.min(first + part - 1)), stream));
        if enough {
            let source = liar.open().await.unwrap();
            assert!(source.read(range(3, LEN - 3)).await.unwrap() == bytes((3, LEN - 1)), "{part}");
        } else {
            assert_eq!(liar.fails().await.kind(), ErrorKind::SourceUnavailable);
            assert!(liar.requests.load(Ordering::SeqCst) > 5);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_dropped_at_the_end_of_the_range() {
    let liar = Liar::new(|range, stream| {
        let chunk = [&b"10000\r\n"[..], &[7; 65536], b"\r\n"].concat();
        stream.write_all(partial(range, "transfer-encoding: chunked\r\n").as_bytes())?;
        loop {
            stream.write_all(&chunk)?;
        }
    });
    let source = liar.open().await.unwrap();
    assert!(source.read(range(LEN / 2, 300_000)).await.unwrap() == vec![7; 300_000]);
    // Without a range and a length it would be the whole object.
    let liar = Liar::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
        loop {
            stream.write_all(&[7; 65536])?;
        }
    });
    assert_eq!(liar.fails().await.kind(), ErrorKind::SourceNoRanges);
    assert_eq!(liar.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_headers_are_refused() {
    let liar = Liar::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 206 Partial Content\r\n")?;
        loop {
            stream.write_all(&[b'x'; 65536])?;
        }
    });
    let error = liar.fails().await;
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
    assert!(error.message().len() < 500, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_parts_in_one_response_are_refused() {
    let liar = Liar::new(|(first, last), stream| {
        let part = format!("--b\r\ncontent-range: bytes {first}-{last}/{LEN}\r\n\r\nabc\r\n--b--\r\n");
        let head = "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"e\"\r\n";
        let kind = "content-type: multipart/byteranges; boundary=b\r\n";
        write!(stream, "{head}{kind}content-length: {}\r\n\r\n{part}", part.len())
    });
    assert_eq!(liar.fails().await.kind(), ErrorKind::SourceNoRanges);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_length_contradicts_its_ranges_is_refused() {
    for length in ["content-length: 1\r\n", "content-length: 18446744073709551615\r\n"] {
        let liar = Liar::new(move |range, stream| {
            if range.0 == 0 {
                return honest(range, stream);
            }
            stream.write_all(partial(range, length).as_bytes())?;
            stream.write_all(&bytes(range))
        });
        assert_eq!(liar.fails().await.kind(), ErrorKind::SourceUnavailable, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_are_returned_verbatim_for_any_stated_encoding() {
    let liar = Liar::new(|range, stream| {
        let more = format!("content-encoding: gzip\r\ncontent-length: {}\r\n", range.1 - range.0 + 1);
        stream.write_all(partial(range, &more).as_bytes())?;
        stream.write_all(&bytes(range))
    });
    let source = liar.open().await.unwrap();
    assert!(source.read(range(0, LEN)).await.unwrap() == bytes((0, LEN - 1)));
}

//! Network floors and competitors: fetches ranges and discards them, and downloads objects to files.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use diskferry_core::{Source, StoredOffset, StoredRange};
use diskferry_s3io::{Client, ClientOptions, S3Source};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::failure::{Failure, Result};

/// Range size of a parallel download.
const PART: u64 = 8 << 20;
/// Number of concurrent ranges.
const AT_ONCE: usize = 16;

async fn open(url: &str) -> Result<S3Source> {
    let options = ClientOptions::default().connections(AT_ONCE);
    Ok(S3Source::open(&Client::new(options).await?, url).await?)
}

/// Fetches the ranges in a file with lines `FIRST LAST`, and discards them.
///
/// # Errors
/// If the file is not such a list, or the source fails.
pub(crate) async fn fetch(url: &str, ranges: &Path) -> Result<()> {
    let list = fs::read_to_string(ranges).map_err(Failure::at("reading", ranges))?;
    let ranges: Vec<StoredRange> = list.lines().map(range).collect::<Result<_>>()?;
    let source = open(url).await?;
    let source = &source;
    // Requests made while opening may extend past the end of a small object.
    let whole = StoredRange::first(source.len());
    let ranges = ranges.into_iter().filter_map(|range| range.intersection(whole));
    stream::iter(ranges.map(|range| async move { source.read(range).await.map(drop) }))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    Ok(())
}

fn range(line: &str) -> Result<StoredRange> {
    let parsed = line.split_once(' ').and_then(|(first, last)| {
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(StoredRange::between(StoredOffset::new(first), StoredOffset::new(last.checked_add(1)?)))
    });
    parsed.ok_or_else(|| Failure::Odd(format!("{line:?} is not a range")))
}

/// Downloads an object with 16 concurrent ranges of 8 MiB.
///
/// # Errors
/// If the source fails or the file cannot be written.
pub(crate) async fn download(url: &str, to: &Path) -> Result<()> {
    let source = open(url).await?;
    let file = File::create_new(to).map_err(Failure::at("making", to))?;
    file.set_len(source.len()).map_err(Failure::at("lengthening", to))?;
    let (source, file) = (&source, &file);
    let starts = (0..source.len()).step_by(PART as usize);
    stream::iter(starts.map(|start| async move {
        let end = source.len().min(start + PART);
        let range = StoredRange::between(StoredOffset::new(start), StoredOffset::new(end));
        let bytes = source.read(range).await?;
        file.write_all_at(&bytes, start).map_err(Failure::at("writing", to))
    }))
    .buffer_unordered(AT_ONCE)
    .try_for_each(|()| async { Ok(()) })
    .await
}

/// Fetches `http://HOST/PATH` in ranges of 8 MiB over 16 connections, and discards it. It shares no code with diskferry's
/// client, so it measures the network only.
///
/// # Errors
/// If a response is not the requested range.
pub(crate) fn fetch_fixed(url: &str) -> Result<()> {
    let (host, path) = split(url)?;
    let (_, total) = Plain::connect(host)?.get(path, Some((0, 0)))?;
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let connections: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Plain::connect(host)?;
                    loop {
                        let start = next.fetch_add(PART, Ordering::Relaxed);
                        if start >= total {
                            return Ok(());
                        }
                        let (len, _) = connection.get(path, Some((start, total.min(start + PART) - 1)))?;
                        connection.body(len, &mut io::sink())?;
                    }
                })
            })
            .collect();
        connections.into_iter().try_for_each(|connection| match connection.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Downloads `http://HOST/PATH` on one connection, like a simple tool.
///
/// # Errors
/// If the response is not successful or has no length, or the file cannot be written.
pub(crate) fn download_plain(url: &str, to: &Path) -> Result<()> {
    let (host, path) = split(url)?;
    let mut connection = Plain::connect(host)?;
    let (length, _) = connection.get(path, None)?;
    let mut file = File::create_new(to).map_err(Failure::at("making", to))?;
    connection.body(length, &mut file)
}

/// Splits an `http://` URL into host and path.
fn split(url: &str) -> Result<(&str, &str)> {
    let parts = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    parts.ok_or_else(|| Failure::Odd(format!("{url} is not an http:// URL")))
}

/// A connection of a minimal HTTP client, for sequential requests.
struct Plain {
    host: String,
    answers: BufReader<TcpStream>,
}

impl Plain {
    fn connect(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host).map_err(Failure::io(format!("connecting to {host}")))?;
        Ok(Self { host: host.to_owned(), answers: BufReader::with_capacity(1 << 20, stream) })
    }

    /// Requests a range or the whole object. Returns the lengths of the body and of the object.
    fn get(&mut self, path: &str, range: Option<(u64, u64)>) -> Result<(u64, u64)> {
        let broken = || Failure::io(format!("requesting {path}"));
        let range = range.map(|(first, last)| format!("Range: bytes={first}-{last}\r\n")).unwrap_or_default();
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {}\r\n{range}\r\n", self.host);
        self.answers.get_mut().write_all(request.as_bytes()).map_err(broken())?;
        let (mut ok, mut length, mut total) = (false, None, None);
        loop {
            let mut line = String::new();
            self.answers.read_line(&mut line).map_err(broken())?;
            let head = line.trim_end().to_ascii_lowercase();
            if head.is_empty() {
                break;
            }
            ok |= head.starts_with("http/1.1 20");
            if let Some(value) = head.strip_prefix("content-length:") {
                length = value.trim().parse::<u64>().ok();
            }
            if let Some(value) = head.strip_prefix("content-range:") {
                total = value.rsplit('/').next().and_then(|total| total.trim().parse().ok());
            }
        }
        let length =
            length.filter(|_| ok).ok_or_else(|| Failure::Odd(format!("the request for {path} failed")))?;
        Ok((length, total.unwrap_or(length)))
    }

    /// Copies the body of the last response.
    fn body(&mut self, length: u64, to: &mut impl Write) -> Result<()> {
        let copied =
            io::copy(&mut (&mut self.answers).take(length), to).map_err(Failure::io("reading a response"))?;
        if copied == length {
            Ok(())
        } else {
            Err(Failure::Odd(format!("a response ended after {copied} bytes")))
        }
    }
}

//! Floors and rivals of the line: ranges fetched and thrown away, and objects downloaded to files.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;

use diskferry_core::{Source, StoredOffset, StoredRange};
use diskferry_s3io::{Client, ClientOptions, S3Source};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::failure::{Failure, Result};

/// What a parallel download asks for at once.
const PART: u64 = 8 << 20;
/// How many of them are under way.
const AT_ONCE: usize = 16;

async fn open(url: &str) -> Result<S3Source> {
    let options = ClientOptions { connections: AT_ONCE, ..ClientOptions::default() };
    Ok(S3Source::open(&Client::new(options).await?, url).await?)
}

/// Fetches the ranges of a file of lines `FIRST LAST`, and throws them away.
///
/// # Errors
/// Where the file is no such list, or the source fails.
pub(crate) async fn fetch(url: &str, ranges: &Path) -> Result<()> {
    let list = fs::read_to_string(ranges).map_err(Failure::at("reading", ranges))?;
    let ranges: Vec<StoredRange> = list.lines().map(range).collect::<Result<_>>()?;
    let source = open(url).await?;
    let source = &source;
    // What opening asked for may pass the end of a small object.
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
    parsed.ok_or_else(|| Failure::Odd(format!("{line:?} is no range")))
}

/// Downloads an object: 16 ranges of 8 MiB at once.
///
/// # Errors
/// Where the source fails or the file cannot be written.
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

/// Downloads `http://HOST/PATH` on one connection, as the simplest tool does.
///
/// # Errors
/// Where the answer is none of success with its length, or the file cannot be written.
pub(crate) fn download_plain(url: &str, to: &Path) -> Result<()> {
    let rest = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    let (host, path) = rest.ok_or_else(|| Failure::Odd(format!("{url} is no http:// URL")))?;
    let broken = || Failure::io(format!("downloading {url}"));
    let mut stream = TcpStream::connect(host).map_err(broken())?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(broken())?;
    let mut answer = BufReader::with_capacity(1 << 20, stream);
    let (mut line, mut ok, mut length) = (String::new(), false, None);
    loop {
        line.clear();
        answer.read_line(&mut line).map_err(broken())?;
        let head = line.trim_end().to_ascii_lowercase();
        if head.is_empty() {
            break;
        }
        ok |= head.starts_with("http/1.1 200");
        if let Some(value) = head.strip_prefix("content-length:") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let length = length.filter(|_| ok).ok_or_else(|| Failure::Odd(format!("{url} was not answered")))?;
    let mut file = File::create_new(to).map_err(Failure::at("making", to))?;
    let copied = io::copy(&mut answer.take(length), &mut file).map_err(broken())?;
    if copied == length { Ok(()) } else { Err(Failure::Odd(format!("{url} ended after {copied} bytes"))) }
}

//! Shared by the tests: a server with one object, and sources that read it.
use std::time::Duration;

use diskferry_core::{StoredOffset, StoredRange};
use diskferry_s3io::server::{Exchange, Server, ServerOptions};
use diskferry_s3io::{Client, ClientOptions, S3Source};

pub(crate) const BUCKET: &str = "images";
pub(crate) const KEY: &str = "disk.img";
pub(crate) const URL: &str = "s3://images/disk.img";

/// Bytes without repetition, so that a shifted read is detected.
pub(crate) fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn range(start: u64, len: u64) -> StoredRange {
    StoredRange::new(StoredOffset::new(start), len).unwrap()
}

/// A server with `bytes` as its only object, and an empty log.
pub(crate) async fn serve_as(options: ServerOptions, bytes: &[u8]) -> Server {
    let server = Server::start(options).unwrap();
    server.create_bucket(BUCKET).await.unwrap();
    server.put(BUCKET, KEY, bytes.to_vec()).await.unwrap();
    server.forget();
    server
}

pub(crate) async fn serve(bytes: &[u8]) -> Server {
    serve_as(ServerOptions::default(), bytes).await
}

/// A client with short timeouts.
pub(crate) async fn client(server: &Server) -> Client {
    Client::new(hasty(server)).await.unwrap()
}

pub(crate) fn hasty(server: &Server) -> ClientOptions {
    server.client_options().stall_timeout(Duration::from_secs(3))
}

pub(crate) async fn open(server: &Server) -> S3Source {
    S3Source::open(&client(server).await, URL).await.unwrap()
}

/// The GETs that the server received.
pub(crate) fn gets(server: &Server) -> Vec<Exchange> {
    server.exchanges().into_iter().filter(|exchange| exchange.request.method == "GET").collect()
}

/// A server with an empty bucket and an empty log.
pub(crate) async fn empty() -> Server {
    let server = Server::start(ServerOptions::default()).unwrap();
    server.create_bucket(BUCKET).await.unwrap();
    server.forget();
    server
}

/// The current content of the object.
pub(crate) fn stored(server: &Server) -> Option<Vec<u8>> {
    std::fs::read(server.root().join(BUCKET).join(KEY)).ok()
}

/// The files that the server has of unfinished uploads.
pub(crate) async fn leftovers(server: &Server) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..100 {
        let entries = std::fs::read_dir(server.root()).unwrap();
        names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // The server deletes a partly received body with a delay.
        if !names.iter().any(|name| name.ends_with(".internal.part")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    names.retain(|name| name.contains("upload"));
    names
}

/// The PUTs that the server received, without those of journals.
pub(crate) fn puts(server: &Server) -> Vec<Exchange> {
    let puts = server.exchanges().into_iter().filter(|exchange| exchange.request.method == "PUT");
    puts.filter(|put| !put.request.object.ends_with(".diskferry-journal")).collect()
}

/// The names in the bucket.
pub(crate) fn names(server: &Server) -> Vec<String> {
    let entries = std::fs::read_dir(server.root().join(BUCKET)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

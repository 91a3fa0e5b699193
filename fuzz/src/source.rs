//! Sources for fuzzing: they never wait, count requests, and panic on a read past their end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use diskferry_core::{BoxFuture, ByteStream, Capabilities, Error, ErrorKind, Gate, Identity, Result, Segment, SiblingName, Source, StoredRange, Traffic};

/// Maximum number of bytes that an execution reads from a source, repeated reads included.
const MOST_BYTES: u64 = 48 << 20;
/// Maximum number of requests per execution.
const MOST_REQUESTS: u64 = 20_000;

/// An object with a length that has some bytes and is zero elsewhere.
#[derive(Debug)]
pub struct Guarded {
    len: u64,
    pieces: BTreeMap<u64, Bytes>,
    remote: bool,
    requests: AtomicU64,
    read: AtomicU64,
    identity: Identity,
}

impl Guarded {
    /// Creates an object with these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Arc<Self> {
        let bytes = bytes.into();
        Self::sparse(bytes.len() as u64, [(0, bytes)])
    }

    /// Creates an object of `len` bytes that is zero except for these pieces, which do not overlap.
    pub fn sparse(len: u64, pieces: impl IntoIterator<Item = (u64, Bytes)>) -> Arc<Self> {
        let pieces: BTreeMap<u64, Bytes> = pieces.into_iter().collect();
        // The input selects local or remote: head and tail are used differently for a remote source.
        let remote = len % 2 == 1 || pieces.values().next().is_some_and(|piece| piece.len() / 512 % 2 == 1);
        let (requests, read) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { len, pieces, remote, requests, read, identity: Identity::default() })
    }

    fn bytes(&self, range: StoredRange) -> Bytes {
        let (start, end) = (range.start().get(), range.end().get());
        if let Some((at, piece)) = self.pieces.range(..=start).next_back()
            && end <= at + piece.len() as u64
        {
            return piece.slice((start - at) as usize..(end - at) as usize);
        }
        let mut out = vec![0; range.len() as usize];
        for (at, piece) in self.pieces.range(..end) {
            let (from, to) = (start.max(*at), end.min(at + piece.len() as u64));
            if from < to {
                let piece = &piece[(from - at) as usize..(to - at) as usize];
                out[(from - start) as usize..(to - start) as usize].copy_from_slice(piece);
            }
        }
        out.into()
    }
}

impl Source for Guarded {
    fn url(&self) -> &str {
        "fuzz:image-s001.vmdk"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(1 << 20).gap_bytes(4096).in_flight(4).remote(self.remote)
    }

    fn traffic(&self) -> Traffic {
        Traffic::default().requests(self.requests.load(Ordering::Relaxed)).bytes(self.read.load(Ordering::Relaxed)).retries(0)
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        assert!(range.end().get() <= self.len, "read of {range} from an object of {}", self.len);
        assert!(range.len() <= 16 << 20, "one read of {} bytes", range.len());
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        let read = self.read.fetch_add(range.len(), Ordering::Relaxed);
        Box::pin(async move {
            if requests >= MOST_REQUESTS || read >= MOST_BYTES {
                return Err(Error::new(
                    ErrorKind::SourceUnavailable,
                    "the budget of the execution is exhausted",
                ));
            }
            Ok(self.bytes(range))
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        let all = if range.is_empty() { Vec::new() } else { vec![Segment { range, hole: false }] };
        Box::pin(async move { Ok(all) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A gate that opens every name and records the names.
#[derive(Debug)]
pub struct OpenGate {
    /// The content for names that begin with `f`. All other names give zeros.
    pub file: Bytes,
    /// The requested names.
    pub asked: Mutex<Vec<String>>,
}

impl OpenGate {
    /// Length of a file of zeros.
    pub const ZEROS: usize = 1 << 20;

    /// Returns the content for a name.
    pub fn bytes(&self, name: &str) -> Bytes {
        if name.starts_with('f') { self.file.clone() } else { Bytes::from_static(&[0; Self::ZEROS]) }
    }
}

impl Gate for OpenGate {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let plain = !name.as_str().contains(['/', '\\', ':']) && !name.as_str().contains(char::is_control);
        assert!(plain && name.as_str() != ".." && name.as_str() != ".", "the gate was asked for {name:?}");
        self.asked.lock().expect("one thread").push(name.as_str().to_owned());
        let source = Guarded::new(self.bytes(name.as_str()));
        Box::pin(async move { Ok(source as Arc<dyn Source>) })
    }
}

/// A stream of bytes, in chunks of varying length.
#[derive(Debug)]
pub struct Portions {
    rest: Bytes,
    given: usize,
}

impl Portions {
    /// Creates a stream of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { rest: bytes.into(), given: 0 }
    }
}

impl ByteStream for Portions {
    fn url(&self) -> &str {
        "-"
    }

    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>> {
        let portion = [4096, 1, 700, 65_536, 511][self.given % 5];
        self.given += 1;
        let bytes = self.rest.split_to(portion.min(most).min(self.rest.len()));
        Box::pin(async move { Ok(bytes) })
    }
}

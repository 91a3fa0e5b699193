//! The head and the tail of an object, read once and cached.
//!
//! ```text
//! ├─ head, 128 KiB ─┤·········· read when requested ··········├─ tail, 65 KiB ─┤
//! ```
//!
//! They answer detection, headers, footers and small tables. [`HeadTail`] holds the bytes; [`HeadTailSource`] is a
//! source that uses them. A target has a `HeadTail` too, recorded while it is written.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{StoredOffset, StoredRange};
use crate::error::{Error, Result};
use crate::source::source::{BoxFuture, Source, check_range, read_up_to};
use crate::source::types::{Capabilities, Identity, Segment, Traffic};
use crate::source::wrap::{Counted, forward};

/// The first and the last bytes of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeadTail {
    url: String,
    len: u64,
    head: Bytes,
    tail: Bytes,
}

impl HeadTail {
    /// Length of the head in bytes: as much as opening an S3 object reads.
    pub const HEAD: u64 = 128 << 10;
    /// Length of the tail in bytes: a VHD footer followed by up to 64 KiB of zeros.
    pub const TAIL: u64 = (64 << 10) + 1024;

    /// Head and tail of an object of `len` bytes, shown as `url`.
    ///
    /// # Errors
    /// `internal` if they are longer than the object.
    pub fn new(url: &str, len: u64, head: Bytes, tail: Bytes) -> Result<Self> {
        if (head.len() as u64).checked_add(tail.len() as u64).is_none_or(|held| held > len) {
            return Err(Error::internal(format!(
                "head and tail have {} and {} bytes, and the object has {len}",
                head.len(),
                tail.len()
            )));
        }
        Ok(Self { url: url.to_owned(), len, head, tail })
    }

    /// The start of the tail of an object of `len` bytes. No byte is in both head and tail.
    pub(crate) fn tail_start_of(len: u64) -> u64 {
        len.saturating_sub(Self::TAIL).max(Self::HEAD.min(len))
    }

    /// The URL or path of the object.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Length of the object in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if the object has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// SHA-256 over length, head and tail.
    pub fn fingerprint(&self) -> [u8; 32] {
        crate::digest::sha256(&[&self.len.to_le_bytes(), &self.head, &self.tail])
    }

    /// The first [`Self::HEAD`] bytes, fewer in a shorter object.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The bytes from [`Self::tail_start`] to the end, without those of the head.
    pub fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// The offset at which the tail begins.
    pub fn tail_start(&self) -> StoredOffset {
        // Cannot underflow: `new` checked that the tail is not longer than the object.
        StoredOffset::new(self.len - self.tail.len() as u64)
    }

    /// The bytes of `range`, if all of them are in the head or all in the tail.
    pub fn get(&self, range: StoredRange) -> Option<Bytes> {
        let within = |bytes: &Bytes, base: StoredOffset| {
            let start = usize::try_from(range.start().checked_sub(base)?).ok()?;
            let end = start.checked_add(usize::try_from(range.len()).ok()?)?;
            (end <= bytes.len()).then(|| bytes.slice(start..end))
        };
        within(&self.head, StoredOffset::ZERO).or_else(|| within(&self.tail, self.tail_start()))
    }
}

/// A source whose head and tail are read once: ranges within them need no further request.
#[derive(Debug)]
pub struct HeadTailSource {
    inner: Arc<dyn Source>,
    ends: HeadTail,
}

impl HeadTailSource {
    /// Reads head and tail in at most two requests, or in one if they touch.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub async fn open(inner: Arc<dyn Source>) -> Result<Self> {
        let inner: Arc<dyn Source> = Arc::new(Counted::new(inner));
        let len = inner.len();
        let tail_start = StoredOffset::new(HeadTail::tail_start_of(len));
        let (head, tail) = futures_util::future::try_join(
            read_up_to(&*inner, StoredOffset::ZERO, HeadTail::HEAD),
            read_up_to(&*inner, tail_start, HeadTail::TAIL),
        )
        .await?;
        let ends = HeadTail::new(inner.url(), len, head, tail)?;
        Ok(Self { inner, ends })
    }

    /// Reads a range that is partly cached at most. Over a network only the missing part is requested, which costs a
    /// copy; a local source is read again, which is faster.
    async fn read_around(&self, range: StoredRange) -> Result<Bytes> {
        check_range(self, range)?;
        let head = range.intersection(StoredRange::first(self.ends.head.len() as u64));
        let tail = StoredRange::new(self.ends.tail_start(), self.ends.tail.len() as u64);
        let tail = tail.and_then(|tail| range.intersection(tail));
        if !self.inner.capabilities().remote || (head.is_none() && tail.is_none()) {
            return self.inner.read(range).await;
        }
        let start = head.map_or(range.start(), StoredRange::end);
        let end = tail.map_or(range.end(), StoredRange::start);
        let between = StoredRange::between(start, end);
        let between = if between.is_empty() { Bytes::new() } else { self.inner.read(between).await? };
        let all = self.with_ends(range, between);
        if all.len() as u64 != range.len() {
            return Err(Error::internal(format!("{} bytes were assembled for {range}", all.len())));
        }
        Ok(all)
    }

    /// The range between head and tail, which is not cached.
    fn between(&self) -> StoredRange {
        StoredRange::between(StoredOffset::new(self.ends.head.len() as u64), self.ends.tail_start())
    }

    /// The bytes of `range`. `between` are those that are not cached.
    fn with_ends(&self, range: StoredRange, between: Bytes) -> Bytes {
        if between.len() as u64 == range.len() {
            return between;
        }
        let kept = |part: StoredRange| {
            range.intersection(part).and_then(|part| self.ends.get(part)).unwrap_or_default()
        };
        let head = kept(StoredRange::between(StoredOffset::ZERO, self.between().start()));
        let tail = kept(StoredRange::between(self.between().end(), StoredOffset::new(self.ends.len)));
        Bytes::from([head, between, tail].concat())
    }
}

impl Deref for HeadTailSource {
    type Target = HeadTail;

    fn deref(&self) -> &HeadTail {
        &self.ends
    }
}

impl Source for HeadTailSource {
    forward!(url -> &str, len -> u64, identity -> &Identity, capabilities -> Capabilities, traffic -> Traffic,
        verify -> BoxFuture<'_, Result<()>>);

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        match self.ends.get(range) {
            Some(bytes) => Box::pin(async move { Ok(bytes) }),
            None => Box::pin(self.read_around(range)),
        }
    }

    fn read_parts<'a>(
        &'a self,
        parts: &'a [StoredRange],
        give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    ) -> BoxFuture<'a, Result<()>> {
        if !self.inner.capabilities().remote {
            return self.inner.read_parts(parts, give);
        }
        Box::pin(async move {
            let mut asked = Vec::with_capacity(parts.len());
            let mut of = Vec::with_capacity(parts.len());
            for (index, part) in parts.iter().enumerate() {
                check_range(self, *part)?;
                match part.intersection(self.between()).filter(|between| !between.is_empty()) {
                    Some(between) => {
                        asked.push(between);
                        of.push((index, *part));
                    }
                    None => give(index, self.with_ends(*part, Bytes::new())),
                }
            }
            if asked.is_empty() {
                return Ok(());
            }
            let mut with_ends = |index: usize, between: Bytes| {
                if let Some((index, part)) = of.get(index) {
                    give(*index, self.with_ends(*part, between));
                }
            };
            self.inner.read_parts(&asked, &mut with_ends).await
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.inner.segments(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::memory::MemorySource;
    use crate::source::wrap::Recording;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn head_and_tail_are_requested_once() {
        let len = (HeadTail::HEAD + HeadTail::TAIL + 5000) as usize;
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let recording = Arc::new(Recording::new(Arc::new(MemorySource::new("x", bytes.clone()))));
        block_on(async {
            let kept = HeadTailSource::open(Arc::clone(&recording) as Arc<dyn Source>).await.unwrap();
            for (start, size) in
                [(0, 512), (len - 512, 512), (len - 1000, 1000), (HeadTail::HEAD as usize, 5000)]
            {
                let range = StoredRange::new(StoredOffset::new(start as u64), size as u64).unwrap();
                assert_eq!(kept.read(range).await.unwrap(), &bytes[start..start + size]);
            }
        });
        assert_eq!(recording.reads().len(), 3, "head, tail, and the one range between them");
    }

    /// A source across a network.
    #[derive(Debug)]
    struct Far {
        inner: MemorySource,
    }

    impl Source for Far {
        forward!(url -> &str, len -> u64, identity -> &Identity, traffic -> Traffic,
            verify -> BoxFuture<'_, Result<()>>);

        fn capabilities(&self) -> Capabilities {
            Capabilities { remote: true, ..self.inner.capabilities() }
        }

        fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
            self.inner.read(range)
        }

        fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
            self.inner.segments(range)
        }
    }

    #[test]
    fn over_a_network_only_uncached_bytes_are_requested() {
        let len = HeadTail::HEAD + HeadTail::TAIL + 5000;
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let far = Far { inner: MemorySource::new("x", bytes.clone()) };
        let recording = Arc::new(Recording::new(Arc::new(far)));
        let kept = block_on(HeadTailSource::open(Arc::clone(&recording) as Arc<dyn Source>)).unwrap();
        let before = recording.reads().len();
        let cases = [(0, len), (100, len - 200), (HeadTail::HEAD - 1, 2), (HeadTail::HEAD + 4000, 2000)];
        for (start, size) in cases {
            let range = StoredRange::new(StoredOffset::new(start), size).unwrap();
            let read = block_on(kept.read(range)).unwrap();
            assert!(read == bytes[start as usize..][..size as usize], "{start} {size}");
        }
        let asked: Vec<(u64, u64)> =
            recording.reads()[before..].iter().map(|range| (range.start().get(), range.len())).collect();
        let head = HeadTail::HEAD;
        assert_eq!(asked, [(head, 5000), (head, 5000), (head, 1), (head + 4000, 1000)]);
        // The source must refuse a range past the end.
        let beyond = StoredRange::new(StoredOffset::new(len - 10), 20).unwrap();
        let error = block_on(kept.read(beyond)).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Truncated);
    }

    #[test]
    fn a_short_object_is_one_request() {
        let recording = Arc::new(Recording::new(Arc::new(MemorySource::new("x", vec![7u8; 1000]))));
        let kept = block_on(HeadTailSource::open(Arc::clone(&recording) as Arc<dyn Source>)).unwrap();
        assert_eq!((kept.head().len(), kept.tail().len(), recording.reads().len()), (1000, 0, 1));
    }
}

//! A byte stream with lookahead, for images that are read once from front to back.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use diskferry_core::{ByteStream, Result};

/// The most bytes that are requested from a stream at once.
pub(crate) const MAX_REQUEST: usize = 1 << 20;

/// A stream with the bytes that were read ahead.
pub(crate) struct Feed {
    stream: Box<dyn ByteStream>,
    ahead: VecDeque<Bytes>,
    held: usize,
    taken: u64,
    ended: bool,
}

impl Feed {
    /// Nothing is read yet.
    pub(crate) fn new(stream: Box<dyn ByteStream>) -> Self {
        Self { stream, ahead: VecDeque::new(), held: 0, taken: 0, ended: false }
    }

    /// Bytes handed out so far, which is the stored offset of the next one.
    pub(crate) fn position(&self) -> u64 {
        self.taken
    }

    /// Bytes received from the stream so far.
    pub(crate) fn received(&self) -> u64 {
        self.taken.saturating_add(self.held as u64)
    }

    async fn fill(&mut self, len: usize) -> Result<()> {
        while self.held < len && !self.ended {
            let bytes = self.stream.next(MAX_REQUEST).await?;
            self.ended = bytes.is_empty();
            self.held = self.held.saturating_add(bytes.len());
            self.ahead.push_back(bytes);
        }
        Ok(())
    }

    /// Returns the next `len` bytes, fewer at the end, without consuming them.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn look(&mut self, len: usize) -> Result<&[u8]> {
        self.fill(len).await?;
        let len = len.min(self.held);
        if self.ahead.front().is_none_or(|first| first.len() < len) {
            let joined = self.cut(len);
            self.held = self.held.saturating_add(joined.len());
            self.ahead.push_front(joined);
        }
        Ok(self.ahead.front().and_then(|first| first.get(..len)).unwrap_or_default())
    }

    /// Consumes the next `len` bytes, fewer at the end.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn take(&mut self, len: usize) -> Result<Bytes> {
        self.fill(len).await?;
        let bytes = self.cut(len.min(self.held));
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        Ok(bytes)
    }

    /// Consumes the next bytes, at most [`MAX_REQUEST`] of them; none at the end.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn some(&mut self) -> Result<Bytes> {
        self.fill(1).await?;
        while self.ahead.front().is_some_and(Bytes::is_empty) {
            self.ahead.pop_front();
        }
        let len = self.ahead.front().map_or(0, Bytes::len).min(MAX_REQUEST);
        self.take(len).await
    }

    /// Removes the first `len` bytes of those that are buffered.
    fn cut(&mut self, len: usize) -> Bytes {
        self.held = self.held.saturating_sub(len);
        if let Some(first) = self.ahead.front_mut()
            && first.len() >= len
        {
            return first.split_to(len);
        }
        let mut joined = BytesMut::with_capacity(len);
        while joined.len() < len {
            let Some(mut first) = self.ahead.pop_front() else { break };
            let part = first.split_to(first.len().min(len.saturating_sub(joined.len())));
            joined.extend_from_slice(&part);
            if first.has_remaining() {
                self.ahead.push_front(first);
            }
        }
        joined.freeze()
    }
}

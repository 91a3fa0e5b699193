//! Images that are read once, from front to back: standard input.
//!
//! Only two kinds can be: a raw disk, which must be declared since it has no marks, and a streamOptimized VMDK, which was
//! made for it. Everything else has its tables where a pipe cannot go back to.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use diskferry_core::{ByteStream, Error, ErrorKind, ImageStream, Result};

use crate::detect::begins_as;
use crate::{Declared, Format, raw, vmdk};

/// Bytes that are looked at to tell what a stream is.
const LOOK: usize = 512;
/// The most bytes that are asked of a stream at once.
pub(crate) const MOST: usize = 1 << 20;

/// Opens an image that comes as a stream: a declared raw disk, or a streamOptimized VMDK.
///
/// # Errors
/// `usage` for every other format, declared or seen; `unknown_format` where nothing is declared and nothing seen;
/// `format_mismatch` where what is seen is not what is declared; `malformed`, `truncated`, `unsupported_feature` and
/// `parent_disk_refused` of a VMDK's head; the `source_*` codes.
pub async fn open_stream(bytes: Box<dyn ByteStream>, declared: Declared) -> Result<Box<dyn ImageStream>> {
    let mut feed = Feed::new(bytes);
    let head = Bytes::copy_from_slice(feed.look(LOOK).await?);
    let seen = begins_as(&head);
    match (declared, seen) {
        (Declared::Format(Format::Raw), None) => Ok(raw::stream::open(feed, &head)),
        (Declared::Format(Format::Vmdk) | Declared::Unknown, Some(Format::Vmdk)) => vmdk::open_stream(feed).await,
        (Declared::Format(declared @ (Format::Raw | Format::Vmdk)), seen) => {
            let seen = seen.map_or("nothing that is known", Format::name);
            Err(Error::new(
                ErrorKind::FormatMismatch,
                format!("standard input is declared {declared} and looks like {seen}"),
            ))
        }
        (Declared::Format(format), _) | (Declared::Unknown, Some(format)) => Err(Error::new(
            ErrorKind::Usage,
            format!("a {format} image cannot be read from standard input, which goes one way only"),
        )
        .hint("give a path or a URL; standard input takes a raw disk declared with -f raw, and streamOptimized VMDK")),
        (Declared::Unknown, None) => Err(Error::new(
            ErrorKind::UnknownFormat,
            "standard input does not begin as a streamOptimized VMDK does",
        )
        .hint("if it is a raw disk, declare it with -f raw")),
    }
}

/// A stream with what was read ahead of it.
pub(crate) struct Feed {
    stream: Box<dyn ByteStream>,
    ahead: VecDeque<Bytes>,
    held: usize,
    taken: u64,
    ended: bool,
}

impl Feed {
    fn new(stream: Box<dyn ByteStream>) -> Self {
        Self { stream, ahead: VecDeque::new(), held: 0, taken: 0, ended: false }
    }

    /// Bytes handed out so far: the stored address of the next one.
    pub(crate) fn position(&self) -> u64 {
        self.taken
    }

    /// Bytes taken from the stream so far.
    pub(crate) fn received(&self) -> u64 {
        self.taken.saturating_add(self.held as u64)
    }

    async fn fill(&mut self, len: usize) -> Result<()> {
        while self.held < len && !self.ended {
            let bytes = self.stream.next(MOST).await?;
            self.ended = bytes.is_empty();
            self.held = self.held.saturating_add(bytes.len());
            self.ahead.push_back(bytes);
        }
        Ok(())
    }

    /// The next `len` bytes, fewer at the end; they stay.
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

    /// The next `len` bytes, fewer at the end.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn take(&mut self, len: usize) -> Result<Bytes> {
        self.fill(len).await?;
        let bytes = self.cut(len.min(self.held));
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        Ok(bytes)
    }

    /// The next bytes, at most [`MOST`] of them, or none at the end.
    ///
    /// # Errors
    /// The `source_*` codes.
    pub(crate) async fn some(&mut self) -> Result<Bytes> {
        self.fill(1).await?;
        while self.ahead.front().is_some_and(Bytes::is_empty) {
            self.ahead.pop_front();
        }
        let len = self.ahead.front().map_or(0, Bytes::len).min(MOST);
        self.take(len).await
    }

    /// Cuts off what is held.
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

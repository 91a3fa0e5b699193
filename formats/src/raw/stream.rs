//! A raw disk as a stream: its bytes in their order; its size shows at its end, and there only whether it was one: a
//! fixed VHD begins as a raw disk does and ends with a footer.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use diskferry_core::{
    BoxFuture, Error, ErrorKind, GuestOffset, GuestRange, ImageInfo, ImageStream, Piece, Result, Warning,
    Warnings,
};

use super::looks;
use crate::Format;
use crate::stream::Feed;
use crate::vhd::{TAIL_LEN, ends_as_one};

/// Takes a stream that begins with `head` as a raw disk.
pub(crate) fn open(feed: Feed, head: &[u8]) -> Box<dyn ImageStream> {
    let geometry = ImageInfo::default().format(Format::Raw.name()).variant("raw".to_owned());
    let last = VecDeque::new();
    Box::new(RawStream { feed, geometry, warnings: looks(head), last, held: 0, ended: false })
}

struct RawStream {
    feed: Feed,
    geometry: ImageInfo,
    warnings: Warnings,
    /// The last pieces, at least as long together as a footer is looked for in.
    last: VecDeque<Bytes>,
    /// Their length.
    held: u64,
    ended: bool,
}

impl RawStream {
    fn remember(&mut self, bytes: &Bytes) {
        self.held = self.held.saturating_add(bytes.len() as u64);
        self.last.push_back(bytes.clone());
        while let Some(first) = self.last.front()
            && self.held.saturating_sub(first.len() as u64) >= TAIL_LEN
        {
            self.held = self.held.saturating_sub(first.len() as u64);
            self.last.pop_front();
        }
    }

    /// Checks that what has come was a raw disk.
    fn end(&self) -> Result<()> {
        let mut tail = BytesMut::new();
        self.last.iter().for_each(|bytes| tail.extend_from_slice(bytes));
        let skip = tail.len().saturating_sub(usize::try_from(TAIL_LEN).unwrap_or(usize::MAX));
        if ends_as_one(tail.get(skip..).unwrap_or_default()) {
            return Err(Error::new(
                ErrorKind::FormatMismatch,
                "standard input is declared raw and ends with the footer of a vhd image",
            )
            .at(self.feed.position())
            .hint("give a path or a URL: a fixed VHD cannot be told from a raw disk before its end"));
        }
        Ok(())
    }
}

impl ImageStream for RawStream {
    fn info(&self) -> &ImageInfo {
        &self.geometry
    }

    fn virtual_bytes_known(&self) -> bool {
        self.ended
    }

    fn stored_bytes(&self) -> u64 {
        self.feed.received()
    }

    fn warnings(&self) -> Vec<Warning> {
        self.warnings.list()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<Piece>>> {
        Box::pin(async move {
            if self.ended {
                return Ok(None);
            }
            let at = self.feed.position();
            self.ended = true;
            let bytes = self.feed.some().await?;
            if bytes.is_empty() {
                return self.end().map(|()| None);
            }
            self.remember(&bytes);
            let guest = GuestRange::new(GuestOffset::new(at), bytes.len() as u64)
                .ok_or_else(|| Error::malformed("the stream is longer than the address space"))?;
            self.ended = false;
            self.geometry.virtual_bytes = guest.end().get();
            Ok(Some(Piece { guest, bytes, codec: None, stored_at: at }))
        })
    }
}

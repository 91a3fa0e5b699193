//! Reading a raw disk as a stream.
//!
//! The size is only known at the end. Only there can a fixed VHD be distinguished from a raw disk: it has a footer
//! after the guest's bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use diskferry_core::{
    BoxFuture, Error, ErrorKind, GuestOffset, GuestRange, ImageInfo, ImageStream, Piece, Result, Warning,
    Warnings,
};

use super::read::content_warnings;
use crate::feed::Feed;
use crate::format::Format;
use crate::vhd::{TAIL_LEN, ends_with_footer};

/// Opens a stream that begins with `head` as a raw disk.
pub(crate) fn open_stream(feed: Feed, head: &[u8]) -> Box<dyn ImageStream> {
    let info = ImageInfo::default().format(Format::Raw.name()).variant("raw".to_owned());
    let last = VecDeque::new();
    Box::new(RawStream { feed, info, warnings: content_warnings(head), last, held: 0, ended: false })
}

struct RawStream {
    feed: Feed,
    info: ImageInfo,
    warnings: Warnings,
    /// The last pieces. Together they are at least as long as the tail in which a footer is searched.
    last: VecDeque<Bytes>,
    /// Their total length.
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

    /// Checks that the stream was a raw disk, and not a fixed VHD.
    fn end(&self) -> Result<()> {
        let mut tail = BytesMut::new();
        self.last.iter().for_each(|bytes| tail.extend_from_slice(bytes));
        let skip = tail.len().saturating_sub(usize::try_from(TAIL_LEN).unwrap_or(usize::MAX));
        if ends_with_footer(tail.get(skip..).unwrap_or_default()) {
            return Err(Error::new(
                ErrorKind::FormatMismatch,
                "standard input is declared as raw but ends with the footer of a vhd image",
            )
            .at(self.feed.position())
            .hint(
                "give a path or a URL: a fixed VHD cannot be distinguished from a raw disk before its end",
            ));
        }
        Ok(())
    }
}

impl ImageStream for RawStream {
    fn info(&self) -> &ImageInfo {
        &self.info
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
            self.info.virtual_bytes = guest.end().get();
            Ok(Some(Piece { guest, bytes, codec: None, stored_at: at }))
        })
    }
}

//! A raw disk as a stream: its bytes in their order; its size shows at its end.

use diskferry_core::address::{GuestOffset, GuestRange};
use diskferry_core::disk::Geometry;
use diskferry_core::error::{Error, Result, Warning};
use diskferry_core::source::BoxFuture;
use diskferry_core::stream::{ImageStream, Piece};

use crate::Format;
use crate::stream::Feed;

/// Takes a stream as a raw disk.
pub(crate) fn open(feed: Feed) -> Box<dyn ImageStream> {
    let geometry = Geometry { format: Format::Raw.name(), variant: "raw".to_owned(), ..Geometry::default() };
    Box::new(RawStream { feed, geometry, ended: false })
}

struct RawStream {
    feed: Feed,
    geometry: Geometry,
    ended: bool,
}

impl ImageStream for RawStream {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn virtual_bytes_known(&self) -> bool {
        self.ended
    }

    fn stored_bytes(&self) -> u64 {
        self.feed.received()
    }

    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
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
                return Ok(None);
            }
            let guest = GuestRange::new(GuestOffset::new(at), bytes.len() as u64)
                .ok_or_else(|| Error::malformed("the stream is longer than the address space"))?;
            self.ended = false;
            self.geometry.virtual_bytes = guest.end().get();
            Ok(Some(Piece { guest, bytes, codec: None, stored_at: at }))
        })
    }
}

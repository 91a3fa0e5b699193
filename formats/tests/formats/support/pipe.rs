//! Images that are read as a stream in one pass.

use std::collections::VecDeque;

use bytes::Bytes;
use diskferry_core::{BoxFuture, ByteStream, Result, Tally};
use diskferry_formats::{Declared, open_stream};

use super::block_on;

struct Pieces(VecDeque<Bytes>);

impl ByteStream for Pieces {
    fn url(&self) -> &str {
        "-"
    }

    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>> {
        let next = match self.0.front_mut() {
            Some(first) if first.len() > most => first.split_to(most),
            _ => self.0.pop_front().unwrap_or_default(),
        };
        Box::pin(async move { Ok(next) })
    }
}

/// A stream of `bytes` in pieces of `piece`.
pub(crate) fn in_pieces(bytes: &[u8], piece: usize) -> Box<dyn ByteStream> {
    Box::new(Pieces(bytes.chunks(piece).map(Bytes::copy_from_slice).collect()))
}

/// The guest's bytes of a stream, and the codes of its warnings.
pub(crate) fn one_pass_warned(
    bytes: &[u8],
    piece: usize,
    declared: Declared,
) -> Result<(Vec<u8>, Vec<&'static str>)> {
    block_on(async {
        let mut stream = open_stream(in_pieces(bytes, piece), declared).await?;
        let mut out = vec![0; stream.info().virtual_bytes as usize];
        while let Some(piece) = stream.next().await? {
            assert!(piece.bytes.len() <= 1 << 20);
            let (start, end) = (piece.guest.start().get() as usize, piece.guest.end().get() as usize);
            if !stream.virtual_bytes_known() {
                out.resize(out.len().max(end), 0);
            }
            match piece.codec {
                Some(codec) => {
                    codec
                        .decode(piece.guest, &piece.bytes, &mut out[start..end], &mut Tally::default())
                        .map_err(|error| error.at(piece.stored_at))?;
                }
                None => out[start..end].copy_from_slice(&piece.bytes),
            }
        }
        assert!(stream.next().await?.is_none());
        assert!(stream.virtual_bytes_known());
        let warnings = stream.warnings().into_iter().map(|warning| warning.code).collect();
        Ok((out, warnings))
    })
}

pub(crate) fn one_pass_as(bytes: &[u8], piece: usize, declared: Declared) -> Result<Vec<u8>> {
    one_pass_warned(bytes, piece, declared).map(|(bytes, _)| bytes)
}

pub(crate) fn one_pass(bytes: &[u8], piece: usize) -> Result<Vec<u8>> {
    one_pass_as(bytes, piece, Declared::Unknown)
}

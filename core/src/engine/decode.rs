//! The jobs of the CPU workers: decode, merge guest neighbours, scan and hash. A job is about 1 MiB.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::GuestRange;
use crate::digest::Hash;
use crate::disk::{Codec, CompressedStream, Piece, SourceStream, Tally};
use crate::engine::blocks::split;
use crate::engine::types::{Fetched, JOB, Passthrough};
use crate::error::Result;
use crate::layout::Scanned;
use crate::memory::{Buffer, Reservation};

/// The pieces that one job decodes.
pub(super) struct Job {
    pieces: Vec<Piece>,
    reserved: Reservation,
}

/// The output of a job.
pub(super) struct Decoded {
    /// Runs of whole blocks.
    pub(super) scanned: Vec<Scanned>,
    /// Guest bytes that are less than a block.
    pub(super) fragments: Vec<(GuestRange, Bytes)>,
    /// The findings of the codecs.
    pub(super) remarks: Vec<(Arc<dyn Codec>, Tally)>,
}

/// Splits fetched pieces into jobs. Plain pieces are split at multiples of [`JOB`] on the guest's disk.
pub(super) fn cut(fetched: Fetched) -> Vec<Job> {
    let mut reserved = fetched.reserved;
    let mut jobs = Vec::new();
    let mut open: Vec<Piece> = Vec::new();
    let mut filled = 0;
    let mut close = |open: &mut Vec<Piece>, filled: &mut u64| {
        let pieces = std::mem::take(open);
        *filled = 0;
        if pieces.is_empty() {
            return;
        }
        let decoded =
            pieces.iter().filter(|piece| piece.codec.is_some()).map(|piece| piece.guest.len()).sum();
        jobs.push(Job { pieces, reserved: reserved.split(decoded) });
    };
    for mut piece in fetched.pieces {
        while piece.codec.is_none() {
            let to_edge = JOB - piece.guest.start().get() % JOB;
            if piece.guest.len() <= to_edge {
                break;
            }
            let (guest, later) = piece.guest.split_at(to_edge);
            let bytes = piece.bytes.split_to(to_edge as usize);
            let now = Piece { guest, bytes, codec: None, stored_at: piece.stored_at };
            piece = Piece { guest: later, stored_at: piece.stored_at + to_edge, ..piece };
            filled += now.guest.len();
            open.push(now);
            close(&mut open, &mut filled);
        }
        filled += piece.guest.len();
        open.push(piece);
        if filled >= JOB {
            close(&mut open, &mut filled);
        }
    }
    close(&mut open, &mut filled);
    jobs
}

impl Job {
    /// Decodes and scans, and hashes if `zero_leaf` is given. `end` is the disk's size, if it is known. Streams that
    /// `passthrough` selects are included in the output.
    pub(super) fn run(
        mut self,
        end: Option<u64>,
        zero_leaf: Option<Hash>,
        passthrough: Option<Passthrough>,
    ) -> Result<Decoded> {
        let mut decoded = Decoded { scanned: Vec::new(), fragments: Vec::new(), remarks: Vec::new() };
        let pieces: Vec<Piece> = std::mem::take(&mut self.pieces).into_iter().map(take_verbatim).collect();
        let mut rest = pieces.as_slice();
        while let Some(first) = rest.first() {
            let run = match &first.codec {
                None => 1,
                Some(_) => rest.windows(2).take_while(|pair| follows(pair)).count() + 1,
            };
            let (now, later) = rest.split_at(run);
            rest = later;
            let mut streams = Vec::new();
            let bytes = match &first.codec {
                None => first.bytes.clone(),
                Some(_) => self.decode(now, passthrough, &mut decoded.remarks, &mut streams)?,
            };
            let last = now.last().map_or(first.guest, |last| last.guest);
            let guest = GuestRange::between(first.guest.start(), last.end());
            give(guest, bytes, streams, end, zero_leaf, &mut decoded);
        }
        Ok(decoded)
    }

    /// Decodes units that are guest neighbours into one buffer.
    fn decode(
        &mut self,
        pieces: &[Piece],
        passthrough: Option<Passthrough>,
        remarks: &mut Vec<(Arc<dyn Codec>, Tally)>,
        streams: &mut Vec<(GuestRange, SourceStream)>,
    ) -> Result<Bytes> {
        let total: u64 = pieces.iter().map(|piece| piece.guest.len()).sum();
        let mut out = Buffer::new(total as usize)?;
        let mut rest = &mut out[..];
        for piece in pieces {
            let Some(codec) = &piece.codec else { continue };
            let (now, later) = rest.split_at_mut(piece.guest.len() as usize);
            rest = later;
            let mut tally = Tally::default();
            let stream = codec
                .decode(piece.guest, &piece.bytes, now, &mut tally)
                .map_err(|error| error.at(piece.stored_at))?;
            if let (Some(passthrough), Some(stream)) = (passthrough, stream)
                && passthrough.takes(piece.guest, stream.compression)
                && stream.bytes.start < stream.bytes.end
                && stream.bytes.end <= piece.bytes.len()
            {
                let CompressedStream { bytes, window_bits, .. } = stream;
                streams.push((piece.guest, SourceStream { bytes: piece.bytes.slice(bytes), window_bits }));
            }
            if tally.count > 0 {
                remarks.push((Arc::clone(codec), tally));
            }
        }
        Ok(self.reserved.split(total).hold(out.freeze()))
    }
}

/// Turns a unit whose guest bytes are stored verbatim into plain bytes.
fn take_verbatim(piece: Piece) -> Piece {
    let len = piece.guest.len() as usize;
    let range = piece.codec.as_ref().and_then(|codec| codec.verbatim_range(&piece.bytes, len));
    match range {
        Some(range) if range.len() == len && range.end <= piece.bytes.len() => {
            let stored_at = piece.stored_at + range.start as u64;
            Piece { bytes: piece.bytes.slice(range), codec: None, stored_at, ..piece }
        }
        _ => piece,
    }
}

fn follows(pair: &[Piece]) -> bool {
    matches!(pair, [a, b] if b.codec.is_some() && a.guest.end() == b.guest.start())
}

fn give(
    guest: GuestRange,
    bytes: Bytes,
    mut streams: Vec<(GuestRange, SourceStream)>,
    end: Option<u64>,
    zero_leaf: Option<Hash>,
    decoded: &mut Decoded,
) {
    let (head, body, tail) = split(guest, end);
    let mut rest = bytes;
    if !head.is_empty() {
        decoded.fragments.push((head, rest.split_to(head.len() as usize)));
    }
    if !body.is_empty() {
        let bytes = rest.split_to(body.len() as usize);
        streams.retain(|(unit, _)| unit.start() >= body.start() && unit.end() <= body.end());
        decoded.scanned.push(Scanned { streams, ..Scanned::new(body.start(), bytes, zero_leaf) });
    }
    if !tail.is_empty() {
        decoded.fragments.push((tail, rest));
    }
}

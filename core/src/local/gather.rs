//! Tracks the rest of a list of pieces of which a system call took a part.

use std::io::IoSlice;

use bytes::Bytes;

/// The most pieces in one call on Linux (`IOV_MAX`).
const PIECES: usize = 1024;

/// Zeros to write, if the file system or device cannot create them.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The most zeros in one list: about the size of one call, so that cancellation is noticed between two.
pub(crate) const MOST_ZEROS: u64 = 1 << 20;

/// A list of `len` zeros, at most [`MOST_ZEROS`]. It allocates no buffer.
pub(crate) fn zeros(len: u64) -> Vec<Bytes> {
    let page = Bytes::from_static(&ZEROS);
    let mut left = len.min(MOST_ZEROS) as usize;
    let mut pieces = Vec::new();
    while left > 0 {
        let take = left.min(page.len());
        pieces.push(page.slice(..take));
        left -= take;
    }
    pieces
}

/// A list of pieces, and the progress in it.
pub(crate) struct Gather<'a> {
    /// The remaining pieces. At least one byte of the first one remains.
    rest: &'a [Bytes],
    /// The bytes of the first piece that are done.
    skip: usize,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(pieces: &'a [Bytes]) -> Self {
        let mut gather = Self { rest: pieces, skip: 0 };
        gather.advance(0);
        gather
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The slices for one call: at least one byte if any remains, and at most `most` bytes, which is not 0.
    pub(crate) fn slices(&self, most: Option<usize>) -> Vec<IoSlice<'a>> {
        let mut left = most;
        let mut slices = Vec::with_capacity(self.rest.len().min(PIECES));
        let mut skip = self.skip;
        for piece in self.rest.iter().take(PIECES) {
            let (_, piece) = piece.split_at(std::mem::take(&mut skip));
            let (piece, _) = piece.split_at(left.map_or(piece.len(), |left| left.min(piece.len())));
            left = left.map(|left| left - piece.len());
            slices.push(IoSlice::new(piece));
            if left == Some(0) {
                break;
            }
        }
        slices
    }

    /// The slices for one call whose addresses, lengths and target offset `at` must be multiples of `align`. Empty if
    /// the next piece is not aligned, or if there are less than `least` bytes.
    pub(crate) fn aligned(&self, at: u64, align: usize, least: usize) -> Vec<IoSlice<'a>> {
        let mut slices = if at.is_multiple_of(align as u64) { self.slices(None) } else { Vec::new() };
        let whole = |slice: &IoSlice<'_>| {
            slice.as_ptr().addr().is_multiple_of(align) && slice.len().is_multiple_of(align)
        };
        let fit = slices.iter().take_while(|slice| whole(slice)).count();
        slices.truncate(fit);
        if slices.iter().map(|slice| slice.len()).sum::<usize>() < least {
            slices.clear();
        }
        slices
    }

    /// Skips the next `done` bytes.
    pub(crate) fn advance(&mut self, done: usize) {
        self.skip += done;
        while let [first, others @ ..] = self.rest
            && self.skip >= first.len()
        {
            self.skip -= first.len();
            self.rest = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buffer;

    #[test]
    fn short_writes_continue_after_the_written_bytes() {
        let pieces = ["", "abc", "", "", "de", "fghij", ""].map(Bytes::from);
        for most in [1, 2, 4, 100] {
            for step in 1..12 {
                let mut written = Vec::new();
                let mut gather = Gather::new(&pieces);
                while !gather.is_empty() {
                    let slices = gather.slices(Some(most));
                    let asked: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    assert!((1..=most).contains(&asked.len()));
                    let taken = step.min(asked.len());
                    written.extend_from_slice(&asked[..taken]);
                    gather.advance(taken);
                }
                assert_eq!(written, b"abcdefghij", "{step} bytes at a time of {most}");
            }
        }
    }

    #[test]
    fn only_pieces_aligned_in_memory_and_target_are_written_directly() {
        let bytes = Buffer::new(256 << 10).unwrap().freeze();
        let lens = |pieces: &[Bytes], done, at| {
            let mut gather = Gather::new(pieces);
            gather.advance(done);
            gather.aligned(at, 4096, 16 << 10).iter().map(|slice| slice.len()).collect::<Vec<_>>()
        };
        let pieces =
            [bytes.slice(..65536), bytes.slice(..4096), bytes.slice(4096..4608), bytes.slice(8192..)];
        assert_eq!(lens(&pieces, 0, 1 << 20), [65536, 4096]);
        assert_eq!(lens(&pieces, 8192, 8192), [57344, 4096]);
        assert_eq!(lens(&pieces, 512, 512), [0; 0]);
        assert_eq!(lens(&pieces, 0, 512), [0; 0]);
        assert_eq!(lens(&pieces, 65536, 65536), [0; 0], "too little to be worth it");
        assert_eq!(lens(&pieces[2..], 0, 0), [0; 0]);
        assert_eq!(lens(&[bytes.slice(1..65537)], 0, 0), [0; 0]);
        assert_eq!(lens(&[bytes.slice(..65000)], 0, 0), [0; 0]);
    }

    #[test]
    fn zeros_has_the_requested_length_up_to_the_limit() {
        for (asked, given) in [(0, 0), (1, 1), (100_000, 100_000), (u64::MAX, MOST_ZEROS)] {
            let pieces = zeros(asked);
            assert_eq!(pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(), given);
            assert!(pieces.iter().flatten().all(|byte| *byte == 0));
        }
    }
}

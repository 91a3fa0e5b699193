//! Buffers for the parts of a range that arrives in order.

use bytes::Bytes;

use crate::address::StoredRange;
use crate::error::{Error, Result};
use crate::memory::buffer::FillBuffer;

/// Fills a buffer for each of several ranges, and hands it over when it is full. Only parts that have begun take
/// memory.
pub struct PartsBuffer<'a> {
    parts: &'a [StoredRange],
    give: &'a mut (dyn FnMut(usize, Bytes) + Send),
    /// Parts that have arrived incompletely, with their indexes.
    open: Vec<(usize, FillBuffer)>,
    begun: usize,
    start: u64,
    at: u64,
}

impl<'a> PartsBuffer<'a> {
    /// Expects bytes from offset `start` on. The `parts` are sorted by their starts, and none is empty.
    pub fn new(start: u64, parts: &'a [StoredRange], give: &'a mut (dyn FnMut(usize, Bytes) + Send)) -> Self {
        Self { parts, give, open: Vec::new(), begun: 0, start, at: start }
    }

    /// The number of bytes that have arrived.
    pub fn filled(&self) -> u64 {
        self.at - self.start
    }

    /// Adds the next `bytes`.
    ///
    /// # Errors
    /// `out_of_memory`; `internal` if the bytes pass the last address.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.at.checked_add(bytes.len() as u64);
        let end = end.ok_or_else(|| Error::internal("a source returned bytes after the last address"))?;
        while let Some(part) = self.parts.get(self.begun).filter(|part| part.start().get() < end) {
            self.open.push((self.begun, FillBuffer::for_bytes(part.len())?));
            self.begun += 1;
        }
        for (index, buffer) in &mut self.open {
            let start = self.parts.get(*index).map_or(self.at, |part| part.start().get());
            // A part that begins within these bytes takes those from its start on.
            let skip = start.saturating_sub(self.at) as usize;
            buffer.push(bytes.get(skip..).unwrap_or_default());
        }
        self.at = end;
        for (index, buffer) in self.open.extract_if(.., |(_, buffer)| buffer.is_full()) {
            (self.give)(index, buffer.freeze());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::StoredOffset;

    #[test]
    fn each_part_is_handed_over_with_its_last_byte_for_all_piece_sizes() {
        let part = |start: u64, len: u64| StoredRange::new(StoredOffset::new(start), len).unwrap();
        // Neighbours, an overlap, one within another, and a gap.
        let parts = [part(100, 10), part(110, 20), part(125, 30), part(130, 5), part(200, 1), part(201, 9)];
        let bytes: Vec<u8> = (100..210).map(|at| at as u8).collect();
        for step in [1, 3, 7, 50, 110] {
            let mut given = vec![None; parts.len()];
            let mut came = 0;
            let mut give = |index: usize, part: Bytes| assert!(given[index].replace(part).is_none());
            let mut buffer = PartsBuffer::new(100, &parts, &mut give);
            for piece in bytes.chunks(step) {
                buffer.push(piece).unwrap();
                came += piece.len() as u64;
                assert_eq!(buffer.filled(), came);
                let open = parts.iter().filter(|part| part.start().get() < 100 + came);
                let open = open.filter(|part| part.end().get() > 100 + came).count();
                assert_eq!(buffer.open.len(), open, "only what has begun and not ended takes memory");
            }
            for (part, given) in parts.iter().zip(given) {
                let (start, end) = (part.start().get() as usize - 100, part.end().get() as usize - 100);
                assert_eq!(given.unwrap(), &bytes[start..end], "{part} in steps of {step}");
            }
        }
    }
}

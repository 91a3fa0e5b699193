//! Records head and tail of the target while it is written. They are checked before the target is published.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layout::Write;
use crate::source::HeadTail;

/// Records the head and the tail of a target whose bytes are written in any order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HeadTailRecorder {
    head: Vec<u8>,
    /// Bytes that may be in the tail, by address. They are copies, so that they hold no memory of the budget.
    tail: BTreeMap<u64, Vec<u8>>,
    end: u64,
}

impl HeadTailRecorder {
    /// Announces a write. Bytes far enough before its end cannot be in the tail and are never copied: a copy of every
    /// written byte would cost as much as reading it.
    ///
    /// # Errors
    /// `internal` if it ends after the last address.
    pub(crate) fn foresee(&mut self, write: &Write) -> Result<()> {
        self.reaches(write.end()?);
        Ok(())
    }

    /// Records a write. Bytes that are never written are zero.
    ///
    /// # Errors
    /// `internal` if it ends after the last address.
    pub(crate) fn note(&mut self, write: &Write) -> Result<()> {
        self.reaches(write.end()?);
        if let Write::Bytes(at, pieces) = write {
            let mut at = at.get();
            for piece in pieces {
                // The end of the last piece is that of the write, which was checked.
                let end = at + piece.len() as u64;
                self.note_head(at, piece);
                let tail_start = self.end.saturating_sub(HeadTail::TAIL);
                if end > tail_start && !piece.is_empty() {
                    // Less than the length of the piece, which ends after the tail's start.
                    let skip = tail_start.saturating_sub(at) as usize;
                    self.tail.insert(at.max(tail_start), piece.slice(skip..).to_vec());
                }
                at = end;
            }
        }
        Ok(())
    }

    /// True if all recorded bytes are before the recorded end. A journal is untrusted.
    pub(crate) fn is_sound(&self) -> bool {
        let mut ends = self.tail.iter().map(|(at, bytes)| at.checked_add(bytes.len() as u64));
        self.head.len() as u64 <= self.end && ends.all(|end| end.is_some_and(|end| end <= self.end))
    }

    fn reaches(&mut self, end: u64) {
        self.end = self.end.max(end);
        let tail_start = self.end.saturating_sub(HeadTail::TAIL);
        while let Some(first) = self.tail.first_entry()
            && first.key() + first.get().len() as u64 <= tail_start
        {
            first.remove();
        }
    }

    fn note_head(&mut self, at: u64, piece: &Bytes) {
        let Ok(at) = usize::try_from(at) else { return };
        let most = HeadTail::HEAD as usize;
        if at < most {
            let end = most.min(at + piece.len());
            if self.head.len() < end {
                self.head.resize(end, 0);
            }
            if let (Some(head), Some(piece)) = (self.head.get_mut(at..end), piece.get(..end - at)) {
                head.copy_from_slice(piece);
            }
        }
    }

    /// Head and tail of a target of `len` bytes. Bytes that were never written are zero.
    ///
    /// # Errors
    /// `internal` if more than `len` bytes were written.
    pub(crate) fn finish(mut self, url: &str, len: u64) -> Result<HeadTail> {
        if self.end > len {
            return Err(Error::internal(format!("{url} was written up to {} and has {len} bytes", self.end)));
        }
        let start = HeadTail::tail_start_of(len);
        // Both are at most their constants, which fit any address space.
        self.head.resize(HeadTail::HEAD.min(len) as usize, 0);
        let mut tail = vec![0; (len - start) as usize];
        for (at, bytes) in self.tail {
            // Not all of a piece is in the tail if the target became longer than expected.
            let skip = start.saturating_sub(at).min(bytes.len() as u64) as usize;
            let bytes = bytes.get(skip..).unwrap_or_default();
            let to = at.saturating_sub(start) as usize;
            let tail = tail.get_mut(to..).and_then(|tail| tail.get_mut(..bytes.len()));
            let Some(tail) = tail else {
                return Err(Error::internal(format!(
                    "{url} has recorded bytes at {at}, after its end at {len}"
                )));
            };
            tail.copy_from_slice(bytes);
        }
        HeadTail::new(url, len, self.head.into(), tail.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{TargetOffset, TargetRange};

    #[test]
    fn bytes_far_before_an_announced_end_are_not_copied() {
        let write = |i: u64| Write::Bytes(TargetOffset::new(i << 16), vec![Bytes::from(vec![7; 1 << 16])]);
        let mut recorder = HeadTailRecorder::default();
        (2..100).for_each(|i| recorder.foresee(&write(i)).unwrap());
        for i in 2..98 {
            recorder.note(&write(i)).unwrap();
            assert!(recorder.tail.is_empty(), "{i}");
        }
        (98..100).for_each(|i| recorder.note(&write(i)).unwrap());
        assert!(recorder.finish("x", 100 << 16).unwrap().tail() == &vec![7; HeadTail::TAIL as usize][..]);
    }

    #[test]
    fn bytes_after_the_end_are_unsound_and_an_error() {
        for (at, end) in [(8, 10), (u64::MAX - 1, 10), (u64::MAX - 1, u64::MAX)] {
            let tail = BTreeMap::from([(at, vec![1; 4])]);
            let recorder = HeadTailRecorder { head: Vec::new(), tail, end };
            assert!(!recorder.is_sound(), "{at} {end}");
            assert!(recorder.finish("x", 10).is_err(), "{at} {end}");
        }
        let recorder = HeadTailRecorder { head: vec![1; 11], tail: BTreeMap::new(), end: 10 };
        assert!(!recorder.is_sound());
    }

    #[test]
    fn a_write_after_the_last_address_is_an_error() {
        let write = Write::Bytes(TargetOffset::new(u64::MAX - 2), vec![Bytes::from_static(b"four")]);
        let mut recorder = HeadTailRecorder::default();
        assert!(recorder.foresee(&write).is_err());
        assert!(recorder.note(&write).is_err());
    }

    #[test]
    fn head_and_tail_are_right_for_every_write_order() {
        for len in [0, 1, 5000, 130 << 10, 195 << 10, 200 << 10, 5 << 20] {
            let truth: Vec<u8> = (0..len).map(|i| if i % 9000 < 700 { 0 } else { (i % 251) as u8 }).collect();
            let mut writes: Vec<Write> = (0..len)
                .step_by(7001)
                .map(|at| {
                    let piece = Bytes::copy_from_slice(&truth[at..len.min(at + 7001)]);
                    Write::Bytes(TargetOffset::new(at as u64), vec![piece.slice(..1), piece.slice(1..)])
                })
                .collect();
            let end = TargetOffset::new(len as u64);
            writes.push(Write::Zero(TargetRange::between(end, end)));
            for round in 0..4 {
                let by = round * 11 % writes.len();
                writes.rotate_left(by);
                let mut recorder = HeadTailRecorder::default();
                if round == 3 {
                    writes.iter().for_each(|write| recorder.foresee(write).unwrap());
                }
                writes.iter().for_each(|write| recorder.note(write).unwrap());
                assert!(recorder.tail.values().map(Vec::len).sum::<usize>() < 96 << 10);
                let recorder = recorder.finish("x", len as u64).unwrap();
                assert_eq!(recorder.head(), &truth[..len.min(HeadTail::HEAD as usize)]);
                assert_eq!(recorder.tail(), &truth[recorder.tail_start().get() as usize..]);
                assert_eq!(
                    recorder.head().len() + recorder.tail().len(),
                    len.min((HeadTail::HEAD + HeadTail::TAIL) as usize)
                );
            }
        }
    }
}

//! Zeros at the end of an object, which an unfinished download into a preallocated file looks like.
//!
//! Structures whose zeros mean "absent" (an unused table entry, an end marker) need evidence that they were stored; each
//! reader looks for its own. Plain data leaves no evidence, because no format keeps checksums of it: a warning is all
//! that can be given.

use diskferry_core::{HeadTail, Warning, Warnings};

/// Fewest zero bytes at the object's end that are worth a warning. A sparse image may end in a cluster or a block whose
/// last sectors the guest never wrote.
const WORTH_A_WARNING: u64 = 64 << 10;

/// The zero bytes that an object ends with, as far as the bytes in hand show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ZeroTail {
    /// How many there are at least.
    pub(crate) len: u64,
    /// Where they begin, as far as is known.
    pub(crate) start: u64,
    /// True if the byte before them is in hand and is not zero, or if there is none.
    pub(crate) start_known: bool,
}

impl ZeroTail {
    /// Counts back from the end, over the bytes that `file` keeps. No request is made.
    pub(crate) fn of(file: &HeadTail) -> Self {
        let kept_from = file.tail_start().get();
        let tail = zeros_at_end(file.tail());
        let all_of_tail = tail == file.tail().len() as u64;
        let (len, kept_from) = if all_of_tail && kept_from == file.head().len() as u64 {
            (tail.saturating_add(zeros_at_end(file.head())), 0)
        } else {
            (tail, kept_from)
        };
        let start = file.len().saturating_sub(len);
        Self { len, start, start_known: start > kept_from || start == 0 }
    }

    /// True if the last sector of the object, which may be cut short, is all zeros.
    pub(crate) fn has_a_sector(&self) -> bool {
        let end = self.start.saturating_add(self.len);
        let last = end.checked_sub(1).map_or(0, |last| (last % 512).saturating_add(1));
        last > 0 && self.len >= last
    }
}

/// How many zero bytes the object ends with, as far as the bytes that `file` keeps show. No request is made.
pub(crate) fn zero_tail_len(file: &HeadTail) -> u64 {
    ZeroTail::of(file).len
}

/// Warns that the last `bytes` bytes of the object are zeros although the image maps them as data. Fewer than 64 KiB give
/// no warning.
pub(crate) fn warn_zero_tail(warnings: &Warnings, bytes: u64) {
    if bytes < WORTH_A_WARNING {
        return;
    }
    warnings.add(Warning::new(
        "zero_tail",
        format!(
            "at least the last {bytes} bytes of the object are zeros, and the image maps them as data: an unfinished \
             download looks like this, and the format has no checksum of data that would tell"
        ),
    ));
}

fn zeros_at_end(bytes: &[u8]) -> u64 {
    bytes.iter().rev().take_while(|byte| **byte == 0).count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diskferry_core::{HeadTailSource, MemorySource};

    use super::*;

    fn of(bytes: Vec<u8>) -> ZeroTail {
        let file = HeadTailSource::open(Arc::new(MemorySource::new("x", bytes)));
        let file = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(file).unwrap();
        assert_eq!(zero_tail_len(&file), ZeroTail::of(&file).len);
        ZeroTail::of(&file)
    }

    fn len(bytes: Vec<u8>) -> u64 {
        of(bytes).len
    }

    #[test]
    fn where_the_zeros_begin_is_known_if_the_byte_before_them_is_in_hand() {
        let (head, tail) = (HeadTail::HEAD as usize, HeadTail::TAIL as usize);
        assert!(of(vec![0; 1000]).start_known);
        assert!(of([&[1][..], &[0; 999]].concat()).start_known);
        let mut bytes = vec![0; head + tail + 1];
        assert!(!of(bytes.clone()).start_known);
        bytes[head + 1] = 1;
        let seen = of(bytes);
        assert_eq!((seen.start, seen.start_known), (head as u64 + 2, true));
    }

    #[test]
    fn the_last_sector_may_be_cut_short() {
        let ends_in = |len: usize, zeros: usize| {
            let mut bytes = vec![1; len];
            bytes[len - zeros..].fill(0);
            of(bytes).has_a_sector()
        };
        assert!(ends_in(1024, 512) && !ends_in(1024, 511));
        assert!(ends_in(1000, 488) && !ends_in(1000, 487));
        assert!(!of(Vec::new()).has_a_sector());
    }

    #[test]
    fn zeros_are_counted_back_from_the_end_as_far_as_bytes_are_kept() {
        assert_eq!(len(Vec::new()), 0);
        assert_eq!(len(vec![0; 1000]), 1000);
        assert_eq!(len([&[1][..], &[0; 999]].concat()), 999);
        assert_eq!(len([&[0; 999][..], &[1]].concat()), 0);
        let (head, tail) = (HeadTail::HEAD as usize, HeadTail::TAIL as usize);
        let mut bytes = vec![0; head + tail];
        assert_eq!(len(bytes.clone()), (head + tail) as u64, "head and tail meet");
        bytes.push(0);
        assert_eq!(len(bytes), tail as u64, "a byte between them is not known");
    }

    #[test]
    fn few_zeros_give_no_warning() {
        let warnings = Warnings::new();
        warn_zero_tail(&warnings, WORTH_A_WARNING - 1);
        assert_eq!(warnings.list(), []);
        warn_zero_tail(&warnings, WORTH_A_WARNING);
        assert_eq!(warnings.list().first().map(|warning| warning.code), Some("zero_tail"));
    }
}

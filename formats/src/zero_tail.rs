//! Zeros at the end of an object, which an unfinished download into a preallocated file looks like.
//!
//! Structures whose zeros mean "absent" (an unused table entry, an end marker) need evidence that they were stored; each
//! reader looks for its own. Plain data leaves no evidence, because no format keeps checksums of it: a warning is all
//! that can be given.

use diskferry_core::disk::Warnings;
use diskferry_core::error::Warning;
use diskferry_core::source::wrap::HeadTail;

/// Fewest zero bytes at the object's end that are worth a warning. A sparse image may end in a cluster or a block whose
/// last sectors the guest never wrote.
const WORTH_A_WARNING: u64 = 64 << 10;

/// How many zero bytes the object ends with, as far as the bytes that `file` keeps show. No request is made.
#[allow(dead_code)]
pub(crate) fn zero_tail_len(file: &HeadTail) -> u64 {
    let tail = zeros_at_end(file.tail());
    let adjacent = file.tail_start().get() == file.head().len() as u64;
    if tail == file.tail().len() as u64 && adjacent {
        tail.saturating_add(zeros_at_end(file.head()))
    } else {
        tail
    }
}

/// Warns that the last `bytes` bytes of the object are zeros although the image maps them as data. Fewer than 64 KiB give
/// no warning.
#[allow(dead_code)]
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

    use diskferry_core::source::memory::MemorySource;

    use super::*;

    fn len(bytes: Vec<u8>) -> u64 {
        let file = HeadTail::open(Arc::new(MemorySource::new("x", bytes)));
        let file = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(file).unwrap();
        zero_tail_len(&file)
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

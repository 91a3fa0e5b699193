//! Zeros at the end of an object. An unfinished download into a preallocated file looks like this.
//!
//! Structures whose zeros mean "absent" (an unused table entry, an end marker) need evidence that they were stored.
//! Each format checks its own, in its `tail_check.rs`. Plain data leaves no evidence, because no format has checksums
//! of it, so it only gets a warning.

use diskferry_core::internal::is_zero;
use diskferry_core::{HeadTail, Result, Source, StoredOffset, StoredRange, Warning, Warnings};

/// Fewest zero bytes at the object's end that are worth a warning. A sparse image may end in a cluster or a block whose
/// last sectors the guest never wrote.
const WORTH_A_WARNING: u64 = 64 << 10;

/// The zero bytes at the end of an object, as far as its buffered head and tail show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ZeroTail {
    /// The least number of zero bytes.
    pub(crate) len: u64,
    /// The latest offset where they begin.
    pub(crate) start: u64,
    /// True if the byte before them is buffered and is not zero, or if there is none.
    pub(crate) start_known: bool,
}

impl ZeroTail {
    /// Counts back from the end, over the bytes that `file` has buffered. No request is made.
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

/// The number of zero bytes at the end of the object, as far as the buffered bytes show. No request is made.
pub(crate) fn zero_tail_len(file: &HeadTail) -> u64 {
    ZeroTail::of(file).len
}

/// Warns that the last `bytes` bytes of the object are zeros although the image maps them as data. Fewer than 64 KiB
/// give no warning.
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

/// Lengths of the requests of a search for data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchSteps {
    /// Length of the first request.
    pub(crate) first: u64,
    /// Each request is four times as long as the one before it, up to this length.
    pub(crate) longest: u64,
}

/// True if `range` has a byte that is not zero. The search stops at the first request that has one.
///
/// # Errors
/// The `source_*` codes.
pub(crate) async fn has_data(source: &dyn Source, range: StoredRange, steps: SearchSteps) -> Result<bool> {
    let (mut rest, mut len) = (range, steps.first);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(len);
        if !is_zero(&source.read(piece).await?) {
            return Ok(true);
        }
        (rest, len) = (after, len.saturating_mul(4).min(steps.longest));
    }
    Ok(false)
}

/// The offset after the last byte of `range` that is not zero; `None` if all of them are. The range is read at once.
///
/// # Errors
/// The `source_*` codes.
pub(crate) async fn data_end(source: &dyn Source, range: StoredRange) -> Result<Option<StoredOffset>> {
    let bytes = source.read(range).await?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.and_then(|last| range.start().checked_add(last as u64)?.checked_add(1)))
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
    fn the_start_of_the_zeros_is_known_if_the_byte_before_them_is_buffered() {
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
    fn zeros_are_counted_back_from_the_end_over_the_buffered_bytes() {
        assert_eq!(len(Vec::new()), 0);
        assert_eq!(len(vec![0; 1000]), 1000);
        assert_eq!(len([&[1][..], &[0; 999]].concat()), 999);
        assert_eq!(len([&[0; 999][..], &[1]].concat()), 0);
        let (head, tail) = (HeadTail::HEAD as usize, HeadTail::TAIL as usize);
        let mut bytes = vec![0; head + tail];
        assert_eq!(len(bytes.clone()), (head + tail) as u64, "head and tail meet");
        bytes.push(0);
        assert_eq!(len(bytes), tail as u64, "a byte between them is not buffered");
    }

    #[test]
    fn a_search_finds_the_only_byte_and_stops_there() {
        let mut bytes = vec![0; 1000];
        bytes[420] = 1;
        let source = MemorySource::new("x", bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let range = |from: u64, to: u64| StoredRange::between(StoredOffset::new(from), StoredOffset::new(to));
        let search = |from, to| {
            let steps = SearchSteps { first: 10, longest: 100 };
            runtime.block_on(has_data(&source, range(from, to), steps)).unwrap()
        };
        assert!(search(0, 1000) && search(420, 421));
        assert!(!search(0, 420) && !search(421, 1000) && !search(5, 5));
        let end = |from, to| runtime.block_on(data_end(&source, range(from, to))).unwrap();
        assert_eq!(end(0, 1000), Some(StoredOffset::new(421)));
        assert_eq!((end(0, 420), end(421, 1000)), (None, None));
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

//! The conformance suite for sources.

use futures_util::future::join_all;

use super::drop_after;
use crate::address::{StoredOffset, StoredRange};
use crate::error::ErrorKind;
use crate::source::{SEGMENTS, Source};

fn range(start: u64, len: u64) -> StoredRange {
    StoredRange::new(StoredOffset::new(start), len).expect("a range of the test")
}

fn part(truth: &[u8], range: StoredRange) -> &[u8] {
    &truth[range.start().get() as usize..range.end().get() as usize]
}

/// Checks that `source` is an unchanging object with the bytes `truth`, and fulfils the contract of the trait.
///
/// # Panics
/// If a check fails.
pub async fn check_source(source: &dyn Source, truth: &[u8]) {
    check_facts(source, truth);
    check_reads(source, truth).await;
    check_parts(source, truth).await;
    check_beyond_the_end(source).await;
    check_many_at_once(source, truth).await;
    check_dropped_reads(source, truth).await;
    check_segments(source, truth).await;
    source.verify().await.expect("an unchanged source is verified");
    source.verify().await.expect("and again");
}

fn check_facts(source: &dyn Source, truth: &[u8]) {
    assert_eq!(source.len(), truth.len() as u64, "the length");
    assert_eq!(source.is_empty(), truth.is_empty(), "is_empty");
    assert!(!source.url().is_empty() && !source.url().contains(char::is_control), "{:?}", source.url());
    assert_eq!(source.identity(), &source.identity().clone());
    let costs = source.capabilities();
    assert!(costs.request_bytes > 0 && costs.in_flight > 0, "{costs:?}");
}

/// Ranges at the edges of pages, sectors and the object.
fn ranges(len: u64) -> Vec<StoredRange> {
    let mut edges = vec![0, 1, 511, 512, 513, 4095, 4096, 4097, 65_536, len / 2, len / 2 + 1];
    edges.extend([len.saturating_sub(513), len.saturating_sub(512), len.saturating_sub(1), len]);
    edges.retain(|edge| *edge <= len);
    edges.sort_unstable();
    edges.dedup();
    let mut all = Vec::new();
    for (index, start) in edges.iter().enumerate() {
        all.extend(edges.iter().skip(index).map(|end| range(*start, end - start)));
    }
    all
}

async fn check_reads(source: &dyn Source, truth: &[u8]) {
    let before = source.traffic();
    let mut kept = Vec::new();
    for range in ranges(source.len()) {
        let bytes = source.read(range).await.unwrap_or_else(|error| panic!("{range}: {error:?}"));
        assert!(bytes == part(truth, range), "bytes {range}");
        kept.push((range, bytes));
    }
    // Returned bytes do not change, whatever is read afterwards.
    for (range, bytes) in kept {
        assert!(bytes == part(truth, range), "bytes {range}, later");
    }
    let after = source.traffic();
    assert!(after.requests >= before.requests && after.bytes >= before.bytes, "{before:?} {after:?}");
}

/// Adjacent parts, overlaps, gaps, one part within another, and parts from the first byte to the last.
async fn check_parts(source: &dyn Source, truth: &[u8]) {
    let len = source.len();
    let step = (len / 7).max(1);
    let of = |parts: &[(u64, u64)]| -> Vec<StoredRange> {
        let within = parts.iter().filter(|(start, bytes)| *bytes > 0 && start + bytes <= len);
        within.map(|(start, bytes)| range(*start, *bytes)).collect()
    };
    for parts in [
        of(&[]),
        of(&[(0, len)]),
        of(&[(0, 1), (1, step), (1 + step, step), (len.saturating_sub(1), 1)]),
        of(&[(step, step), (step + step / 2, step), (step + step / 2, step / 3), (step * 4, step)]),
        of(&[(0, len / 2), (len / 2, len - len / 2)]),
    ] {
        let mut given = vec![None; parts.len()];
        let mut give = |index: usize, bytes: bytes::Bytes| {
            assert!(given[index].replace(bytes).is_none(), "{:?} was given twice", parts[index]);
        };
        source.read_parts(&parts, &mut give).await.unwrap_or_else(|error| panic!("{parts:?}: {error:?}"));
        for (range, given) in parts.iter().zip(given) {
            assert!(given.is_some_and(|bytes| bytes == part(truth, *range)), "bytes {range} of {parts:?}");
        }
    }
    let beyond = [range(0, len + 1)];
    let error = source.read_parts(&beyond, &mut |_, _| {}).await.expect_err("a read beyond the end fails");
    assert_eq!(error.kind(), ErrorKind::Truncated, "{error:?}");
}

async fn check_beyond_the_end(source: &dyn Source) {
    let len = source.len();
    for range in
        [range(len, 1), range(0, len + 1), range(len + 1, 0), range(1 << 60, 512), range(0, u64::MAX)]
    {
        let error = source.read(range).await.expect_err("a read beyond the end fails");
        assert_eq!(error.kind(), ErrorKind::Truncated, "{range}: {error:?}");
    }
}

async fn check_many_at_once(source: &dyn Source, truth: &[u8]) {
    let all = ranges(source.len());
    let reads = join_all(all.iter().rev().take(64).map(|range| source.read(*range))).await;
    for (range, read) in all.iter().rev().zip(reads) {
        assert!(
            read.expect("one of many reads") == part(truth, *range),
            "bytes {range}, in parallel with others"
        );
    }
}

async fn check_dropped_reads(source: &dyn Source, truth: &[u8]) {
    let whole = range(0, source.len());
    for polls in 0..3 {
        let _ = drop_after(polls, source.read(whole)).await;
        let _ = drop_after(polls, source.segments(whole)).await;
        let _ = drop_after(polls, source.verify()).await;
    }
    assert!(source.read(whole).await.expect("a read after dropped ones") == truth, "after dropped reads");
}

async fn check_segments(source: &dyn Source, truth: &[u8]) {
    for range in ranges(source.len()) {
        let mut at = range.start();
        while at < range.end() {
            let segments = source.segments(StoredRange::between(at, range.end())).await;
            let segments = segments.unwrap_or_else(|error| panic!("segments of {range}: {error:?}"));
            assert!(!segments.is_empty() && segments.len() <= SEGMENTS, "{} segments", segments.len());
            for segment in segments {
                assert_eq!(segment.range.start(), at, "segments of {range} follow each other");
                assert!(!segment.range.is_empty(), "a segment of {range} is empty");
                if segment.hole {
                    assert!(part(truth, segment.range).iter().all(|byte| *byte == 0), "a hole holds data");
                }
                at = segment.range.end();
            }
            assert!(at <= range.end(), "segments of {range} go up to {at}");
        }
        if range.is_empty() {
            assert!(source.segments(range).await.expect("no segments").is_empty(), "of an empty range");
        }
    }
}

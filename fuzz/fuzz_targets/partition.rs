//! Parses partition tables and file systems from arbitrary bytes at the start and the end of a disk.
#![no_main]

use bytes::Bytes;
use diskferry_core::Source;
use diskferry_formats::{Declared, Format, inspect_disk, open};
use diskferry_fuzz::source::Guarded;
use diskferry_fuzz::{read, repair};
use libfuzzer_sys::fuzz_target;

/// The start of an input: the disk size, whether checksums are repaired, and how much of the input is the end of the disk.
const HEAD: usize = 4;
/// Size of the GPT entries whose checksum is repaired: 128 entries of 128 bytes.
const ENTRIES: usize = 128 * 128;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[log, flags, tail_blocks, odd], rest)) = bytes.split_first_chunk::<HEAD>() else { return };
    let len = (1u64 << (9 + log % 36)) + u64::from(odd);
    let len = len.max(rest.len() as u64);
    let (head, tail) = rest.split_at(rest.len() - rest.len().min(usize::from(tail_blocks) * 512));
    let (mut head, mut tail) = (head.to_vec(), tail.to_vec());
    if flags & 1 != 0 {
        for sector in [512, 4096] {
            if let Some((front, entries)) = head.split_at_mut_checked(2 * sector) {
                entries
                    .get(..ENTRIES)
                    .into_iter()
                    .for_each(|entries| repair::gpt(&mut front[sector..], entries));
            }
            if let Some(at) = tail.len().checked_sub(sector) {
                let (entries, last) = tail.split_at_mut(at);
                let from = entries.len().saturating_sub(ENTRIES);
                repair::gpt(last, &entries[from..]);
            }
        }
    }
    let tail_at = len - tail.len() as u64;
    let source = Guarded::sparse(len, [(0, Bytes::from(head)), (tail_at, Bytes::from(tail))]);
    let Ok(disk) = read::checked(read::now(open(source.clone(), Declared::Format(Format::Raw)))) else {
        return;
    };
    let before = source.traffic();
    let Ok(layout) = read::checked(read::now(inspect_disk(&disk))) else { return };
    let after = source.traffic();
    let (requests, read) = (after.requests - before.requests, after.bytes - before.bytes);
    assert!(requests <= 1024 && read <= 24 << 20, "{requests} requests, {read} bytes");
    for partition in &layout.partitions {
        assert!(partition.start <= partition.end(), "{partition:?}");
        assert!(!partition.kind.to_string().contains(char::is_control));
    }
    assert!(layout.partitions.len() <= 4096, "{} partitions", layout.partitions.len());
});

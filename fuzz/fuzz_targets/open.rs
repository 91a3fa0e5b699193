//! Any bytes: detect, open, walk the map, read what it maps. Nothing may panic, hang, or read beyond the object.
#![no_main]

use std::sync::Arc;

use diskferry_core::address::{GuestOffset, GuestRange};
use diskferry_core::disk::Disk;
use diskferry_core::source::memory::MemorySource;
use diskferry_formats::{Declared, Format, open};
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for declared in [Declared::Unknown].into_iter().chain(Format::ALL.map(Declared::Format)) {
        let source = Arc::new(MemorySource::new("fuzz", bytes.to_vec()));
        // A memory source never waits.
        let opened = open(source, declared).now_or_never().expect("memory does not wait");
        if let Ok(disk) = opened {
            walk(&disk);
        }
    }
});

fn walk(disk: &Disk) {
    let end = GuestOffset::new(disk.virtual_bytes());
    let mut at = GuestOffset::ZERO;
    let mut read = 0;
    for _ in 0..64 {
        if at >= end {
            return;
        }
        let extents =
            disk.extents(GuestRange::between(at, end)).now_or_never().expect("memory does not wait");
        let Ok(extents) = extents else { return };
        for extent in extents {
            at = extent.guest.end();
            if extent.is_zero() || read > 8 << 20 {
                continue;
            }
            let part = extent.guest.split_at(4 << 20).0;
            read += part.len();
            let _ = disk.read(part).now_or_never().expect("memory does not wait");
        }
    }
}

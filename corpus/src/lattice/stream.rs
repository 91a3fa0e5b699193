//! streamOptimized VMDK: markers, compressed grains, the tables after them, and the footer.
//!
//! ```text
//! header │ descriptor │ room │ marker grain … │ marker table │ marker directory │ marker footer │ end
//! ```

use std::sync::Arc;

use super::build::{Image, guest, zlib};
use super::vmdk::{Header, SECTOR, descriptor, field};
use super::{
    Base, Case, Expect, LE16, LE32, LE64, MALFORMED, SAME, Structure, TRUNCATED, UNMARKED, UNSUPPORTED,
    Value, all, reads,
};

const GRAIN: usize = 4096;
const DISK: usize = 3 * GRAIN;
const CAPACITY: u64 = DISK as u64 / 512;
/// Sector of the first marker.
const FIRST: usize = 4 * SECTOR;
/// Sectors per stored grain: marker, zlib stream with one stored block, zeros.
const STORED: usize = (12 + GRAIN + 11usize).next_multiple_of(SECTOR);
const SECOND: usize = FIRST + STORED;
const TABLE: usize = FIRST + 2 * STORED + SECTOR;
const DIRECTORY: usize = TABLE + 2 * SECTOR;
const FOOTER: usize = DIRECTORY + 2 * SECTOR;
const END: usize = FOOTER + 2 * SECTOR;
const SIZE: u64 = GRAIN as u64 + 11;

fn marker(image: &mut Image, at: usize, value: u64, kind: u32) {
    image.le64(at, value).le32(at + 12, kind);
}

/// Grains: allocated, unallocated, allocated.
fn base() -> Arc<Base> {
    let mut disk = guest(DISK);
    disk[GRAIN..2 * GRAIN].fill(0);
    let header = |directory| Header {
        version: 3,
        flags: 0x3_0001,
        capacity: CAPACITY,
        descriptor: (1, 2),
        entries: 16,
        redundant: 0,
        directory,
        overhead: 4,
    };
    let text = descriptor("streamOptimized", &format!("RW {CAPACITY} SPARSE \"image\""));
    let mut image = Image::new(END);
    image.put(0, &header(u64::MAX).bytes()).put(SECTOR, text.as_bytes());
    for (at, grain) in [(FIRST, 0), (SECOND, 2)] {
        let stream = zlib(&disk[grain * GRAIN..(grain + 1) * GRAIN]);
        assert_eq!(stream.len() as u64, SIZE);
        image
            .le64(at, (grain * GRAIN / SECTOR) as u64)
            .le32(at + 8, stream.len() as u32)
            .put(at + 12, &stream);
    }
    marker(&mut image, TABLE - SECTOR, 1, 1);
    image.le32(TABLE, (FIRST / SECTOR) as u32).le32(TABLE + 8, (SECOND / SECTOR) as u32);
    marker(&mut image, DIRECTORY - SECTOR, 1, 2);
    image.le32(DIRECTORY, (TABLE / SECTOR) as u32);
    marker(&mut image, FOOTER - SECTOR, 1, 3);
    image.put(FOOTER, &header((DIRECTORY / SECTOR) as u64).bytes());
    Base::one("vmdk", "streamOptimized", image.0, disk)
}

pub(super) fn cases(out: &mut Vec<Case>) {
    let base = base();
    header(out, &base);
    grains(out, &base);
    tables(out, &base);
    footer(out, &base);
    scanned(out, &base);
    zeroed_tails(out, &base);
}

const HOLE: Expect = reads(|disk, _| disk[..GRAIN].fill(0));

fn header(out: &mut Vec<Case>, base: &Arc<Base>) {
    let algorithm = MALFORMED.says("compressAlgorithm").at(field::COMPRESS_ALGORITHM);
    Structure::new(out, base, "stream header", 0, SECTOR)
        .number("magic", LE32, all(UNMARKED))
        .number("version", LE32, [UNSUPPORTED, SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .number("flags", LE32, [algorithm, algorithm, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        // The footer contradicts it.
        .and(Value::Meaning, 0x1_0001, MALFORMED.at(FOOTER + 8))
        .number("capacity", LE64, all(MALFORMED))
        .number("grainSize", LE64, [MALFORMED, MALFORMED, UNSUPPORTED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 1 << 16, UNSUPPORTED)
        .and(Value::Meaning, 16, MALFORMED.at(FOOTER + 20))
        .number("descriptorOffset", LE64, [SAME, SAME, TRUNCATED, TRUNCATED, TRUNCATED])
        .number(
            "descriptorSize",
            LE64,
            [
                SAME,
                SAME,
                TRUNCATED.at(field::DESCRIPTOR_OFFSET),
                TRUNCATED.at(field::DESCRIPTOR_OFFSET),
                TRUNCATED.at(field::DESCRIPTOR_OFFSET),
            ],
        )
        .number(
            "numGTEsPerGT",
            LE32,
            [MALFORMED, MALFORMED.at(FOOTER + 44), UNSUPPORTED, UNSUPPORTED, UNSUPPORTED],
        )
        .number("rgdOffset", LE64, all(SAME))
        .number("gdOffset", LE64, [MALFORMED, MALFORMED, TRUNCATED, TRUNCATED, SAME])
        .and(Value::Meaning, (DIRECTORY / SECTOR) as u64, SAME)
        .and(Value::PastTheEnd, (END / SECTOR) as u64, TRUNCATED)
        .and(Value::Overlapping, (TABLE / SECTOR) as u64, TRUNCATED.says("not its marker").at(TABLE - SECTOR))
        // Ignored if a footer exists.
        .number("overHead", LE64, all(SAME))
        .bytes("uncleanShutdown", 1, all(SAME))
        .bytes("newlines", 4, all(MALFORMED.says("newline bytes")))
        .number("compressAlgorithm", LE16, [MALFORMED, SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .bytes("pad", 433, all(SAME))
        .cut([
            UNMARKED,
            TRUNCATED.says("sparse extent's header").at(256),
            TRUNCATED.says("sparse extent's header").at(511),
        ])
        .complete();
}

/// Read through the tables: the marker must belong to the grain.
fn grains(out: &mut Vec<Case>, base: &Arc<Base>) {
    let broken = MALFORMED.says("compressed unit").at(FIRST);
    let more = MALFORMED.says("compressed bytes").at(FIRST);
    Structure::new(out, base, "grain marker", FIRST, 18)
        .number("sector", LE64, [SAME, MALFORMED, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::Overlapping, 16, MALFORMED)
        .number("compressed bytes", LE32, [MALFORMED.says("marker type").at(FIRST), broken, more, more, more])
        .and(Value::Boundary, SIZE - 1, broken)
        // Padding follows; a zlib stream marks its own end.
        .and(Value::Boundary, SIZE + 1, SAME)
        .and(Value::Boundary, (STORED - 12) as u64, SAME)
        .and(Value::Overlapping, (STORED - 11) as u64, more)
        .and(Value::Boundary, 2 * GRAIN as u64 + 1, more)
        .number("zlib header", LE16, [broken; 5])
        .number("deflate block", LE32, [broken; 5])
        .complete();
    Structure::new(out, base, "grain's checksum", FIRST + 12 + GRAIN + 7, 4)
        .number("Adler-32", LE32, [broken; 5])
        .complete();
}

fn tables(out: &mut Vec<Case>, base: &Arc<Base>) {
    // Markers before metadata serve readers that scan. Their presence proves that nothing is missing.
    for (name, at) in [("table marker", TABLE - SECTOR), ("directory marker", DIRECTORY - SECTOR)] {
        Structure::new(out, base, name, at, 16)
            .number("sectors", LE64, all(SAME))
            .number("size", LE32, all(SAME))
            .number("type", LE32, all(SAME))
            .complete();
    }
    let past = (END / SECTOR) as u64;
    Structure::new(out, base, "stream directory", DIRECTORY, 4)
        .number(
            "grain directory entry 0",
            LE32,
            [TRUNCATED.says("grain directory"), MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED],
        )
        .and(Value::PastTheEnd, past, TRUNCATED)
        .and(Value::SelfReferring, (DIRECTORY / SECTOR) as u64, MALFORMED)
        .complete();
    for (name, at) in [("table marker, all of it", TABLE), ("directory marker, all of it", DIRECTORY)] {
        let lost = TRUNCATED.says("reads as zeros");
        Structure::new(out, base, name, at - SECTOR, 16)
            .bytes("marker", 16, [lost, SAME, SAME, SAME, SAME])
            .complete();
    }
    Structure::new(out, base, "stream table, both entries", TABLE, 12)
        .bytes(
            "entries",
            12,
            [
                TRUNCATED.says("reads as zeros"),
                TRUNCATED.says("entry 2").at(TABLE + 8),
                TRUNCATED.says("entry 0"),
                TRUNCATED.says("entry 0"),
                TRUNCATED.says("entry 0"),
            ],
        )
        .complete();
    Structure::new(out, base, "stream table", TABLE, 4)
        .number("grain table entry 0", LE32, [HOLE, MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED])
        .and(Value::PastTheEnd, past, TRUNCATED)
        .and(Value::Overlapping, (SECOND / SECTOR) as u64, MALFORMED.says("marker says sector").at(SECOND))
        .and(Value::Overlapping, (FIRST / SECTOR) as u64 + 1, MALFORMED.says("marker").at(FIRST + SECTOR))
        .and(Value::Overlapping, 2, MALFORMED)
        .and(
            Value::Overlapping,
            (TABLE / SECTOR) as u64 - 1,
            MALFORMED.says("not a grain's").at(TABLE - SECTOR),
        )
        .and(Value::SelfReferring, (TABLE / SECTOR) as u64, MALFORMED)
        .complete();
}

/// An invalid footer is ignored: the grains are found by scanning the markers.
fn footer(out: &mut Vec<Case>, base: &Arc<Base>) {
    let wrong = MALFORMED.says("marker").at(FOOTER - SECTOR);
    let end = FOOTER + SECTOR;
    let more = MALFORMED.says("compressed bytes").at(end);
    let kind = MALFORMED.says("marker type").at(end);
    Structure::new(out, base, "footer marker", FOOTER - SECTOR, 16)
        .number("sectors", LE64, all(SAME))
        // The footer is not detected, and the scan reads its marker as a grain.
        .number("size", LE32, [SAME, wrong, wrong, wrong, wrong])
        // An end marker that is followed by a footer.
        .number("type", LE32, [MALFORMED.says("follow the end marker").at(FOOTER), SAME, wrong, wrong, wrong])
        .complete();
    // A footer that does not parse is damaged. A valid footer that differs from the header contradicts it.
    Structure::new(out, base, "footer", FOOTER, SECTOR)
        .number("magic", LE32, all(SAME))
        .number("version", LE32, all(SAME))
        .number("flags", LE32, all(SAME))
        .and(Value::Meaning, 0x3_0005, MALFORMED)
        .number("capacity", LE64, [MALFORMED, MALFORMED, SAME, SAME, SAME])
        .and(Value::Boundary, CAPACITY + 1, MALFORMED)
        .number("grainSize", LE64, all(SAME))
        .and(Value::Meaning, 16, MALFORMED)
        .number("descriptorOffset", LE64, all(SAME))
        .number("descriptorSize", LE64, all(SAME))
        .number("numGTEsPerGT", LE32, [SAME, MALFORMED, SAME, SAME, SAME])
        .number("rgdOffset", LE64, all(SAME))
        .number("gdOffset", LE64, [SAME, MALFORMED, SAME, SAME, SAME])
        .and(Value::PastTheEnd, (FOOTER / SECTOR) as u64, SAME)
        .and(Value::Overlapping, (TABLE / SECTOR) as u64, TRUNCATED.says("grain table entry 2").at(FIRST + 8))
        .number("overHead", LE64, all(SAME))
        .bytes("uncleanShutdown, newlines, compressAlgorithm", 7, all(SAME))
        .bytes("pad", 433, all(SAME))
        .cut([SAME, SAME, SAME])
        .complete();
    Structure::new(out, base, "end marker", FOOTER + SECTOR, 16)
        .number("value", LE64, all(SAME))
        // The footer is no longer the second to last: a grain follows.
        .number("size", LE32, [SAME, MALFORMED.says("twice").at(end), more, more, more])
        .number("type", LE32, [SAME, SAME, kind, kind, kind])
        .cut([SAME, SAME, SAME])
        .complete();
}

/// Without the directory, nothing shows which grains existed.
fn zeroed_tails(out: &mut Vec<Case>, base: &Arc<Base>) {
    let lost = TRUNCATED.says("without a grain directory");
    Structure::new(out, base, "stream", 0, END).zeroed_tails(|at, _| match at {
        0 => UNMARKED,
        // From the earliest possible position of the first marker.
        _ if at <= FIRST => lost.at(FIRST),
        _ if at <= SECOND => lost.at(SECOND),
        _ if at < TABLE => lost.at(TABLE - SECTOR),
        _ if at < DIRECTORY => lost.at(DIRECTORY - SECTOR),
        DIRECTORY => TRUNCATED.says("grain directory names").at(DIRECTORY),
        _ => SAME,
    });
}

/// The same stream without its footer, read by its markers.
fn scanned(out: &mut Vec<Case>, base: &Arc<Base>) {
    let mut image = base.files[0].1.clone();
    image.truncate(FOOTER - SECTOR);
    let base = Base::one("vmdk", "streamOptimized without its footer", image, base.disk.clone());
    let lost = TRUNCATED.says("without a grain directory");
    Structure::new(out, &base, "scanned header", 0, 72)
        .from(64)
        // The start of the scan: after the first marker, or after everything.
        .number(
            "overHead",
            LE64,
            [SAME, SAME, lost.at(FOOTER - SECTOR), lost.at(FOOTER - SECTOR), lost.at(FOOTER - SECTOR)],
        )
        .complete();
    let behind = MALFORMED.says("marker").at(FIRST);
    Structure::new(out, &base, "scanned grain marker", FIRST, 12)
        .number("sector", LE64, [SAME, behind, behind, behind, behind])
        .and(Value::PastTheEnd, CAPACITY, behind)
        .and(Value::Unaligned, 4, behind)
        // Two grains for one address, of which one was replaced, and one grain that the directory does not name.
        .and(Value::Overlapping, 16, MALFORMED.says("twice").at(SECOND))
        .and(Value::Meaning, 8, TRUNCATED.says("directory names").at(DIRECTORY))
        .number(
            "compressed bytes",
            LE32,
            [behind, MALFORMED.says("marker").at(FIRST + SECTOR), behind, behind, behind],
        )
        .complete();
    let kind = MALFORMED.says("marker").at(TABLE - SECTOR);
    Structure::new(out, &base, "scanned table marker", TABLE - SECTOR, 16)
        .number(
            "sectors",
            LE64,
            [
                // The bytes after it are read as a marker.
                MALFORMED.says("marker").at(TABLE),
                SAME,
                MALFORMED.says("sectors of metadata").at(TABLE - SECTOR),
                MALFORMED.says("sectors of metadata").at(TABLE - SECTOR),
                MALFORMED.says("sectors of metadata").at(TABLE - SECTOR),
            ],
        )
        .and(Value::PastTheEnd, 1000, lost.at(FOOTER - SECTOR))
        .number("size", LE32, [SAME, kind, kind, kind, kind])
        // An end marker, before any directory.
        .number("type", LE32, [lost.at(TABLE - SECTOR), SAME, kind, kind, kind])
        .and(Value::Boundary, 4, kind)
        .complete();
    Structure::new(out, &base, "scanned stream", FIRST, 2 * STORED).cut([
        lost.at(FIRST),
        lost.at(SECOND),
        lost.at(FIRST + 2 * STORED - 1),
    ]);
    let short = TRUNCATED.says("compressed bytes").at(SECOND);
    Structure::new(out, &base, "scanned grain", SECOND, 12 + SIZE as usize).cut([
        lost.at(SECOND),
        short,
        short,
    ]);
}

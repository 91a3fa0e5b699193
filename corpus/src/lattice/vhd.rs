//! VHD: fixed, dynamic and differencing.
//!
//! ```text
//! byte  0            512     1536  2048     6656     11264    15872
//!       copy         header  BAT   block 0  block 2  block 3  footer      each block behind its bitmap of 512 bytes
//! ```

use std::sync::Arc;

use super::build::{Image, guest};
use super::{
    BE16, BE32, BE64, BYTE, Base, Case, Expect, MALFORMED, SAME, Structure, TRUNCATED, UNMARKED, UNSUPPORTED,
    Value, all, reads, refused,
};

const BLOCK: usize = 4096;
const HEADER: usize = 512;
const BAT: usize = 1536;
const STORED: usize = 512 + BLOCK;
const FIRST: usize = 2048;
const FOOTER: usize = FIRST + 3 * STORED;
const END: u64 = FOOTER as u64 + 512;
const DISK: usize = 3 * BLOCK + 1024;

/// A dynamic disk and its kind of footer.
#[derive(Clone, Copy)]
struct Kind {
    creator: [u8; 4],
    disk_type: u32,
    size: u64,
}

const PLAIN: Kind = Kind { creator: *b"win ", disk_type: 3, size: DISK as u64 };

fn footer(kind: Kind) -> Vec<u8> {
    let mut image = Image::new(512);
    image.put(0, b"conectix").be32(8, 2).be32(12, 0x0001_0000);
    image.be64(16, if kind.disk_type == 2 { u64::MAX } else { HEADER as u64 });
    image.put(28, &kind.creator).be32(32, 0x0006_0001).put(36, b"Wi2k");
    image.be64(40, kind.size).be64(48, kind.size).put(56, &[0, 2, 2, 4]).be32(60, kind.disk_type);
    image.put(68, &[7; 16]);
    seal_footer(&mut image.0);
    image.0
}

fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn seal_footer(bytes: &mut [u8]) {
    seal(&mut bytes[..512], 64);
}

fn seal_header(bytes: &mut [u8]) {
    seal(&mut bytes[..1024], 36);
}

/// Blocks of data, a hole, data, and data to the disk's end.
fn dynamic(kind: Kind) -> (Vec<u8>, Vec<u8>) {
    let mut disk = guest(DISK);
    disk[BLOCK..2 * BLOCK].fill(0);
    let mut image = Image::new(FOOTER);
    image.put(0, &footer(kind)).put(HEADER, b"cxsparse").be64(HEADER + 8, u64::MAX);
    image.be64(HEADER + 16, BAT as u64).be32(HEADER + 24, 0x0001_0000).be32(HEADER + 28, 4);
    image.be32(HEADER + 32, BLOCK as u32);
    seal_header(&mut image.0[HEADER..]);
    image.put(BAT, &[0xff; 512]);
    for (stored, block) in [0, 2, 3].into_iter().enumerate() {
        let at = FIRST + stored * STORED;
        image.be32(BAT + 4 * block, (at / 512) as u32);
        image.put(at, &[0xff]).put(at + 512, &disk[block * BLOCK..DISK.min((block + 1) * BLOCK)]);
    }
    image.put(FOOTER, &footer(kind));
    (image.0, disk)
}

pub(super) fn cases(out: &mut Vec<Case>) {
    let (image, disk) = dynamic(PLAIN);
    let base = Base::one("vhd", "dynamic", image, disk);
    footers(out, &base);
    one_footer(out, &base);
    header(out, &base);
    entries(out, &base);
    zeroed_tails(out, &base);
    geometry(out);
    fixed(out);
    differencing(out);
}

fn empty(disk: &mut Vec<u8>, _: &[u8]) {
    disk.clear();
}

fn first_byte(disk: &mut Vec<u8>, _: &[u8]) {
    disk.truncate(1);
}

const SUM: Expect = MALFORMED.says("footer's checksum");
/// A disk that is larger than the table maps.
const TOO_LARGE: Expect = MALFORMED.says("max_table_entries").at(HEADER + 28);

/// The footer and its copy, changed in the same way.
fn footers(out: &mut Vec<Case>, base: &Arc<Base>) {
    let sum = SUM.at(FOOTER + 64);
    let mut footer =
        Structure::new(out, base, "dynamic footer", FOOTER, 512).with_copy(0).sealed(seal_footer, sum);
    footer.seal = None;
    footer.bytes("cookie", 8, all(UNMARKED));
    footer.seal = Some((seal_footer, sum));
    footer
        .number("features", BE32, all(SAME))
        .number("file_format_version", BE32, all(UNSUPPORTED))
        .and(Value::Boundary, 0x0001_ffff, SAME)
        .and(Value::Boundary, 0x0002_0000, UNSUPPORTED)
        .and(Value::Boundary, 0x0000_ffff, UNSUPPORTED)
        .number("data_offset", BE64, [MALFORMED, MALFORMED, TRUNCATED, MALFORMED, MALFORMED])
        .and(Value::Unaligned, HEADER as u64 + 1, MALFORMED.says("dynamic disk header").at(HEADER + 1))
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::PastTheEnd, END - 1023, MALFORMED)
        .and(Value::Overflow, u64::MAX - 1023, MALFORMED)
        .and(Value::Overlapping, FOOTER as u64 - 100, MALFORMED)
        .and(Value::Overlapping, BAT as u64, MALFORMED.says("dynamic disk header").at(BAT))
        .and(Value::SelfReferring, FOOTER as u64, MALFORMED)
        .number("time_stamp", BE32, all(SAME))
        .bytes("creator_application", 4, all(SAME))
        // Virtual PC uses the geometry.
        .and_bytes(Value::Meaning, b"vpc ", reads(|disk, _| disk.truncate(2 * 2 * 4 * 512)))
        .number("creator_version", BE32, all(SAME))
        .bytes("creator_host_os", 4, all(SAME))
        .number("original_size", BE64, all(SAME))
        .number("current_size", BE64, [reads(empty), reads(first_byte), TOO_LARGE, TOO_LARGE, TOO_LARGE])
        .and(Value::Boundary, 4 * BLOCK as u64, reads(|disk, _| disk.resize(4 * BLOCK, 0)))
        .and(Value::Boundary, 4 * BLOCK as u64 + 1, TOO_LARGE)
        .number("cylinders", BE16, all(SAME))
        .number("heads", BYTE, all(SAME))
        .number("sectors_per_track", BYTE, all(SAME))
        .number("disk_type", BE32, all(MALFORMED))
        .and(Value::Meaning, 2, reads(|disk, image| disk.copy_from_slice(&image[..DISK])))
        .and(Value::Meaning, 4, refused("parent_disk_refused").says("difference to its parent"))
        .and(Value::Boundary, 5, MALFORMED);
    footer.seal = None;
    footer.number("checksum", BE32, all(MALFORMED));
    footer.seal = Some((seal_footer, sum));
    footer
        .bytes("unique_id", 16, all(SAME))
        .number("saved_state", BYTE, all(SAME))
        .bytes("reserved", 427, all(SAME))
        // The copy is used.
        .cut([SAME, SAME, SAME])
        .complete();
}

/// One of the two, with a stale checksum: the other is used. With a valid checksum, the one at the end is used.
fn one_footer(out: &mut Vec<Case>, base: &Arc<Base>) {
    for (name, place, version) in
        [("dynamic footer alone", FOOTER, UNSUPPORTED), ("copy of the footer alone", 0, SAME)]
    {
        Structure::new(out, base, name, place, 512)
            .bytes("cookie", 8, all(SAME))
            .number("features", BE32, all(SAME))
            // 1 in another byte: the checksum is right, and the footer at the end is used.
            .number("file_format_version", BE32, [SAME, version, SAME, SAME, SAME])
            .number("data_offset", BE64, all(SAME))
            .bytes("creator", 16, all(SAME))
            .number("original_size", BE64, all(SAME))
            .number("current_size", BE64, all(SAME))
            .number("geometry", BE32, all(SAME))
            .number("disk_type", BE32, all(SAME))
            .number("checksum", BE32, all(SAME))
            .bytes("unique_id", 16, all(SAME))
            .bytes("saved_state and reserved", 428, all(SAME))
            .complete();
    }
    Structure::new(out, base, "copy of the footer, sealed", 0, 24)
        .from(16)
        .sealed(seal_footer, SAME)
        .number("data_offset", BE64, all(SAME))
        .complete();
    Structure::new(out, base, "copy of the footer, sealed", 0, 64)
        .from(48)
        .sealed(seal_footer, SAME)
        .number("current_size", BE64, all(SAME))
        .number("geometry", BE32, all(SAME))
        .number("disk_type", BE32, all(SAME))
        .complete();
}

fn header(out: &mut Vec<Case>, base: &Arc<Base>) {
    let sum = MALFORMED.says("header's checksum").at(HEADER + 36);
    let mut header = Structure::new(out, base, "dynamic header", HEADER, 1024);
    header.bytes("cookie", 8, all(MALFORMED.says("cxsparse")));
    header.seal = Some((seal_header, sum));
    header
        .number("data_offset", BE64, all(SAME))
        .number("table_offset", BE64, [MALFORMED, MALFORMED, TRUNCATED, MALFORMED, MALFORMED])
        // Entries made of halves of two entries.
        .and(Value::Unaligned, BAT as u64 + 1, TRUNCATED.says("entry 0 of the block").at(BAT + 1))
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::PastTheEnd, END - 15, TRUNCATED)
        .and(Value::Overflow, u64::MAX - 15, MALFORMED)
        .and(Value::Overlapping, FOOTER as u64, MALFORMED)
        .and(Value::Overlapping, FIRST as u64, MALFORMED.says("entry 1 of the block").at(FIRST + 4))
        .and(Value::SelfReferring, HEADER as u64 + 1008, MALFORMED)
        .number("header_version", BE32, all(UNSUPPORTED))
        .and(Value::Boundary, 0x0001_ffff, SAME)
        .and(Value::Boundary, 0x0002_0000, UNSUPPORTED)
        .number("max_table_entries", BE32, all(MALFORMED))
        .and(Value::Boundary, 3, MALFORMED)
        .and(Value::Boundary, 5, SAME)
        .and(Value::Boundary, (16 << 20) + 1, MALFORMED)
        .and(Value::PastTheEnd, 16 << 20, TRUNCATED.at(HEADER + 16))
        .and(Value::Overlapping, 129, MALFORMED.says("entry 0 of the block").at(BAT))
        .number(
            "block_size",
            BE32,
            [
                MALFORMED,
                MALFORMED,
                // A block of 2 GiB.
                MALFORMED.says("entry 0 of the block").at(BAT),
                MALFORMED,
                MALFORMED,
            ],
        )
        .and(Value::Boundary, 256, MALFORMED)
        .and(Value::Boundary, 512, TOO_LARGE)
        .and(Value::Unaligned, BLOCK as u64 - 1, MALFORMED)
        .and(Value::Meaning, 2 * BLOCK as u64, reads(|disk, _| disk[BLOCK..].fill(0)));
    header.seal = None;
    header.number("checksum", BE32, all(MALFORMED));
    header.seal = Some((seal_header, sum));
    header
        .bytes("parent_unique_id", 16, all(SAME))
        .number("parent_time_stamp", BE32, all(SAME))
        .number("reserved1", BE32, all(SAME))
        .bytes("parent_unicode_name", 512, all(SAME));
    for _ in 0..8 {
        header
            .number("platform_code", BE32, all(SAME))
            .number("platform_data_space", BE32, all(SAME))
            .number("platform_data_length", BE32, all(SAME))
            .number("locator_reserved", BE32, all(SAME))
            .number("platform_data_offset", BE64, all(SAME));
    }
    header.bytes("reserved2", 256, all(SAME)).cut([TRUNCATED.says("data_offset").at(16); 3]).complete();
}

fn entries(out: &mut Vec<Case>, base: &Arc<Base>) {
    let sector = |at: usize| (at / 512) as u64;
    Structure::new(out, base, "BAT entry", BAT, 4)
        .number(
            "entry 0 of the block",
            BE32,
            [MALFORMED, MALFORMED, TRUNCATED, TRUNCATED, reads(|disk, _| disk[..BLOCK].fill(0))],
        )
        .and(Value::PastTheEnd, END / 512, TRUNCATED)
        .and(Value::PastTheEnd, sector(FOOTER) - 8, MALFORMED)
        .and(Value::Overlapping, sector(HEADER) + 1, MALFORMED)
        .and(Value::Overlapping, sector(FOOTER), MALFORMED)
        // The second one is reported.
        .and(
            Value::Overlapping,
            sector(FIRST + STORED) + 1,
            MALFORMED.says("entry 2 of the block").at(BAT + 8),
        )
        .and(Value::Overlapping, sector(FIRST + STORED), MALFORMED.says("entry 2 of the block").at(BAT + 8))
        .and(Value::SelfReferring, sector(BAT), MALFORMED)
        .cut([TRUNCATED.says("table_offset").at(HEADER + 16); 3])
        .complete();
    Structure::new(out, base, "last BAT entry", BAT + 12, 4)
        .number(
            "entry 3 of the block",
            BE32,
            [MALFORMED, MALFORMED, TRUNCATED, TRUNCATED, reads(|disk, _| disk[3 * BLOCK..].fill(0))],
        )
        .and(Value::Overlapping, sector(FIRST), MALFORMED)
        .and(Value::Boundary, sector(FOOTER) - 3, SAME_LAST)
        .and(Value::Overlapping, sector(FOOTER) - 2, MALFORMED)
        .cut([TRUNCATED.says("table_offset").at(HEADER + 16); 3])
        .complete();
    // Block 1 does not exist: entries after the disk's end are not checked.
    Structure::new(out, base, "BAT entry of no block", BAT + 16, 4)
        .number("entry 4 of the block", BE32, all(SAME))
        .complete();
    Structure::new(out, base, "sector bitmap", FIRST, 512)
        .number(
            "sectors of the block",
            BYTE,
            [
                reads(|disk, _| disk[..BLOCK].fill(0)),
                reads(|disk, _| disk[..7 * 512].fill(0)),
                reads(|disk, _| disk[512..BLOCK].fill(0)),
                reads(|disk, _| disk[7 * 512..BLOCK].fill(0)),
                SAME,
            ],
        )
        .bytes("bits after the block", 511, all(SAME))
        .cut([TRUNCATED.says("entry 0 of the block").at(BAT); 3])
        .complete();
    Structure::new(out, base, "block", FIRST + 512, BLOCK)
        .cut([TRUNCATED.says("entry 0 of the block").at(BAT); 3]);
}

/// The last block is stored up to the disk's end: a bitmap and two sectors.
const SAME_LAST: Expect = reads(|disk, image| {
    // The rest of block 3 is stored there, all zeros, its bitmap too.
    assert!(image[FOOTER - 3 * 512..FOOTER].iter().all(|byte| *byte == 0));
    disk[3 * BLOCK..].fill(0);
});

/// The geometry, if the creator uses it.
fn geometry(out: &mut Vec<Case>) {
    let (image, mut disk) = dynamic(Kind { creator: *b"vpc ", ..PLAIN });
    let whole = disk.clone();
    disk.truncate(2 * 2 * 4 * 512);
    assert_eq!(whole.len(), DISK);
    let base = Base::one("vhd", "dynamic by geometry", image, disk);
    const SAME_SIZE: Expect = reads(|disk, _| {
        *disk = guest(DISK);
        disk[BLOCK..2 * BLOCK].fill(0);
    });
    const HALF: Expect = reads(|disk, _| disk.truncate(4096));
    const QUARTER: Expect = reads(|disk, _| disk.truncate(2048));
    Structure::new(out, &base, "geometry", FOOTER, 60)
        .with_copy(0)
        .from(56)
        .sealed(seal_footer, SUM.at(FOOTER + 64))
        .number("cylinders", BE16, [SAME_SIZE, HALF, TOO_LARGE, TOO_LARGE, TOO_LARGE])
        .number("heads", BYTE, [SAME_SIZE, HALF, TOO_LARGE, TOO_LARGE, TOO_LARGE])
        .number("sectors_per_track", BYTE, [SAME_SIZE, QUARTER, TOO_LARGE, TOO_LARGE, TOO_LARGE])
        // At its maximum it only shows that the disk is large.
        .given(Value::Boundary, 255, &[(56, BE16, 65_535), (58, BYTE, 16)], SAME_SIZE)
        .complete();
}

/// A missing footer says nothing about the blocks before it, and a zero bitmap means sectors that were never written:
/// the end of the last block must exist, up to the disk's end.
fn zeroed_tails(out: &mut Vec<Case>, base: &Arc<Base>) {
    const NEEDED: usize = FIRST + 2 * STORED + 512 + (DISK - 3 * BLOCK);
    Structure::new(out, base, "zeroed tail", 0, 0).zeroed_tails(|at, first| match at {
        0 => UNMARKED,
        // The copy is taken for a footer with padding after it.
        HEADER => MALFORMED.says("data_offset").at(16),
        // The end of the header is zeros.
        _ if at < FIRST => MALFORMED.says("entry 0 of the block").at(BAT),
        _ if at < NEEDED => TRUNCATED.says("the footer at the end is missing").at(first),
        _ => SAME,
    });
}

fn fixed(out: &mut Vec<Case>) {
    const DISK: usize = 4096;
    let disk = guest(DISK);
    let image = [disk.clone(), footer(Kind { disk_type: 2, size: DISK as u64, ..PLAIN })].concat();
    let base = Base::one("vhd", "fixed", image, disk);
    let too_large = TRUNCATED.says("current_size");
    let start = MALFORMED.says("data_offset");
    let sum = SUM.at(DISK + 64);
    let mut footer = Structure::new(out, &base, "fixed footer", DISK, 512);
    footer.bytes("cookie", 8, all(UNMARKED));
    footer.seal = Some((seal_footer, sum));
    footer
        .number("features", BE32, all(SAME))
        .number("file_format_version", BE32, all(UNSUPPORTED))
        // A fixed disk has no header.
        .number("data_offset", BE64, all(SAME))
        .number("time_stamp", BE32, all(SAME))
        .bytes("creator_application", 4, all(SAME))
        .and_bytes(Value::Meaning, b"vpc ", TRUNCATED.says("geometry").at(DISK + 56))
        .number("creator_version", BE32, all(SAME))
        .bytes("creator_host_os", 4, all(SAME))
        .number("original_size", BE64, all(SAME))
        .number("current_size", BE64, [reads(empty), reads(first_byte), too_large, too_large, too_large])
        .and(Value::Boundary, DISK as u64 - 1, reads(|disk, _| disk.truncate(DISK - 1)))
        .and(Value::PastTheEnd, DISK as u64 + 1, too_large)
        .and(Value::SelfReferring, DISK as u64 + 512, too_large)
        .number("cylinders", BE16, all(SAME))
        .number("heads", BYTE, all(SAME))
        .number("sectors_per_track", BYTE, all(SAME))
        .number("disk_type", BE32, all(MALFORMED))
        // Without a place for a header.
        .and(Value::Meaning, 3, start.at(DISK + 16))
        .and(Value::Meaning, 4, start.at(DISK + 16));
    footer.seal = None;
    footer.number("checksum", BE32, all(MALFORMED));
    footer.seal = Some((seal_footer, sum));
    footer
        .bytes("unique_id", 16, all(SAME))
        .number("saved_state", BYTE, all(SAME))
        .bytes("reserved", 427, all(SAME))
        // Without its last byte it is a footer of Virtual PC before 2004.
        .cut([UNMARKED, UNMARKED, SAME])
        .complete();
    // Without a footer it is a raw disk.
    Structure::new(out, &base, "zeroed tail", 0, 0).zeroed_tails(|_, _| UNMARKED);
}

/// A differencing disk is refused and nothing is opened, whatever its header says about the parent.
fn differencing(out: &mut Vec<Case>) {
    let (image, _) = dynamic(Kind { disk_type: 4, ..PLAIN });
    let base = Base::one("vhd", "differencing", image, Vec::new());
    let refuse = refused("parent_disk_refused").says("difference to its parent").at(FOOTER + 60);
    let sum = MALFORMED.says("header's checksum").at(HEADER + 36);
    let mut header =
        Structure::new(out, &base, "differencing header", HEADER, 768).from(40).sealed(seal_header, sum);
    header
        .bytes("parent_unique_id", 16, all(refuse))
        .number("parent_time_stamp", BE32, all(refuse))
        .number("reserved1", BE32, all(refuse))
        .bytes("parent_unicode_name", 512, all(refuse));
    for _ in 0..8 {
        header
            .number("platform_code", BE32, all(refuse))
            .number("platform_data_space", BE32, all(refuse))
            .number("platform_data_length", BE32, all(refuse))
            .number("locator_reserved", BE32, all(refuse))
            .number("platform_data_offset", BE64, all(refuse))
            .and(Value::PastTheEnd, END, refuse)
            .and(Value::SelfReferring, HEADER as u64, refuse);
    }
    header.complete();
}

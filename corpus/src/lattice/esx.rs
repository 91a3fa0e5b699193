//! VMDK: the sparse extents of ESX, COWD alone and seSparse with its descriptor.

use std::sync::Arc;

use super::build::{Image, guest};
use super::vmdk::{SECTOR, descriptor};
use super::{
    Base, Case, Expect, LE32, LE64, MALFORMED, SAME, Structure, TRUNCATED, UNMARKED, UNSUPPORTED, Value, all,
    reads, refused,
};

const GRAIN: usize = 4096;
const DISK: usize = 3 * GRAIN;
const CAPACITY: u64 = DISK as u64 / 512;
/// Entries per table, for both kinds.
const ENTRIES: usize = 4096;

pub(super) fn cases(out: &mut Vec<Case>) {
    cowd(out);
    se_sparse(out);
}

/// Grains: allocated, unallocated, allocated.
fn disk() -> Vec<u8> {
    let mut disk = guest(DISK);
    disk[GRAIN..2 * GRAIN].fill(0);
    disk
}

const HOLE: Expect = reads(|disk, _| disk[..GRAIN].fill(0));

fn cowd(out: &mut Vec<Case>) {
    const DIRECTORY: usize = 4 * SECTOR;
    const TABLE: usize = 5 * SECTOR;
    const FIRST: usize = TABLE + 4 * ENTRIES;
    const END: usize = FIRST + 2 * GRAIN;
    let disk = disk();
    let mut image = Image::new(END);
    image.put(0, b"COWD").le32(4, 1).le32(8, 3).le32(12, CAPACITY as u32).le32(16, 8).le32(20, 4).le32(24, 1);
    image.le32(28, (END / SECTOR) as u32).le32(DIRECTORY, 5);
    image.le32(TABLE, (FIRST / SECTOR) as u32).le32(TABLE + 8, ((FIRST + GRAIN) / SECTOR) as u32);
    image.put(FIRST, &disk[..GRAIN]).put(FIRST + GRAIN, &disk[2 * GRAIN..]);
    let base = Base::one("vmdk", "COWD", image.0, disk);
    let past = (END / SECTOR) as u64;
    let child = refused("parent_disk_refused").says("COWD extent");
    Structure::new(out, &base, "COWD header", 0, 32)
        .number("magic", LE32, all(UNMARKED))
        .number("version", LE32, [UNSUPPORTED, SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .number("flags", LE32, [child, SAME, child, child, SAME])
        .number(
            "capacity",
            LE32,
            [
                reads(|disk, _| disk.clear()),
                reads(|disk, _| disk.truncate(512)),
                MALFORMED.says("grain directory has 1 entries").at(24),
                MALFORMED.says("grain directory has 1 entries").at(24),
                MALFORMED.says("grain directory has 1 entries").at(24),
            ],
        )
        .and(Value::Boundary, 8 * ENTRIES as u64, reads(|disk, _| disk.resize(ENTRIES * GRAIN, 0)))
        .and(Value::Boundary, 8 * ENTRIES as u64 + 1, MALFORMED.says("grain directory has 1 entries").at(24))
        .number(
            "grain size",
            LE32,
            [
                MALFORMED,
                // With one-sector grains, the tables map only the first ones: 24 entries, two of them used.
                reads(|disk, image| {
                    disk.fill(0);
                    disk[..512].copy_from_slice(&image[FIRST..FIRST + 512]);
                    disk[1024..1536].copy_from_slice(&image[FIRST + GRAIN..FIRST + GRAIN + 512]);
                }),
                MALFORMED,
                MALFORMED,
                MALFORMED,
            ],
        )
        .and(Value::Unaligned, 9, MALFORMED)
        .and(Value::Boundary, 1 << 22, MALFORMED)
        .and(Value::PastTheEnd, 1 << 21, TRUNCATED.says("grain table entry 0").at(TABLE))
        .number("grain directory", LE32, [MALFORMED, MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED])
        .and(Value::PastTheEnd, past, TRUNCATED)
        .and(Value::Overlapping, 5, TRUNCATED.says("grain table entry 0").at(FIRST))
        .number("grain directory has 0 entries", LE32, [MALFORMED, SAME, SAME, SAME, SAME])
        .number("next free sector", LE32, all(SAME))
        .cut([UNMARKED, TRUNCATED.says("COWD header").at(16), TRUNCATED.says("COWD header").at(31)])
        .complete();
    Structure::new(out, &base, "COWD directory", DIRECTORY, 4)
        .number(
            "grain directory entry 0",
            LE32,
            [reads(|disk, _| disk.fill(0)), MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED],
        )
        .and(Value::PastTheEnd, past, TRUNCATED)
        .and(Value::SelfReferring, 4, MALFORMED)
        .cut([TRUNCATED.says("grain directory").at(20); 3])
        .complete();
    Structure::new(out, &base, "COWD table", TABLE, 12)
        .number("grain table entry 0", LE32, [HOLE, MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED])
        .and(Value::PastTheEnd, past, TRUNCATED)
        .and(Value::PastTheEnd, past - 7, TRUNCATED)
        .and(Value::Overlapping, 4, MALFORMED)
        .and(Value::SelfReferring, 5, MALFORMED)
        .cut([TRUNCATED.says("grain directory entry 0").at(DIRECTORY); 3]);
    let lost = TRUNCATED.says("entries of them are missing");
    Structure::new(out, &base, "COWD extent", 0, END).zeroed_tails(|at, first| match at {
        0 => UNMARKED,
        _ if at <= TABLE => lost.at(first.next_multiple_of(SECTOR)),
        _ => data_alone(),
    });
}

fn se_sparse(out: &mut Vec<Case>) {
    const VOLATILE: usize = SECTOR;
    const DIRECTORY: usize = 2 * SECTOR;
    const TABLE: usize = 3 * SECTOR;
    const FIRST: usize = TABLE + 8 * ENTRIES;
    const END: usize = FIRST + 2 * GRAIN;
    let disk = disk();
    let mut image = Image::new(END);
    image.le64(0, 0xcafe_babe).le64(8, 0x2_0000_0001).le64(16, CAPACITY).le64(24, 8).le64(32, 64);
    for (field, (start, sectors)) in
        [(80, (VOLATILE, 1)), (128, (DIRECTORY, 1)), (144, (TABLE, 64)), (192, (FIRST, 16))]
    {
        image.le64(field, (start / SECTOR) as u64).le64(field + 8, sectors);
    }
    image.le64(VOLATILE, 0xcafe_cafe).le64(VOLATILE + 8, 1).le64(DIRECTORY, 1 << 60);
    image.le64(TABLE, 3 << 60).le64(TABLE + 16, 3 << 60 | 1 << 48);
    image.put(FIRST, &disk[..GRAIN]).put(FIRST + GRAIN, &disk[2 * GRAIN..]);
    let text = descriptor("seSparse", &format!("RW {CAPACITY} SESPARSE \"part.vmdk\""));
    let base = Arc::new(Base {
        format: "vmdk",
        name: "seSparse",
        files: vec![("image", text.into_bytes()), ("part.vmdk", image.0)],
        disk,
    });
    let few = MALFORMED.says("grain directory has 0 entries").at(136);
    let other = MALFORMED.says("capacity").at(16);
    let far = MALFORMED;
    let mut header = Structure::new(out, &base, "seSparse header", 0, SECTOR).in_file(1);
    header
        .number("magic", LE64, all(MALFORMED))
        .number("version", LE64, all(UNSUPPORTED))
        .number("capacity", LE64, all(other))
        .and(Value::Overflow, 1 << 55, other)
        .number("grain size", LE64, all(UNSUPPORTED))
        .number("grain table size", LE64, all(UNSUPPORTED))
        .number("flags", LE64, [SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED]);
    for _ in 0..4 {
        let used = UNSUPPORTED.says("reserved fields").at(48);
        header.number("reserved", LE64, [SAME, used, used, used, used]);
    }
    header
        .number(
            "volatile header",
            LE64,
            [
                // The header itself, and bytes that are not a volatile header.
                MALFORMED.says("volatile header").at(0),
                SAME,
                far,
                far,
                far,
            ],
        )
        .and(Value::PastTheEnd, (END / SECTOR) as u64, TRUNCATED)
        .and(Value::Overlapping, 2, MALFORMED.at(DIRECTORY))
        .number("volatile header", LE64, [SAME, SAME, far.at(80), far.at(80), far.at(80)]);
    for name in ["journal header", "journal"] {
        header.number(name, LE64, all(SAME)).number(name, LE64, all(SAME));
    }
    header
        .number("grain directory", LE64, [MALFORMED, MALFORMED, far, far, far])
        .and(Value::PastTheEnd, (END / SECTOR) as u64, TRUNCATED)
        .number("grain directory", LE64, [few, SAME, far.at(128), far.at(128), far.at(128)])
        .number(
            "grain tables",
            LE64,
            [
                MALFORMED.says("grain directory entry 0").at(DIRECTORY),
                MALFORMED.says("grain directory entry 0").at(DIRECTORY),
                far,
                far,
                far,
            ],
        )
        .and(
            Value::PastTheEnd,
            (END / SECTOR) as u64,
            TRUNCATED.says("grain directory entry 0").at(DIRECTORY),
        )
        .number("grain tables", LE64, [SAME, SAME, far.at(144), far.at(144), far.at(144)]);
    for name in ["free bitmap", "back map"] {
        header.number(name, LE64, all(SAME)).number(name, LE64, all(SAME));
    }
    let first = MALFORMED.says("grain table entry 0").at(TABLE);
    header
        .number("grains", LE64, [first, first, far, far, far])
        .and(Value::PastTheEnd, (END / SECTOR) as u64, TRUNCATED.says("grain table entry 0").at(TABLE))
        .number("grains", LE64, [SAME, SAME, far.at(192), far.at(192), far.at(192)])
        .bytes(
            "pad",
            304,
            [
                SAME,
                UNSUPPORTED.says("reserved fields").at(48),
                UNSUPPORTED.says("reserved fields").at(48),
                UNSUPPORTED.says("reserved fields").at(48),
                UNSUPPORTED.says("reserved fields").at(48),
            ],
        )
        .cut([
            TRUNCATED.says("seSparse header").at(0),
            TRUNCATED.says("seSparse header").at(256),
            TRUNCATED.says("seSparse header").at(511),
        ])
        .complete();
    let journal = UNSUPPORTED.says("journal");
    Structure::new(out, &base, "seSparse volatile header", VOLATILE, 32)
        .in_file(1)
        .number("volatile header", LE64, all(MALFORMED))
        .number("free table", LE64, all(SAME))
        .number("next transaction", LE64, all(SAME))
        .number("replay journal", LE64, [SAME, journal, journal, journal, journal])
        .cut([TRUNCATED.says("volatile header").at(80); 3])
        .complete();
    let kind = MALFORMED;
    Structure::new(out, &base, "seSparse directory", DIRECTORY, 8)
        .in_file(1)
        .number("grain directory entry", LE64, [reads(|disk, _| disk.fill(0)), kind, kind, kind, kind])
        // After the only table, the file contains grains.
        .and(Value::Overlapping, 1 << 60 | 1, MALFORMED.says("grain table entry 0").at(FIRST))
        .and(Value::PastTheEnd, 1 << 60 | 2, TRUNCATED)
        .and(Value::Overflow, 1 << 60 | 0xffff_ffff, TRUNCATED)
        .cut([TRUNCATED.says("grain directory").at(128); 3])
        .complete();
    Structure::new(out, &base, "seSparse table", TABLE, 8)
        .in_file(1)
        .number("grain table entry", LE64, [HOLE, kind, kind, kind, kind])
        .and(Value::Meaning, 1 << 60, HOLE)
        .and(Value::Meaning, 2 << 60, HOLE)
        .and(Value::PastTheEnd, 3 << 60 | 2 << 48, TRUNCATED)
        .and(Value::Overflow, (4 << 60) - 1, kind)
        .and(
            Value::Overlapping,
            3 << 60 | 1 << 48,
            reads(|disk, _| disk.copy_within(2 * GRAIN..3 * GRAIN, 0)),
        )
        .cut([TRUNCATED.says("grain directory entry 0").at(DIRECTORY); 3])
        .complete();
    let lost = TRUNCATED.says("entries of them are missing");
    Structure::new(out, &base, "seSparse extent", 0, END).in_file(1).zeroed_tails(|at, first| match at {
        0 => MALFORMED.says("magic"),
        VOLATILE => MALFORMED.says("volatile header"),
        _ if at <= TABLE => lost.at(first.next_multiple_of(SECTOR)),
        _ => data_alone(),
    });
}

/// The rest of the table is zeros in any case, and lost plain data cannot be distinguished from zeros. The two grains are at
/// the end of the object.
fn data_alone() -> Expect {
    reads(|disk, image| {
        let grains = &image[image.len() - 2 * GRAIN..];
        disk[..GRAIN].copy_from_slice(&grains[..GRAIN]);
        disk[2 * GRAIN..].copy_from_slice(&grains[GRAIN..]);
    })
}

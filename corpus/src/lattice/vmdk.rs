//! VMDK: the hosted sparse extent, its directory and tables, alone and with redundant ones.
//!
//! ```text
//! sector  0       1 2         3          4 5     6 7 8      16 …        56
//!         header  descriptor  directory  tables  redundant  five grains end
//! ```

use std::sync::Arc;

use super::build::{Image, guest};
use super::{
    BYTE, Base, Case, Expect, LE16, LE32, LE64, MALFORMED, SAME, Structure, TRUNCATED, UNMARKED, UNSUPPORTED,
    Value, all, reads,
};

pub(super) const SECTOR: usize = 512;
const GRAIN: usize = 4096;
/// Entries per table.
const ENTRIES: usize = 16;
/// Number of grains; the disk ends within the last one.
const GRAINS: usize = 18;
const DISK: usize = 17 * GRAIN + 512;
const CAPACITY: u64 = DISK as u64 / 512;
const DIRECTORY: usize = 3 * SECTOR;
const TABLES: [usize; 2] = [4 * SECTOR, 5 * SECTOR];
const REDUNDANT: usize = 6 * SECTOR;
const STORED: usize = 16 * SECTOR;
/// The allocated grains, in storage order.
const USED: [usize; 5] = [0, 2, 15, 16, 17];
const END: u64 = 56;

/// Offsets of the header fields.
pub(super) mod field {
    pub(crate) const DESCRIPTOR_OFFSET: usize = 28;
    pub(crate) const GD_OFFSET: usize = 56;
    pub(crate) const NEWLINES: usize = 73;
    pub(crate) const COMPRESS_ALGORITHM: usize = 77;
}

/// The header of a hosted sparse extent.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) descriptor: (u64, u64),
    pub(super) entries: u32,
    pub(super) redundant: u64,
    pub(super) directory: u64,
    pub(super) overhead: u64,
}

impl Header {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut image = Image::new(SECTOR);
        image.put(0, b"KDMV").le32(4, self.version).le32(8, self.flags).le64(12, self.capacity);
        image.le64(20, (GRAIN / SECTOR) as u64).le64(28, self.descriptor.0).le64(36, self.descriptor.1);
        image.le32(44, self.entries).le64(48, self.redundant).le64(56, self.directory);
        image.le64(64, self.overhead).put(73, b"\n \r\n");
        image.put(77, &[u8::from(self.flags & 0x1_0000 != 0)]);
        image.0
    }
}

pub(super) fn descriptor(create_type: &str, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\n{extents}\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\n"
    )
}

/// The disk: 5 of 18 grains are allocated.
pub(super) fn disk() -> Vec<u8> {
    let mut disk = guest(DISK);
    for grain in (0..GRAINS).filter(|grain| !USED.contains(grain)) {
        disk[grain * GRAIN..(grain + 1) * GRAIN].fill(0);
    }
    disk
}

/// The image, with or without redundant tables.
fn image(redundant: bool, text: Option<&str>) -> Vec<u8> {
    let header = Header {
        version: 1,
        flags: if redundant { 3 } else { 1 },
        capacity: CAPACITY,
        descriptor: if text.is_some() { (1, 2) } else { (0, 0) },
        entries: ENTRIES as u32,
        redundant: if redundant { 6 } else { 0 },
        directory: 3,
        overhead: 16,
    };
    let mut image = Image::new(END as usize * SECTOR);
    image.put(0, &header.bytes()).put(SECTOR, text.unwrap_or_default().as_bytes());
    let disk = disk();
    for copy in 0..=usize::from(redundant) {
        for (table, at) in TABLES.into_iter().enumerate() {
            let at = at + copy * 3 * SECTOR;
            image.le32(DIRECTORY + copy * 3 * SECTOR + 4 * table, (at / SECTOR) as u32);
            for (number, grain) in USED.into_iter().enumerate() {
                if grain / ENTRIES == table {
                    let sector = (STORED + number * GRAIN) / SECTOR;
                    image.le32(at + 4 * (grain % ENTRIES), sector as u32);
                }
            }
        }
    }
    for (number, grain) in USED.into_iter().enumerate() {
        let end = DISK.min((grain + 1) * GRAIN);
        image.put(STORED + number * GRAIN, &disk[grain * GRAIN..end]);
    }
    image.0
}

pub(super) fn cases(out: &mut Vec<Case>) {
    let text = descriptor("monolithicSparse", &format!("RW {CAPACITY} SPARSE \"image\""));
    let base = Base::one("vmdk", "monolithicSparse", image(false, Some(&text)), disk());
    header(out, &base);
    tables(out, &base);
    zeroed_tails(out, &base, TABLES[1] + SECTOR);
    let base = Base::one("vmdk", "monolithicSparse, redundant", image(true, Some(&text)), disk());
    redundant(out, &base);
    zeroed_tails(out, &base, TABLES[1] + 4 * SECTOR);
}

/// The outcome for an image whose tables end at `tables`. Lost plain data cannot be distinguished from zeros.
fn zeroed_tails(out: &mut Vec<Case>, base: &Arc<Base>, tables: usize) {
    let lost = TRUNCATED.says("entries of them are missing");
    Structure::new(out, base, "sparse image", 0, END as usize * SECTOR).zeroed_tails(|at, first| match at {
        0 => UNMARKED,
        SECTOR => NO_DESCRIPTOR,
        _ if at < tables => lost.at(first.next_multiple_of(SECTOR)),
        _ => reads(|disk, image| {
            for (number, grain) in USED.into_iter().enumerate() {
                stored(disk, image, number, grain * GRAIN, GRAIN);
            }
        }),
    });
}

/// An extent file without a descriptor, as in a set of files.
pub(super) fn part() -> Vec<u8> {
    image(false, None)
}

/// Copies the first `len` bytes of the stored grain at `from` to the guest address `to`.
fn stored(disk: &mut [u8], image: &[u8], from: usize, to: usize, len: usize) {
    let len = len.min(disk.len() - to);
    disk[to..to + len].copy_from_slice(&image[STORED + from * GRAIN..][..len]);
}

const CAPACITY_DIFFERS: Expect = MALFORMED.says("capacity");
const NO_DESCRIPTOR: Expect = UNSUPPORTED.says("without a descriptor").at(field::DESCRIPTOR_OFFSET);

fn header(out: &mut Vec<Case>, base: &Arc<Base>) {
    let mut header = Structure::new(out, base, "sparse header", 0, SECTOR);
    header
        .number("magic", LE32, all(UNMARKED))
        .number("version", LE32, [UNSUPPORTED, SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .and(Value::Boundary, 3, SAME)
        .and(Value::Boundary, 4, UNSUPPORTED)
        .number("flags", LE32, [SAME, SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .and(Value::Meaning, 3, SAME)
        .and(Value::Meaning, 5, SAME)
        .and(Value::Meaning, 9, SAME)
        .and(Value::Meaning, 0x1_0001, MALFORMED.says("compressAlgorithm").at(field::COMPRESS_ALGORITHM))
        .and(Value::Meaning, 0x2_0001, UNSUPPORTED.says("markers"))
        .and(Value::Meaning, 0x3_0001, MALFORMED.says("compressAlgorithm").at(field::COMPRESS_ALGORITHM))
        .and(Value::Boundary, 0x4_0001, UNSUPPORTED)
        .number("capacity", LE64, all(CAPACITY_DIFFERS))
        .and(Value::Boundary, CAPACITY - 1, CAPACITY_DIFFERS)
        .and(Value::Boundary, 144, SAME)
        .and(Value::Boundary, 152, CAPACITY_DIFFERS)
        .and(Value::Overflow, 1 << 55, CAPACITY_DIFFERS)
        .number("grainSize", LE64, [MALFORMED, MALFORMED, UNSUPPORTED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 4, MALFORMED)
        .and(Value::Boundary, 1 << 22, UNSUPPORTED)
        .and(Value::Unaligned, 9, MALFORMED)
        .and(Value::Overflow, 1 << 55, UNSUPPORTED)
        .and(Value::PastTheEnd, 1 << 21, TRUNCATED.says("grain table entry 0").at(TABLES[0]))
        .and(
            Value::Meaning,
            16,
            reads(|disk, image| {
                disk.fill(0);
                stored(disk, image, 0, 0, 2 * GRAIN);
                stored(disk, image, 1, 2 * 2 * GRAIN, 2 * GRAIN);
            }),
        )
        .number("descriptorOffset", LE64, [NO_DESCRIPTOR, SAME, TRUNCATED, TRUNCATED, TRUNCATED])
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::PastTheEnd, END - 1, TRUNCATED)
        .and(Value::Overflow, u64::MAX >> 9, TRUNCATED)
        .and(Value::Overlapping, 3, MALFORMED.says("line 1 of the descriptor").at(DIRECTORY))
        .and(Value::Overlapping, 10, NO_DESCRIPTOR)
        .number("descriptorSize", LE64, [NO_DESCRIPTOR, SAME, too_long(), too_long(), too_long()])
        .and(Value::Boundary, 2, SAME)
        .and(Value::Overlapping, 55, MALFORMED.says("gdOffset").at(field::GD_OFFSET))
        .and(Value::Boundary, 2049, MALFORMED)
        .and(Value::PastTheEnd, 56, too_long())
        .and(Value::PastTheEnd, 2048, too_long())
        .and(Value::Overflow, u64::MAX >> 9, MALFORMED)
        .number(
            "numGTEsPerGT",
            LE32,
            [
                MALFORMED,
                reads(|disk, image| {
                    disk.fill(0);
                    stored(disk, image, 0, 0, GRAIN);
                    stored(disk, image, 3, GRAIN, GRAIN);
                }),
                UNSUPPORTED,
                UNSUPPORTED,
                UNSUPPORTED,
            ],
        )
        .and(Value::Boundary, 1 << 16, reads(|disk, _| disk[16 * GRAIN..].fill(0)))
        .and(Value::Boundary, (1 << 16) + 1, UNSUPPORTED)
        .number("rgdOffset", LE64, all(SAME))
        .number(
            "gdOffset",
            LE64,
            [
                MALFORMED, // Into the descriptor.
                MALFORMED, TRUNCATED, TRUNCATED,
                // The value means "in the footer", as in a stream, and there is no footer.
                MALFORMED,
            ],
        )
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::Overflow, u64::MAX >> 9, TRUNCATED)
        .and(Value::Overlapping, 4, TRUNCATED.says("grain table entry 0").at(STORED))
        .and(Value::Overlapping, 16, TRUNCATED.says("grain directory entry 0").at(STORED))
        .number("overHead", LE64, all(SAME))
        .number("uncleanShutdown", BYTE, all(SAME));
    for name in ["singleEndLineChar", "nonEndLineChar", "doubleEndLineChar1", "doubleEndLineChar2"] {
        header.number(name, BYTE, all(MALFORMED.says("newline bytes").at(field::NEWLINES)));
    }
    header
        .number("compressAlgorithm", LE16, [SAME, MALFORMED, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .and(Value::Boundary, 2, UNSUPPORTED)
        .bytes("pad", 433, all(SAME))
        .cut([
            UNMARKED,
            TRUNCATED.says("sparse extent's header").at(256),
            TRUNCATED.says("sparse extent's header").at(511),
        ])
        .complete();
}

fn too_long() -> Expect {
    TRUNCATED.at(field::DESCRIPTOR_OFFSET)
}

fn tables(out: &mut Vec<Case>, base: &Arc<Base>) {
    let first = reads(|disk, _| disk[..16 * GRAIN].fill(0));
    Structure::new(out, base, "embedded descriptor", SECTOR, 2 * SECTOR)
        .cut([TRUNCATED.says("descriptorOffset").at(field::DESCRIPTOR_OFFSET); 3]);
    Structure::new(out, base, "grain directory", DIRECTORY, 8)
        .number("grain directory entry 0", LE32, [first, MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED])
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::Overlapping, 2, MALFORMED)
        // The other table, and a grain read as a table.
        .and(
            Value::Overlapping,
            5,
            reads(|disk, image| {
                disk[..16 * GRAIN].fill(0);
                stored(disk, image, 3, 0, GRAIN);
                stored(disk, image, 4, GRAIN, GRAIN);
            }),
        )
        .and(Value::Overlapping, 16, TRUNCATED.says("grain table entry 0").at(STORED))
        .and(Value::SelfReferring, 3, MALFORMED)
        .number(
            "grain directory entry 1",
            LE32,
            [reads(|disk, _| disk[16 * GRAIN..].fill(0)), MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED],
        )
        .cut([TRUNCATED.says("gdOffset").at(field::GD_OFFSET); 3])
        .complete();
    Structure::new(out, base, "first grain table", TABLES[0], 64)
        .number(
            "grain table entry 0",
            LE32,
            [reads(|disk, _| disk[..GRAIN].fill(0)), MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED],
        )
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::PastTheEnd, END - 7, TRUNCATED)
        .and(Value::Overlapping, 2, MALFORMED)
        .and(Value::Overlapping, 3, MALFORMED)
        .and(Value::Overlapping, 24, reads(|disk, _| disk.copy_within(2 * GRAIN..3 * GRAIN, 0)))
        .and(Value::SelfReferring, 4, MALFORMED)
        .cut([
            TRUNCATED.says("grain directory entry 0").at(DIRECTORY),
            TRUNCATED.says("grain directory entry 0").at(DIRECTORY),
            TRUNCATED.says("grain directory entry 0").at(DIRECTORY),
        ]);
    Structure::new(out, base, "second grain table", TABLES[1], 8)
        .number(
            "grain table entry 0",
            LE32,
            [
                reads(|disk, _| disk[16 * GRAIN..17 * GRAIN].fill(0)),
                MALFORMED,
                TRUNCATED,
                TRUNCATED,
                TRUNCATED,
            ],
        )
        .number(
            "grain table entry 1",
            LE32,
            [reads(|disk, _| disk[17 * GRAIN..].fill(0)), MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED],
        )
        // Of the last grain, only the disk's part must be present.
        .and(Value::Boundary, END - 1, reads(|disk, _| disk[17 * GRAIN..].fill(0)))
        .cut([TRUNCATED.says("grain directory entry 1").at(DIRECTORY + 4); 3])
        .complete();
    Structure::new(out, base, "grain", STORED, GRAIN).cut([
        TRUNCATED.says("grain table entry 0").at(TABLES[0]),
        TRUNCATED.says("grain table entry 0").at(TABLES[0]),
        TRUNCATED.says("grain table entry 0").at(TABLES[0]),
    ]);
    Structure::new(out, base, "last grain", STORED + 4 * GRAIN, 512)
        .cut([TRUNCATED.says("grain table entry 1").at(TABLES[1] + 4); 3]);
}

/// If one directory or table is damaged, the other is used. If both are damaged, the error names the first.
fn redundant(out: &mut Vec<Case>, base: &Arc<Base>) {
    for (name, shift) in [("primary directory", 0), ("redundant directory", 3 * SECTOR)] {
        Structure::new(out, base, name, DIRECTORY + shift, 8)
            .number("grain directory entry 0", LE32, all(SAME))
            .and(Value::PastTheEnd, END, SAME)
            .and(Value::SelfReferring, 3, SAME)
            .and(Value::Overlapping, 2, SAME)
            .number("grain directory entry 1", LE32, all(SAME))
            .complete();
    }
    let lost = [reads(|disk, _| disk[..GRAIN].fill(0)), SAME, SAME, SAME, SAME];
    for (name, shift, expect) in [("primary table", 0, lost), ("redundant table", 3 * SECTOR, all(SAME))] {
        Structure::new(out, base, name, TABLES[0] + shift, 4)
            // An entry for an unallocated grain is valid.
            .number("grain table entry 0", LE32, expect)
            .and(Value::PastTheEnd, END, SAME)
            .and(Value::SelfReferring, 4, SAME)
            .complete();
    }
    Structure::new(out, base, "redundant header", 0, 64)
        .from(48)
        .number("rgdOffset", LE64, all(SAME))
        .and(Value::PastTheEnd, END, SAME)
        .and(Value::Overlapping, 3, SAME)
        .and(Value::Overlapping, 16, SAME)
        .number("gdOffset", LE64, [SAME, SAME, SAME, SAME, MALFORMED])
        .and(Value::PastTheEnd, END, SAME)
        .and(Value::Overlapping, 2, SAME)
        .complete();
    Structure::new(out, base, "both directories", DIRECTORY, 4)
        .with_copy(REDUNDANT)
        .number(
            "grain directory entry 0",
            LE32,
            [reads(|disk, _| disk[..16 * GRAIN].fill(0)), MALFORMED, TRUNCATED, TRUNCATED, TRUNCATED],
        )
        .complete();
}

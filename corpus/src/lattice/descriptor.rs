//! The VMDK descriptor: embedded in a sparse extent, and as a separate file that names extents.
//!
//! It is text, so its cases replace lines. The five values of a number are written in decimal.

use std::sync::Arc;

use super::build::guest;
use super::vmdk::part;
use super::{
    Base, Case, Expect, MALFORMED, Outcome, Place, SAME, TRUNCATED, UNSUPPORTED, Value, reads, refused,
};

const LINES: [&str; 9] = [
    "# Disk DescriptorFile",
    "version=1",
    "encoding=\"UTF-8\"",
    "CID=fffffffe",
    "parentCID=ffffffff",
    "createType=\"custom\"",
    "RW 16 FLAT \"flat.bin\" 8",
    "RW 137 SPARSE \"part.vmdk\"",
    "RW 8 ZERO",
];
/// Size of the flat file: 4 KiB unused and 8 KiB used.
const FLAT: usize = 12 << 10;

fn base() -> Arc<Base> {
    let flat = guest(FLAT);
    let mut disk = flat[4096..].to_vec();
    disk.extend(super::vmdk::disk());
    disk.resize(disk.len() + 8 * 512, 0);
    let files = vec![("image", LINES.join("\n").into_bytes()), ("flat.bin", flat), ("part.vmdk", part())];
    Arc::new(Base { format: "vmdk", name: "descriptor", files, disk })
}

/// Returns the byte address of a line.
fn place(line: usize) -> usize {
    LINES[..line].iter().map(|line| line.len() + 1).sum()
}

struct Lines<'a> {
    out: &'a mut Vec<Case>,
    base: Arc<Base>,
    line: usize,
    field: &'static str,
}

impl Lines<'_> {
    fn of(&mut self, line: usize, field: &'static str) -> &mut Self {
        (self.line, self.field) = (line, field);
        self
    }

    /// Replaces the line. If the text becomes longer than the base's, the following bytes move.
    fn is(&mut self, value: Value, text: &str, expect: Expect) -> &mut Self {
        let mut lines = LINES.map(str::to_owned);
        lines[self.line] = text.to_owned();
        let text = lines.join("\n").into_bytes();
        self.whole(value, text, expect)
    }

    fn whole(&mut self, value: Value, text: Vec<u8>, expect: Expect) -> &mut Self {
        let mut files = self.base.files.clone();
        let len = text.len();
        let room = len.max(files[0].1.len());
        files[0].1.resize(room, 0);
        let base = Base { format: "vmdk", name: "descriptor", files, disk: self.base.disk.clone() };
        let outcome = match expect {
            Expect::Reads(change) => Outcome::Reads(change),
            Expect::Refused { code, says, at } => Outcome::Refused {
                code,
                says: says.unwrap_or(self.field),
                at: match at {
                    Place::Field => Some(place(self.line) as u64),
                    Place::Byte(at) => Some(at as u64),
                    Place::Nowhere => None,
                },
            },
        };
        self.out.push(Case {
            format: "vmdk",
            structure: "descriptor",
            field: self.field,
            value,
            outcome,
            base: Arc::new(base),
            file: 0,
            edits: vec![(0, text)],
            seals: Vec::new(),
            cut: Some(len),
        });
        self
    }
}

pub(super) fn cases(out: &mut Vec<Case>) {
    let external = refused("external_data_refused");
    let parent = refused("parent_disk_refused").says("difference");
    let mut lines = Lines { out, base: base(), line: 0, field: "" };
    lines
        .of(1, "version")
        .is(Value::Zero, "version=0", UNSUPPORTED)
        .is(Value::One, "version=1", SAME)
        .is(Value::Boundary, "version=4", SAME)
        .is(Value::Boundary, "version=5", UNSUPPORTED)
        .is(Value::SignBit, "version=-1", UNSUPPORTED)
        .is(Value::Maximum, "version=18446744073709551615", UNSUPPORTED)
        .is(Value::Overflow, "version=18446744073709551617", UNSUPPORTED)
        .is(Value::Meaning, "version=1\nversion=2", MALFORMED.at(place(1) + 10))
        .of(2, "encoding")
        .is(Value::Zero, "encoding=", SAME)
        .is(Value::Meaning, "encoding=\"GBK\"", SAME)
        .is(Value::Maximum, "encoding=\u{ff}", MALFORMED)
        .of(3, "CID")
        .is(Value::Zero, "CID=0", SAME)
        .is(Value::Maximum, "CID=ffffffffffffffffff", SAME)
        .of(4, "parentCID")
        .is(Value::Zero, "parentCID=0", parent)
        .is(Value::One, "parentCID=00000001", parent)
        .is(Value::SignBit, "parentCID=80000000", parent)
        .is(Value::BelowMaximum, "parentCID=fffffffe", parent)
        .is(Value::Maximum, "parentCID=FFFFFFFF", SAME)
        .is(Value::Overflow, "parentCID=100000000", MALFORMED)
        .is(Value::Meaning, "parentCID=none", MALFORMED)
        .is(
            Value::Meaning,
            "parentCID=ffffffff\nparentFileNameHint=\"/etc/passwd\"",
            parent.at(place(4) + 19),
        )
        .of(5, "createType")
        .is(Value::Zero, "createType=\"\"", UNSUPPORTED)
        .is(Value::Meaning, "#", MALFORMED.at(0))
        .is(Value::Meaning, "createType=\"holographic\"", UNSUPPORTED)
        .is(Value::Meaning, "createType=\"monolithicFlat\"", MALFORMED.at(place(7) + 8))
        .is(Value::Meaning, "createType=\"monolithicSparse\"", MALFORMED.at(place(6) + 10))
        .is(Value::Meaning, "createType=\"vmfsRDM\"", external.says("device"))
        .is(
            Value::Overlapping,
            "createType=\"custom\"\ncreatetype=\"vmfs\"",
            MALFORMED.says("createtype").at(place(5) + 20),
        )
        .is(Value::Meaning, "createType", MALFORMED.says("line 6 of the descriptor"));
    extents(&mut lines);
    let text = LINES.join("\n").into_bytes();
    lines
        .of(0, "the descriptor")
        .whole(Value::CutAtStart, Vec::new(), refused_nowhere())
        .whole(Value::CutInMiddle, text[..9].to_vec(), refused_nowhere())
        .of(5, "createType")
        .whole(Value::CutAtStart, text[..place(5)].to_vec(), MALFORMED.at(0))
        .of(6, "the descriptor has no extents")
        .whole(Value::CutAtStart, text[..place(6)].to_vec(), MALFORMED.at(0))
        .of(6, "has no end of its name")
        .whole(Value::CutInMiddle, text[..place(6) + 15].to_vec(), MALFORMED)
        .of(0, "line 10 of the descriptor")
        .whole(Value::Meaning, [&text[..], b"\n\x1b[2J\x07"].concat(), MALFORMED.at(text.len() + 1))
        .of(0, "bytes of text")
        .whole(Value::Maximum, [text.clone(), b"\n#".repeat(600 << 10)].concat(), MALFORMED.at(1 << 20));
}

fn refused_nowhere() -> Expect {
    Expect::Refused { code: "format_mismatch", says: Some("has no mark of it"), at: Place::Nowhere }
}

fn extents(lines: &mut Lines<'_>) {
    let external = refused("external_data_refused");
    let end = FLAT;
    lines
        .of(6, "access")
        .is(Value::Meaning, "RDONLY 16 FLAT \"flat.bin\" 8", SAME)
        .is(Value::Meaning, "NOACCESS 16 FLAT \"flat.bin\" 8", UNSUPPORTED.says("NOACCESS"))
        .is(Value::Meaning, "rw 16 FLAT \"flat.bin\" 8", MALFORMED.says("line 7 of the descriptor"))
        .of(6, "sectors")
        .is(Value::Zero, "RW 0 FLAT \"flat.bin\" 8", reads(|disk, _| drop(disk.drain(..8192))))
        .is(Value::One, "RW 1 FLAT \"flat.bin\" 8", reads(|disk, _| drop(disk.drain(512..8192))))
        .is(Value::PastTheEnd, "RW 17 FLAT \"flat.bin\" 8", TRUNCATED.at(end))
        .is(Value::SignBit, "RW 9223372036854775808 FLAT \"flat.bin\" 8", MALFORMED.says("too large"))
        .is(Value::SignBit, "RW -1 FLAT \"flat.bin\" 8", MALFORMED.says("no size"))
        .is(Value::BelowMaximum, "RW 18446744073709551614 FLAT \"flat.bin\" 8", MALFORMED.says("too large"))
        .is(Value::Maximum, "RW 18446744073709551615 FLAT \"flat.bin\" 8", MALFORMED.says("too large"))
        .is(Value::Overflow, "RW 18446744073709551616 FLAT \"flat.bin\" 8", MALFORMED.says("no size"))
        .is(
            Value::Overflow,
            "RW 36028797018963967 FLAT \"flat.bin\" 8",
            MALFORMED.says("address space").at(place(7) + 15),
        )
        .is(Value::Meaning, "RW 0x10 FLAT \"flat.bin\" 8", MALFORMED.says("no size"))
        .of(6, "type")
        .is(Value::Zero, "RW 16", MALFORMED)
        .is(Value::Meaning, "RW 16 CLOUD \"flat.bin\" 8", UNSUPPORTED)
        .is(Value::Meaning, "RW 16 ZERO \"flat.bin\"", reads(|disk, _| disk[..8192].fill(0)))
        .is(Value::Meaning, "RW 16 VMFS \"flat.bin\" 8", SAME)
        .is(Value::Meaning, "RW 16 VMFSRDM \"flat.bin\"", external.says("device"))
        .is(Value::Meaning, "RW 16 SPARSE \"flat.bin\"", MALFORMED.says("magic").at(0))
        .is(Value::Meaning, "RW 16 SESPARSE \"flat.bin\"", MALFORMED.says("magic").at(0))
        .is(Value::Meaning, "RW 16 VMFSSPARSE \"flat.bin\"", MALFORMED.says("magic").at(0))
        .of(6, "name")
        .is(Value::Zero, "RW 16 FLAT \"\" 8", MALFORMED)
        .is(Value::Meaning, "RW 16 FLAT flat.bin 8", MALFORMED.says("offset behind its name"))
        .is(Value::Meaning, "RW 16 FLAT \"/etc/passwd\" 0", external.says("/etc/passwd"))
        .is(Value::Meaning, "RW 16 FLAT \"../flat.bin\" 0", external.says("../flat.bin"))
        .is(Value::Meaning, "RW 16 FLAT \"http://127.0.0.1/flat\" 0", external.says("127.0.0.1"))
        .is(Value::Meaning, "RW 16 FLAT \"json:{}\" 0", external.says("json:{}"))
        .is(
            Value::SelfReferring,
            "RW 16 SPARSE \"image\"",
            TRUNCATED.says("sparse extent's header").at(LINES.join("\n").len() - 3),
        )
        .is(Value::Overlapping, LINES[7], MALFORMED.says("stands twice").at(place(7) + 2))
        .of(6, "offset")
        .is(
            Value::Zero,
            "RW 16 FLAT \"flat.bin\"",
            reads(|disk, _| disk[..8192].copy_from_slice(&guest(8192))),
        )
        .is(
            Value::One,
            "RW 16 FLAT \"flat.bin\" 1",
            reads(|disk, _| disk[..8192].copy_from_slice(&guest(FLAT)[512..8704])),
        )
        .is(Value::PastTheEnd, "RW 16 FLAT \"flat.bin\" 9", TRUNCATED.says("ends at").at(end))
        .is(Value::SignBit, "RW 16 FLAT \"flat.bin\" 9223372036854775808", TRUNCATED.says("ends at").at(end))
        .is(Value::SignBit, "RW 16 FLAT \"flat.bin\" -8", MALFORMED)
        .is(
            Value::BelowMaximum,
            "RW 16 FLAT \"flat.bin\" 18446744073709551614",
            TRUNCATED.says("ends at").at(end),
        )
        .is(Value::Maximum, "RW 16 FLAT \"flat.bin\" 18446744073709551615", TRUNCATED.says("ends at").at(end))
        .is(Value::Overflow, "RW 16 FLAT \"flat.bin\" 36028797018963967", TRUNCATED.says("ends at").at(end))
        .is(Value::Meaning, "RW 16 FLAT \"flat.bin\" 8 9", SAME)
        .of(7, "capacity")
        .is(Value::Zero, "RW 0 SPARSE \"part.vmdk\"", MALFORMED.at(12))
        .is(Value::One, "RW 1 SPARSE \"part.vmdk\"", MALFORMED.at(12))
        .is(Value::Maximum, "RW 1099511627776 SPARSE \"part.vmdk\"", MALFORMED.says("capacity").at(12))
        .is(Value::Meaning, "RW 137 SPARSE \"part.vmdk\" 8", MALFORMED.says("offset").at(place(7)))
        .of(8, "sectors")
        .is(Value::Zero, "RW 0 ZERO", reads(|disk, _| disk.truncate(disk.len() - 8 * 512)))
        .is(Value::Overflow, "RW 36028797018963967 ZERO", MALFORMED.says("address space"));
}

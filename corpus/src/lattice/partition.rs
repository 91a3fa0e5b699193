//! Partition tables on a raw disk: the MBR, its extended boot records, the GPT.
//!
//! They do not affect converted bytes, so no case is refused. The outcome of a case is the list of partitions and the
//! warnings.

use super::build::{Image, crc32};
use super::{BYTE, LE16, LE32, LE64, Number, Value};

const SECTOR: usize = 512;
const SECTORS: u64 = 256;
/// Sector numbers of the extended boot records.
const CHAIN: [usize; 2] = [64, 104];

/// A raw disk with a damaged partition table.
#[derive(Clone, Debug)]
pub struct TableCase {
    /// The damaged structure.
    pub structure: &'static str,
    /// The damaged field.
    pub field: &'static str,
    /// The kind of damage.
    pub value: Value,
    /// The disk.
    pub disk: Vec<u8>,
    /// The expected table: `none`, `mbr` or `gpt`.
    pub table: &'static str,
    /// The expected number of partitions.
    pub partitions: usize,
    /// The expected warning codes, sorted.
    pub codes: Vec<&'static str>,
}

/// The expected outcome of a value: the table, the number of partitions, and the warnings in addition to the disk's own.
#[derive(Clone, Copy)]
struct Seen(&'static str, usize, &'static [&'static str]);

const BEYOND: &str = "partition_beyond_end";
const DAMAGED: &str = "partition_table_damaged";
const GPT: &str = "partition_table_gpt";
const OVERLAP: &str = "partitions_overlap";
const STRANGE: &str = "filesystem_unlisted";

struct Table<'a> {
    out: &'a mut Vec<TableCase>,
    disk: &'a [u8],
    name: &'static str,
    place: usize,
    described: usize,
    seal: fn(&mut [u8]),
    field: (&'static str, usize, usize),
}

impl<'a> Table<'a> {
    fn new(out: &'a mut Vec<TableCase>, disk: &'a [u8], name: &'static str, place: usize) -> Self {
        Self { out, disk, name, place, described: 0, seal: |_| {}, field: ("", 0, 0) }
    }

    fn sealed(mut self, seal: fn(&mut [u8])) -> Self {
        self.seal = seal;
        self
    }

    fn from(mut self, offset: usize) -> Self {
        self.described = offset;
        self
    }

    fn number(&mut self, name: &'static str, number: Number, expect: [Seen; 5]) -> &mut Self {
        let maximum = number.maximum();
        let values = [0, 1, maximum / 2 + 1, maximum - 1, maximum].map(|value| number.bytes(value));
        self.field(name, values, expect)
    }

    fn bytes(&mut self, name: &'static str, len: usize, expect: Seen) -> &mut Self {
        let with = |at: usize, byte: u8, others: u8| {
            let mut bytes = vec![others; len];
            bytes[at] = byte;
            bytes
        };
        let values =
            [vec![0; len], with(0, 1, 0), with(len - 1, 0x80, 0), with(0, 0xfe, 0xff), vec![0xff; len]];
        self.field(name, values, [expect; 5])
    }

    fn field(&mut self, name: &'static str, values: [Vec<u8>; 5], expect: [Seen; 5]) -> &mut Self {
        self.field = (name, self.described, values[0].len());
        self.described += values[0].len();
        let kinds = [Value::Zero, Value::One, Value::SignBit, Value::BelowMaximum, Value::Maximum];
        for ((kind, bytes), seen) in kinds.into_iter().zip(values).zip(expect) {
            self.put(kind, &bytes, seen);
        }
        self
    }

    fn and(&mut self, value: Value, number: u64, seen: Seen) -> &mut Self {
        let bytes = Number::Le(self.field.2).bytes(number);
        self.put(value, &bytes, seen)
    }

    fn put(&mut self, value: Value, bytes: &[u8], seen: Seen) -> &mut Self {
        let (field, offset, _) = self.field;
        let mut disk = self.disk.to_vec();
        disk[self.place + offset..][..bytes.len()].copy_from_slice(bytes);
        (self.seal)(&mut disk);
        let Seen(table, partitions, codes) = seen;
        let mut codes = codes.to_vec();
        codes.sort_unstable();
        self.out.push(TableCase { structure: self.name, field, value, disk, table, partitions, codes });
        self
    }

    fn complete(&self, len: usize) {
        assert_eq!(self.described, len, "fields of {} are missing", self.name);
    }
}

/// Returns all cases of partition tables.
pub fn tables() -> Vec<TableCase> {
    let mut out = Vec::new();
    mbr(&mut out);
    gpt(&mut out);
    zeroed_tails(&mut out);
    out
}

/// Both disks, with zeros from each sector to the end. A lost table gives a warning if anything shows that it existed.
fn zeroed_tails(out: &mut Vec<TableCase>) {
    let gpt = |sector: usize| match sector {
        0 => Seen("none", 0, &[]),
        // The header or its entries are lost, and the backup of both.
        1 | 2 => Seen("gpt", 0, &[GPT, DAMAGED]),
        // Only the backup is lost.
        _ => Seen("gpt", 1, &[GPT, DAMAGED]),
    };
    let mbr = |sector: usize| match sector {
        0 => Seen("none", 0, &[]),
        // An extended partition whose first record is blank was never used.
        _ if sector <= CHAIN[0] => Seen("mbr", 2, &[]),
        _ if sector <= CHAIN[1] => Seen("mbr", 3, &[DAMAGED]),
        _ => Seen("mbr", 4, &[]),
    };
    let seen: [&dyn Fn(usize) -> Seen; 2] = [&gpt, &mbr];
    let disks = [("zeroed tail of a GPT disk", gpt_disk()), ("zeroed tail of an MBR disk", mbr_disk())];
    for ((structure, sound), seen) in disks.into_iter().zip(seen) {
        for sector in 0..SECTORS as usize {
            let mut disk = sound.clone();
            disk[sector * SECTOR..].fill(0);
            let Seen(table, partitions, codes) = seen(sector);
            let mut codes = codes.to_vec();
            codes.sort_unstable();
            let field = "the disk's end";
            out.push(TableCase {
                structure,
                field,
                value: Value::ZeroedTail,
                disk,
                table,
                partitions,
                codes,
            });
        }
    }
}

fn entry(image: &mut Image, at: usize, kind: u8, start: u32, sectors: u32) {
    image.put(at + 4, &[kind]).le32(at + 8, start).le32(at + 12, sectors);
}

/// A primary partition, and an extended partition with two logical ones.
fn mbr_disk() -> Vec<u8> {
    let mut image = Image::new(SECTORS as usize * SECTOR);
    entry(&mut image, 446, 0x83, 8, 40);
    entry(&mut image, 462, 5, 64, 128);
    let [first, second] = CHAIN.map(|sector| sector * SECTOR);
    entry(&mut image, first + 446, 0x83, 2, 30);
    entry(&mut image, first + 462, 5, 40, 40);
    entry(&mut image, second + 446, 0x83, 2, 20);
    for record in [0, first, second] {
        image.put(record + 510, &[0x55, 0xaa]);
    }
    image.0
}

fn mbr(out: &mut Vec<TableCase>) {
    let disk = mbr_disk();
    let same = Seen("mbr", 4, &[]);
    let fewer = Seen("mbr", 3, &[]);
    let code = Seen("none", 0, &[DAMAGED]);
    let beyond = Seen("mbr", 4, &[BEYOND]);
    let strange = Seen("mbr", 4, &[STRANGE]);
    // Overlaps the records of other partitions, which are not a file system.
    let endless = Seen("mbr", 4, &[STRANGE, BEYOND, OVERLAP]);
    let mut table = Table::new(out, &disk, "MBR entry 1", 446);
    table
        .number("boot flag", BYTE, [same, code, same, code, code])
        .bytes("first CHS", 3, same)
        .number("type", BYTE, [fewer, same, same, same, same])
        .and(Value::Meaning, 5, same)
        .and(Value::Meaning, 0xee, Seen("gpt", 0, &[DAMAGED, GPT, "partition_table_hybrid"]))
        .bytes("last CHS", 3, same)
        .number("start", LE32, [strange, same, beyond, beyond, beyond])
        .and(Value::PastTheEnd, SECTORS, beyond)
        .and(Value::PastTheEnd, SECTORS - 39, beyond)
        .and(Value::Overlapping, 64, Seen("mbr", 4, &[STRANGE, OVERLAP]))
        .and(Value::Overlapping, 66, Seen("mbr", 4, &[STRANGE, OVERLAP]))
        .number("sectors", LE32, [fewer, same, endless, endless, endless])
        .complete(16);
    let alone = Seen("mbr", 2, &[]);
    Table::new(out, &disk, "MBR entry of a container", 462)
        .from(8)
        // The MBR itself: its first partition is read as a logical one.
        .number(
            "start",
            LE32,
            [
                Seen("mbr", 3, &[DAMAGED, OVERLAP]),
                alone,
                Seen("mbr", 2, &[BEYOND]),
                Seen("mbr", 2, &[BEYOND]),
                Seen("mbr", 2, &[BEYOND]),
            ],
        )
        .and(Value::PastTheEnd, SECTORS, Seen("mbr", 2, &[BEYOND]))
        .number("sectors", LE32, [Seen("mbr", 1, &[]), same, beyond, beyond, beyond])
        .complete(16);
    Table::new(out, &disk, "MBR", 510).number("signature", LE16, [Seen("none", 0, &[]); 5]).complete(2);
    let first = CHAIN[0] * SECTOR;
    Table::new(out, &disk, "EBR partition", first + 446)
        .number("boot flag", BYTE, [same; 5])
        .bytes("first CHS", 3, same)
        .number("type", BYTE, [fewer, same, same, same, same])
        .and(Value::Meaning, 5, Seen("mbr", 2, &[DAMAGED]))
        .bytes("last CHS", 3, same)
        .number("start", LE32, [strange, same, beyond, beyond, beyond])
        .number("sectors", LE32, [fewer, same, endless, endless, endless])
        .complete(16);
    let broken = Seen("mbr", 3, &[DAMAGED]);
    let past = Seen("mbr", 3, &[BEYOND]);
    Table::new(out, &disk, "EBR link", first + 462)
        .number("boot flag", BYTE, [same; 5])
        .bytes("first CHS", 3, same)
        .number("type", BYTE, [fewer; 5])
        .bytes("last CHS", 3, same)
        .number("start", LE32, [broken, broken, past, past, past])
        .and(Value::PastTheEnd, SECTORS - 64, past)
        .and(Value::SelfReferring, 0, broken)
        .number("sectors", LE32, [fewer, same, same, same, same])
        .complete(16);
    Table::new(out, &disk, "EBR", first + 510)
        .number("signature", LE16, [Seen("mbr", 2, &[DAMAGED]); 5])
        .complete(2);
}

const HEADER: usize = SECTOR;
const ENTRIES: usize = 2 * SECTOR;

fn header(image: &mut Image, lba: u64, other: u64, entries: u64) {
    let at = lba as usize * SECTOR;
    image.put(at, b"EFI PART").le32(at + 8, 0x0001_0000).le32(at + 12, 92);
    image.le64(at + 24, lba).le64(at + 32, other).le64(at + 40, 3).le64(at + 48, SECTORS - 3);
    image.put(at + 56, &[9; 16]).le64(at + 72, entries).le32(at + 80, 4).le32(at + 84, 128);
}

/// One partition, with both copies of the table.
fn gpt_disk() -> Vec<u8> {
    let mut image = Image::new(SECTORS as usize * SECTOR);
    entry(&mut image, 446, 0xee, 1, u32::MAX);
    image.put(510, &[0x55, 0xaa]);
    for (lba, other, entries) in [(1, SECTORS - 1, 2), (SECTORS - 1, 1, SECTORS - 2)] {
        header(&mut image, lba, other, entries);
        let at = entries as usize * SECTOR;
        image.put(at, &[7; 16]).put(at + 16, &[8; 16]).le64(at + 32, 8).le64(at + 40, 47);
        seal_entries(&mut image.0, lba as usize * SECTOR, at);
    }
    image.0
}

fn seal_entries(disk: &mut [u8], header: usize, entries: usize) {
    let sum = crc32(&disk[entries..entries + SECTOR]);
    disk[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
    seal_header(&mut disk[header..header + SECTOR]);
}

fn seal_header(header: &mut [u8]) {
    let len = u32::from_le_bytes(header[12..16].try_into().expect("four bytes")) as usize;
    let len = if (92..=SECTOR).contains(&len) { len } else { 92 };
    header[16..20].fill(0);
    let sum = crc32(&header[..len]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

fn gpt(out: &mut Vec<TableCase>) {
    let disk = gpt_disk();
    let same = Seen("gpt", 1, &[GPT]);
    // The backup is used.
    let backup = Seen("gpt", 1, &[GPT, DAMAGED]);
    let beyond = Seen("gpt", 1, &[GPT, BEYOND]);
    let seal: fn(&mut [u8]) = |disk| seal_header(&mut disk[HEADER..HEADER + SECTOR]);
    let mut header = Table::new(out, &disk, "GPT header", HEADER).sealed(seal);
    header
        .bytes("signature", 8, backup)
        .number("revision", LE32, [same; 5])
        .number("header_size", LE32, [backup; 5])
        .and(Value::Boundary, 91, backup)
        .and(Value::Boundary, 512, same)
        .and(Value::Boundary, 513, backup);
    header.seal = |_| {};
    header.number("header_crc32", LE32, [backup; 5]);
    header.seal = seal;
    header
        .number("reserved", LE32, [same; 5])
        .number("my_lba", LE64, [backup, same, backup, backup, backup])
        // 1 is the header's own sector.
        .number("alternate_lba", LE64, [backup, backup, beyond, beyond, beyond])
        .and(Value::PastTheEnd, SECTORS, beyond)
        .and(Value::Overlapping, 2, backup)
        .number("first_usable_lba", LE64, [same; 5])
        .number("last_usable_lba", LE64, [same, same, beyond, beyond, beyond])
        .bytes("disk_guid", 16, same)
        .number("partition_entry_lba", LE64, [backup; 5])
        .and(Value::PastTheEnd, SECTORS, backup)
        .and(Value::Overflow, u64::MAX / 512, backup)
        .and(Value::Overlapping, SECTORS - 2, same)
        .number("number_of_partition_entries", LE32, [backup; 5])
        .and(Value::Boundary, 8193, backup)
        .number("size_of_partition_entry", LE32, [backup; 5])
        .and(Value::Unaligned, 129, backup)
        .and(Value::Boundary, 8192, backup)
        .number("partition_entry_array_crc32", LE32, [backup; 5])
        .complete(92);
    Table::new(out, &disk, "GPT header, its sum stale", HEADER)
        .from(8)
        .number("revision", LE32, [backup; 5])
        .number("header_size", LE32, [backup; 5])
        .complete(16);
    let none = Seen("gpt", 0, &[GPT]);
    let damaged = Seen("gpt", 0, &[GPT, DAMAGED]);
    let strange = Seen("gpt", 1, &[GPT, STRANGE]);
    let mut entry =
        Table::new(out, &disk, "GPT entry", ENTRIES).sealed(|disk| seal_entries(disk, HEADER, ENTRIES));
    entry.put_type(same, none);
    entry
        .bytes("unique_partition_guid", 16, same)
        .number("starting_lba", LE64, [strange, strange, damaged, damaged, damaged])
        .and(Value::Overlapping, 2, strange)
        .and(Value::Boundary, 48, damaged)
        .number("ending_lba", LE64, [damaged, damaged, beyond, beyond, beyond])
        .and(Value::PastTheEnd, SECTORS, beyond)
        .number("attributes", LE64, [same; 5])
        .bytes("partition_name", 72, same)
        .complete(128);
    Table::new(out, &disk, "GPT entry, its sum stale", ENTRIES)
        .from(32)
        .number("starting_lba", LE64, [backup; 5])
        .complete(40);
    let lost = Seen("gpt", 0, &[GPT, DAMAGED]);
    let mut both = disk.clone();
    both[255 * SECTOR..].fill(0);
    Table::new(out, &both, "GPT header without its backup", HEADER).bytes("signature", 8, lost).complete(8);
}

impl Table<'_> {
    /// The partition type; zero means an unused entry.
    fn put_type(&mut self, same: Seen, none: Seen) {
        self.field = ("partition_type_guid", 0, 16);
        self.described = 16;
        self.put(Value::Zero, &[0; 16], none);
        for (value, byte) in [(Value::One, 1), (Value::SignBit, 0x80), (Value::Maximum, 0xff)] {
            self.put(value, &[byte; 16], same);
        }
    }
}

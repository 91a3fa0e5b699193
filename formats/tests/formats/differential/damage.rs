//! Targeted damage: fields of headers, entries of tables, markers and streams.

use diskferry_formats::Format;

use crate::differential::seeds::Seed;
use crate::support::vhd::checksum;

/// Random numbers with a fixed seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(case: u64) -> Self {
        let mut dice = Self(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 16) % end.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// A number in an image.
#[derive(Clone, Copy, Debug)]
struct Field {
    at: usize,
    width: usize,
}

/// A damaged copy of an image. Some copies have little or no damage.
pub(crate) fn damaged(seed: &Seed, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.bytes.clone();
    let groups = fields(seed);
    for _ in 0..1 + dice.below(3) {
        if dice.one_in(6) {
            roughly(&mut bytes, dice);
        } else {
            // Every structure is chosen equally often, however many fields it has.
            let (group, another) = (dice.below(groups.len()), dice.below(groups.len()));
            let (field, other) = (dice.pick(&groups[group]), dice.pick(&groups[another]));
            change(&mut bytes, seed.format, field, other, dice);
        }
    }
    if seed.format == Format::Vhd && !dice.one_in(8) {
        sums(&mut bytes);
    }
    bytes
}

fn get(bytes: &[u8], big: bool, Field { at, width }: Field) -> Option<u64> {
    let mut number = [0; 8];
    let found = bytes.get(at..at + width)?;
    if big {
        number[8 - width..].copy_from_slice(found);
        Some(u64::from_be_bytes(number))
    } else {
        number[..width].copy_from_slice(found);
        Some(u64::from_le_bytes(number))
    }
}

fn put(bytes: &mut [u8], big: bool, Field { at, width }: Field, number: u64) {
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    if big {
        place.copy_from_slice(&number.to_be_bytes()[8 - width..]);
    } else {
        place.copy_from_slice(&number.to_le_bytes()[..width]);
    }
}

/// Replaces a number with a likely harmful value.
fn change(bytes: &mut [u8], format: Format, field: Field, other: Field, dice: &mut Dice) {
    let big = format != Format::Vmdk;
    let (Some(number), len) = (get(bytes, big, field), bytes.len() as u64) else { return };
    let elsewhere = get(bytes, big, other).unwrap_or_default();
    let step = dice.pick(&[1, 2, 8, 512, 4096, 65_536, 1 << 20]);
    let bit = 1u64 << dice.below(8 * field.width);
    let new = match dice.below(12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => number.wrapping_add(step),
        4 => number.wrapping_sub(step),
        5 => elsewhere,
        6 => len,
        7 => len / 512,
        8 => dice.next(),
        9 => number.rotate_left(8),
        _ => number ^ bit,
    };
    put(bytes, big, field, new);
}

/// Untargeted damage: truncated, padded, zeroed, copied, or single bytes changed.
fn roughly(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let sectors = bytes.len() / 512;
    match dice.below(6) {
        0 => bytes.truncate(dice.below(sectors + 1) * 512),
        1 => bytes.truncate(dice.below(bytes.len() + 1)),
        2 => bytes.resize(bytes.len() + dice.pick(&[1, 511, 512, 4096, 66_000]), 0),
        3 => {
            let at = dice.below(sectors) * 512;
            bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0);
        }
        4 if sectors > 1 => {
            let (from, to) = (dice.below(sectors) * 512, dice.below(sectors) * 512);
            bytes.copy_within(from..from + 512, to);
        }
        _ => {
            let at = dice.below(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}

/// Updates the checksums of footers and header.
fn sums(bytes: &mut [u8]) {
    for footer in [0, bytes.len().saturating_sub(512)] {
        if bytes.get(footer..).is_some_and(|rest| rest.len() >= 512 && rest.starts_with(b"conectix")) {
            let header = get(bytes, true, Field { at: footer + 16, width: 8 }).unwrap_or_default();
            sum(bytes, footer, 512, 64);
            let header = usize::try_from(header).unwrap_or(usize::MAX);
            if bytes.get(header..).is_some_and(|rest| rest.len() >= 1024 && rest.starts_with(b"cxsparse")) {
                sum(bytes, header, 1024, 36);
            }
        }
    }
}

fn sum(bytes: &mut [u8], at: usize, len: usize, field: usize) {
    let sum = checksum(&bytes[at..at + len], field);
    bytes[at + field..at + field + 4].copy_from_slice(&sum.to_be_bytes());
}

/// The numbers of an image, by structure.
fn fields(seed: &Seed) -> Vec<Vec<Field>> {
    let bytes = &seed.bytes;
    let mut groups = match seed.format {
        Format::Qcow2 => qcow2(bytes),
        Format::Vhd => vhd(bytes),
        Format::Vmdk => vmdk(bytes),
        Format::Raw => Vec::new(),
    };
    groups.push(all(0, 512.min(bytes.len()), 1));
    groups.retain(|group| !group.is_empty());
    groups
}

fn header(base: usize, fields: &[(usize, usize)]) -> Vec<Field> {
    fields.iter().map(|(at, width)| Field { at: base + at, width: *width }).collect()
}

fn all(at: usize, count: usize, width: usize) -> Vec<Field> {
    (0..count).map(|index| Field { at: at + index * width, width }).collect()
}

fn entries(bytes: &[u8], big: bool, fields: &[Field]) -> Vec<usize> {
    fields.iter().filter_map(|field| get(bytes, big, *field)).map(|entry| entry as usize).collect()
}

fn qcow2(bytes: &[u8]) -> Vec<Vec<Field>> {
    let number = |at, width| get(bytes, true, Field { at, width }).unwrap_or_default();
    let fields = [
        (0, 4),
        (4, 4),
        (8, 8),
        (16, 4),
        (20, 4),
        (24, 8),
        (32, 4),
        (36, 4),
        (40, 8),
        (48, 8),
        (56, 4),
        (60, 4),
        (64, 8),
        (72, 8),
        (80, 8),
        (88, 8),
        (96, 4),
        (100, 4),
        (104, 1),
        (112, 4),
        (116, 4),
        (120, 8),
    ];
    let l1 = all(number(40, 8) as usize, (number(36, 4) as usize).min(512), 8);
    let cluster = 1usize << number(20, 4);
    let tables: Vec<usize> = entries(bytes, true, &l1)
        .iter()
        .map(|entry| entry & 0x00ff_ffff_ffff_fe00)
        .filter(|at| *at != 0)
        .collect();
    let l2: Vec<Field> = tables.iter().flat_map(|at| all(*at, cluster.min(1024) / 8, 8)).collect();
    let compressed = entries(bytes, true, &l2).into_iter().filter(|entry| entry >> 62 & 1 == 1);
    let streams = compressed.flat_map(|entry| all(entry & 0x00ff_ffff, 24, 1)).collect();
    vec![header(0, &fields), l1, l2, streams]
}

fn vhd(bytes: &[u8]) -> Vec<Vec<Field>> {
    let footer = [
        (0, 4),
        (8, 4),
        (12, 4),
        (16, 8),
        (28, 4),
        (40, 8),
        (48, 8),
        (56, 2),
        (58, 1),
        (59, 1),
        (60, 4),
        (64, 4),
        (84, 1),
    ];
    let fields = [(0, 4), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4)];
    let mut groups = vec![header(bytes.len() - 512, &footer)];
    if bytes.starts_with(b"conectix") {
        let count = get(bytes, true, Field { at: 512 + 28, width: 4 }).unwrap_or_default();
        let table = all(1536, (count as usize).min(512), 4);
        let blocks = entries(bytes, true, &table).into_iter().filter(|sector| *sector != 0xffff_ffff);
        let bitmaps = blocks.flat_map(|sector| all(sector * 512, 8, 1)).collect();
        groups.extend([header(0, &footer), header(512, &fields), table, bitmaps]);
    }
    groups
}

fn vmdk(bytes: &[u8]) -> Vec<Vec<Field>> {
    let number = |at, width| get(bytes, false, Field { at, width }).unwrap_or_default() as usize;
    if bytes.starts_with(b"COWD") {
        let directory = all(number(20, 4) * 512, number(24, 4), 4);
        let tables = entries(bytes, false, &directory);
        let tables = tables.iter().flat_map(|sector| all(sector * 512, 64, 4)).collect();
        return vec![header(0, &[(4, 4), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4)]), directory, tables];
    }
    let fields = [
        (4, 4),
        (8, 4),
        (12, 8),
        (20, 8),
        (28, 8),
        (36, 8),
        (44, 4),
        (48, 8),
        (56, 8),
        (64, 8),
        (72, 1),
        (73, 4),
        (77, 2),
    ];
    let text = all(number(28, 8) * 512, 400, 1);
    let footer = bytes.len() - 1024;
    let at_end = bytes[footer..].starts_with(b"KDMV");
    let directory = if at_end { number(footer + 56, 8) } else { number(56, 8) };
    let mut groups = vec![header(0, &fields), text];
    if at_end {
        groups.push(header(footer, &fields));
        groups.push(header(footer - 512, &[(0, 8), (8, 4), (12, 4)]));
    }
    let directory = all(directory.min(bytes.len()) * 512, 16, 4);
    let tables = entries(bytes, false, &directory)
        .into_iter()
        .filter(|sector| (1..bytes.len() / 512).contains(sector));
    let tables: Vec<Field> = tables.flat_map(|sector| all(sector * 512, 32, 4)).collect();
    let grains =
        entries(bytes, false, &tables).into_iter().filter(|sector| (2..bytes.len() / 512).contains(sector));
    let markers = grains.flat_map(|sector| {
        [(0, 8), (8, 4), (12, 1), (13, 1), (14, 2), (30, 1)]
            .map(|(at, width)| Field { at: sector * 512 + at, width })
    });
    groups.extend([directory, markers.collect()]);
    groups.push(tables);
    groups
}

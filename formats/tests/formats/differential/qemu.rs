//! Ours beside qemu-img, on a sample of the same images. Where they part, a rule says why.

use std::collections::BTreeMap;

use bytes::Bytes;
use diskferry_core::{Error, GuestRange, Result};
use diskferry_corpus::oracle::{capture, qemu_format};
use diskferry_corpus::slow;
use diskferry_formats::Format;

use crate::differential::damage::{Dice, damaged};
use crate::differential::seeds::{SEEDS, Seed};
use crate::differential::stricter::reason;
use crate::support::qemu::text;
use crate::support::{block_on, open_as, warnings};

/// Damaged images that are judged.
const CASES: u64 = 360;
/// As much of a disk as is read: what a header says may be any size.
const MOST: u64 = 4 << 20;
/// Bytes that qemu-img reads at once.
const BLOCK: u64 = 64 << 10;

/// What both made of an image.
struct Pair {
    format: Format,
    image: Bytes,
    /// The first [`MOST`] bytes of the disk, and its size.
    ours: Result<(Bytes, u64)>,
    /// Likewise, without the size; or what qemu-img complained of.
    qemu: Result<Vec<u8>, String>,
}

impl Pair {
    fn of(format: Format, image: Vec<u8>) -> Self {
        let qemu = qemu_reads(format, &image);
        let image = Bytes::from(image);
        let ours = open_as(format, image.clone()).and_then(|disk| {
            let size = disk.virtual_bytes();
            Ok((block_on(disk.read(GuestRange::first(size.min(MOST))))?, size))
        });
        Self { format, image, ours, qemu }
    }

    /// The same disk, but for the sectors that qemu-img fills up.
    fn agree(&self) -> bool {
        match (&self.ours, &self.qemu) {
            (Ok((ours, _)), Ok(qemu)) => {
                let filled = ours.len().next_multiple_of(512).min(MOST as usize);
                let behind = qemu.get(ours.len()..).unwrap_or_default();
                qemu.len() == filled && qemu.starts_with(ours) && behind.iter().all(|byte| *byte == 0)
            }
            (Err(_), Err(_)) => true,
            _ => false,
        }
    }

    /// Why they do not agree, if that is known.
    fn why(&self) -> Option<&'static str> {
        match (&self.ours, &self.qemu) {
            (Err(error), Ok(_)) => refused_by_us(self.format, error),
            (Ok(_), Err(complaint)) => refused_by_qemu(self, complaint),
            (Ok((ours, size)), Ok(qemu)) => self.differently(ours, *size, qemu),
            (Err(_), Err(_)) => None,
        }
    }

    fn differently(&self, ours: &[u8], size: u64, qemu: &[u8]) -> Option<&'static str> {
        if self.format == Format::Vhd {
            let hidden = slow::vhd_without_bitmaps(&self.image, 0, size.min(MOST));
            if hidden.is_some_and(|hidden| qemu.starts_with(&hidden) && hidden != ours) {
                return Some("qemu takes no notice of the sector bitmaps of a VHD");
            }
            let same = ours.iter().zip(qemu).all(|(ours, qemu)| ours == qemu);
            if same && self.copies_differ() {
                return Some(BY_THE_COPY);
            }
            let geometry = "qemu takes the geometry of a creator that it does not know for the size of a VHD";
            return (same && self.creator_is_unknown()).then_some(geometry);
        }
        let warnings = self.warnings();
        DIFFERENTLY.iter().find(|(code, _)| warnings.contains(code)).map(|(_, why)| *why)
    }

    /// What reading the image through ours warns of.
    fn warnings(&self) -> Vec<&'static str> {
        let Ok(disk) = open_as(self.format, self.image.clone()) else { return Vec::new() };
        let _ = block_on(disk.read(GuestRange::first(disk.virtual_bytes().min(MOST))));
        warnings(&disk)
    }

    /// Whether both footers of a VHD are there and are not the same.
    fn copies_differ(&self) -> bool {
        let footer = self.image.get(self.image.len().saturating_sub(512)..).unwrap_or_default();
        self.image.starts_with(b"conectix")
            && footer.starts_with(b"conectix")
            && !self.image.starts_with(footer)
    }

    fn creator_is_unknown(&self) -> bool {
        let footer = self.image.len().saturating_sub(512);
        let creator = self.image.get(footer + 28..footer + 32).unwrap_or_default();
        let known = [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"];
        !known.iter().any(|known| creator == *known)
    }

    fn shown(&self) -> String {
        let ours = match &self.ours {
            Ok((bytes, size)) => format!("reads {} of {size} bytes", bytes.len()),
            Err(error) => format!("{}: {}", error.kind().code(), error.message()),
        };
        let qemu = match &self.qemu {
            Ok(bytes) => format!("reads {} bytes", bytes.len()),
            Err(complaint) => complaint.clone(),
        };
        let differs = match (&self.ours, &self.qemu) {
            (Ok((ours, _)), Ok(qemu)) => ours.iter().zip(qemu).position(|(a, b)| a != b),
            _ => None,
        };
        format!("ours {ours}; qemu {qemu}; first difference {differs:?}")
    }
}

/// The first [`MOST`] bytes of the disk, or what qemu-img complained of.
fn qemu_reads(format: Format, image: &[u8]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("image"), dir.path().join("raw"));
    std::fs::write(&source, image).unwrap();
    let (from, to) = (format!("if={}", text(&source)), format!("of={}", text(&target)));
    let (block, count) = (format!("bs={BLOCK}"), format!("count={}", MOST / BLOCK));
    let format = qemu_format(format.name());
    // The time is for a qemu-img that hangs: nothing here is judged by it.
    let args = ["120", "qemu-img", "dd", "-U", "-f", format, "-O", "raw", &block, &count, &from, &to];
    let outcome = capture("timeout", &args);
    if outcome.ok {
        Ok(std::fs::read(&target).unwrap())
    } else {
        Err(outcome.stderr.replace(text(dir.path()), ""))
    }
}

/// Why qemu-img reads other bytes than ours, by what ours warns of.
const DIFFERENTLY: &[(&str, &str)] = &[
    ("redundant_directory", "qemu does not look at the redundant directory of a VMDK"),
    ("recovered_by_scan", "qemu believes a footer that contradicts the header"),
];

/// What ours refuses and qemu-img reads, beside what is refused of what the slow reader reads.
const REFUSED_BY_US: &[(Format, &str, &str)] = &[
    (Format::Qcow2, "backing_file_offset is", "qemu takes a backing file whose name has no letters for none"),
    (Format::Qcow2, "a cluster's data is at", "qemu reads zeros where the object has ended"),
    (Format::Vhd, "checksum is", "qemu warns of a wrong sum and goes on"),
    (Format::Vhd, "disk_type is", "qemu takes every type but that of a fixed disk for dynamic"),
    (Format::Vhd, "are stored before it", "qemu takes what is behind a fixed disk for its end"),
    (Format::Vmdk, "descriptorOffset is", "qemu reads a stream without a look at its descriptor"),
    (Format::Vmdk, "newline bytes", "qemu does not look at what a transfer in text mode damages"),
    (Format::Vmdk, "have unknown bits", "qemu takes flags that it does not know"),
    (Format::Vmdk, "marker says sector", "qemu takes the table's word for which grain it is"),
    (Format::Vmdk, "compressAlgorithm", "qemu goes by the flags alone"),
    (Format::Vmdk, "the grain of guest offset", "qemu reads zeros where the object has ended"),
];

fn refused_by_us(format: Format, error: &Error) -> Option<&'static str> {
    let of_qemu = REFUSED_BY_US
        .iter()
        .find(|(known, part, _)| *known == format && error.message().contains(part))
        .map(|(_, _, why)| *why);
    of_qemu.or_else(|| reason(format, error))
}

/// What qemu-img refuses and ours reads: by what it says, and by what is in the image.
type Rule = (Format, &'static str, fn(&Pair) -> bool, &'static str);

const BY_THE_COPY: &str = "qemu goes by the copy of the footer at the start, not by the footer";

const REFUSED_BY_QEMU: &[Rule] = &[
    (
        Format::Vmdk,
        "Invalid footer",
        |_| true,
        "qemu does not look for the grains of a stream by their markers",
    ),
    (
        Format::Vmdk,
        "Invalid argument",
        |pair| pair.image.get(8..12).is_some_and(|flags| flags[2] & 3 == 1),
        "qemu does not read compressed grains without markers",
    ),
    (
        Format::Vmdk,
        "Invalid argument",
        |pair| pair.image.starts_with(b"COWD"),
        "qemu does not open an extent of ESX without its descriptor",
    ),
    (
        Format::Vhd,
        "points after the end of file",
        |_| true,
        "qemu wants all of a block, behind the end of the disk too",
    ),
    (Format::Vhd, "invalid VPC image", |_| true, "qemu looks for the footer in the last 512 bytes alone"),
    (Format::Vhd, "File too large", Pair::copies_differ, BY_THE_COPY),
    (Format::Vhd, "Page table too small", Pair::copies_differ, BY_THE_COPY),
];

fn refused_by_qemu(pair: &Pair, complaint: &str) -> Option<&'static str> {
    let holds =
        |(format, part, holds, _): &&Rule| *format == pair.format && complaint.contains(part) && holds(pair);
    REFUSED_BY_QEMU.iter().find(holds).map(|(.., why)| *why)
}

#[test]
fn where_qemu_reads_something_else_it_is_known_why() {
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut judge = |name: String, seed: &Seed, image: Vec<u8>| {
        let pair = Pair::of(seed.format, image);
        if pair.agree() {
            *known.entry("they agree").or_default() += 1;
        } else if let Some(why) = pair.why() {
            *known.entry(why).or_default() += 1;
        } else {
            if let Some(dir) = std::env::var_os("KEEP_DISAGREEMENTS") {
                std::fs::write(
                    std::path::Path::new(&dir).join(format!("{name}.{}", seed.format)),
                    &pair.image,
                )
                .unwrap();
            }
            unknown.push(format!("{name}, {}: {}", seed.name, pair.shown()));
        }
    };
    for seed in &*SEEDS {
        judge("undamaged".to_owned(), seed, seed.bytes.clone());
    }
    for case in 0..CASES {
        // Other cases than those that the slow reader judges.
        let case = case + (1 << 32);
        let seed = &SEEDS[case as usize % SEEDS.len()];
        judge(format!("case {case}"), seed, damaged(seed, &mut Dice::new(case)));
    }
    for (why, count) in &known {
        println!("{count:6} {why}");
    }
    assert!(unknown.is_empty(), "{} disagreements:\n{}", unknown.len(), unknown.join("\n"));
    assert!(known.get("they agree").copied().unwrap_or_default() > CASES / 3);
}

//! Compares our readers with qemu-img on a sample of the same images. Each difference needs a rule with a reason.

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

/// Number of damaged images.
const CASES: u64 = 360;
/// Bytes of a disk that are read. The virtual size in a damaged header is unbounded.
const MOST: u64 = 4 << 20;
/// Bytes that qemu-img reads at once.
const BLOCK: u64 = 64 << 10;

/// The results of both for an image.
struct Pair {
    format: Format,
    image: Bytes,
    /// The first [`MOST`] bytes of the disk, and its size.
    ours: Result<(Bytes, u64)>,
    /// The same, without the size; or the error of qemu-img.
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

    /// The same disk, except for the partial sectors that qemu-img pads.
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

    /// The known reason for a difference.
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

    /// The warnings of reading the image with our reader.
    fn warnings(&self) -> Vec<&'static str> {
        let Ok(disk) = open_as(self.format, self.image.clone()) else { return Vec::new() };
        let _ = block_on(disk.read(GuestRange::first(disk.virtual_bytes().min(MOST))));
        warnings(&disk)
    }

    /// Whether a VHD has both footers and they differ.
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

/// The first [`MOST`] bytes of the disk, or the error of qemu-img.
fn qemu_reads(format: Format, image: &[u8]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("image"), dir.path().join("raw"));
    std::fs::write(&source, image).unwrap();
    let (from, to) = (format!("if={}", text(&source)), format!("of={}", text(&target)));
    let (block, count) = (format!("bs={BLOCK}"), format!("count={}", MOST / BLOCK));
    let format = qemu_format(format.name());
    // The timeout is for a qemu-img that hangs. It does not affect the result.
    let args = ["120", "qemu-img", "dd", "-U", "-f", format, "-O", "raw", &block, &count, &from, &to];
    let outcome = capture("timeout", &args);
    if outcome.ok {
        Ok(std::fs::read(&target).unwrap())
    } else {
        Err(outcome.stderr.replace(text(dir.path()), ""))
    }
}

/// Why qemu-img reads other bytes than our reader, by our warnings.
const DIFFERENTLY: &[(&str, &str)] = &[
    ("redundant_directory", "qemu does not look at the redundant directory of a VMDK"),
    ("recovered_by_scan", "qemu believes a footer that contradicts the header"),
];

/// Images that ours refuses and qemu-img reads, in addition to the refusals of what the slow reader reads.
const REFUSED_BY_US: &[(Format, &str, &str)] = &[
    (Format::Qcow2, "backing_file_offset is", "qemu ignores a backing file with an empty name"),
    (Format::Qcow2, "a cluster's data is at", "qemu reads zeros past the end of the object"),
    (Format::Vhd, "checksum is", "qemu only warns about a wrong checksum"),
    (Format::Vhd, "disk_type is", "qemu treats every type except fixed as dynamic"),
    (Format::Vhd, "are stored before it", "qemu reads the bytes after a fixed disk as data"),
    (Format::Vmdk, "descriptorOffset is", "qemu does not validate the descriptor of a stream"),
    (Format::Vmdk, "newline bytes", "qemu does not check for damage by a transfer in text mode"),
    (Format::Vmdk, "have unknown bits", "qemu accepts unknown flags"),
    (Format::Vmdk, "marker says sector", "qemu does not compare the marker with the table"),
    (Format::Vmdk, "compressAlgorithm", "qemu only uses the flags"),
    (Format::Vmdk, "the grain of guest offset", "qemu reads zeros past the end of the object"),
];

fn refused_by_us(format: Format, error: &Error) -> Option<&'static str> {
    let of_qemu = REFUSED_BY_US
        .iter()
        .find(|(known, part, _)| *known == format && error.message().contains(part))
        .map(|(_, _, why)| *why);
    of_qemu.or_else(|| reason(format, error))
}

/// Images that qemu-img refuses and ours reads, by qemu-img's error and by the image.
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
        "qemu needs the whole block, even after the end of the disk",
    ),
    (Format::Vhd, "invalid VPC image", |_| true, "qemu only searches the last 512 bytes for the footer"),
    (Format::Vhd, "File too large", Pair::copies_differ, BY_THE_COPY),
    (Format::Vhd, "Page table too small", Pair::copies_differ, BY_THE_COPY),
];

fn refused_by_qemu(pair: &Pair, complaint: &str) -> Option<&'static str> {
    let holds =
        |(format, part, holds, _): &&Rule| *format == pair.format && complaint.contains(part) && holds(pair);
    REFUSED_BY_QEMU.iter().find(holds).map(|(.., why)| *why)
}

#[test]
fn every_difference_from_qemu_has_a_known_reason() {
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
        // Other cases than those of the slow reader.
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

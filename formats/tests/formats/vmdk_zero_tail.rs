//! VMDKs with a part that reads as zeros: an incomplete download into a preallocated file, or a lost part. Each sector
//! of a small image of every kind is zeroed in turn and read from a file, and from a pipe if the kind allows it. The
//! result is the right bytes or a typed error. Only bytes of plain grains leave no evidence, because no format has
//! checksums of them.

use std::ops::Range;
use std::sync::Arc;

use crate::support::files::Files;
use crate::support::made::{flat, written_in};
use crate::support::pipe::*;
use crate::support::qemu::convert;
use crate::support::vmdk::*;
use crate::support::*;
use diskferry_core::{ErrorKind, Result, WriteOrder};
use diskferry_formats::{Declared, Format};

/// A disk of 2 MiB with data at the start of every 64 KiB.
fn disk() -> Vec<u8> {
    disk_of(2 << 20)
}

fn disk_of(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    for (number, chunk) in disk.chunks_mut(64 << 10).enumerate() {
        chunk[..1500].copy_from_slice(&noise(1500, number as u64 + 1));
        chunk[1500..3000].copy_from_slice(&b"text ".repeat(300));
    }
    disk
}

/// The result of reading a damaged image.
#[track_caller]
fn right_or_refused(result: Result<Vec<u8>>, truth: &[u8], what: &str) -> Option<ErrorKind> {
    match result {
        Ok(read) => {
            assert!(read == truth, "{what}: other bytes");
            None
        }
        Err(error) => {
            let kinds = [ErrorKind::Truncated, ErrorKind::Malformed, ErrorKind::UnsupportedFeature];
            assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
            assert!(error.offset().is_some(), "{what}: {error:?} has no offset");
            Some(error.kind())
        }
    }
}

/// `image` with these bytes zeroed.
fn zeroed(image: &[u8], bytes: Range<usize>) -> Vec<u8> {
    let mut image = image.to_vec();
    image[bytes].fill(0);
    image
}

/// The layout of vmdktool: like [`Stream`], but the header names the directory, and there is no footer.
fn directory_by_header(truth: &[u8]) -> Vec<u8> {
    let built = Stream::default().build(truth);
    let mut image = built.bytes[..built.bytes.len() - 3 * SECTOR].to_vec();
    let directory = (built.directory + SECTOR) / SECTOR;
    image[56..64].copy_from_slice(&(directory as u64).to_le_bytes());
    image
}

/// Images of compressed grains, and whether they can be read from a pipe.
fn compressed() -> Vec<(&'static str, Vec<u8>, bool)> {
    let truth = disk();
    let (by_us, _) =
        written_in(WriteOrder::Any, flat(&truth), Format::Vmdk, "subformat=streamOptimized").unwrap();
    let backwards = Some((0..32).rev().collect());
    vec![
        ("a stream by us", by_us, true),
        ("a stream", Stream::default().build(&truth).bytes, true),
        ("a stream of many tables", Stream { entries: 4, ..Stream::default() }.build(&truth).bytes, true),
        (
            "a stream, tables after all grains",
            Stream { order: backwards, ..Stream::default() }.build(&truth).bytes,
            true,
        ),
        ("a stream by qemu-img", convert(&truth, "vmdk", "subformat=streamOptimized"), true),
        ("directory by the header", directory_by_header(&truth), false),
        (
            "grains without markers",
            Hosted { compressed: true, version: 3, ..Hosted::default() }.build(&truth).bytes,
            false,
        ),
    ]
}

#[test]
fn compressed_images_whose_tail_is_zeros_are_right_or_refused() {
    let truth = disk();
    for (name, image, pipe) in compressed() {
        let mut right = 0;
        for at in (SECTOR..image.len()).step_by(SECTOR) {
            let lost = zeroed(&image, at..image.len());
            let what = format!("{name}, zeros from {at} of {} on", image.len());
            right += usize::from(right_or_refused(content_of(lost.clone()), &truth, &what).is_none());
            if pipe {
                right_or_refused(one_pass(&lost, 65_536), &truth, &format!("{what}, from a pipe"));
            }
        }
        // qemu-img leaves zeros after the last grain.
        assert!(right < 8 || name.contains("qemu-img"), "{name}: {right} cuts read");
    }
}

#[test]
fn compressed_images_with_a_sector_of_zeros_are_right_or_refused() {
    let truth = disk();
    for (name, image, pipe) in compressed() {
        // If tables have no markers, an entry of zeros is a hole.
        let front = Header::parsed_overhead(&image) * SECTOR;
        let first =
            if name.contains("qemu-img") || name.contains("without markers") { front } else { SECTOR };
        for at in (first..image.len()).step_by(SECTOR) {
            let hole = zeroed(&image, at..at + SECTOR);
            let mut both = hole.clone();
            let marker = both.len() - 3 * SECTOR + 12;
            both[marker] = 7;
            for (image, footer) in [(hole, "sound"), (both, "damaged")] {
                let what = format!("{name}, zeros at {at} of {}, footer {footer}", image.len());
                right_or_refused(content_of(image.clone()), &truth, &what);
                if pipe {
                    right_or_refused(one_pass(&image, 65_536), &truth, &format!("{what}, from a pipe"));
                }
            }
        }
    }
}

#[test]
fn a_stream_cut_after_its_directory_reads_with_the_same_warning_both_ways() {
    let truth = disk();
    let built = Stream::default().build(&truth);
    let after = built.directory + 2 * SECTOR;
    let lost = zeroed(&built.bytes, after..built.bytes.len());
    let read = open_vmdk(lost.clone()).unwrap();
    assert_same(&content(&read).unwrap(), &truth, "the disk");
    assert_eq!(warnings(&read), ["recovered_by_scan"]);
    let (piped, codes) = one_pass_warned(&lost, 4096, Declared::Unknown).unwrap();
    assert_same(&piped, &truth, "the disk");
    assert_eq!(codes, ["recovered_by_scan"]);
    // The offset where the evidence ends.
    let lost = zeroed(&built.bytes, built.directory..built.bytes.len());
    for error in [error_of(lost.clone()), failure(one_pass(&lost, 4096))] {
        assert_eq!(said(&error), ("truncated", Some(built.directory as u64)), "{error:?}");
    }
}

#[test]
fn an_empty_stream_reads_in_both_ways_only_with_its_directory() {
    let truth = vec![0; 2 << 20];
    let built = Stream::default().build(&truth);
    assert_same(&content_of(built.bytes.clone()).unwrap(), &truth, "the disk");
    assert_same(&one_pass(&built.bytes, 4096).unwrap(), &truth, "the disk");
    let lost = zeroed(&built.bytes, built.directory..built.bytes.len());
    for error in [error_of(lost.clone()), failure(one_pass(&lost, 4096))] {
        assert_eq!(said(&error), ("truncated", Some(built.directory as u64)), "{error:?}");
    }
    let by_qemu = convert(&truth, "vmdk", "subformat=streamOptimized");
    assert_same(&content_of(by_qemu.clone()).unwrap(), &truth, "the disk");
    assert_same(&one_pass(&by_qemu, 4096).unwrap(), &truth, "the disk");
}

/// Bytes of the disk of plain images.
const PLAIN: usize = 384 << 10;

/// A plain sparse image: its files, the one that is damaged, and where its first grain is.
struct Plain {
    name: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    damaged: usize,
    first_grain: usize,
    /// Zeros after the last grain, as in our output.
    guard: usize,
}

impl Plain {
    fn read(&self, bytes: Vec<u8>) -> Result<(Vec<u8>, Vec<&'static str>)> {
        let mut files = Files::new();
        for (number, (name, sound)) in self.files.iter().enumerate() {
            files = files.with(name, if number == self.damaged { bytes.clone() } else { sound.clone() });
        }
        let disk = Arc::new(files).open(self.files[0].0)?;
        disk.admit()?;
        Ok((content(&disk)?, warnings(&disk)))
    }
}

fn plain() -> Vec<Plain> {
    let truth = disk_of(PLAIN);
    let sectors = truth.len() / SECTOR;
    let one = |name, bytes: Vec<u8>| {
        let first_grain = Header::parsed_overhead(&bytes) * SECTOR;
        Plain { name, files: vec![("disk.vmdk", bytes)], damaged: 0, first_grain, guard: 0 }
    };
    let set = |name, create_type: &str, kind: &str, bytes: Vec<u8>, first_grain| {
        let text = descriptor(create_type, &format!("RW {sectors} {kind} \"part\""));
        Plain {
            name,
            files: vec![("disk.vmdk", text.into_bytes()), ("part", bytes)],
            damaged: 1,
            first_grain,
            guard: 0,
        }
    };
    let (by_us, _) = written_in(WriteOrder::Any, flat(&truth), Format::Vmdk, "").unwrap();
    let small = || Hosted { grain: 8, entries: 64, ..Hosted::default() };
    let part = Hosted::default().build(&truth).bytes;
    let front = Header::parsed_overhead(&part) * SECTOR;
    let esx = cowd(&truth, 16);
    let se = se_sparse(&truth, false);
    let (in_esx, in_se) = (
        4 * SECTOR + SECTOR + 4096 * 4,
        u64::from_le_bytes(se[192..200].try_into().unwrap()) as usize * SECTOR,
    );
    vec![
        Plain { guard: 128 << 10, ..one("monolithicSparse by us", by_us) },
        one("monolithicSparse by qemu-img", convert(&truth, "vmdk", "subformat=monolithicSparse")),
        one("monolithicSparse", Hosted::default().build(&truth).bytes),
        one(
            "monolithicSparse, redundant",
            Hosted { redundant: true, ..Hosted::default() }.build(&truth).bytes,
        ),
        one("small grains, many tables", small().build(&truth).bytes),
        one("small grains, redundant", Hosted { redundant: true, ..small() }.build(&truth).bytes),
        set("part of a set", "twoGbMaxExtentSparse", "SPARSE", part, front),
        set("COWD", "vmfsSparse", "VMFSSPARSE", esx.clone(), in_esx),
        Plain {
            name: "COWD alone",
            files: vec![("disk.vmdk", esx)],
            damaged: 0,
            first_grain: in_esx,
            guard: 0,
        },
        set("seSparse", "seSparse", "SESPARSE", se, in_se),
    ]
}

#[test]
fn plain_images_whose_tail_is_zeros_are_right_or_refused_or_lost_data_alone() {
    let truth = disk_of(PLAIN);
    for image in plain() {
        let bytes = &image.files[image.damaged].1;
        let (sound, codes) = image.read(bytes.clone()).unwrap();
        assert_same(&sound, &truth, image.name);
        assert!(codes.iter().all(|code| *code == "no_descriptor"), "{}: {codes:?}", image.name);
        // Every sector of the metadata, and some of the data.
        let metadata = (SECTOR..image.first_grain).step_by(SECTOR);
        let data = (image.first_grain..bytes.len()).step_by(23 * SECTOR);
        for at in metadata.chain(data) {
            let what = format!("{}, zeros from {at} of {} on", image.name, bytes.len());
            let result = image.read(zeroed(bytes, at..bytes.len()));
            // Metadata that is zeros anyway.
            let used = bytes[..image.first_grain].iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let lost = at < used;
            match result {
                Ok((read, codes)) => {
                    assert!(!lost, "{what}: {codes:?}");
                    // Plain data: no format can tell.
                    assert!(
                        read.iter().zip(&truth).all(|(ours, right)| ours == right || *ours == 0),
                        "{what}"
                    );
                    let warned = codes.contains(&"zero_tail");
                    // After our guard, only the first grain is searched.
                    let seen = image.guard == 0 || at <= image.first_grain;
                    let much = seen && bytes.len() - at.max(image.first_grain) >= 64 << 10;
                    assert_eq!(warned, much, "{what}: {codes:?}");
                }
                Err(error) => {
                    assert!(lost, "{what}: {error:?}");
                    right_or_refused(Err(error), &truth, &what);
                }
            }
        }
    }
}

#[test]
fn a_lost_table_reports_the_offset_where_the_zeros_begin() {
    let truth = disk();
    let built = Hosted::default().build(&truth);
    let table = built.tables[0];
    let error = error_of(zeroed(&built.bytes, table..built.bytes.len()));
    assert_eq!(said(&error), ("truncated", Some(table as u64)), "{error:?}");
}

#[test]
fn images_that_writers_end_with_zeros_read_without_a_warning() {
    // Empty, with an empty last grain, with a few zeros in its last sectors, and with space allocated after the end.
    let empty = vec![0; 2 << 20];
    let mut short = disk();
    short.truncate((2 << 20) - (60 << 10));
    let read = |bytes: Vec<u8>| {
        let disk = open_vmdk(bytes).unwrap();
        (content(&disk).unwrap(), warnings(&disk))
    };
    for truth in [&empty, &short, &disk()] {
        for options in ["subformat=monolithicSparse", "subformat=streamOptimized"] {
            let (bytes, codes) = read(convert(truth, "vmdk", options));
            assert_same(&bytes, truth, options);
            assert_eq!(codes, Vec::<&str>::new(), "{options}");
        }
        let mut padded = Hosted::default().build(&disk()).bytes;
        padded.resize(padded.len() + (3 << 20), 0);
        assert_eq!(read(padded), (disk(), Vec::new()), "space after a plain image");
        let mut esx = cowd(truth, 16);
        esx.resize(16 << 20, 0);
        let (bytes, codes) = read(esx);
        assert_same(&bytes, truth, "COWD");
        assert_eq!(codes, ["no_descriptor"]);
    }
}

#[test]
fn an_image_that_ends_in_zeros_needs_two_more_requests() {
    let truth = disk();
    let mut bytes = Hosted::default().build(&truth).bytes;
    let sound = Arc::new(Files::new().with("disk.vmdk", bytes.clone()));
    content(&sound.open("disk.vmdk").unwrap()).unwrap();
    let requests = sound.reads("disk.vmdk").len();
    bytes.resize(bytes.len() + (1 << 20), 0);
    let padded = Arc::new(Files::new().with("disk.vmdk", bytes));
    content(&padded.open("disk.vmdk").unwrap()).unwrap();
    assert!(padded.reads("disk.vmdk").len() <= requests + 2, "{:?}", padded.reads("disk.vmdk"));
}

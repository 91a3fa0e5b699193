//! Tests of written VHDs: their bytes, and how other readers read them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::support::made::{flat, layout_with, made, run, write_to, written_in};
use crate::support::vhd::*;
use crate::support::*;
use diskferry_core::BoxFuture;
use diskferry_core::ByteStream;
use diskferry_core::ErrorKind;
use diskferry_core::FileSource;
use diskferry_core::MemorySink;
use diskferry_core::WriteOrder::{self, Any, Ascending, Sequential};
use diskferry_core::conformance::{check_layout, digest_of};
use diskferry_core::{Conversion, Report};
use diskferry_core::{FileSink, FileSinkOptions};
use diskferry_core::{ImageLimit, Limits};
use diskferry_corpus::oracle;
use diskferry_formats::{Declared, Format, open, open_stream};
use proptest::prelude::*;

const EVERY_ORDER: [WriteOrder; 3] = [Any, Ascending, Sequential];
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 2 * MIB;
const STRIDE: u64 = BLOCK + 512;
/// The largest disk.
const MOST: u64 = 2040 << 30;

fn vhd(order: WriteOrder, guest: &[u8], options: &str) -> Vec<u8> {
    written_in(order, flat(guest), Format::Vhd, options).unwrap().0
}

/// The error of converting `guest`.
fn refused(order: WriteOrder, guest: &[u8], options: &str) -> diskferry_core::Error {
    failure(written_in(order, flat(guest), Format::Vhd, options))
}

/// The guest's bytes from our reader, detected and without warnings.
fn reads(image: &[u8]) -> Vec<u8> {
    let disk = open_vhd(image.to_vec());
    let guest = read_all(&disk);
    assert_eq!(warnings(&disk), [""; 0]);
    guest
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The entries of the table of a dynamic disk of `virtual_bytes`, including the padding of its last sector.
fn table(image: &[u8], virtual_bytes: u64) -> Vec<u32> {
    let entries = virtual_bytes.div_ceil(BLOCK).next_multiple_of(128) as usize;
    image[1536..1536 + 4 * entries].chunks(4).map(|entry| number(entry, 0, 4) as u32).collect()
}

fn conforms(options: &'static str, unit: u64, multiple: u64) {
    let make = |order| layout_with(Format::Vhd, options, order);
    run(check_layout(&make, &EVERY_ORDER, unit, multiple));
}

#[test]
fn dynamic_conforms() {
    conforms("", BLOCK, 512);
}

#[test]
fn fixed_conforms() {
    conforms("subformat=fixed", 64 << 10, 512);
}

#[test]
fn aligned_conforms() {
    conforms("subformat=dynamic,align=1MiB", 128 << 10, 1);
    conforms("subformat=fixed,align=1536", 64 << 10, 1);
}

/// Checks that all targets of `guest` have the exact size and the same bytes in qemu-img, libyal and our reader.
fn check_oracles(image: &[u8], truth: &[u8], what: &str) {
    assert_same(&reads(image), truth, what);
    let dir = crate::support::qemu::written(&[("disk.vhd", image)]);
    let (path, raw) = (dir.path().join("disk.vhd"), dir.path().join("guest.raw"));
    assert_eq!(oracle::qemu_virtual_bytes(&path, "vhd"), truth.len() as u64, "{what}: size for qemu");
    assert_same(&oracle::guest_bytes(&path, "vhd"), truth, &format!("{what}: qemu-img"));
    oracle::yal_to_raw(&path, "vhd", &raw);
    assert_same(&std::fs::read(&raw).unwrap(), truth, &format!("{what}: libyal"));
}

#[test]
fn every_reader_sees_the_exact_size_and_the_same_bytes() {
    for len in [512, 3584, 4608, BLOCK - 512, BLOCK, BLOCK + 512, 5 * MIB + 1536, 9 * MIB - 4096] {
        let len = len as usize;
        let full = noise(len, 5);
        let mut sparse = vec![0; len];
        let edge = len.min(700);
        sparse[len - edge..].copy_from_slice(&noise(edge, 6));
        for (name, truth) in [("mixed", sample(len)), ("full", full), ("its end only", sparse)] {
            for (subformat, order) in [("dynamic", Any), ("dynamic", Sequential), ("fixed", Ascending)] {
                // Both orders write the same bytes for a full disk.
                if name == "full" && order == Sequential {
                    assert!(vhd(Any, &truth, "") == vhd(Sequential, &truth, ""));
                    continue;
                }
                let image = vhd(order, &truth, &format!("subformat={subformat}"));
                check_oracles(&image, &truth, &format!("{len} bytes, {name}, {subformat}, {order:?}"));
            }
        }
    }
}

#[test]
fn a_disk_without_data_reads_as_zeros() {
    for len in [512, BLOCK, 7 * MIB + 512] {
        let truth = vec![0; len as usize];
        for order in EVERY_ORDER {
            let (disk, _) = made(len, []);
            let (image, _) = written_in(order, disk, Format::Vhd, "").unwrap();
            assert_eq!(image.len(), 2560, "two footers, a header, a sector of table");
            check_oracles(&image, &truth, "a hole");
        }
        // Zeros that are not in the map are found during the conversion, if the order allows leaving them out.
        for (order, blocks) in [(Any, 0), (Ascending, 0), (Sequential, len.div_ceil(BLOCK))] {
            let image = vhd(order, &truth, "");
            assert_eq!(image.len() as u64, 2560 + blocks * STRIDE, "{order:?}");
            check_oracles(&image, &truth, "zeros");
        }
        check_oracles(&vhd(Any, &truth, "subformat=fixed"), &truth, "fixed zeros");
    }
}

#[test]
fn an_empty_disk_is_dynamic_or_refused() {
    for order in EVERY_ORDER {
        let image = vhd(order, &[], "");
        assert_eq!(image.len(), 2048);
        assert_eq!(reads(&image), [0; 0]);
        assert_eq!(crate::support::qemu::qemu_reads(&image, "vpc"), [0; 0]);
        let error = refused(order, &[], "subformat=fixed");
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
    }
}

#[test]
fn the_metadata_follows_the_specification() {
    let id = "123e4567-e89b-12d3-a456-426614174000";
    let guest = sample(5 * MIB as usize + 512);
    for (subformat, disk_type, data_offset) in [("dynamic", 3, 512), ("fixed", 2, u64::MAX)] {
        let image = vhd(Any, &guest, &format!("subformat={subformat},id={id}"));
        let footer = &image[image.len() - 512..];
        let expected = Vhd { chs: (150, 4, 17), ..Vhd::new(disk_type, guest.len() as u64) };
        let mut expected = expected.footer();
        expected[16..24].copy_from_slice(&data_offset.to_be_bytes());
        expected[32..36].copy_from_slice(&0x0006_0001u32.to_be_bytes());
        expected[36..40].copy_from_slice(b"Wi2k");
        let id = u128::from_str_radix(&id.replace('-', ""), 16).unwrap();
        patch(&mut expected, 0, 512, 68, &id.to_be_bytes());
        assert_eq!(footer, expected, "{subformat}");
    }
    let image = vhd(Any, &guest, &format!("id={id}"));
    assert_eq!(image[..512], image[image.len() - 512..], "the copy of the footer");
    let header = Vhd { entries: Some(3), ..Vhd::new(3, guest.len() as u64) }.header();
    assert_eq!(image[512..1536], header);
    assert_eq!(number(&header, 28, 4), 3, "entries");
}

#[test]
fn the_geometry_matches_qemu_if_it_covers_the_disk_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu.vhd");
    for size in ["35K", "10M", "36M", "120M", "200M", "300M", "1G", "31G", "32G", "40G", "120G"] {
        crate::support::qemu::qemu_img(&["create", "-q", "-f", "vpc", path.to_str().unwrap(), size]);
        let theirs = std::fs::read(&path).unwrap();
        let len = oracle::qemu_virtual_bytes(&path, "vhd");
        let (ours, _) = written_in(Any, made(len, []).0, Format::Vhd, "").unwrap();
        assert_eq!(ours[56..60], theirs[56..60], "{size}: cylinders, heads, sectors of {len} bytes");
    }
}

#[test]
fn blocks_are_consecutive_in_guest_order_and_zeros_have_none() {
    let at = |block: u64| block * BLOCK;
    let pieces = [
        (at(1) + 8192, noise(4096, 1)),
        (at(2) - 4096, noise(8192, 2)),
        (at(5), vec![0; BLOCK as usize]),
        (at(130) + 512 * 1024, noise(4096, 3)),
    ];
    let len = at(131) - 512;
    for (order, stored) in
        [(Any, vec![1, 2, 130]), (Ascending, vec![1, 2, 130]), (Sequential, vec![1, 2, 5, 130])]
    {
        let (disk, _) = made(len, pieces.clone());
        let (image, _) = written_in(order, disk, Format::Vhd, "").unwrap();
        let entries = table(&image, len);
        assert_eq!(entries.len(), 256, "two sectors of table");
        let first = 1536 + 1024;
        for (index, entry) in entries.iter().enumerate() {
            let expected = stored.iter().position(|block| *block == index);
            let expected = expected.map_or(u32::MAX, |rank| ((first + rank as u64 * STRIDE) / 512) as u32);
            assert_eq!(*entry, expected, "{order:?}: block {index}");
        }
        for rank in 0..stored.len() as u64 {
            let at = (first + rank * STRIDE) as usize;
            assert!(
                image[at..at + 512].iter().all(|byte| *byte == 0xff),
                "every sector holds what it should"
            );
        }
        assert_eq!(image.len() as u64, first + stored.len() as u64 * STRIDE + 512, "the last block is whole");
        let mut truth = vec![0; len as usize];
        for (at, bytes) in &pieces {
            truth[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        assert_same(&reads(&image), &truth, "the disk");
    }
}

#[test]
fn zeros_inside_a_block_are_zeroed_and_not_written() {
    let len = 4 * BLOCK;
    let guest = |at: u64| (at * BLOCK + 65536, noise(4096, at));
    for (options, blocks) in [("", 2), ("subformat=fixed", 0)] {
        let (disk, _) = made(len, [guest(0), guest(3)]);
        let sink = MemorySink::new();
        let report = write_to(disk, Format::Vhd, options, Box::new(sink.clone())).unwrap();
        let image = sink.published().unwrap();
        let metadata = if blocks > 0 { 512 + 1024 + 512 + 512 + blocks * 512 } else { 512 };
        assert_eq!(report.stats.bytes_written, 2 * 4096 + metadata, "{options}");
        assert_eq!(reads(&image).len() as u64, len);
    }
}

#[test]
fn a_partial_sector_is_refused_or_rounded_up_with_align() {
    let truth = sample(3 * MIB as usize + 100);
    for subformat in ["dynamic", "fixed"] {
        for order in EVERY_ORDER {
            let error = refused(order, &truth, &format!("subformat={subformat}"));
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
            assert!(error.message().contains("3145828"), "{error:?}");
            assert!(error.hint_text().unwrap().contains("-o align=512"), "{error:?}");
            for align in [512, 1536, MIB, 4 * MIB] {
                let options = format!("subformat={subformat},align={align}");
                let (image, report) = written_in(order, flat(&truth), Format::Vhd, &options).unwrap();
                let mut longer = truth.clone();
                longer.resize(truth.len().next_multiple_of(align as usize), 0);
                assert_same(&reads(&image), &longer, &options);
                assert_eq!(report.digest, Some(digest_of(&longer)), "of the written disk");
            }
        }
    }
    let aligned = vhd(Any, &sample(MIB as usize), "align=1MiB");
    assert_eq!(open_vhd(aligned).virtual_bytes(), MIB, "an aligned size is unchanged");
}

#[test]
fn invalid_options_are_usage_errors() {
    for given in [
        "subformat=differencing",
        "subformat=",
        "align=0",
        "align=513",
        "align=1KB",
        "align=many",
        "id=1",
        "level=3",
        "subformat=dynamic,recompress=on",
    ] {
        for order in EVERY_ORDER {
            let error = failure(layout_with(Format::Vhd, given, order).map(drop));
            assert_eq!(error.kind(), ErrorKind::Usage, "{given}");
        }
    }
}

#[test]
fn a_disk_beyond_2040_gib_is_refused_before_a_byte_is_read() {
    for subformat in ["dynamic", "fixed"] {
        for (len, align) in
            [(MOST + 512, ""), (3 << 40, ""), (MOST - 512, ",align=1TiB"), (u64::MAX, ",align=512")]
        {
            let (disk, source) = made(len, [(0, noise(4096, 1))]);
            let options = format!("subformat={subformat}{align}");
            let error = failure(written_in(Any, disk, Format::Vhd, &options));
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{options}");
            assert!(error.message().contains("2190433320960"), "{error:?}");
            assert_eq!(source.requests.load(std::sync::atomic::Ordering::Relaxed), 0);
        }
    }
}

/// The largest disk, with data in its first, its last and some other sectors; and as a raw file.
fn largest() -> BTreeMap<u64, Vec<u8>> {
    let middle = (1u64 << 40) + 4096;
    [(0, noise(8192, 1)), (middle, noise(65536, 2)), (MOST - 4096, noise(4096, 3))].into()
}

fn to_file(path: &Path, options: &str) -> Report {
    let (disk, _) = made(MOST, largest());
    let mut unsynced = FileSinkOptions::default();
    unsynced.sync = false;
    let sink = run(FileSink::create(path, unsynced));
    write_to(disk, Format::Vhd, options, Box::new(sink.unwrap())).unwrap()
}

#[test]
fn a_disk_of_2040_gib_is_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(MOST).unwrap();
    for (at, bytes) in largest() {
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, at).unwrap();
    }
    for (options, len) in [("", 1536 + 1_044_480 * 4 + 3 * STRIDE + 512), ("subformat=fixed", MOST + 512)] {
        let path = dir.path().join("disk.vhd");
        let report = to_file(&path, options);
        assert_eq!(report.sizes.output_bytes, Some(len), "{options}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), len);
        assert_eq!(oracle::qemu_virtual_bytes(&path, "vhd"), MOST);
        let (path_text, raw) = (path.to_str().unwrap(), raw.to_str().unwrap());
        crate::support::qemu::qemu_img(&["compare", "-f", "vpc", "-F", "raw", path_text, raw]);
        let source = run(FileSource::open(&path)).unwrap();
        let disk = run(open(Arc::new(source), Declared::Unknown)).unwrap();
        let back = Conversion::reading(disk).limits(Limits::default().image(ImageLimit::None));
        assert_eq!(run(back.run()).unwrap().digest, report.digest, "{options}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn qemu_can_write_to_our_images() {
    let mut truth = vec![0; 9 * MIB as usize + 512];
    truth[5 * MIB as usize..6 * MIB as usize].copy_from_slice(&noise(MIB as usize, 1));
    for order in EVERY_ORDER {
        let dir = crate::support::qemu::written(&[("disk.vhd", &vhd(order, &truth, ""))]);
        let path = dir.path().join("disk.vhd");
        // Into an allocated block, an unallocated one, and the last one, which the disk's end cuts.
        let commands = ["write -P 85 4M 4096", "write -P 86 1M 512", "write -P 87 9M 512"];
        oracle::qemu_io(&path, "vhd", &commands);
        let mut changed = truth.clone();
        changed[4 * MIB as usize..][..4096].fill(85);
        changed[MIB as usize..][..512].fill(86);
        changed[9 * MIB as usize..].fill(87);
        assert_same(&oracle::guest_bytes(&path, "vhd"), &changed, "for qemu");
        let disk = open_vhd(std::fs::read(&path).unwrap());
        assert_same(&read_all(&disk), &changed, "for us");
    }
}

/// The id in the footer.
fn id(image: &[u8]) -> [u8; 16] {
    image[image.len() - 512 + 68..][..16].try_into().unwrap()
}

#[test]
fn ids_are_derived_from_everything_that_distinguishes_disks() {
    let guest = sample(64 << 10);
    let ours = vhd(Any, &guest, "");
    let same = [vhd(Any, &guest, ""), vhd(Sequential, &guest, ""), vhd(Any, &guest, "align=4K")];
    assert!(same.iter().all(|image| id(image) == id(&ours)));
    let uuid = id(&ours);
    assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (8, 2), "version and variant of RFC 9562");
    let others = [
        vhd(Any, &guest, "subformat=fixed"),
        vhd(Any, &guest, "align=1MiB"),
        written_in(Any, open_as(Format::Raw, guest.clone()).unwrap(), Format::Vhd, "").unwrap().0,
    ];
    assert!(others.iter().all(|image| id(image) != uuid));
    let named = vhd(Sequential, &guest, "id=123E4567-e89b-12d3-a456-426614174000");
    assert_eq!(id(&named)[..4], [0x12, 0x3e, 0x45, 0x67]);
}

#[test]
fn guest_data_does_not_change_the_detected_format() {
    let inner = sample(BLOCK as usize);
    let dynamic = vhd(Any, &inner, "");
    let fixed = vhd(Any, &inner, "subformat=fixed");
    let qcow2 = crate::support::qemu::convert(&inner, "qcow2", "");
    let stream = crate::support::qemu::convert(&inner, "vmdk", "subformat=streamOptimized");
    for (name, mut guest) in [("dynamic", dynamic), ("fixed", fixed), ("qcow2", qcow2), ("stream", stream)] {
        guest.resize(guest.len().next_multiple_of(512), 0);
        // Unchanged, and aligned so that its end is the end of a block.
        for pad in [0, guest.len().next_multiple_of(BLOCK as usize) - guest.len()] {
            let guest = [vec![0; pad], guest.clone()].concat();
            for order in [Ascending, Sequential] {
                let image = vhd(order, &guest, "");
                check_oracles(&image, &guest, &format!("a guest that is a {name} image"));
            }
            // A fixed disk begins with the guest's data.
            let ambiguous = pad == 0 && name != "fixed";
            match written_in(Any, flat(&guest), Format::Vhd, "subformat=fixed") {
                Ok((image, _)) if !ambiguous => check_oracles(&image, &guest, name),
                Err(error) if ambiguous => {
                    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{name}");
                    assert!(error.hint_text().is_some(), "{name}");
                }
                Ok(_) => panic!("{name}: a fixed disk that others take for something else"),
                Err(error) => panic!("{name}: {error:?}"),
            }
        }
    }
}

#[test]
fn a_disk_that_ends_in_footer_text_of_the_guest_reads() {
    // The guest's last sectors are full of cookies, where a short footer or one with padding would be searched.
    let cookies: Vec<u8> = b"conectix".iter().copied().cycle().take(8192).collect();
    let guest = [noise(BLOCK as usize - 8192, 4), cookies].concat();
    for options in ["", "subformat=fixed"] {
        let image = vhd(Sequential, &guest, options);
        check_oracles(&image, &guest, options);
    }
}

/// A stream of bytes.
struct Chunks(Vec<u8>);

impl ByteStream for Chunks {
    fn url(&self) -> &str {
        "memory:stream"
    }

    fn next(&mut self, most: usize) -> BoxFuture<'_, diskferry_core::Result<bytes::Bytes>> {
        let rest = self.0.split_off(self.0.len().min(most).min(10_000));
        let chunk = std::mem::replace(&mut self.0, rest);
        Box::pin(async move { Ok(chunk.into()) })
    }
}

#[test]
fn a_raw_stream_becomes_a_fixed_disk_but_not_a_dynamic_one() {
    let guest = sample(700 << 10);
    let declared = Declared::Format(Format::Raw);
    for order in EVERY_ORDER {
        let open = || run(open_stream(Box::new(Chunks(guest.clone())), declared));
        let input = open().unwrap();
        let (image, _) = written_in(order, input, Format::Vhd, "subformat=fixed").unwrap();
        assert_same(&reads(&image), &guest, "from a stream");
        let error = failure(written_in(order, open().unwrap(), Format::Vhd, ""));
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
        assert!(error.hint_text().is_some(), "{error:?}");
    }
    let odd = run(open_stream(Box::new(Chunks(guest[..1000].to_vec())), declared)).unwrap();
    let error = failure(written_in(Any, odd, Format::Vhd, "subformat=fixed"));
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
}

#[test]
fn help_lists_every_option_and_value() {
    let help = diskferry_formats::options_help();
    let ours = help.split("\nvhd\n").nth(1).unwrap();
    for option in ["  subformat=KIND ", "  align=SIZE ", "  id=UUID "] {
        assert!(ours.contains(option), "{help}");
    }
}

/// Runs of data, of holes, and of zeros that are not in the map.
fn disks() -> impl Strategy<Value = (u64, Vec<(u64, Vec<u8>)>)> {
    let run = (0u8..4, 1u64..400, any::<u64>());
    (prop::collection::vec(run, 0..12), 1u64..8000).prop_map(|(runs, rest)| {
        let mut at = 0;
        let mut pieces = Vec::new();
        for (what, sectors, seed) in runs {
            let len = (sectors * 4096) as usize;
            match what {
                0 => pieces.push((at, noise(len, seed))),
                1 => pieces.push((at, pattern(len, seed))),
                2 => pieces.push((at, vec![0; len])),
                _ => at += sectors * 9 * 4096,
            }
            at += sectors * 4096;
        }
        (at + rest * 512, pieces)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_disk_reads_back((len, pieces) in disks(), fixed: bool) {
        let mut truth = vec![0; len as usize];
        for (at, bytes) in &pieces {
            truth[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        let options = if fixed { "subformat=fixed" } else { "" };
        for order in EVERY_ORDER {
            let (image, report) = written_in(order, made(len, pieces.clone()).0, Format::Vhd, options).unwrap();
            prop_assert_eq!(report.digest, Some(digest_of(&truth)));
            prop_assert!(reads(&image) == truth);
        }
    }
}

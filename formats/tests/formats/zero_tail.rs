//! Objects that read as zeros from some sector on, like an incomplete download into a preallocated file. The result is
//! the right bytes or a typed error. If only plain data is lost, no format can detect it.

use std::collections::BTreeMap;

use crate::support::qemu::*;
use crate::support::vhd::*;
use crate::support::*;
use bytes::Bytes;
use diskferry_core::{Disk, Error, ErrorKind, Extent, ExtentKind};
use diskferry_formats::Format;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// The result for an image with a zeroed tail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Came {
    /// The right bytes.
    Right,
    /// A typed error.
    Refused,
    /// Wrong bytes, but only zeros for plain data that was zeroed, which no format can detect.
    PlainData,
}

/// The bytes of `truth` if only plain data from `at` on became zeros.
fn without_plain_data(extents: &[Extent], truth: &[u8], at: u64) -> Vec<u8> {
    let mut disk = truth.to_vec();
    for extent in extents {
        let ExtentKind::Data(stored) = extent.kind else { continue };
        let (start, end) = (stored.range.start().get(), stored.range.end().get());
        let kept = at.clamp(start, end) - start;
        let (from, to) = (extent.guest.start().get() + kept, extent.guest.end().get());
        disk[from as usize..to as usize].fill(0);
    }
    disk
}

fn zeroed(image: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = image.to_vec();
    bytes[at..].fill(0);
    bytes
}

/// The results for the image zeroed from each sector on. Fails for bytes that are neither the original nor explained by
/// lost plain data.
fn every_tail(format: Format, image: &[u8], truth: &[u8], step: usize, what: &str) -> BTreeMap<Came, usize> {
    let disk = open_as(format, image.to_vec()).unwrap();
    assert_same(&read_all(&disk), truth, what);
    let extents = extents(&disk).unwrap();
    let mut came = BTreeMap::new();
    for at in (0..image.len()).step_by(step) {
        let read = open_as(format, zeroed(image, at)).and_then(|disk| content(&disk));
        let outcome = match read {
            Err(error) => {
                assert!([3, 4].contains(&error.kind().exit_code()), "{what} from {at}: {error:?}");
                Came::Refused
            }
            Ok(read) if read == truth => Came::Right,
            Ok(read) => {
                assert_same(
                    &read,
                    &without_plain_data(&extents, truth, at as u64),
                    &format!("{what} from {at}"),
                );
                Came::PlainData
            }
        };
        *came.entry(outcome).or_default() += 1;
    }
    println!("{what}: {came:?}");
    came
}

fn count(came: &BTreeMap<Came, usize>, outcome: Came) -> usize {
    came.get(&outcome).copied().unwrap_or_default()
}

/// An image of `size` created by qemu with these options, with data written by its commands.
fn qemu_makes(options: &str, size: &str, commands: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image.qcow2");
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([text(&path), size]);
    qemu_img(&args);
    for command in commands {
        match command.strip_prefix("snapshot ") {
            Some(name) => drop(qemu_img(&["snapshot", "-c", name, text(&path)])),
            None => match command.strip_prefix("bitmap ") {
                Some(name) => drop(qemu_img(&["bitmap", "--add", text(&path), name])),
                None => qemu_io(&path, "qcow2", &[command]),
            },
        }
    }
    let image = std::fs::read(&path).unwrap();
    let truth = qemu_reads(&image, "qcow2");
    (image, truth)
}

#[test]
fn a_dynamic_vhd_with_a_zeroed_tail_is_right_or_refused() {
    let mut guest = sample(40 * 4096 + 1024);
    guest[3 * 4096..5 * 4096].fill(0);
    let vhd = Vhd { block_bytes: 4096, ..Vhd::new(3, guest.len() as u64) };
    let image = vhd.dynamic_of(&guest, |index| !(3..5).contains(&index));
    let came = every_tail(Format::Vhd, &image, &guest, 512, "blocks of 4 KiB");
    assert_eq!(count(&came, Came::PlainData), 0);
    // From the end of the needed bytes of its last block on.
    assert_eq!(count(&came, Came::Right), (4096 - 1024) / 512 + 1);
    let guest = sample(3 * MIB);
    let image = convert(&guest, "vpc", "subformat=dynamic,force_size=on");
    let came = every_tail(Format::Vhd, &image, &guest, 12_800, "what qemu writes");
    assert_eq!(count(&came, Came::PlainData), 0);
}

#[test]
fn zeros_outside_the_buffered_head_and_tail_are_found_in_a_vhd() {
    let guest = noise(8 * MIB, 5);
    let image = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    for at in [MIB, 4 * MIB + 512, image.len() - 70_000, image.len() - 1024] {
        let error = error_as(Format::Vhd, zeroed(&image, at));
        assert_eq!(error.kind(), ErrorKind::Truncated, "{at}: {error:?}");
    }
    let disk = open_vhd(zeroed(&image, image.len() - 512));
    assert_same(&read_all(&disk), &guest, "all blocks are there");
    assert_eq!(warnings(&disk), ["footer_recovered"]);
}

#[test]
fn a_bitmap_of_zeros_is_not_a_block_if_the_footer_is_missing() {
    let guest = noise(2 * 4096, 5);
    for (block, large) in [(4096usize, false), (4 * MIB, true)] {
        let vhd = Vhd { block_bytes: block as u32, ..Vhd::new(3, 2 * block as u64) };
        let mut data = guest[..4096].to_vec();
        data.resize(block, 7);
        let whole = vec![true; block / SECTOR];
        let image = vhd.dynamic(&[(0, Vec::new(), data.clone()), (1, whole, data)]);
        assert_eq!(read_all(&open_vhd(image.clone()))[..block], vec![0; block]);
        let mut damaged = image.clone();
        let footer = image.len() - 300;
        damaged[footer] ^= 1;
        for image in [damaged, image[..image.len() - 512].to_vec()] {
            let error = error_as(Format::Vhd, image);
            assert_eq!(error.kind(), ErrorKind::Truncated, "{large}: {error:?}");
            assert!(error.message().contains("sector bitmap of the block"), "{error:?}");
        }
    }
}

#[test]
fn a_fixed_vhd_without_its_footer_is_not_a_vhd() {
    // The rest is a raw disk with 512 more zero bytes. Undeclared, it is read as one if it looks like a disk.
    let guest = bootable(64 << 10);
    let image = Vhd::new(2, guest.len() as u64).fixed(&guest);
    for at in (0..=guest.len()).step_by(512) {
        let error = error_as(Format::Vhd, zeroed(&image, at));
        assert_eq!(error.kind(), ErrorKind::FormatMismatch, "{at}");
    }
}

#[test]
fn a_qcow2_image_with_a_zeroed_tail_is_right_or_refused_or_lost_plain_data_alone() {
    let scattered = ["write -P 1 0 5K", "write -P 2 700K 3K", "write -P 3 1500K 9K", "write -P 4 100K 1K"];
    let mut snapshots = scattered.to_vec();
    snapshots.extend(["snapshot one", "write -P 5 300K 4K", "snapshot two", "write -P 6 900K 4K"]);
    let mut bitmaps = scattered.to_vec();
    bitmaps.extend(["bitmap one", "write -P 5 300K 4K", "bitmap two"]);
    let compressed =
        ["write -c -P 1 0 8K", "write -c -P 2 64K 8K", "write -P 3 1200K 4K", "write -c -P 4 1600K 8K"];
    for (options, commands) in [
        ("cluster_size=512", &scattered[..]),
        ("cluster_size=4K", &scattered),
        ("cluster_size=4K,compat=0.10", &scattered),
        ("cluster_size=4K,refcount_bits=1", &scattered),
        ("cluster_size=4K,refcount_bits=64", &scattered),
        ("cluster_size=16K,extended_l2=on", &scattered),
        ("cluster_size=4K,preallocation=metadata", &scattered),
        ("cluster_size=4K,preallocation=falloc", &scattered),
        ("cluster_size=4K", &snapshots),
        ("cluster_size=4K", &bitmaps),
        ("cluster_size=4K", &compressed),
        ("cluster_size=4K,compression_type=zstd", &compressed),
    ] {
        let (image, truth) = qemu_makes(options, "2M", commands);
        let step = 512 * image.len().div_ceil(512 * 500);
        let came = every_tail(Format::Qcow2, &image, &truth, step, options);
        assert!(count(&came, Came::Refused) > 3, "{options}: {came:?}");
    }
}

/// Complete images that end in zeros.
#[test]
fn valid_qcow2_images_that_end_in_zeros_are_read() {
    for (options, size, commands) in [
        ("", "64M", &[][..]),
        ("preallocation=metadata", "64M", &[]),
        ("preallocation=falloc", "8M", &["write -P 1 1M 64K"]),
        ("preallocation=full", "8M", &[]),
        ("cluster_size=512,preallocation=metadata", "8M", &[]),
        ("cluster_size=2M", "64M", &["write -P 1 0 64K", "write -P 0 40M 64K"]),
        ("extended_l2=on", "64M", &["write -P 1 0 4K", "write -P 0 40M 1K"]),
        ("", "64M", &["write -P 1 0 1M", "write -P 0 40M 1M"]),
        ("", "64M", &["write -P 1 0 1M", "discard 0 1M"]),
        ("", "64M", &["write -P 1 0 1M", "snapshot one", "discard 0 1M"]),
        ("", "64M", &["write -P 1 0 1M", "snapshot one", "write -P 0 0 1M", "snapshot two"]),
        ("", "64M", &["write -P 1 0 1M", "bitmap one", "write -P 0 40M 64K", "bitmap two"]),
        ("lazy_refcounts=on", "64M", &["write -P 1 0 1M", "write -P 0 40M 64K"]),
    ] {
        let (image, truth) = qemu_makes(options, size, commands);
        let mut padded = image.clone();
        // A volume is longer than the image on it.
        padded.resize(image.len() + 3 * MIB, 0);
        for image in [image, padded] {
            let disk = open_as(Format::Qcow2, image).unwrap();
            assert_same(
                &content(&disk).unwrap_or_else(|error| panic!("{options} {commands:?}: {error:?}")),
                &truth,
                options,
            );
        }
    }
}

#[test]
fn a_leaked_cluster_does_not_make_a_valid_image_truncated() {
    let (mut image, truth) = qemu_makes("", "64M", &["write -P 1 0 1M", "write -P 0 40M 1M"]);
    // The refcount block is in cluster 2; a cluster in the middle is counted twice.
    image[2 * 65_536 + 2 * 8 + 1] = 2;
    let disk = open_as(Format::Qcow2, image).unwrap();
    assert_same(&read_all(&disk), &truth, "a leak");
}

#[test]
fn a_qcow2_image_that_was_not_closed_gets_a_warning_instead() {
    let (mut image, _) =
        qemu_makes("cluster_size=4K,lazy_refcounts=on", "8M", &["write -P 1 0 64K", "write -P 2 4M 64K"]);
    // The dirty bit.
    image[79] |= 1;
    let l2 =
        usize::try_from(u64::from_be_bytes(image[3 * 4096 + 16..][..8].try_into().unwrap()) & !(1 << 63))
            .unwrap();
    let disk = open_as(Format::Qcow2, zeroed(&image, l2)).unwrap();
    assert!(content(&disk).is_ok());
    let codes = warnings(&disk);
    assert!(codes.contains(&"dirty") && codes.contains(&"zero_tail"), "{codes:?}");
}

#[test]
fn plain_data_that_is_zeros_at_the_end_of_a_qcow2_image_gives_a_warning() {
    let (image, truth) = qemu_makes("", "64M", &["write -P 1 0 1M", "write -P 2 40M 1M"]);
    let disk = open_as(Format::Qcow2, image.clone()).unwrap();
    assert_same(&read_all(&disk), &truth, "whole");
    assert_eq!(warnings(&disk), [""; 0]);
    for (lost, code) in [(60 << 10, None), (128 << 10, Some("zero_tail")), (MIB, Some("zero_tail"))] {
        let disk = open_as(Format::Qcow2, zeroed(&image, image.len() - lost)).unwrap();
        assert!(content(&disk).is_ok());
        assert_eq!(warnings(&disk), Vec::from_iter(code), "{lost} bytes");
    }
}

/// The error of an image that is zeros from `at` on.
fn error_from(image: &[u8], at: usize) -> Error {
    let disk = open_as(Format::Qcow2, Bytes::from(zeroed(image, at)));
    failure(disk.and_then(|disk: Disk| content(&disk)))
}

#[test]
fn a_table_lost_far_from_the_end_of_a_qcow2_image_is_truncated() {
    // The second L2 table is after 4 MiB of data, with 4 MiB after it, so the zeros begin before the bytes that opening
    // reads.
    let (image, _) = qemu_makes("", "1G", &["write -P 1 0 4M", "write -P 2 600M 4M"]);
    let entry = 3 * 65_536 + 8;
    let l2 = usize::try_from(u64::from_be_bytes(image[entry..entry + 8].try_into().unwrap()) & !(1 << 63))
        .unwrap();
    assert!(l2 > 4 * MIB && l2 + 4 * MIB < image.len());
    for at in [l2, l2 + 512, l2 - 512, MIB] {
        let error = error_from(&image, at);
        assert_eq!(error.kind(), ErrorKind::Truncated, "{at}: {error:?}");
        assert!(error.message().contains("ends in zeros from"), "{error:?}");
    }
}

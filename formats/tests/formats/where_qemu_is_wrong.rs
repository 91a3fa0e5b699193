//! Images for which qemu-img 10.0 silently returns wrong bytes. Each test first shows qemu's result, and so detects
//! when it changes. It then shows that our reader returns the right bytes, or an error with the reason.

use crate::support::files::Files;
use crate::support::qemu::*;
use crate::support::vhd::Vhd;
use crate::support::vmdk::{Stream, descriptor};
use crate::support::*;
use diskferry_core::ErrorKind;
use diskferry_formats::{Declared, Format};

const MIB: usize = 1 << 20;

#[test]
fn a_fixed_vhd_is_not_a_raw_disk_with_its_footer_at_the_end() {
    let truth = bootable(MIB);
    let image = convert(&truth, "vpc", "subformat=fixed,force_size=on");
    assert_eq!(qemu_probes(&image), "raw");
    assert_same(&qemu_reads(&image, ""), &image, "qemu takes the footer for content");

    let disk = open_bytes(image.clone(), Declared::Unknown).unwrap();
    assert_eq!(disk.info().format, "vhd");
    assert_same(&read_all(&disk), &truth, "the disk alone");
    assert_eq!(failure(open_as(Format::Raw, image)).kind(), ErrorKind::FormatMismatch);
}

#[test]
fn a_differencing_vhd_does_not_read_as_zeros_where_its_parent_has_data() {
    let vhd = Vhd { parent: "parent.vhd", ..Vhd::new(4, 4 * MIB as u64) };
    let child = sample(4 * MIB);
    let image = vhd.dynamic_of(&child, |block| block == 1);
    let qemu = qemu_reads(&image, "vhd");
    assert!(qemu[..2 * MIB].iter().all(|byte| *byte == 0), "qemu gives zeros for what the parent holds");
    assert_same(&qemu[2 * MIB..], &child[2 * MIB..], "what the child holds");

    let disk = open_as(Format::Vhd, image).unwrap();
    assert_eq!(disk.refusals()[0].kind, ErrorKind::ParentDiskRefused);
    assert_eq!(failure(content(&disk)).kind(), ErrorKind::ParentDiskRefused);
}

#[test]
fn a_sector_hidden_by_the_bitmap_of_a_vhd_reads_as_zeros() {
    let vhd = Vhd::new(3, 2 * MIB as u64);
    let stored = noise(2 * MIB, 5);
    let bits: Vec<bool> = (0..2 * MIB / SECTOR).map(|sector| sector % 3 != 0).collect();
    let image = vhd.dynamic(&[(0, bits.clone(), stored.clone())]);
    assert_same(&qemu_reads(&image, "vhd"), &stored, "qemu ignores the bitmap");

    let mut truth = stored;
    let hidden = truth.chunks_mut(SECTOR).zip(&bits).filter(|(_, bit)| !**bit);
    hidden.for_each(|(sector, _)| sector.fill(0));
    let disk = open_as(Format::Vhd, image).unwrap();
    let (bytes, tally) = read(&disk, u64::MAX).unwrap();
    assert_same(&bytes, &truth, "the bitmap is applied");
    assert_eq!(tally.count, 1366);
    assert_eq!(warnings(&disk), ["bitmap_hides_data"]);
}

#[test]
fn extents_with_other_access_than_rw_are_at_their_offset() {
    let (first, last) = (noise(64 * SECTOR, 1), noise(64 * SECTOR, 2));
    let both = [&first[..], &last].concat();
    for (middle, between) in [
        ("RW 32 ZERO", Some(vec![0; 32 * SECTOR])),
        ("RDONLY 64 FLAT \"b\" 0", Some(last.clone())),
        ("NOACCESS 64 FLAT \"b\" 0", None),
        ("NOACCESS 32 ZERO", None),
    ] {
        let lines = format!("RW 64 FLAT \"a\" 0\n{middle}\nRW 64 FLAT \"b\" 0");
        let text = descriptor("monolithicFlat", &lines);
        let files: [(&str, &[u8]); 3] = [("disk.vmdk", text.as_bytes()), ("a", &first), ("b", &last)];
        assert_same(&qemu_reads_files(&files, "vmdk"), &both, "qemu drops it, and what follows shifts");

        let disk = Files::from(&files).open("disk.vmdk").unwrap();
        match between {
            Some(between) => {
                let truth = [&first[..], &between, &last].concat();
                assert_same(&read_all(&disk), &truth, middle);
            }
            None => {
                assert_eq!(failure(content(&disk)).kind(), ErrorKind::UnsupportedFeature, "{middle}");
            }
        }
    }
}

#[test]
fn a_descriptor_cannot_read_a_file_of_the_host() {
    let secret = noise(64 * SECTOR, 3);
    let elsewhere = written(&[("secret", &secret)]);
    let inside = elsewhere.path().join("images");
    std::fs::create_dir(&inside).unwrap();
    for name in [elsewhere.path().join("secret").to_str().unwrap(), "../secret"] {
        let text = descriptor("monolithicFlat", &format!("RW 64 FLAT \"{name}\" 0"));
        let image = inside.join("disk.vmdk");
        std::fs::write(&image, &text).unwrap();
        assert_same(&diskferry_corpus::oracle::guest_bytes(&image, "vmdk"), &secret, "qemu reads it");

        let disk = open_as(Format::Vmdk, text).unwrap();
        assert_eq!(disk.refusals()[0].kind, ErrorKind::ExternalDataRefused, "{name}");
        assert_eq!(failure(content(&disk)).kind(), ErrorKind::ExternalDataRefused, "{name}");
    }
}

#[test]
fn a_raw_disk_has_its_exact_length() {
    let truth = noise(1000, 4);
    let mut padded = truth.clone();
    padded.resize(1024, 0);
    assert_same(&qemu_reads(&truth, "raw"), &padded, "qemu fills the last sector up");

    let disk = open_as(Format::Raw, truth.clone()).unwrap();
    assert_same(&read_all(&disk), &truth, "ours");
}

#[test]
fn a_grain_is_only_returned_for_the_sector_in_its_marker() {
    let truth = noise(128 << 10, 6);
    let built = Stream::default().build(&truth);
    let table = built.grains[1].0 + 64 * 1024;
    let table =
        table + built.bytes[table..].windows(4).position(|word| word == 128u32.to_le_bytes()).unwrap();
    let mut image = built.bytes;
    let (first, second) = (table, table + 4);
    let entries = [image[second..second + 4].to_vec(), image[first..first + 4].to_vec()].concat();
    image[table..table + 8].copy_from_slice(&entries);
    let swapped = [&truth[64 << 10..], &truth[..64 << 10]].concat();
    assert_same(&qemu_reads(&image, "vmdk"), &swapped, "qemu takes the table's word");

    let error = error_as(Format::Vmdk, image);
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.message().contains("marker says sector 128"), "{error}");
}

#[test]
fn the_bitmap_of_a_small_block_has_one_sector() {
    // For a block of less than 4 KiB, qemu rounds the length of the bitmap down to 0, and reads data at the bitmap's
    // offset.
    let truth = noise(4096, 7);
    let image = Vhd { block_bytes: 2048, ..Vhd::new(3, 4096) }.dynamic_of(&truth, |_| true);
    let qemu = qemu_reads(&image, "vhd");
    assert_eq!(qemu[..4], [0xf0, 0, 0, 0], "the bitmap");
    assert_same(&qemu[512..2048], &truth[..1536], "the block, a sector late");

    assert_same(&read_all(&open_as(Format::Vhd, image).unwrap()), &truth, "ours");
}

#[test]
fn a_footer_that_contradicts_its_header_does_not_truncate_the_disk() {
    let truth = sample(1 << 20);
    let mut image = Stream::default().build(&truth).bytes;
    let footer = image.len() - 1024;
    image[footer + 12..footer + 20].copy_from_slice(&128u64.to_le_bytes());
    assert_same(&qemu_reads(&image, "vmdk"), &truth[..1 << 16], "qemu believes the footer");

    let error = error_as(Format::Vmdk, image);
    assert_eq!(said(&error), ("malformed", Some(footer as u64 + 12)), "{error}");
}

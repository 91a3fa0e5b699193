//! The VHD reader, compared with qemu-img and with disks built by hand.

use crate::support::qemu::*;
use crate::support::vhd::*;
use crate::support::*;
use diskferry_core::{Disk, ErrorKind, ExtentKind};
use diskferry_formats::Declared;

const MIB: usize = 1 << 20;

/// A disk with a boot sector, data at both ends, a hole, and noise up to an odd sector.
fn sample(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let edge = (len / 3).min(700_001);
    disk[..edge].copy_from_slice(&noise(edge, 1));
    disk[len - edge..].copy_from_slice(&noise(edge, 2));
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[test]
fn images_of_qemu_read_back_with_their_exact_size() {
    for len in [512, 1536, MIB, 5 * MIB + 512, 9 * MIB + 7 * 512, 33 * MIB - 512] {
        let truth = sample(len);
        for subformat in ["fixed", "dynamic"] {
            let image = convert(&truth, "vpc", &format!("subformat={subformat},force_size=on"));
            let disk = open_vhd(image);
            assert_eq!(disk.info().variant, subformat);
            assert_eq!(disk.info().features[0], "size from current_size");
            assert_eq!(disk.info().features[1], "creator \"qem2\"");
            for window in [u64::MAX, 3 * MIB as u64 + 512] {
                let (bytes, tally) = read(&disk, window).unwrap();
                assert_same(&bytes, &truth, subformat);
                assert_eq!(tally.count, 0);
            }
            assert_eq!(warnings(&disk), [""; 0]);
        }
    }
}

#[test]
fn a_size_rounded_to_a_geometry_matches_qemu() {
    let mut truth = sample(10 * MIB);
    for subformat in ["fixed", "dynamic"] {
        let image = convert(&truth, "vpc", &format!("subformat={subformat}"));
        let disk = open_vhd(image);
        assert_eq!(disk.virtual_bytes(), 10_514_432);
        assert!(disk.info().features[0].starts_with("size from CHS "), "{:?}", disk.info());
        truth.resize(10_514_432, 0);
        assert_same(&read(&disk, u64::MAX).unwrap().0, &truth, subformat);
    }
}

#[test]
fn a_dynamic_disk_without_data_is_one_hole() {
    let image = convert(&vec![0; 64 * MIB], "vpc", "subformat=dynamic,force_size=on");
    let disk = open_vhd(image);
    let extents = walk(&disk, u64::MAX).unwrap();
    assert_eq!(extents.len(), 1);
    assert!(matches!(extents[0].kind, ExtentKind::Hole));
}

#[test]
fn every_block_size_and_bitmap_reads_correctly() {
    for (block, len) in [
        (512, 5 * 512),
        (1024, 77 * 512),
        (4096, 50_176),
        (64 << 10, 300_032),
        (512 << 10, 3 * MIB + 512),
        (2 * MIB, 7 * MIB + 1536),
        (4 * MIB, 9 * MIB - 512),
        (8 * MIB, 17 * MIB + 512),
        (16 * MIB, 35 * MIB),
    ] {
        let vhd = Vhd { block_bytes: block as u32, ..Vhd::new(3, len as u64) };
        let mut truth = vec![0; len];
        let mut blocks = Vec::new();
        // Stored in reverse, so that guest order and stored order differ. Every third block is not allocated.
        for index in (0..len.div_ceil(block)).rev().filter(|index| index % 3 != 1) {
            let data = noise(block, index as u64 + 7);
            let pattern = noise(block / SECTOR, index as u64);
            let runs = (0..block / SECTOR).map(|sector| match index % 2 {
                0 => pattern[sector] & 1 == 1,
                _ => sector / 20_000 == 0 && pattern[sector / 64] & 1 == 1,
            });
            let bits: Vec<bool> = runs.collect();
            for sector in (0..block / SECTOR).filter(|sector| bits[*sector]) {
                let at = index * block + sector * SECTOR;
                if at < len {
                    truth[at..at + SECTOR].copy_from_slice(&data[sector * SECTOR..(sector + 1) * SECTOR]);
                }
            }
            let hidden = bits.iter().zip(data.chunks(SECTOR));
            let data: Vec<u8> =
                hidden.flat_map(|(bit, s)| if *bit { s.to_vec() } else { vec![0; SECTOR] }).collect();
            blocks.push((index as u32, bits, data));
        }
        let disk = open_vhd(vhd.dynamic(&blocks));
        assert_eq!(disk.info().cluster_bytes, Some(block as u64));
        for window in [u64::MAX, (block as u64 * 3 / 2).next_multiple_of(512), 5 * MIB as u64 + 512] {
            let (bytes, tally) = read(&disk, window).unwrap();
            assert_same(&bytes, &truth, &format!("blocks of {block}, windows of {window}"));
            assert_eq!(tally.count, 0);
        }
        assert_eq!(warnings(&disk), [""; 0]);
    }
}

#[test]
fn a_sector_with_a_clear_bit_reads_as_zeros_and_hidden_data_is_counted() {
    for block in [512 << 10, 8 * MIB] {
        let vhd = Vhd { block_bytes: block as u32, ..Vhd::new(3, 2 * block as u64) };
        let mut bits = vec![true; block / SECTOR];
        for sector in [3, 4, 900] {
            bits[sector] = false;
        }
        let data = noise(block, 5);
        let image = vhd.dynamic(&[(1, bits, data.clone())]);
        let disk = open_vhd(image.clone());
        let (bytes, tally) = read(&disk, u64::MAX).unwrap();
        let mut truth = [vec![0; block], data].concat();
        truth[block + 3 * SECTOR..block + 5 * SECTOR].fill(0);
        truth[block + 900 * SECTOR..block + 901 * SECTOR].fill(0);
        assert_same(&bytes, &truth, "the bitmap");
        assert_eq!((tally.count, tally.first.unwrap().get()), (3, (block + 3 * SECTOR) as u64));
        let warnings = disk.warnings().list();
        assert_eq!(warnings[0].code, "bitmap_hides_data");
        assert!(
            warnings[0].message.contains(&format!("guest offset {}", block + 3 * SECTOR)),
            "{warnings:?}"
        );
        if block == 512 << 10 {
            assert_ne!(
                qemu_reads(&image, "vhd"),
                truth,
                "qemu has learnt of the bitmap: FORMATS H2 is out of date"
            );
        }
    }
}

#[test]
fn a_block_is_one_fetch_of_bitmap_and_data() {
    let vhd = Vhd::new(3, 4 * MIB as u64 + 512);
    let disk = open_vhd(vhd.dynamic_of(&sample(4 * MIB + 512), |index| index != 1));
    let extents = walk(&disk, u64::MAX).unwrap();
    let lengths: Vec<_> =
        extents.iter().map(|e| (e.guest.len(), e.to_fetch().map(|s| s.range.len()))).collect();
    let block = 2 * MIB as u64;
    assert_eq!(lengths, [(block, Some(block + 512)), (block, None), (512, Some(1024))]);
}

#[test]
fn the_last_block_may_end_with_the_disk() {
    let guest = sample(4 * MIB + 1024);
    let vhd = Vhd::new(3, guest.len() as u64);
    let whole = vec![true; 4096];
    let last = (2, vec![true; 2], guest[4 * MIB..].to_vec());
    let first = (0, whole.clone(), guest[..2 * MIB].to_vec());
    let second = (1, whole, guest[2 * MIB..4 * MIB].to_vec());
    for blocks in [[first.clone(), second.clone(), last.clone()], [last, second, first]] {
        let disk = open_vhd(vhd.dynamic(&blocks));
        assert_same(&read(&disk, u64::MAX).unwrap().0, &guest, "a short last block");
    }
}

#[test]
fn the_size_depends_on_the_creator() {
    let guest = noise(40 * 17 * 512 + 4096, 3);
    let size = guest.len() as u64;
    let by_chs = 10 * 4 * 17 * 512;
    for (creator, chs, expected) in [
        (b"vpc ", (10, 4, 17), by_chs),
        (b"qemu", (10, 4, 17), by_chs),
        (b"qem2", (10, 4, 17), size),
        (b"win ", (10, 4, 17), size),
        (b"d2v ", (10, 4, 17), size),
        (b"tap\0", (10, 4, 17), size),
        (b"CTXS", (10, 4, 17), size),
        (b"wa\0\0", (10, 4, 17), size),
        (b"vbox", (10, 4, 17), size),
        (b"\xff\x1b[m", (10, 4, 17), size),
        (b"vpc ", (65_535, 16, 255), size),
        (b"vpc ", (0, 0, 0), size),
    ] {
        for disk_type in [2, 3] {
            let vhd = Vhd { creator: *creator, chs, ..Vhd::new(disk_type, size) };
            let image = if disk_type == 2 { vhd.fixed(&guest) } else { vhd.dynamic_of(&guest, |_| true) };
            let disk = open_vhd(image);
            assert_eq!(disk.virtual_bytes(), expected, "{creator:?} {chs:?}");
            let says = if expected == by_chs {
                "size from CHS 10/4/17 (current_size "
            } else {
                "size from current_size"
            };
            assert!(disk.info().features[0].starts_with(says), "{:?}", disk.info().features);
            assert_same(&read(&disk, u64::MAX).unwrap().0, &guest[..expected as usize], "its bytes");
            let code = (expected < size).then_some("chs_size_drops_bytes");
            assert_eq!(warnings(&disk), Vec::from_iter(code));
        }
    }
}

#[test]
fn bytes_after_the_geometry_are_counted_after_a_walk() {
    let by_chs = 10 * 4 * 17 * SECTOR;
    let mut guest = noise(by_chs + 20 * SECTOR, 3);
    guest[by_chs + 3 * SECTOR..by_chs + 18 * SECTOR].fill(0);
    for disk_type in [2, 3] {
        let vhd = Vhd { creator: *b"vpc ", chs: (10, 4, 17), ..Vhd::new(disk_type, guest.len() as u64) };
        let image = if disk_type == 2 { vhd.fixed(&guest) } else { vhd.dynamic_of(&guest, |_| true) };
        let disk = open_vhd(image.clone());
        let said = |disk: &Disk| disk.warnings().list()[0].message.clone();
        assert!(
            said(&disk).ends_with("the last 10240 bytes that the image has are left out"),
            "{}",
            said(&disk)
        );
        let before = disk.traffic();
        assert_same(&read_all(&disk), &guest[..by_chs], "the disk by geometry");
        let held = format!("; {} of them are in sectors that are not all zeros", 5 * SECTOR);
        assert!(said(&disk).ends_with(&held), "{}", said(&disk));
        assert_eq!(warnings(&disk), ["chs_size_drops_bytes"]);
        assert!(disk.traffic().bytes < before.bytes + 3 * image.len() as u64);
        assert_same(&qemu_reads(&image, "vhd"), &guest[..by_chs], "qemu");
    }
}

#[test]
fn at_most_8_mib_after_the_geometry_are_read() {
    let guest = noise(40 << 20, 3);
    let vhd = Vhd { creator: *b"qemu", chs: (1, 1, 1), ..Vhd::new(2, guest.len() as u64) };
    let disk = open_vhd(vhd.fixed(&guest));
    assert_same(&read_all(&disk), &guest[..SECTOR], "one sector");
    let said = disk.warnings().list()[0].message.clone();
    assert!(said.contains(&format!("; at least {} of them", 8 << 20)), "{said}");
    assert!(disk.traffic().bytes < 9 << 20, "{:?}", disk.traffic());
}

#[test]
fn a_differencing_disk_is_described_and_refused() {
    let vhd = Vhd { parent: "golden image.vhd", ..Vhd::new(4, 4 * MIB as u64) };
    let image = vhd.dynamic_of(&sample(4 * MIB), |index| index == 0);
    let disk = open_vhd(image.clone());
    assert_eq!(disk.info().variant, "differencing");
    assert_eq!(disk.info().cluster_bytes, Some(2 << 20));
    assert!(disk.refusals()[0].message.contains("golden image.vhd"), "{:?}", disk.refusals());
    assert_eq!(error_of(image.clone()).kind(), ErrorKind::ParentDiskRefused);
    // The reason for the refusal: another tool returns zeros for the parent's sectors.
    assert_eq!(qemu_reads(&image, "vhd")[2 * MIB..], vec![0; 2 * MIB]);
}

#[test]
fn each_copy_of_the_footer_alone_is_enough() {
    let guest = sample(3 * MIB);
    let good = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    let tail = good.len() - 512;
    let cut_off = &good[..tail];
    let mut damaged_head = good.clone();
    damaged_head[50] ^= 1;
    let mut no_head = good.clone();
    no_head[..512].fill(0);
    let mut damaged_tail = good.clone();
    damaged_tail[tail + 200] ^= 1;
    let mut no_tail = good.clone();
    no_tail[tail..].fill(0xe5);
    for image in [damaged_head, no_head, damaged_tail, no_tail, cut_off.to_vec()] {
        let disk = open_vhd(image);
        assert_eq!(warnings(&disk), ["footer_recovered"]);
        assert_same(&read(&disk, u64::MAX).unwrap().0, &guest, "one footer of two");
    }
}

#[test]
fn if_two_valid_footers_differ_the_last_is_used() {
    let guest = sample(3 * MIB);
    let mut image = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    patch(&mut image, 0, 512, 48, &(MIB as u64).to_be_bytes());
    let disk = open_vhd(image);
    assert_eq!(warnings(&disk), ["footer_copies_differ"]);
    let said = disk.warnings().list()[0].message.clone();
    assert!(said.contains("differ in current_size: the footer is used"), "{said}");
    assert_same(&read(&disk, u64::MAX).unwrap().0, &guest, "the last footer");
}

#[test]
fn a_footer_without_its_last_byte_or_with_zeros_after_it_is_found() {
    let guest = sample(3 * MIB + 512);
    let good = Vhd::new(2, guest.len() as u64);
    let short = Vhd { short_footer: true, ..good.clone() };
    let padded = |padding| Vhd { padding, ..good.clone() };
    for (vhd, code) in [
        (short, "footer_short"),
        (padded(1), "footer_padded"),
        (padded(512), "footer_padded"),
        (padded(3584), "footer_padded"),
        (padded(65_536), "footer_padded"),
    ] {
        let disk = open_vhd(vhd.fixed(&guest));
        assert_eq!(warnings(&disk), [code]);
        assert_same(&read(&disk, u64::MAX).unwrap().0, &guest, code);
        let disk = open_vhd(Vhd { disk_type: 3, ..vhd }.dynamic_of(&guest, |_| true));
        assert_eq!(warnings(&disk), [code]);
        assert_same(&read(&disk, u64::MAX).unwrap().0, &guest, code);
    }
}

#[test]
fn saved_state_and_bytes_after_the_disk_are_warnings() {
    let guest = sample(MIB);
    let disk = open_vhd(Vhd { saved_state: true, features: 3, ..Vhd::new(2, MIB as u64) }.fixed(&guest));
    assert_eq!(warnings(&disk), ["saved_state"]);
    assert_eq!(disk.info().features[2..], ["temporary", "saved state"]);
    let disk = open_vhd(Vhd::new(2, MIB as u64 - 512).fixed(&guest));
    assert_eq!(warnings(&disk), ["trailing_data"]);
    assert_same(&read(&disk, u64::MAX).unwrap().0, &guest[..MIB - 512], "the disk alone");
}

#[test]
fn a_part_of_a_split_disk_is_not_read_as_a_disk() {
    let guest = sample(8 * MIB);
    let dynamic = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    let last = error_of(dynamic[3 * MIB..].to_vec());
    assert_eq!((last.kind(), last.offset()), (ErrorKind::UnsupportedFeature, Some(0)));
    let first = error_of(dynamic[..3 * MIB].to_vec());
    assert_eq!((first.kind(), first.offset()), (ErrorKind::Truncated, Some(1536 + 4)));
    let fixed = Vhd::new(2, guest.len() as u64).fixed(&guest);
    let last = error_of(fixed[3 * MIB..].to_vec());
    assert_eq!((last.kind(), last.offset()), (ErrorKind::Truncated, Some(5 * MIB as u64 + 48)));
    for error in [first, last] {
        assert!(error.hint_text().unwrap().contains("split"));
    }
}

#[test]
fn every_invalid_field_has_its_error_and_offset() {
    use ErrorKind::{Malformed, Truncated, UnsupportedFeature};
    let guest = sample(5 * MIB);
    let good = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    let tail = good.len() - 512;
    let sector = |sector: u64| u32::try_from(sector).unwrap().to_be_bytes();
    let footer = |field, value: &[u8]| {
        let mut image = good.clone();
        patch(&mut image, 0, 512, field, value);
        patch(&mut image, tail, 512, field, value);
        image
    };
    let header = |field, value: &[u8]| {
        let mut image = good.clone();
        patch(&mut image, 512, 1024, field, value);
        image
    };
    let raw = |places: &[usize]| {
        let mut image = good.clone();
        places.iter().for_each(|at| image[*at] ^= 0x80);
        image
    };
    let entry = |index: usize, value: u64| {
        let mut image = good.clone();
        image[1536 + 4 * index..1540 + 4 * index].copy_from_slice(&sector(value));
        image
    };
    let first_block = 2048 / 512;
    let stride = 4096 + 1;
    let tail_at = tail as u64;
    for (what, image, kind, offset) in [
        ("both checksums", raw(&[100, tail + 100]), Malformed, tail_at + 64),
        ("file_format_version", footer(12, &[0, 2, 0, 0]), UnsupportedFeature, tail_at + 12),
        ("disk_type 0", footer(60, &[0, 0, 0, 0]), Malformed, tail_at + 60),
        ("disk_type 5", footer(60, &[0, 0, 0, 5]), Malformed, tail_at + 60),
        ("data_offset in the copy", footer(16, &511u64.to_be_bytes()), Malformed, tail_at + 16),
        ("data_offset in the footer", footer(16, &(tail_at - 1023).to_be_bytes()), Malformed, tail_at + 16),
        ("data_offset past the end", footer(16, &(1u64 << 40).to_be_bytes()), Truncated, tail_at + 16),
        ("data_offset at the very end", footer(16, &u64::MAX.to_be_bytes()), Malformed, tail_at + 16),
        ("header cookie", raw(&[512]), Malformed, 512),
        ("header checksum", raw(&[512 + 900]), Malformed, 512 + 36),
        ("header_version", header(24, &[0, 2, 0, 0]), UnsupportedFeature, 512 + 24),
        ("block_size no power of two", header(32, &sector(3 << 20)), Malformed, 512 + 32),
        ("block_size 0", header(32, &sector(0)), Malformed, 512 + 32),
        ("block_size 256", header(32, &sector(256)), Malformed, 512 + 32),
        ("too few entries", header(28, &sector(2)), Malformed, 512 + 28),
        ("too many entries", header(28, &sector((16 << 20) + 1)), Malformed, 512 + 28),
        ("all entries", header(28, &[0xff; 4]), Malformed, 512 + 28),
        ("size beyond the entries", footer(48, &(1u64 << 62).to_be_bytes()), Malformed, 512 + 28),
        ("table past the end", header(28, &sector(16 << 20)), Truncated, 512 + 16),
        ("table far past the end", header(16, &(1u64 << 60).to_be_bytes()), Truncated, 512 + 16),
        ("table past all ends", header(16, &u64::MAX.to_be_bytes()), Malformed, 512 + 16),
        ("table in the copy", header(16, &508u64.to_be_bytes()), Malformed, 512 + 16),
        ("table in the header", header(16, &1024u64.to_be_bytes()), Malformed, 512 + 16),
        ("table in the footer", header(16, &(tail_at - 4).to_be_bytes()), Malformed, 512 + 16),
        ("block in the copy", entry(1, 0), Malformed, 1540),
        ("block in the header", entry(1, 2), Malformed, 1540),
        ("block in the table", entry(1, 3), Malformed, 1540),
        ("block in the footer", entry(0, (tail_at / 512) - 100), Malformed, 1536),
        ("block past the end", entry(0, u64::from(u32::MAX) - 1), Truncated, 1536),
        ("two entries of one block", entry(1, first_block), Malformed, 1540),
        ("the end of a block", entry(1, first_block + stride - 1), Malformed, 1540),
        ("a last block in a block", entry(2, first_block + 9), Malformed, 1544),
    ] {
        let error = error_of(image.clone());
        assert_eq!((error.kind(), error.offset()), (kind, Some(offset)), "{what}: {error:?}");
        // Detection returns the same error, because the magic is there.
        let undeclared = match open_bytes(image, Declared::Unknown) {
            Err(error) => error,
            Ok(disk) => walk(&disk, u64::MAX).unwrap_err(),
        };
        assert_eq!((undeclared.kind(), undeclared.offset()), (kind, Some(offset)), "{what}: {undeclared:?}");
    }
}

#[test]
fn a_fixed_disk_with_missing_bytes_is_truncated() {
    let error = error_of(Vhd::new(2, MIB as u64 + 512).fixed(&sample(MIB)));
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Truncated, Some(MIB as u64 + 48)));
    let mut image = Vhd::new(2, MIB as u64).fixed(&sample(MIB));
    image[MIB + 50] ^= 1;
    let error = error_of(image);
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(MIB as u64 + 64)));
}

#[test]
fn a_copy_at_the_start_with_type_fixed_is_not_a_disk() {
    let error = error_of(Vhd::new(2, 512).end());
    assert_eq!(error.kind(), ErrorKind::Truncated, "it is the footer of a disk that is not there");
    let error = error_of([Vhd::new(2, 512).footer(), noise(4096, 1)].concat());
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(60)));
}

#[test]
fn an_invalid_table_stays_invalid_for_every_window() {
    let guest = sample(8 * MIB);
    let mut image = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    let first = image[1536..1540].to_vec();
    image[1536 + 8..1536 + 12].copy_from_slice(&first);
    let disk = open_vhd(image);
    let ask = |at: u64| {
        let window = diskferry_core::GuestRange::first(at + 512).skip(at);
        block_on(disk.extents(window)).unwrap_err()
    };
    for at in [0, 5 * MIB as u64, 0] {
        let error = ask(at);
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(1536 + 8)), "{error:?}");
    }
}

#[test]
fn an_empty_disk_is_a_disk() {
    for image in [Vhd::new(2, 0).fixed(&[]), Vhd::new(3, 0).dynamic(&[])] {
        let disk = open_vhd(image);
        assert_eq!(read(&disk, 512).unwrap().0, b"");
    }
}

//! The VHD reader against qemu-img and against disks built by hand.

mod support_vhd;

use diskferry_core::error::ErrorKind;
use diskferry_core::extent::ExtentKind;
use diskferry_formats::Declared;
use support_vhd::*;

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
fn what_qemu_writes_reads_back_with_its_exact_size() {
    for len in [512, 1536, MIB, 5 * MIB + 512, 9 * MIB + 7 * 512, 33 * MIB - 512] {
        let truth = sample(len);
        for subformat in ["fixed", "dynamic"] {
            let image = convert(&truth, "vpc", &format!("subformat={subformat},force_size=on"));
            let disk = open_vhd(image);
            assert_eq!(disk.geometry().variant, subformat);
            assert_eq!(disk.geometry().features[0], "size from current_size");
            assert_eq!(disk.geometry().features[1], "creator \"qem2\"");
            for window in [u64::MAX, 3 * MIB as u64 + 512] {
                let (bytes, tally) = read_all(&disk, window).unwrap();
                assert_same(&bytes, &truth, subformat);
                assert_eq!(tally.count, 0);
            }
            assert_eq!(warning_codes(&disk), [""; 0]);
        }
    }
}

#[test]
fn what_qemu_rounds_to_a_geometry_is_read_as_qemu_reads_it() {
    let mut truth = sample(10 * MIB);
    for subformat in ["fixed", "dynamic"] {
        let image = convert(&truth, "vpc", &format!("subformat={subformat}"));
        let disk = open_vhd(image);
        assert_eq!(disk.virtual_bytes(), 10_514_432);
        assert!(disk.geometry().features[0].starts_with("size from CHS "), "{:?}", disk.geometry());
        truth.resize(10_514_432, 0);
        assert_same(&read_all(&disk, u64::MAX).unwrap().0, &truth, subformat);
    }
}

#[test]
fn a_dynamic_disk_with_nothing_in_it_is_one_hole() {
    let image = convert(&vec![0; 64 * MIB], "vpc", "subformat=dynamic,force_size=on");
    let disk = open_vhd(image);
    let extents = block_on(walk(&disk, u64::MAX)).unwrap();
    assert_eq!(extents.len(), 1);
    assert!(matches!(extents[0].kind, ExtentKind::Hole));
}

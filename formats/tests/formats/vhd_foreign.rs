//! VHD images on which readers may differ, compared with dissect.hypervisor.

use diskferry_core::ErrorKind;
use diskferry_formats::Format;

use crate::support::qemu::dissect_reads;
use crate::support::vhd::*;
use crate::support::*;

const MIB: usize = 1 << 20;
/// The size of the CHS geometry 10/4/17.
const CHS_BYTES: usize = 10 * 4 * 17 * SECTOR;

fn image_of(vhd: &Vhd, guest: &[u8]) -> Vec<u8> {
    if vhd.disk_type == 2 { vhd.fixed(guest) } else { vhd.dynamic_of(guest, |_| true) }
}

#[test]
fn a_size_by_current_size_is_read_as_dissect_reads_it() {
    let guest = noise(CHS_BYTES + 8192, 3);
    for disk_type in [2, 3] {
        for creator in [*b"win ", *b"qem2", *b"tap\0"] {
            let size = guest.len() as u64;
            let image = image_of(&Vhd { creator, chs: (10, 4, 17), ..Vhd::new(disk_type, size) }, &guest);
            assert_same(&read_all(&open_vhd(image.clone())), &guest, "as diskferry reads it");
            assert_same(&dissect_reads(&image, "vhd"), &guest, "as dissect.hypervisor reads it");
        }
    }
}

#[test]
fn a_size_by_chs_geometry_is_the_start_of_what_dissect_reads_by_current_size() {
    let guest = noise(CHS_BYTES + 8192, 4);
    for disk_type in [2, 3] {
        for creator in [*b"vpc ", *b"qemu"] {
            let size = guest.len() as u64;
            let image = image_of(&Vhd { creator, chs: (10, 4, 17), ..Vhd::new(disk_type, size) }, &guest);
            let disk = open_vhd(image.clone());
            let ours = read_all(&disk);
            let theirs = dissect_reads(&image, "vhd");
            assert_same(&theirs, &guest, "dissect.hypervisor ignores the geometry");
            assert_same(&ours, &theirs[..CHS_BYTES], "as far as the geometry goes");
            assert_eq!(warnings(&disk), ["chs_size_drops_bytes"]);
        }
    }
}

#[test]
fn if_two_valid_footers_differ_both_readers_use_the_last() {
    let guest = sample(3 * MIB);
    let mut image = Vhd::new(3, guest.len() as u64).dynamic_of(&guest, |_| true);
    patch(&mut image, 0, 512, 48, &(MIB as u64).to_be_bytes());
    let disk = open_vhd(image.clone());
    assert_same(&read_all(&disk), &guest, "as diskferry reads it");
    assert_eq!(warnings(&disk), ["footer_copies_differ"]);
    assert_same(&dissect_reads(&image, "vhd"), &guest, "as dissect.hypervisor reads it");
}

#[test]
fn a_fixed_disk_that_begins_with_descriptor_text_is_a_vhd_or_ambiguous() {
    let mut guest = bootable(MIB);
    guest[..22].copy_from_slice(b"# Disk DescriptorFile\n");
    let image = Vhd::new(2, guest.len() as u64).fixed(&guest);
    assert_same(&read_all(&open_as(Format::Vhd, image.clone()).unwrap()), &guest, "as diskferry reads it");
    assert_same(&dissect_reads(&image, "vhd"), &guest, "as dissect.hypervisor reads it");

    // A whole descriptor makes the object a valid VMDK too. dissect.hypervisor does not detect the format.
    let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 2048 FLAT \"disk-flat.vmdk\" 0\n";
    guest[..512].fill(0);
    guest[..text.len()].copy_from_slice(text.as_bytes());
    let image = Vhd::new(2, guest.len() as u64).fixed(&guest);
    let error = failure(open_as(Format::Vhd, image.clone()));
    assert_eq!(error.kind(), ErrorKind::AmbiguousFormat, "{error:?}");
    assert_same(&dissect_reads(&image, "vhd"), &guest, "as dissect.hypervisor reads it");
}

//! Detection, on real objects: what tools make, and what they are taken for.

mod support;

use diskferry_core::error::ErrorKind;
use diskferry_core::extent::ExtentKind;
use diskferry_formats::{Declared, Format};
use support::qemu::convert;
use support::vhd::Vhd;
use support::*;

fn kind(bytes: &[u8], declared: Declared) -> Result<&'static str, ErrorKind> {
    open_bytes(bytes.to_vec(), declared).map(|disk| disk.geometry().format).map_err(|error| error.kind())
}

fn declared(format: Format) -> Declared {
    Declared::Format(format)
}

#[test]
fn a_raw_disk_keeps_its_exact_length_and_is_all_allocated() {
    for len in [512, 513, 1000, 1 << 20, (1 << 20) + 1, 300_001] {
        let truth = bootable(len);
        for declared in [Declared::Unknown, declared(Format::Raw)] {
            let disk = open_bytes(truth.clone(), declared).unwrap();
            assert_eq!((disk.geometry().format, disk.virtual_bytes()), ("raw", len as u64));
            let extents = extents(&disk).unwrap();
            assert!(matches!(extents.as_slice(), [all] if matches!(all.kind, ExtentKind::Data(_))));
            assert_same(&read(&disk, 4096).unwrap().0, &truth, "raw");
            assert!(warnings(&disk).is_empty());
        }
    }
    // Less than a sector can only be declared.
    assert_eq!(kind(b"x", Declared::Unknown), Err(ErrorKind::UnknownFormat));
    assert_eq!(kind(b"x", declared(Format::Raw)), Ok("raw"));
}

#[test]
fn an_empty_object_is_a_raw_disk_only_where_that_is_declared() {
    assert_eq!(kind(b"", Declared::Unknown), Err(ErrorKind::UnknownFormat));
    assert_eq!(kind(b"", declared(Format::Vhd)), Err(ErrorKind::FormatMismatch));
    let disk = open_bytes(Vec::new(), declared(Format::Raw)).unwrap();
    assert_eq!(disk.virtual_bytes(), 0);
}

#[test]
fn a_fixed_vhd_is_known_by_its_end_alone() {
    let truth = bootable(1 << 20);
    let image = convert(&truth, "vpc", "subformat=fixed,force_size=on");
    assert_eq!(image[..1 << 20], truth, "its start is the disk's");
    let disk = open_bytes(image.clone(), Declared::Unknown).unwrap();
    assert_eq!((disk.geometry().format, disk.virtual_bytes()), ("vhd", 1 << 20));
    assert_same(&read_all(&disk), &truth, "without its footer");
    assert_eq!(kind(&image, declared(Format::Raw)), Err(ErrorKind::FormatMismatch));
    assert_eq!(kind(&image, declared(Format::Qcow2)), Err(ErrorKind::FormatMismatch));
}

#[test]
fn a_raw_disk_is_not_another_format_because_that_is_declared() {
    let raw = bootable(1 << 20);
    for format in [Format::Vhd, Format::Qcow2, Format::Vmdk] {
        let error = open_bytes(raw.clone(), declared(format)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FormatMismatch);
        assert!(error.message().contains("looks like a raw disk"), "{error}");
    }
}

#[test]
fn a_damaged_vhd_is_damaged_and_not_raw() {
    let mut image = convert(&bootable(1 << 20), "vpc", "subformat=fixed,force_size=on");
    image[(1 << 20) + 100] ^= 1;
    assert_eq!(kind(&image, Declared::Unknown), Err(ErrorKind::Malformed));
    assert_eq!(kind(&image, declared(Format::Vhd)), Err(ErrorKind::Malformed));
    assert_eq!(kind(&image, declared(Format::Raw)), Err(ErrorKind::FormatMismatch));
}

#[test]
fn the_cookie_in_the_guests_last_sector_is_not_a_footer() {
    let mut raw = bootable(1 << 20);
    let end = raw.len();
    raw[end - 300..end - 292].copy_from_slice(b"conectix");
    assert_eq!(kind(&raw, Declared::Unknown), Ok("raw"));
    // With zeros to the end it could be a footer with padding, if its checksum were right.
    raw[end - 292..].fill(0);
    raw[end - 4096..end - 4088].copy_from_slice(b"conectix");
    raw[end - 4088..].fill(0);
    assert_eq!(kind(&raw, Declared::Unknown), Ok("raw"));
}

#[test]
fn nothing_known_is_named_or_left_to_the_caller() {
    let error = open_bytes(vec![0; 1 << 20], Declared::Unknown).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownFormat);
    assert!(error.hint_text().unwrap().contains("-f raw"));
    assert_eq!(kind(&[0; 4096], declared(Format::Raw)), Ok("raw"));

    let mut gzip = noise(4096, 1);
    gzip[..3].copy_from_slice(&[0x1f, 0x8b, 8]);
    let error = open_bytes(gzip.clone(), Declared::Unknown).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownFormat);
    assert!(error.message().contains("gzip"), "{error}");
    let disk = open_bytes(gzip, declared(Format::Raw)).unwrap();
    assert_eq!(warnings(&disk), ["content_looks_like"]);
}

#[test]
fn images_of_other_tools_are_named() {
    for (format, name) in [("vdi", "VDI"), ("vhdx", "VHDX"), ("qed", "QED"), ("parallels", "Parallels")] {
        let image = convert(&bootable(1 << 20), format, "");
        let error = open_bytes(image.clone(), Declared::Unknown).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownFormat, "{format}");
        assert!(error.message().contains(name), "{error}");
        let error = open_bytes(image, declared(Format::Vmdk)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FormatMismatch, "{format}");
        assert!(error.message().contains(name), "{error}");
    }
}

#[test]
fn an_object_sound_as_two_formats_is_ambiguous_whatever_is_declared() {
    // A QCOW2 that ends with the footer of a fixed VHD: which of the two would the next tool read?
    let qcow2 = convert(&bootable(1 << 20), "qcow2", "");
    let vhd = Vhd::new(2, qcow2.len() as u64).fixed(&qcow2);
    for declared in [Declared::Unknown].into_iter().chain(Format::ALL.map(declared)) {
        assert_eq!(kind(&vhd, declared), Err(ErrorKind::AmbiguousFormat), "{declared:?}");
    }
}

#[test]
fn what_qemu_makes_is_detected_and_never_taken_for_another() {
    let raw = bootable(1 << 20);
    for (format, name, options) in [
        ("qcow2", Format::Qcow2, "compat=0.10"),
        ("qcow2", Format::Qcow2, "compat=1.1"),
        ("vmdk", Format::Vmdk, "subformat=monolithicSparse"),
        ("vmdk", Format::Vmdk, "subformat=streamOptimized"),
        ("vpc", Format::Vhd, "subformat=dynamic"),
        ("vpc", Format::Vhd, "subformat=fixed"),
    ] {
        let image = convert(&raw, format, options);
        assert_eq!(kind(&image, Declared::Unknown), Ok(name.name()), "{format} {options}");
        for other in Format::ALL {
            let expected = if other == name { Ok(name.name()) } else { Err(ErrorKind::FormatMismatch) };
            assert_eq!(kind(&image, declared(other)), expected, "{format} {options} declared {other}");
        }
    }
}

#[test]
fn a_raw_disk_that_begins_with_another_formats_magic_is_not_raw() {
    for magic in [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV\x01\0\0\0"] {
        let mut raw = bootable(1 << 20);
        raw[..magic.len()].copy_from_slice(magic);
        assert_eq!(kind(&raw, declared(Format::Raw)), Err(ErrorKind::FormatMismatch));
        let strict = kind(&raw, Declared::Unknown).unwrap_err();
        assert_eq!(strict.exit_code(), 3, "{strict}");
    }
}

#[test]
fn version_1_of_qcow_is_known_and_not_supported() {
    let image = convert(&bootable(1 << 20), "qcow", "");
    assert_eq!(kind(&image, Declared::Unknown), Err(ErrorKind::UnsupportedFeature));
    assert_eq!(kind(&image, declared(Format::Qcow2)), Err(ErrorKind::UnsupportedFeature));
}

#[test]
fn a_vmdk_or_a_dynamic_vhd_that_ends_with_the_footer_of_a_fixed_vhd() {
    for options in ["subformat=monolithicSparse", "subformat=streamOptimized"] {
        let vmdk = convert(&bootable(1 << 20), "vmdk", options);
        let both = Vhd::new(2, vmdk.len() as u64).fixed(&vmdk);
        for declared in [Declared::Unknown].into_iter().chain(Format::ALL.map(declared)) {
            assert_eq!(kind(&both, declared), Err(ErrorKind::AmbiguousFormat), "{options} {declared:?}");
        }
    }
    // Both readings of this one are VHD: the footer at the end is the master.
    let guest = bootable(1 << 20);
    let dynamic = Vhd { block_bytes: 4096, ..Vhd::new(3, 1 << 20) }.dynamic_of(&guest, |_| true);
    let disk = open_as(Format::Vhd, Vhd::new(2, dynamic.len() as u64).fixed(&dynamic)).unwrap();
    assert_eq!((disk.geometry().variant.as_str(), warnings(&disk)), ("fixed", vec!["footer_copies_differ"]));
}

#[test]
fn a_vhd_inside_the_last_partition_of_a_raw_disk_is_not_the_disk() {
    // A fixed VHD as a file near the end of the disk, with the backup GPT behind it: 33 sectors that are not zero.
    let mut raw = bootable(1 << 20);
    let file = Vhd::new(2, 64 << 10).fixed(&noise(64 << 10, 9));
    let end = raw.len();
    let at = end - 33 * 512 - file.len();
    raw[at..at + file.len()].copy_from_slice(&file);
    raw[end - 512..end - 504].copy_from_slice(b"EFI PART");
    for declared in [Declared::Unknown, declared(Format::Raw)] {
        let disk = open_bytes(raw.clone(), declared).unwrap();
        assert_eq!(disk.geometry().format, "raw");
        assert_same(&read_all(&disk), &raw, "the disk");
    }
}

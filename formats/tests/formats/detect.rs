//! Detection of real objects: the output of tools, and objects that resemble other formats.

use crate::support::qemu::convert;
use crate::support::vhd::Vhd;
use crate::support::vmdk::{Hosted, Stream, cowd, descriptor, se_sparse};
use crate::support::*;
use diskferry_core::{ErrorKind, ExtentKind};
use diskferry_formats::{Declared, Format};

fn kind(bytes: &[u8], declared: Declared) -> Result<&'static str, ErrorKind> {
    open_bytes(bytes.to_vec(), declared).map(|disk| disk.info().format).map_err(|error| error.kind())
}

fn declared(format: Format) -> Declared {
    Declared::Format(format)
}

#[test]
fn a_raw_disk_has_its_exact_length_and_is_fully_allocated() {
    for len in [512, 513, 1000, 1 << 20, (1 << 20) + 1, 300_001] {
        let truth = bootable(len);
        for declared in [Declared::Unknown, declared(Format::Raw)] {
            let disk = open_bytes(truth.clone(), declared).unwrap();
            assert_eq!((disk.info().format, disk.virtual_bytes()), ("raw", len as u64));
            let extents = extents(&disk).unwrap();
            assert!(matches!(extents.as_slice(), [all] if matches!(all.kind, ExtentKind::Data(_))));
            assert_same(&read(&disk, 4096).unwrap().0, &truth, "raw");
            assert!(warnings(&disk).is_empty());
        }
    }
    // Less than a sector must be declared.
    assert_eq!(kind(b"x", Declared::Unknown), Err(ErrorKind::UnknownFormat));
    assert_eq!(kind(b"x", declared(Format::Raw)), Ok("raw"));
}

#[test]
fn an_empty_object_is_a_raw_disk_only_if_declared() {
    assert_eq!(kind(b"", Declared::Unknown), Err(ErrorKind::UnknownFormat));
    assert_eq!(kind(b"", declared(Format::Vhd)), Err(ErrorKind::FormatMismatch));
    let disk = open_bytes(Vec::new(), declared(Format::Raw)).unwrap();
    assert_eq!(disk.virtual_bytes(), 0);
}

#[test]
fn a_fixed_vhd_is_detected_by_its_end() {
    let truth = bootable(1 << 20);
    let image = convert(&truth, "vpc", "subformat=fixed,force_size=on");
    assert_eq!(image[..1 << 20], truth, "its start is the disk's");
    let disk = open_bytes(image.clone(), Declared::Unknown).unwrap();
    assert_eq!((disk.info().format, disk.virtual_bytes()), ("vhd", 1 << 20));
    assert_same(&read_all(&disk), &truth, "without its footer");
    assert_eq!(kind(&image, declared(Format::Raw)), Err(ErrorKind::FormatMismatch));
    assert_eq!(kind(&image, declared(Format::Qcow2)), Err(ErrorKind::FormatMismatch));
}

#[test]
fn declaring_another_format_does_not_change_a_raw_disk() {
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
    // With zeros up to the end it would be a padded footer, if its checksum were valid.
    raw[end - 292..].fill(0);
    raw[end - 4096..end - 4088].copy_from_slice(b"conectix");
    raw[end - 4088..].fill(0);
    assert_eq!(kind(&raw, Declared::Unknown), Ok("raw"));
}

#[test]
fn unknown_objects_are_errors_unless_declared_raw() {
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
fn an_object_valid_as_two_formats_is_ambiguous_whatever_is_declared() {
    // A QCOW2 that ends with the footer of a fixed VHD: other tools could open it as either.
    let qcow2 = convert(&bootable(1 << 20), "qcow2", "");
    let vhd = Vhd::new(2, qcow2.len() as u64).fixed(&qcow2);
    for declared in [Declared::Unknown].into_iter().chain(Format::ALL.map(declared)) {
        assert_eq!(kind(&vhd, declared), Err(ErrorKind::AmbiguousFormat), "{declared:?}");
    }
}

#[test]
fn images_of_qemu_are_detected_as_their_format_only() {
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
    // Both interpretations are VHD: the footer at the end is used.
    let guest = bootable(1 << 20);
    let dynamic = Vhd { block_bytes: 4096, ..Vhd::new(3, 1 << 20) }.dynamic_of(&guest, |_| true);
    let disk = open_as(Format::Vhd, Vhd::new(2, dynamic.len() as u64).fixed(&dynamic)).unwrap();
    assert_eq!((disk.info().variant.as_str(), warnings(&disk)), ("fixed", vec!["footer_copies_differ"]));
}

/// The guest of a fixed VHD begins with the text of a VMDK: both are valid, so the object is ambiguous.
#[test]
fn a_descriptor_at_the_start_of_a_fixed_vhd_is_ambiguous() {
    let text = b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
        RW 2048 FLAT \"disk-flat.vmdk\" 0\nddb.adapterType = \"ide\"\n";
    for len in [4096, 64 << 10, 1 << 20] {
        for fill in [0u8, 0x5a] {
            let mut guest = vec![fill; len];
            guest[..text.len()].copy_from_slice(text);
            // The text ends at the first NUL.
            guest[text.len()] = 0;
            let image = Vhd::new(2, len as u64).fixed(&guest);
            for declared in [Declared::Unknown].into_iter().chain(Format::ALL.map(declared)) {
                assert_eq!(
                    kind(&image, declared),
                    Err(ErrorKind::AmbiguousFormat),
                    "{len} {fill} {declared:?}"
                );
            }
        }
    }
    // The whole disk is text, up to the cookie of the footer.
    let mut guest = text.to_vec();
    guest.resize(4096, b'\n');
    let image = Vhd::new(2, 4096).fixed(&guest);
    assert_eq!(kind(&image, Declared::Unknown), Err(ErrorKind::AmbiguousFormat));
    // Text that is not a descriptor is guest data.
    let mut guest = vec![0; 4096];
    guest[..22].copy_from_slice(b"# Disk DescriptorFile\n");
    assert_eq!(kind(&Vhd::new(2, 4096).fixed(&guest), Declared::Unknown), Ok("vhd"));
}

#[test]
fn a_vhd_inside_the_last_partition_of_a_raw_disk_is_not_the_disk() {
    // A fixed VHD as a file near the end of the disk, followed by the backup GPT: 33 non-zero sectors.
    let mut raw = bootable(1 << 20);
    let file = Vhd::new(2, 64 << 10).fixed(&noise(64 << 10, 9));
    let end = raw.len();
    let at = end - 33 * 512 - file.len();
    raw[at..at + file.len()].copy_from_slice(&file);
    raw[end - 512..end - 504].copy_from_slice(b"EFI PART");
    for declared in [Declared::Unknown, declared(Format::Raw)] {
        let disk = open_bytes(raw.clone(), declared).unwrap();
        assert_eq!(disk.info().format, "raw");
        assert_same(&read_all(&disk), &raw, "the disk");
    }
}

/// Images of every kind, by their first bytes.
fn by_their_head() -> Vec<(&'static str, Format, Vec<u8>)> {
    let truth = noise(64 << 10, 7);
    let qcow2 = |options| convert(&truth, "qcow2", options);
    // Its text ends at the first NUL, wherever the file does.
    let mut text = descriptor("monolithicFlat", "RW 128 FLAT \"flat.bin\" 0").into_bytes();
    text.resize(512, 0);
    vec![
        ("qcow2 v2", Format::Qcow2, qcow2("compat=0.10")),
        ("qcow2 v3", Format::Qcow2, qcow2("compat=1.1")),
        ("hosted", Format::Vmdk, Hosted::default().build(&truth).bytes),
        ("stream", Format::Vmdk, Stream::default().build(&truth).bytes),
        ("cowd", Format::Vmdk, cowd(&truth, 8)),
        ("seSparse", Format::Vmdk, se_sparse(&truth, false)),
        ("descriptor", Format::Vmdk, text),
    ]
}

/// Valid footers of every kind, for an object of that length.
fn footers(len: usize) -> Vec<(&'static str, Vec<u8>)> {
    let fixed = Vhd::new(2, len as u64);
    vec![
        ("fixed", fixed.footer()),
        ("short", fixed.footer()[..511].to_vec()),
        ("padded", [fixed.footer(), vec![0; 4096]].concat()),
        ("shorter disk", Vhd::new(2, 512).footer()),
    ]
}

/// The result of opening each with every declared format: alone, and with the footer of a VHD after it.
#[test]
fn every_pair_of_formats_in_one_object_is_ambiguous_whatever_is_declared() {
    use ErrorKind::{AmbiguousFormat, ExternalDataRefused, FormatMismatch, UnsupportedFeature};
    for (name, format, image) in by_their_head() {
        // A part of a set is an error, and a descriptor names files that the default gate does not open.
        let alone = match name {
            "seSparse" => Err(UnsupportedFeature),
            "descriptor" => Err(ExternalDataRefused),
            _ => Ok(format.name()),
        };
        assert_eq!(kind(&image, Declared::Unknown), alone, "{name}");
        for other in Format::ALL {
            let expected = if other == format { alone } else { Err(FormatMismatch) };
            assert_eq!(kind(&image, declared(other)), expected, "{name} declared {other}");
        }
        for (footer, bytes) in footers(image.len()) {
            let both = [image.clone(), bytes].concat();
            for declared in [Declared::Unknown].into_iter().chain(Format::ALL.map(declared)) {
                assert_eq!(kind(&both, declared), Err(AmbiguousFormat), "{name}, {footer}, {declared:?}");
            }
        }
    }
}

/// The footer of a dynamic or differencing disk needs its header, which is missing here. The VHD is invalid, and the
/// format at the head is detected.
#[test]
fn an_incomplete_second_format_is_neither_ambiguous_nor_a_raw_disk() {
    for (name, format, image) in by_their_head() {
        if ["seSparse", "descriptor"].contains(&name) {
            continue;
        }
        for disk_type in [3, 4] {
            let half = [image.clone(), Vhd::new(disk_type, 1 << 20).footer()].concat();
            assert_eq!(kind(&half, Declared::Unknown), Ok(format.name()), "{name} {disk_type}");
            for other in Format::ALL {
                let expected =
                    if other == format { Ok(format.name()) } else { Err(ErrorKind::FormatMismatch) };
                assert_eq!(kind(&half, declared(other)), expected, "{name} {disk_type} declared {other}");
            }
        }
        // The reverse: a valid footer after a head with only the magic.
        let mut damaged = image[..image.len().min(64 << 10)].to_vec();
        damaged[4..].fill(0xff);
        let vhd = Vhd::new(2, damaged.len() as u64).fixed(&damaged);
        for declared in [Declared::Unknown, declared(Format::Vhd)] {
            assert_eq!(kind(&vhd, declared), Ok("vhd"), "{name} {declared:?}");
        }
        for other in [Format::Raw, Format::Qcow2, Format::Vmdk] {
            assert_eq!(
                kind(&vhd, declared(other)),
                Err(ErrorKind::FormatMismatch),
                "{name} declared {other}"
            );
        }
    }
}

/// A guest can write any bytes to its first sector. Declared raw or as another format, the object is refused.
/// Undeclared, it opens as the format that it looks like or returns that format's error, and is never a raw disk.
#[test]
fn a_raw_disk_whose_first_sector_is_of_another_format() {
    let mut heads: Vec<(&str, Format, Vec<u8>)> = by_their_head()
        .into_iter()
        .map(|(name, format, image)| (name, format, image[..512].to_vec()))
        .collect();
    for (name, format, magic) in [
        ("qcow2 magic", Format::Qcow2, &b"QFI\xfb"[..]),
        ("vmdk magic", Format::Vmdk, b"KDMV"),
        ("cowd magic", Format::Vmdk, b"COWD"),
        ("seSparse magic", Format::Vmdk, b"\xbe\xba\xfe\xca\0\0\0\0"),
        ("descriptor's first line", Format::Vmdk, b"# Disk DescriptorFile\n"),
        ("vhd cookie", Format::Vhd, b"conectix"),
    ] {
        heads.push((name, format, magic.to_vec()));
    }
    for (name, format, head) in heads {
        let mut raw = bootable(1 << 20);
        raw[..head.len()].copy_from_slice(&head);
        raw[510..512].copy_from_slice(&[0x55, 0xaa]);
        let undeclared = kind(&raw, Declared::Unknown);
        assert_ne!(undeclared, Ok("raw"), "{name}");
        if let Err(kind) = undeclared {
            assert!([3, 4].contains(&kind.exit_code()), "{name}: {kind}");
        }
        assert_eq!(kind(&raw, declared(format)), undeclared, "{name} declared {format}");
        for other in Format::ALL.into_iter().filter(|other| *other != format) {
            assert_eq!(
                kind(&raw, declared(other)),
                Err(ErrorKind::FormatMismatch),
                "{name} declared {other}"
            );
        }
    }
}

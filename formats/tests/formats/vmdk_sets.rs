//! Disks in several files, ESX extents, and the valid and invalid contents of descriptors.

use std::sync::Arc;

use crate::support::files::Files;
use crate::support::qemu::*;
use crate::support::vmdk::*;
use crate::support::*;
use diskferry_core::{ErrorKind, ExtentKind, GuestRange};

/// A set of some files with a descriptor of these extent lines.
fn set(create_type: &str, extents: &str, others: &[(&str, &[u8])]) -> Arc<Files> {
    let text = descriptor(create_type, extents);
    let mut all = vec![("disk.vmdk", text.as_bytes())];
    all.extend(others);
    Files::from(&all)
}

#[test]
fn cowd_extents_read() {
    for (grain, len) in [(1, 3 << 20), (128, (5 << 20) + 512), (8, 17 << 20)] {
        let truth = sample(len);
        let extent = cowd(&truth, grain);
        let sectors = len / SECTOR;
        let line = format!("RW {sectors} VMFSSPARSE \"disk-delta.vmdk\"");
        let disk = set("vmfsSparse", &line, &[("disk-delta.vmdk", &extent)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(disk.info().variant, "vmfsSparse");
        assert_eq!(disk.info().cluster_bytes, Some(grain as u64 * 512));
        let alone = open_vmdk(extent.clone()).unwrap();
        assert_same(&content(&alone).unwrap(), &truth, "the disk");
        assert_eq!(warnings(&alone), ["no_descriptor"]);
        let text = descriptor("vmfsSparse", &line);
        assert_same(
            &qemu_reads_files(&[("disk.vmdk", text.as_bytes()), ("disk-delta.vmdk", &extent)], "vmdk"),
            &truth,
            "the disk",
        );
    }
}

#[test]
fn an_invalid_cowd_header_is_an_error() {
    let extent = cowd(&sample(1 << 20), 8);
    let patched = |at: usize, value: u32| {
        let mut bytes = extent.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        error_of(bytes).kind()
    };
    assert_eq!(patched(4, 2), ErrorKind::UnsupportedFeature, "version");
    assert_eq!(patched(16, 0), ErrorKind::Malformed, "grain size 0");
    assert_eq!(patched(16, 3), ErrorKind::Malformed, "grain size 3");
    assert_eq!(patched(16, 1 << 30), ErrorKind::Malformed, "grain size");
    assert_eq!(patched(20, 1 << 30), ErrorKind::Truncated, "directory");
    assert_eq!(patched(24, 0), ErrorKind::Malformed, "directory entries");
    assert_eq!(patched(8, 2), ErrorKind::ParentDiskRefused, "not a root disk");
    assert_eq!(patched(2048, 1 << 30), ErrorKind::Truncated, "table");
    assert_eq!(patched(2560, 1 << 30), ErrorKind::Truncated, "grain");
    assert_eq!(patched(2560, 1), ErrorKind::Malformed, "grain of zeros");
    assert_eq!(error_of(&extent[..20]).kind(), ErrorKind::Truncated);
}

#[test]
fn se_sparse_extents_read() {
    for (len, zeroed) in [(3 << 20, false), ((17 << 20) + 4096, true), (4096, false)] {
        let truth = sample(len);
        let extent = se_sparse(&truth, zeroed);
        let line = format!("RW {} SESPARSE \"disk-sesparse.vmdk\"", len / SECTOR);
        let disk = set("seSparse", &line, &[("disk-sesparse.vmdk", &extent)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        let text = descriptor("seSparse", &line);
        assert_same(
            &qemu_reads_files(&[("disk.vmdk", text.as_bytes()), ("disk-sesparse.vmdk", &extent)], "vmdk"),
            &truth,
            "the disk",
        );
        let said_zero = extents(&disk).unwrap().iter().any(|extent| matches!(extent.kind, ExtentKind::Zero));
        assert_eq!(said_zero, zeroed);
    }
}

#[test]
fn an_invalid_se_sparse_header_is_an_error() {
    let truth = sample(1 << 20);
    let extent = se_sparse(&truth, false);
    let line = format!("RW {} SESPARSE \"x.vmdk\"", truth.len() / SECTOR);
    let patched = |at: usize, value: u64| {
        let mut bytes = extent.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let disk = set("seSparse", &line, &[("x.vmdk", &bytes)]).open("disk.vmdk");
        failure(disk.and_then(|disk| content(&disk))).kind()
    };
    assert_eq!(patched(0, 1), ErrorKind::Malformed, "magic");
    for at in [8, 24, 32, 40, 48, 400] {
        assert_eq!(patched(at, 77), ErrorKind::UnsupportedFeature, "field at {at}");
    }
    assert_eq!(patched(16, u64::MAX), ErrorKind::Malformed, "capacity");
    assert_eq!(patched(128, u64::MAX), ErrorKind::Malformed, "directory");
    assert_eq!(patched(128, 1 << 40), ErrorKind::Truncated, "directory");
    assert_eq!(patched(136, 0), ErrorKind::Malformed, "directory entries");
    assert_eq!(patched(512, 1), ErrorKind::Malformed, "volatile magic");
    assert_eq!(patched(512 + 24, 1), ErrorKind::UnsupportedFeature, "journal");
    assert_eq!(patched(1024, 0x2000_0000_0000_0000), ErrorKind::Malformed, "directory entry");
    assert_eq!(patched(1024, 0x1000_0000_0fff_ffff), ErrorKind::Truncated, "directory entry");
    assert_eq!(patched(1536, 0x5000_0000_0000_0000), ErrorKind::Malformed, "table entry");
    assert_eq!(patched(1536, 0x0000_0000_0000_0001), ErrorKind::Malformed, "table entry");
    assert_eq!(patched(1536, 0x3000_0000_ffff_ffff), ErrorKind::Truncated, "table entry");
    let error = error_of(extent);
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature, "alone");
}

#[test]
fn zero_and_read_only_extents_are_at_their_offset() {
    let first = sample(1 << 20);
    let second = sample((1 << 20) + 512);
    let mut truth = first.clone();
    truth.extend(vec![0; 100 * SECTOR]);
    truth.extend(&second[512..]);
    for create_type in ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs", "custom"] {
        let lines = "RW 2048 FLAT \"a.vmdk\" 0\nRW 100 ZERO\nRDONLY 2048 FLAT \"b.vmdk\" 1";
        let disk =
            set(create_type, lines, &[("a.vmdk", &first), ("b.vmdk", &second)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(disk.files().len(), 3);
        let kinds: Vec<bool> =
            extents(&disk).unwrap().iter().map(|extent| matches!(extent.kind, ExtentKind::Zero)).collect();
        assert_eq!(kinds, [false, true, false]);
    }
}

#[test]
fn a_set_of_all_types_reads() {
    let (flat, sparse, esx) = (sample(65536 + 512), sample(3 << 20), sample(1 << 20));
    let stream = sample((2 << 20) + 512);
    let mut truth = [flat.as_slice(), &sparse, &esx].concat();
    truth.extend(vec![0; SECTOR]);
    truth.extend(&stream);
    let lines = format!(
        "RW 129 FLAT \"flat\" 0\nRW 6144 SPARSE \"sparse\"\nRW 2048 VMFSSPARSE \"esx\"\nRW 1 ZERO\nRW {} SPARSE \"stream\"",
        stream.len() / SECTOR
    );
    let files = set(
        "custom",
        &lines,
        &[
            ("flat", &flat),
            ("sparse", &Hosted::default().build(&sparse).bytes),
            ("esx", &cowd(&esx, 16)),
            ("stream", &Stream::default().build(&stream).bytes),
        ],
    );
    let disk = files.open("disk.vmdk").unwrap();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    assert!(disk.info().features.contains(&"extents: 5".to_owned()), "{:?}", disk.info());
    let middle = GuestRange::first(truth.len() as u64).skip(65_000).split_at(2 << 20).0;
    assert_same(&block_on(disk.read(middle)).unwrap(), &truth[65_000..65_000 + (2 << 20)], "the disk");
}

#[test]
fn detached_descriptors_of_single_files_read() {
    let truth = sample(3 << 20);
    let sparse = Hosted::default().build(&truth).bytes;
    let stream = Stream::default().build(&truth).bytes;
    let cases: [(&str, &[u8]); 2] = [("monolithicSparse", &sparse), ("streamOptimized", &stream)];
    for (create_type, bytes) in cases {
        let disk = set(create_type, "RW 6144 SPARSE \"data\"", &[("data", bytes)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
    }
    // The header decides. A different createType is a warning.
    for (create_type, bytes) in
        [("streamOptimized", &sparse), ("monolithicSparse", &stream), ("twoGbMaxExtentSparse", &stream)]
    {
        let disk = set(create_type, "RW 6144 SPARSE \"data\"", &[("data", bytes)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(warnings(&disk), ["descriptor_contradicts"], "{create_type}");
    }
}

#[test]
fn an_extent_of_a_set_whose_header_contradicts_the_create_type_is_malformed() {
    let truth = sample(3 << 20);
    let stream = Stream::default().build(&truth).bytes;
    let lines = "RW 6144 SPARSE \"data\"\nRW 8 ZERO";
    let error = failure(set("twoGbMaxExtentSparse", lines, &[("data", &stream)]).open("disk.vmdk"));
    assert_eq!(said(&error), ("malformed", Some(8)), "{error:?}");
}

#[test]
fn names_that_are_not_plain_are_refused_and_nothing_is_opened() {
    for name in
        ["/etc/passwd", "../x.vmdk", "a/b.vmdk", "C:\\\\x.vmdk", "http://host/x", "..", "s3://bucket/x"]
    {
        let files = set("monolithicFlat", &format!("RW 8 FLAT \"{name}\" 0"), &[("x.vmdk", &[0; 4096])]);
        let disk = files.open("disk.vmdk").unwrap();
        assert_eq!(disk.refusals()[0].kind, ErrorKind::ExternalDataRefused, "{name}");
        assert_eq!(disk.virtual_bytes(), 4096);
        assert_eq!(failure(extents(&disk)).kind(), ErrorKind::ExternalDataRefused);
        assert!(files.reads("x.vmdk").is_empty());
    }
}

#[test]
fn devices_parents_and_closed_extents_are_refused() {
    let kinds = |create_type: &str, lines: &str, more: &str| {
        let text = format!("{}{more}\n", descriptor(create_type, lines));
        let text = if more.to_lowercase().starts_with("parentcid") {
            text.replacen("parentCID=ffffffff\n", "", 1)
        } else {
            text
        };
        let files = Files::from(&[("disk.vmdk", text.as_bytes()), ("a", &[7; 4096])]);
        let disk = files.open("disk.vmdk").unwrap();
        assert!(files.reads("a").is_empty());
        assert_eq!(failure(extents(&disk)).kind(), disk.refusals()[0].kind);
        disk.refusals()[0].kind
    };
    let flat = "RW 8 FLAT \"a\" 0";
    assert_eq!(kinds("fullDevice", flat, ""), ErrorKind::ExternalDataRefused);
    assert_eq!(kinds("vmfsRawDeviceMap", "RW 8 VMFSRDM \"a\"", ""), ErrorKind::ExternalDataRefused);
    assert_eq!(
        kinds("monolithicFlat", flat, "parentFileNameHint=\"base.vmdk\""),
        ErrorKind::ParentDiskRefused
    );
    assert_eq!(kinds("monolithicFlat", flat, "parentCID=12345678"), ErrorKind::ParentDiskRefused);
    assert_eq!(kinds("monolithicFlat", flat, "PARENTCID=12345678").code(), "parent_disk_refused");
    assert_eq!(kinds("monolithicFlat", "NOACCESS 8 FLAT \"a\" 0", ""), ErrorKind::UnsupportedFeature);
    assert_eq!(kinds("custom", "NOACCESS 8 ZERO", ""), ErrorKind::UnsupportedFeature);
}

#[test]
fn an_embedded_parent_is_refused() {
    let truth = sample(1 << 20);
    let text = descriptor("monolithicSparse", "RW 2048 SPARSE \"disk.vmdk\"").replace("ffffffff", "1234");
    let disk = open_vmdk(Hosted { descriptor: Some(text), ..Hosted::default() }.build(&truth).bytes).unwrap();
    assert_eq!(disk.refusals()[0].kind, ErrorKind::ParentDiskRefused);
    assert_eq!(disk.virtual_bytes(), 1 << 20);
}

#[test]
fn a_file_of_a_set_alone_names_its_descriptor() {
    let truth = sample(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("raw"), directory.path().join("disk.vmdk"));
    std::fs::write(&raw, &truth).unwrap();
    qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", text(&raw), text(&image)]);
    let error = failure(Arc::new(Files::of(directory.path())).open("disk-s001.vmdk"));
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    assert!(error.hint_text().unwrap().contains("disk.vmdk"), "{:?}", error.hint_text());
}

#[test]
fn missing_short_and_repeated_siblings_are_errors() {
    let flat =
        |lines: &str, others: &[(&str, &[u8])]| failure(set("custom", lines, others).open("disk.vmdk"));
    let error = flat("RW 8 FLAT \"gone\" 0", &[]);
    assert_eq!(error.kind(), ErrorKind::SourceNotFound);
    let error = flat("RW 9 FLAT \"a\" 0", &[("a", &[0; 4096])]);
    assert_eq!(error.kind(), ErrorKind::Truncated);
    let error = flat("RW 8 FLAT \"a\" 1", &[("a", &[0; 4096])]);
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(error.message().starts_with("a: "), "{error:?}");
    let sparse = Hosted::default().build(&sample(1 << 20)).bytes;
    let error = flat("RW 2048 SPARSE \"a\"\nRW 2048 SPARSE \"a\"", &[("a", &sparse)]);
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let error = flat("RW 2047 SPARSE \"a\"\nRW 8 FLAT \"a\" 0", &[("a", &sparse)]);
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let error = flat("RW 1000 SPARSE \"a\"", &[("a", &sparse)]);
    assert_eq!(error.kind(), ErrorKind::Malformed, "header and descriptor contradict each other");
}

#[test]
fn two_parts_of_one_flat_file_read() {
    let bytes = sample(1 << 20);
    let lines = "RW 1024 FLAT \"a\" 1024\nRW 1024 FLAT \"a\" 0";
    let disk = set("monolithicFlat", lines, &[("a", &bytes)]).open("disk.vmdk").unwrap();
    assert_eq!(disk.files().len(), 2);
    let truth = [&bytes[1 << 19..], &bytes[..1 << 19]].concat();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
}

#[test]
fn descriptors_of_every_writer_are_accepted() {
    let bytes = sample(4096);
    let plain = descriptor("monolithicFlat", "RW 8 FLAT \"a\" 0");
    let mut stale = plain.clone().into_bytes();
    stale.extend(b"\0RW 8 FLAT \"/etc/passwd\" 0\nparentCID=1");
    let cases: [Vec<u8>; 8] = [
        plain.clone().into_bytes(),
        plain.replace('\n', "\r\n").into_bytes(),
        plain.replace("createType=", "  CreateType = ").into_bytes(),
        plain.replace("DescriptorFile", "Descriptor File").into_bytes(),
        plain.replace("monolithicFlat", "vmfs").replace("FLAT \"a\" 0", "VMFS \"a\"").into_bytes(),
        stale,
        format!("{plain}createType=\"monolithicFlat\"\n").into_bytes(),
        plain.replace("version=1", "version=1\n\n# a comment\nencoding=\"GBK\"").into_bytes(),
    ];
    for text in cases {
        let disk = Files::from(&[("disk.vmdk", &text), ("a", &bytes)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &bytes, "the disk");
    }
}

#[test]
fn names_are_decoded_with_the_descriptors_encoding() {
    let bytes = sample(4096);
    let text = |encoding: &str, name: &[u8]| {
        let mut text = descriptor("monolithicFlat", "").into_bytes();
        text.extend(format!("encoding=\"{encoding}\"\nRW 8 FLAT \"").bytes());
        text.extend(name);
        text.extend(b"\" 0\n");
        text
    };
    for (encoding, name) in [("windows-1252", &b"gr\xfc\xdf\x80"[..]), ("UTF-8", "grüß€".as_bytes())] {
        let text = text(encoding, name);
        let disk = Files::from(&[("disk.vmdk", &text), ("grüß€", &bytes)]).open("disk.vmdk").unwrap();
        assert_same(&content(&disk).unwrap(), &bytes, "the disk");
    }
    for encoding in ["GBK", "UTF-8"] {
        let text = text(encoding, b"gr\xfc\xdf");
        let error = failure(Files::from(&[("disk.vmdk", &text)]).open("disk.vmdk"));
        assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    }
}

#[test]
fn invalid_descriptors_are_errors() {
    let plain = descriptor("monolithicFlat", "RW 8 FLAT \"a\" 0");
    let patched = |from: &str, to: &str| {
        assert!(plain.contains(from));
        let text = plain.replacen(from, to, 1);
        failure(Files::from(&[("disk.vmdk", text.as_bytes()), ("a", &[0; 4096])]).open("disk.vmdk")).kind()
    };
    use ErrorKind::{Malformed, UnsupportedFeature};
    assert_eq!(patched("createType=\"monolithicFlat\"", ""), Malformed);
    assert_eq!(patched("monolithicFlat", "polylithic"), UnsupportedFeature);
    let keys = "encryption.keySafe = \"vmware:key/list/()\"\nencryption.data=\"abc\"";
    assert_eq!(patched("createType=\"monolithicFlat\"", keys), ErrorKind::EncryptedRefused);
    assert_eq!(patched("monolithicFlat", "monolithicSparse"), Malformed);
    assert_eq!(patched("monolithicFlat", "seSparse"), Malformed);
    assert_eq!(patched("version=1", "version=9"), UnsupportedFeature);
    assert_eq!(patched("parentCID=ffffffff", "parentCID=none"), Malformed);
    assert_eq!(
        patched("parentCID=ffffffff", "createType=\"vmfs\""),
        Malformed,
        "twice, with different values"
    );
    assert_eq!(patched("RW 8 FLAT \"a\" 0", ""), Malformed, "no extents");
    assert_eq!(patched("RW 8", "RX 8"), Malformed, "an unknown access");
    assert_eq!(patched("RW 8 FLAT \"a\" 0", "RX 8 FLAT \"a=b\" 0"), Malformed);
    assert_eq!(patched("RW 8", "RW -8"), Malformed);
    assert_eq!(patched("RW 8", "RW 99999999999999999999"), Malformed);
    assert_eq!(patched("RW 8", "RW 9999999999999999999"), Malformed);
    assert_eq!(patched("FLAT", "ROUND"), UnsupportedFeature);
    assert_eq!(patched("FLAT \"a\" 0", "FLAT \"a"), Malformed);
    assert_eq!(patched("FLAT \"a\" 0", "FLAT"), Malformed);
    assert_eq!(patched("\"a\" 0", "\"a\" zero"), Malformed);
    let many: String = (0..4097).map(|_| "RW 1 ZERO\n").collect();
    assert_eq!(patched("RW 8 FLAT \"a\" 0", &many), UnsupportedFeature);
    let huge = format!("RW {0} ZERO\nRW {0} ZERO", u64::MAX / 512);
    assert_eq!(patched("RW 8 FLAT \"a\" 0", &huge), Malformed);
    let long = format!("{plain}#{}", "x".repeat(1 << 20));
    assert_eq!(failure(Files::from(&[("disk.vmdk", long.as_bytes())]).open("disk.vmdk")).kind(), Malformed);
}

#[test]
fn extents_with_different_grains_that_end_inside_a_grain_read() {
    let lengths = [(100, 8, 512), (129, 128, 512), (4097, 16, 64), (1, 2048, 512), (128, 64, 7)];
    let mut truth = Vec::new();
    let mut lines = Vec::new();
    let mut others = Vec::new();
    for (number, (sectors, grain, entries)) in lengths.into_iter().enumerate() {
        let part = noise(sectors * SECTOR, number as u64);
        let descriptor = Some("\0".to_owned());
        others.push((
            format!("disk-s{number}.vmdk"),
            Hosted { grain, entries, descriptor, ..Hosted::default() }.build(&part).bytes,
        ));
        lines.push(format!("RW {sectors} SPARSE \"disk-s{number}.vmdk\""));
        truth.extend(part);
    }
    let text = descriptor("twoGbMaxExtentSparse", &lines.join("\n"));
    let mut files: Vec<(&str, &[u8])> = vec![("disk.vmdk", text.as_bytes())];
    files.extend(others.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let disk = Files::from(&files).open("disk.vmdk").unwrap();
    assert_eq!(disk.info().cluster_bytes, None);
    assert_same(&content(&disk).unwrap(), &truth, "at once");
    assert_same(&read(&disk, 4099).unwrap().0, &truth, "in odd windows");
}

#[test]
fn a_set_of_many_files_reads_without_cached_heads() {
    let truth = sample(80 * 65536);
    let parts: Vec<Vec<u8>> = truth.chunks(65536).map(|part| Hosted::default().build(part).bytes).collect();
    let names: Vec<String> = (0..parts.len()).map(|number| format!("disk-s{number:03}.vmdk")).collect();
    let lines: Vec<String> = names.iter().map(|name| format!("RW 128 SPARSE \"{name}\"")).collect();
    let text = descriptor("twoGbMaxExtentSparse", &lines.join("\n"));
    let mut files: Vec<(&str, &[u8])> = vec![("disk.vmdk", text.as_bytes())];
    files.extend(names.iter().map(String::as_str).zip(parts.iter().map(Vec::as_slice)));
    let files = Files::from(&files);
    let disk = files.open("disk.vmdk").unwrap();
    assert_eq!(disk.files().len(), 81);
    let opening = files.reads("disk-s000.vmdk").len();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    assert!(files.reads("disk-s000.vmdk").len() > opening, "its tables are read on demand");
}

#[test]
fn the_access_of_an_embedded_extent_is_checked() {
    let truth = sample(1 << 20);
    let embedded = |line: &str| {
        let text = descriptor("monolithicSparse", line);
        Hosted { descriptor: Some(text), ..Hosted::default() }.build(&truth).bytes
    };
    assert_same(&content_of(embedded("RDONLY 2048 SPARSE \"x\"")).unwrap(), &truth, "read-only");
    let error = error_of(embedded("NOACCESS 2048 SPARSE \"x\""));
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    for lines in ["RW 2048 ZERO", "RW 1024 SPARSE \"x\"\nRW 1024 SPARSE \"x\"", ""] {
        assert_eq!(error_of(embedded(lines)).kind(), ErrorKind::Malformed, "{lines:?}");
    }
}

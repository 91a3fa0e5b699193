//! streamOptimized images in the layout of VMware's tools: directory at the end, markers, footer. They are intact or
//! damaged, and are read by tables, by scan, and in one pass.

use std::sync::Arc;

use crate::support::files::Files;
use crate::support::pipe::*;
use crate::support::qemu::*;
use crate::support::vhd::Vhd;
use crate::support::vmdk::*;
use crate::support::*;
use diskferry_core::{ErrorKind, ExtentKind, GuestOffset, GuestRange, Source};
use diskferry_formats::{Declared, Format, open_stream};

#[test]
fn a_stream_reads_by_its_tables() {
    for (grain, entries) in [(128, 512), (8, 512), (16, 64), (256, 100)] {
        let truth = sample((9 << 20) + 3 * SECTOR);
        let built = Stream { grain, entries, ..Stream::default() }.build(&truth);
        let disk = open_vmdk(built.bytes.clone()).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(disk.info().variant, "streamOptimized");
        assert_eq!(warnings(&disk), Vec::<&str>::new());
        if entries <= 512 {
            assert_same(&qemu_reads(&built.bytes, "vmdk"), &truth, "the disk");
        }
    }
}

#[test]
fn a_last_grain_that_ends_with_the_disk_reads() {
    let truth = sample((1 << 20) + 5 * SECTOR);
    let built = Stream { full_last: false, ..Stream::default() }.build(&truth);
    assert_same(&content_of(built.bytes).unwrap(), &truth, "the disk");
}

#[test]
fn a_stream_fetches_only_stored_bytes() {
    let truth = sample(80 << 20);
    let built = Stream::default().build(&truth);
    let len = built.bytes.len() as u64;
    let disk = open_vmdk(built.bytes).unwrap();
    assert!(fetched(&disk) <= len, "{} of {len}", fetched(&disk));
}

#[test]
fn an_out_of_order_stream_fetches_only_stored_bytes() {
    let truth = sample(80 << 20);
    let mut order: Vec<usize> = (0..1280).collect();
    let mut state = 12345u64;
    for index in (1..order.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        order.swap(index, (state >> 33) as usize % (index + 1));
    }
    let built = Stream { order: Some(order), ..Stream::default() }.build(&truth);
    let len = built.bytes.len() as u64;
    let disk = open_vmdk(built.bytes).unwrap();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    // A window of one grain must not fetch more either.
    let mut single = 0;
    for number in 0..1280u64 {
        let window = GuestRange::new(GuestOffset::new(number << 16), 1 << 16).unwrap();
        let found = block_on(disk.extents(window)).unwrap();
        single +=
            found.iter().filter_map(|extent| extent.to_fetch()).map(|stored| stored.range.len()).sum::<u64>();
    }
    assert!(fetched(&disk) <= len, "{} of {len}", fetched(&disk));
    assert!(single <= len + len / 50, "{single} of {len}");
}

#[test]
fn a_stream_of_qemu_fetches_only_stored_bytes() {
    let truth = sample(80 << 20);
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("disk.raw"), directory.path().join("disk.vmdk"));
    std::fs::write(&raw, &truth).unwrap();
    qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", text(&raw), text(&image)]);
    let bytes = std::fs::read(&image).unwrap();
    let len = bytes.len() as u64;
    let disk = open_vmdk(bytes).unwrap();
    assert!(fetched(&disk) <= len, "{} of {len}", fetched(&disk));
    // Table by table: the end of one table's last grain is in the next table.
    let mut parts = 0;
    for table in 0..3u64 {
        let window = GuestRange::new(GuestOffset::new(table << 25), 1 << 25).unwrap();
        let found = block_on(disk.extents(window)).unwrap();
        parts +=
            found.iter().filter_map(|extent| extent.to_fetch()).map(|stored| stored.range.len()).sum::<u64>();
    }
    assert!(parts <= len, "{parts} of {len}");
}

#[test]
fn a_sparse_stream_of_qemu_fetches_only_stored_bytes() {
    // Few grains: most tables, which qemu-img always writes, are empty.
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("disk.raw"), directory.path().join("disk.vmdk"));
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(8 << 30).unwrap();
    for place in 0..40u64 {
        let text = sample(96 << 10)[48 << 10..].to_vec();
        std::os::unix::fs::FileExt::write_all_at(&file, &text, place * (200 << 20)).unwrap();
    }
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        text(&raw),
        text(&image),
    ]);
    let bytes = std::fs::read(&image).unwrap();
    let overhead = u64::from_le_bytes(bytes[64..72].try_into().unwrap()) * 512;
    let grains = bytes.len() as u64 - overhead;
    let disk = open_vmdk(bytes).unwrap();
    assert!(fetched(&disk) <= grains, "{} of {grains}", fetched(&disk));
    let mut parts = 0;
    for window in 0..64u64 {
        let window = GuestRange::new(GuestOffset::new(window << 27), 1 << 27).unwrap();
        let found = block_on(disk.extents(window)).unwrap();
        parts +=
            found.iter().filter_map(|extent| extent.to_fetch()).map(|stored| stored.range.len()).sum::<u64>();
    }
    assert!(parts <= grains, "{parts} of {grains}");
}

#[test]
fn adjacent_tables_are_read_in_one_request() {
    let truth = sample(100 << 20);
    let built = Hosted { redundant: true, ..Hosted::default() }.build(&truth);
    let files = Arc::new(Files::new().with("disk.vmdk", built.bytes));
    let disk = files.open("disk.vmdk").unwrap();
    extents(&disk).unwrap();
    assert!(files.reads("disk.vmdk").len() <= 2, "{:?}: head and tail have all", files.reads("disk.vmdk"));
    // A grain of 4 KiB needs 16 times as many tables, which do not fit in the head.
    let built = Hosted { grain: 8, ..Hosted::default() }.build(&truth);
    let files = Arc::new(Files::new().with("disk.vmdk", built.bytes));
    let disk = files.open("disk.vmdk").unwrap();
    extents(&disk).unwrap();
    assert!(files.reads("disk.vmdk").len() <= 4, "{:?}", files.reads("disk.vmdk"));
}

#[test]
fn a_footer_with_zeros_after_it_is_found_with_a_warning() {
    let truth = sample(3 << 20);
    let built = Stream::default().build(&truth).bytes;
    for padding in [512, 1536, 4096, 60 << 10] {
        let mut padded = built.clone();
        padded.resize(built.len() + padding, 0);
        let disk = open_vmdk(padded).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(warnings(&disk), ["recovered_footer"]);
    }
    let without_end = &built[..built.len() - SECTOR];
    let disk = open_vmdk(without_end).unwrap();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    assert_eq!(warnings(&disk), ["recovered_footer"]);
}

#[test]
fn a_footer_is_found_in_a_pipe_too() {
    let truth = sample(3 << 20);
    let built = Stream::default().build(&truth).bytes;
    let mut padded = built.clone();
    padded.resize(built.len() + 4096, 0);
    for (image, codes) in [
        (&built[..], &[][..]),
        (&padded, &["recovered_footer"]),
        (&built[..built.len() - SECTOR], &["recovered_footer"]),
    ] {
        let (piped, of_pipe) = one_pass_warned(image, 1000, Declared::Unknown).unwrap();
        assert_same(&piped, &truth, "the disk");
        assert_eq!(of_pipe, codes);
    }
}

#[test]
fn a_valid_footer_that_contradicts_the_header_is_malformed() {
    let truth = sample(3 << 20);
    let built = Stream::default().build(&truth).bytes;
    let footer = built.len() - 1024;
    let fields: [(&str, usize, &[u8]); 5] = [
        ("capacity", 12, &6145u64.to_le_bytes()),
        ("capacity", 12, &6016u64.to_le_bytes()),
        ("grainSize", 20, &256u64.to_le_bytes()),
        ("numGTEsPerGT", 44, &1024u32.to_le_bytes()),
        ("flags", 8, &0x3_0005u32.to_le_bytes()),
    ];
    for (name, at, bytes) in fields {
        let mut image = built.clone();
        image[footer + at..footer + at + bytes.len()].copy_from_slice(bytes);
        for error in [error_of(image.clone()), failure(one_pass(&image, 4096))] {
            assert_eq!(said(&error), ("malformed", Some((footer + at) as u64)), "{error:?}");
            assert!(error.message().contains(name), "{error:?}");
        }
    }
}

#[test]
fn a_footer_with_another_version_or_descriptor_offset_is_a_warning() {
    let truth = sample(3 << 20);
    let built = Stream::default().build(&truth).bytes;
    let footer = built.len() - 1024;
    let fields: [(&[&str], usize, &[u8]); 4] = [
        (&["version"], 4, &1u32.to_le_bytes()),
        (&["descriptorOffset"], 28, &2u64.to_le_bytes()),
        (&["descriptorSize"], 36, &1u64.to_le_bytes()),
        (&["descriptorOffset", "descriptorSize"], 28, &[0; 16]),
    ];
    for (names, at, bytes) in fields {
        let mut image = built.clone();
        image[footer + at..footer + at + bytes.len()].copy_from_slice(bytes);
        let disk = open_vmdk(image.clone()).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        let said = disk.warnings().list();
        assert_eq!(warnings(&disk), ["footer_differs"]);
        assert!(said[0].message.ends_with(&names.join(", ")), "{said:?}");
        let (piped, codes) = one_pass_warned(&image, 4096, Declared::Unknown).unwrap();
        assert_same(&piped, &truth, "the disk, from a pipe");
        assert_eq!(codes, ["footer_differs"]);
        assert_same(&qemu_reads(&image, "vmdk"), &truth, "as qemu-img reads it");
        // It searches the descriptor at the footer's offset.
        if names == ["version"] {
            assert_same(&dissect_reads(&image, "vmdk"), &truth, "as dissect.hypervisor reads it");
        }
    }
}

#[test]
fn a_stream_without_a_usable_footer_is_scanned_when_it_is_mapped() {
    let truth = sample(20 << 20);
    let built = Stream::default().build(&truth);
    let whole = built.bytes.len();
    let mut damaged_footer = built.bytes.clone();
    damaged_footer[whole - 1024] ^= 1;
    let mut far_padding = built.bytes.clone();
    far_padding.resize(whole + (300 << 10), 0);
    let cut = |to: usize| built.bytes[..to].to_vec();
    for damaged in
        [cut(whole - 1024), cut(whole - 1536), cut(built.directory + 516), damaged_footer, far_padding]
    {
        let (piped, codes) = one_pass_warned(&damaged, 4096, Declared::Unknown).unwrap();
        assert_same(&piped, &truth, "the disk, from a pipe");
        assert_eq!(codes, ["recovered_by_scan"], "from a pipe");
        let len = damaged.len() as u64;
        let files = Arc::new(Files::new().with("disk.vmdk", damaged));
        let disk = files.open("disk.vmdk").unwrap();
        assert_eq!(warnings(&disk), ["recovered_by_scan"]);
        let opened = files.get("disk.vmdk").traffic().bytes;
        assert!(opened < 256 << 10, "opening does not scan");
        assert_eq!(disk.virtual_bytes(), truth.len() as u64);
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        let map_bytes = files.get("disk.vmdk").traffic().bytes - opened - fetched(&disk);
        assert!(map_bytes <= len, "the scan reads the object once");
    }
}

#[test]
fn a_stream_that_breaks_off_is_truncated() {
    let truth = sample(3 << 20);
    let built = Stream::default().build(&truth);
    let (last, _) = built.grains[built.grains.len() - 1];
    for to in [last, last + 100, built.directory, built.directory - 512, built.directory + 512, 128 * SECTOR]
    {
        let cut = &built.bytes[..to];
        let error = error_of(cut);
        assert_eq!(error.kind(), ErrorKind::Truncated, "{to}: {error:?}");
        let error = failure(one_pass(cut, 4096));
        assert_eq!(error.kind(), ErrorKind::Truncated, "{to}: {error:?}");
    }
}

/// A stream that contains grain 3 twice, first with other bytes.
fn twice(truth: &[u8]) -> Vec<u8> {
    let mut stale = truth.to_vec();
    stale[3 << 16..4 << 16].fill(0xee);
    let stale = Stream::default().build(&stale);
    let (at, _) = stale.grains.iter().copied().find(|(_, number)| *number == 3).unwrap();
    let size = u32::from_le_bytes(stale.bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let stale_grain = stale.bytes[at..at + (12 + size).next_multiple_of(SECTOR)].to_vec();
    let built = Stream::default().build(truth);
    // Before all grains, so that every address moves by its length.
    let shift = (stale_grain.len() / SECTOR) as u32;
    let mut bytes = built.bytes[..128 * SECTOR].to_vec();
    bytes.extend(&stale_grain);
    bytes.extend(&built.bytes[128 * SECTOR..]);
    let directory = built.directory + stale_grain.len() + 512;
    let mut moved = |at: usize| {
        let entry = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        if entry != 0 {
            bytes[at..at + 4].copy_from_slice(&(entry + shift).to_le_bytes());
        }
        (entry + shift) as usize * SECTOR
    };
    let table = moved(directory);
    for index in 0..512 {
        moved(table + index * 4);
    }
    let footer = bytes.len() - 1024 + 56;
    bytes[footer..footer + 8].copy_from_slice(&((directory / SECTOR) as u64).to_le_bytes());
    bytes
}

#[test]
fn two_grains_for_one_address_need_a_table_or_are_malformed() {
    let truth = sample(2 << 20);
    let bytes = twice(&truth);
    let disk = open_vmdk(bytes.clone()).unwrap();
    assert_eq!(warnings(&disk), Vec::<&str>::new());
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    for error in [error_of(&bytes[..bytes.len() - 1024]), failure(one_pass(&bytes, 1 << 20))] {
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.message().contains("twice"), "{error:?}");
    }
}

#[test]
fn compressed_grains_without_markers_read() {
    let truth = sample((4 << 20) + SECTOR);
    let built = Hosted { compressed: true, version: 3, ..Hosted::default() }.build(&truth);
    let disk = open_vmdk(built.bytes).unwrap();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    assert!(disk.info().features.contains(&"compressed grains".to_owned()));
}

#[test]
fn a_marker_of_another_grain_is_malformed() {
    let truth = sample(2 << 20);
    let built = Stream::default().build(&truth);
    let (at, _) = built.grains[1];
    let patched = |offset: usize, bytes: &[u8]| {
        let mut image = built.bytes.clone();
        image[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        image
    };
    let cases = [
        (patched(0, &[0x80, 9]), "marker says sector 2432"),
        (patched(8, &u32::MAX.to_le_bytes()), "more than twice"),
        (patched(8, &100_000u32.to_le_bytes()), "other data begins"),
        (patched(8, &0u32.to_le_bytes()), "marker type"),
        (patched(8, &[0, 0, 0, 0, 1, 0, 0, 0]), "not of a grain"),
        (patched(12 + 40, &[0xff; 8]), "compressed unit"),
        (patched(8, &30u32.to_le_bytes()), "compressed unit"),
    ];
    for (image, says) in cases {
        let error = error_of(image);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error:?}");
        assert!(error.message().contains(says), "{error:?} should contain {says:?}");
        assert_eq!(error.offset(), Some(at as u64));
    }
}

#[test]
fn a_grain_that_extends_past_the_object_is_truncated() {
    // Ends in noise, so that the last grain is long.
    let truth = sample(41 * (48 << 10));
    let image = Hosted { compressed: true, version: 3, flags: 0x2_0001, ..Hosted::default() }.build(&truth);
    // The header declares markers, but the grains have none: their first bytes are read as one.
    let error = error_of(image.bytes);
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error:?}");
    let directory = tempfile::tempdir().unwrap();
    let (raw, path_of) = (directory.path().join("disk.raw"), directory.path().join("disk.vmdk"));
    std::fs::write(&raw, &truth).unwrap();
    qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", text(&raw), text(&path_of)]);
    let whole = std::fs::read(&path_of).unwrap();
    for cut in [20_480, 30_000] {
        let error = error_of(&whole[..whole.len() - cut]);
        assert_eq!(error.kind(), ErrorKind::Truncated, "{error:?}");
        let error = failure(one_pass(&whole[..whole.len() - cut], 1 << 20));
        assert_eq!(error.kind(), ErrorKind::Truncated, "{error:?}");
    }
}

#[test]
fn overlapping_grains_are_malformed() {
    let truth = sample(2 << 20);
    let built = Stream::default().build(&truth);
    let directory = built.directory + 512;
    let table =
        u32::from_le_bytes(built.bytes[directory..directory + 4].try_into().unwrap()) as usize * SECTOR;
    let mut image = built.bytes.clone();
    let first = u32::from_le_bytes(image[table..table + 4].try_into().unwrap());
    image[table + 4..table + 8].copy_from_slice(&(first + 1).to_le_bytes());
    assert_eq!(error_of(image).kind(), ErrorKind::Malformed);
}

#[test]
fn compressed_grains_beyond_the_unit_are_unsupported() {
    let truth = vec![1; 1 << 20];
    let built = Stream { grain: 16384, ..Stream::default() }.build(&truth);
    assert_eq!(error_of(built.bytes.clone()).kind(), ErrorKind::UnsupportedFeature);
    assert_eq!(failure(one_pass(&built.bytes, 4096)).kind(), ErrorKind::UnsupportedFeature);
}

// One pass.

#[test]
fn a_stream_reads_in_one_pass() {
    let truth = sample((9 << 20) + 3 * SECTOR);
    let mut backwards: Vec<usize> = (0..truth.len().div_ceil(1 << 16)).collect();
    backwards.reverse();
    for order in [None, Some(backwards)] {
        let built = Stream { order, ..Stream::default() }.build(&truth);
        for piece in [1000, 65536, 4 << 20] {
            assert_same(&one_pass(&built.bytes, piece).unwrap(), &truth, "the disk");
        }
        let declared = Declared::Format(Format::Vmdk);
        assert_same(&one_pass_as(&built.bytes, 65536, declared).unwrap(), &truth, "the disk");
    }
}

#[test]
fn a_stream_of_qemu_reads_in_one_pass() {
    for len in [512, 65536, (40 << 20) + 512] {
        let truth = sample(len);
        let directory = tempfile::tempdir().unwrap();
        let (raw, image) = (directory.path().join("disk.raw"), directory.path().join("disk.vmdk"));
        std::fs::write(&raw, &truth).unwrap();
        qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", text(&raw), text(&image)]);
        let bytes = std::fs::read(&image).unwrap();
        assert_same(&one_pass(&bytes, 100_000).unwrap(), &truth, "the disk");
    }
}

#[test]
fn a_declared_raw_stream_is_its_bytes() {
    for len in [0, 1, 511, 512, (3 << 20) + 77] {
        let truth = sample(len);
        let read = one_pass_as(&truth, 2 << 20, Declared::Format(Format::Raw)).unwrap();
        assert_same(&read, &truth, "the disk");
    }
}

#[test]
fn standard_input_refuses_what_it_cannot_read() {
    let kind = |bytes: &[u8], declared| failure(one_pass_as(bytes, 512, declared)).kind();
    let raw = Declared::Format(Format::Raw);
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.resize(4096, 0);
    let sparse = Hosted::default().build(&sample(1 << 20)).bytes;
    let text = descriptor("monolithicFlat", "RW 8 FLAT \"x\" 0").into_bytes();
    assert_eq!(kind(&qcow2, Declared::Unknown), ErrorKind::Usage);
    assert_eq!(kind(&qcow2, Declared::Format(Format::Qcow2)), ErrorKind::Usage);
    assert_eq!(kind(&qcow2, raw), ErrorKind::FormatMismatch);
    assert_eq!(kind(&qcow2, Declared::Format(Format::Vmdk)), ErrorKind::FormatMismatch);
    assert_eq!(kind(&sparse, Declared::Unknown), ErrorKind::Usage);
    assert_eq!(kind(&sparse, raw), ErrorKind::FormatMismatch);
    assert_eq!(kind(&text, Declared::Unknown), ErrorKind::Usage);
    assert_eq!(kind(&[7; 4096], Declared::Unknown), ErrorKind::UnknownFormat);
    assert_eq!(kind(&[7; 4096], Declared::Format(Format::Vmdk)), ErrorKind::FormatMismatch);
    assert_eq!(kind(&[], Declared::Unknown), ErrorKind::UnknownFormat);
}

#[test]
fn every_grain_of_a_stream_is_one_unit() {
    let truth = sample(2 << 20);
    let disk = open_vmdk(Stream::default().build(&truth).bytes).unwrap();
    for extent in extents(&disk).unwrap() {
        match extent.kind {
            ExtentKind::Coded(_) => assert_eq!(extent.guest.len(), 1 << 16),
            ExtentKind::Hole => {}
            kind => panic!("{kind:?}"),
        }
    }
}

#[test]
fn a_fixed_vhd_is_not_read_as_a_raw_stream() {
    let raw = Declared::Format(Format::Raw);
    for len in [512, 1 << 20, (2 << 20) + 512] {
        let guest = bootable(len);
        for vhd in [
            Vhd::new(2, len as u64),
            Vhd { short_footer: true, ..Vhd::new(2, len as u64) },
            Vhd { padding: 60_000, ..Vhd::new(2, len as u64) },
        ] {
            let image = vhd.fixed(&guest);
            for piece in [511, 70_000, 1 << 20] {
                let error = failure(one_pass_as(&image, piece, raw));
                assert_eq!(error.kind(), ErrorKind::FormatMismatch, "{len} in pieces of {piece}: {error}");
            }
        }
        assert_same(&one_pass_as(&guest, 70_000, raw).unwrap(), &guest, "a raw disk");
    }
}

#[test]
fn a_raw_stream_that_looks_like_a_file_is_read_with_a_warning() {
    let gzip = [&[0x1f, 0x8b, 8][..], &[7; 4096]].concat();
    let stream = block_on(open_stream(in_pieces(&gzip, 100), Declared::Format(Format::Raw))).unwrap();
    let codes: Vec<_> = stream.warnings().iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["content_looks_like"]);
}

#[test]
fn a_grain_that_no_table_names_is_not_content_of_a_stream() {
    let truth = noise(3 << 16, 1);
    let built = Stream::default().build(&truth);
    let second = (built.grains[1].0 / SECTOR) as u32;
    let slot = built.grains[2].0
        + built.bytes[built.grains[2].0..].windows(4).rposition(|word| word == second.to_le_bytes()).unwrap();
    let mut image = built.bytes;
    image[slot..slot + 4].fill(0);
    let holed = [&truth[..1 << 16], &[0; 1 << 16], &truth[2 << 16..]].concat();
    assert_same(&content_of(image.clone()).unwrap(), &holed, "by the tables");
    assert_same(&qemu_reads(&image, "vmdk"), &holed, "by the tables, as qemu reads them");
    assert_eq!(failure(one_pass(&image, 4096)).kind(), ErrorKind::UnsupportedFeature);
}

#[test]
fn tables_that_point_to_hidden_grains_do_not_change_the_disk_of_a_stream() {
    let (shown, other) = (noise(4096, 1), noise(4096, 2));
    let truth = [&shown[..], &[0; 4096]].concat();
    let secret = [&[0; 4096], &other[..]].concat();
    let built = Stream { grain: 8, entries: 16, ..Stream::default() }.build(&truth);
    let data = zlib(&other);
    let mut hidden = [&8u64.to_le_bytes()[..], &(data.len() as u32).to_le_bytes(), &data].concat();
    pad(&mut hidden);
    let sector = |at: usize| ((at / SECTOR) as u32).to_le_bytes();

    // After the table, in space that its marker counts as part of the table.
    let behind = built.directory;
    let mut inside = [&built.bytes[..behind], &hidden, &built.bytes[behind..]].concat();
    let sectors = 1 + (hidden.len() / SECTOR) as u64;
    inside[behind - 2 * SECTOR..][..8].copy_from_slice(&sectors.to_le_bytes());
    inside[behind - SECTOR..][..8].copy_from_slice(&[[0; 4], sector(behind)].concat());
    let footer = inside.len() - 2 * SECTOR;
    let moved = (behind + hidden.len() + SECTOR) / SECTOR;
    inside[footer + 56..footer + 64].copy_from_slice(&(moved as u64).to_le_bytes());

    // After the end, with a separate directory and footer.
    let mut appended = built.bytes.clone();
    let grain = appended.len();
    appended.extend_from_slice(&hidden);
    let table = appended.len();
    appended.extend([[0; 4], sector(grain)].concat());
    pad(&mut appended);
    let directory = appended.len();
    appended.extend(sector(table));
    pad(&mut appended);
    appended.extend(marker(1, 3));
    let mut header = built.bytes[built.bytes.len() - 2 * SECTOR..][..SECTOR].to_vec();
    header[56..64].copy_from_slice(&((directory / SECTOR) as u64).to_le_bytes());
    appended.extend(header);
    appended.extend(marker(0, 0));

    assert_same(&one_pass(&built.bytes, 4096).unwrap(), &truth, "as it was made");
    let refusals = [
        (inside, ErrorKind::UnsupportedFeature, "others"),
        (appended, ErrorKind::Malformed, "follow the end marker"),
    ];
    for (image, kind, says) in refusals {
        assert_same(&content_of(image.clone()).unwrap(), &secret, "read by the tables");
        let error = failure(one_pass(&image, 4096));
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.message().contains(says), "{error:?}");
    }
}

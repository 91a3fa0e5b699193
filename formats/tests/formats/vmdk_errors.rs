//! Sparse extents that qemu-img does not create, and a patched byte for every error of header, directory and tables.

use std::sync::Arc;

use crate::support::files::Files;
use crate::support::vmdk::*;
use crate::support::*;
use diskferry_core::{BATCH_EXTENTS, Disk, ErrorKind, ExtentKind, GuestRange, MemorySource, Source};
use diskferry_formats::{Declared, Format};

#[test]
fn every_version_grain_and_table_reads() {
    for (version, grain, entries, redundant) in [
        (1, 128, 512, false),
        (2, 8, 512, true),
        (3, 16, 64, true),
        (1, 2048, 4096, false),
        (2, 128, 7, true),
    ] {
        let truth = sample((5 << 20) + 512);
        let built = Hosted { version, grain, entries, redundant, ..Hosted::default() }.build(&truth);
        let disk = open_vmdk(built.bytes).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(disk.info().cluster_bytes, Some(grain as u64 * 512));
        assert_eq!(warnings(&disk), Vec::<&str>::new());
        let says = disk.info().features.contains(&"redundant directory".to_owned());
        assert_eq!(says, redundant);
    }
}

#[test]
fn a_capacity_rounded_up_to_the_grain_leaves_the_disk_as_described() {
    let truth = sample((1 << 20) + 512);
    let mut image = Hosted::default().build(&truth).bytes;
    image[12..20].copy_from_slice(&(2048u64 + 128).to_le_bytes());
    assert_same(&content_of(image.clone()).unwrap(), &truth, "the disk");
    image[12..20].copy_from_slice(&(2048u64 + 256).to_le_bytes());
    let error = error_of(image);
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.message().contains("2049"), "{error:?}");
}

fn patch(image: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn invalid_header_fields_are_errors_with_their_offset() {
    use ErrorKind::{Malformed, Truncated, UnsupportedFeature};
    let image = Hosted::default().build(&sample(1 << 20)).bytes;
    let cases: &[(usize, &[u8], ErrorKind, &str)] = &[
        (4, &[0], UnsupportedFeature, "version 0"),
        (4, &[4], UnsupportedFeature, "version 4"),
        (8, &[1, 0, 4, 0], UnsupportedFeature, "flags"),
        (8, &[1, 0, 1, 0], Malformed, "compressAlgorithm"),
        (8, &[1, 0, 2, 0], UnsupportedFeature, "markers"),
        (77, &[1], Malformed, "compressAlgorithm"),
        (77, &[2], UnsupportedFeature, "compressAlgorithm"),
        (12, &[0xff; 8], Malformed, "capacity"),
        (20, &[0; 8], Malformed, "grainSize"),
        (20, &[4], Malformed, "grainSize"),
        (20, &[129], Malformed, "grainSize"),
        (20, &[0, 0, 0, 0, 1], UnsupportedFeature, "grainSize"),
        (44, &[0; 4], Malformed, "numGTEsPerGT"),
        (44, &[0xff; 4], UnsupportedFeature, "numGTEsPerGT"),
        (28, &[0xff; 8], Truncated, "descriptor"),
        (28, &[0, 0, 1], Truncated, "descriptor"),
        (36, &[0, 0, 1], Malformed, "descriptor"),
        (36, &[0xff; 8], Truncated, "descriptor"),
        (56, &[0; 8], Malformed, "directory"),
        (56, &[0xff, 0xff], Truncated, "directory"),
        (56, &[0xff; 8], Malformed, "footer"),
        (73, b"\r", Malformed, "text mode"),
        (74, &[0], Malformed, "text mode"),
        (75, b"\n\n", Malformed, "text mode"),
        (28, &[0; 8], UnsupportedFeature, "one part"),
    ];
    for (at, bytes, kind, says) in cases {
        let error = error_of(patch(&image, *at, bytes));
        assert_eq!(error.kind(), *kind, "{at}: {error:?}");
        assert!(error.message().contains(says), "{at}: {error:?} should say {says:?}");
    }
    for len in [4, 100, 511] {
        assert_eq!(error_of(&image[..len]).kind(), Truncated);
    }
    assert_eq!(error_of(&image[..2048]).kind(), Truncated);
    // Without the flag, those bytes are undefined.
    let unchecked = patch(&patch(&image, 73, &[0; 4]), 8, &[0]);
    assert!(open_vmdk(unchecked).is_ok());
}

#[test]
fn an_embedded_descriptor_has_one_extent_that_is_stored() {
    let truth = sample(1 << 20);
    for (create_type, lines) in [
        ("monolithicSparse", "RW 1024 SPARSE \"a\"\nRW 1024 SPARSE \"b\""),
        ("monolithicSparse", "RW 2048 ZERO"),
        ("custom", ""),
        ("vmfsRDM", "RW 2048 SPARSE \"disk.vmdk\""),
    ] {
        let built = Hosted { descriptor: Some(descriptor(create_type, lines)), ..Hosted::default() };
        let error = error_of(built.build(&truth).bytes);
        assert_eq!(said(&error), ("malformed", Some(512)), "{create_type} {lines}: {error:?}");
    }
}

#[test]
fn zeroed_grains_need_their_flag() {
    let truth = sample(1 << 20);
    let built = Hosted { version: 2, flags: 5, ..Hosted::default() }.build(&truth);
    let image = patch(&built.bytes, built.tables[0] + 4, &1u32.to_le_bytes());
    let disk = open_vmdk(image.clone()).unwrap();
    let mut expected = truth.clone();
    expected[65536..131072].fill(0);
    assert_same(&content(&disk).unwrap(), &expected, "the disk");
    assert!(extents(&disk).unwrap().iter().any(|extent| matches!(extent.kind, ExtentKind::Zero)));
    let error = error_of(patch(&image, 8, &[1]));
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert_eq!(error.offset(), Some(built.tables[0] as u64 + 4));
}

#[test]
fn a_damaged_primary_directory_is_replaced_by_the_redundant_one() {
    let truth = sample(3 << 20);
    let built = Hosted { redundant: true, ..Hosted::default() }.build(&truth);
    let (directory, table) = (built.directories[0], built.tables[0]);
    let damaged = [
        patch(&built.bytes, 56, &[0; 8]),
        patch(&built.bytes, 56, &[0xff, 0xff, 0xff, 0]),
        patch(&built.bytes, directory, &[0; 4]),
        patch(&built.bytes, directory, &[0xff; 4]),
        patch(&built.bytes, table, &[0xff; 512]),
        patch(&built.bytes, table + 8, &1u32.to_le_bytes()),
    ];
    for (number, image) in damaged.into_iter().enumerate() {
        let disk = open_vmdk(image).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, "the disk");
        assert_eq!(warnings(&disk), ["redundant_directory"], "{number}");
    }
    let harmless = [
        patch(&built.bytes, built.directories[1], &[0xff; 4]),
        patch(&built.bytes, built.directories[1], &[0; 4]),
        patch(&built.bytes, 48, &[0xff; 7]),
    ];
    for image in harmless {
        assert_same(&content_of(image).unwrap(), &truth, "the disk");
    }
    let both = patch(&patch(&built.bytes, directory, &[0xff; 4]), built.directories[1], &[0xff; 4]);
    assert_eq!(error_of(both).kind(), ErrorKind::Truncated);
}

#[test]
fn a_grain_does_not_depend_on_the_window() {
    let truth = noise(16 * 4096, 11);
    let built = Hosted { redundant: true, grain: 8, entries: 16, ..Hosted::default() }.build(&truth);
    let (table, copy) = (built.tables[0], built.tables[1]);
    // Entry 5 is damaged. The intact copy has a different entry 0.
    let other = built.bytes[copy + 4..copy + 8].to_vec();
    let image = patch(&patch(&built.bytes, table + 20, &[0xff; 4]), copy, &other);
    let disk = open_vmdk(image).unwrap();
    let alone = block_on(disk.read(GuestRange::first(4096))).unwrap();
    assert_same(&alone, &truth[..4096], "grain 0 alone");
    assert_same(&content(&disk).unwrap(), &truth, "all grains");
}

#[test]
fn entries_beyond_the_object_are_truncated_with_their_offset() {
    let truth = sample(3 << 20);
    let built = Hosted::default().build(&truth);
    let (directory, table) = (built.directories[0], built.tables[0]);
    let far = 0x0fff_ffffu32.to_le_bytes();
    let cases = [
        (patch(&built.bytes, directory, &far), directory),
        (patch(&built.bytes, table + 4, &far), table + 4),
        (built.bytes[..built.bytes.len() - 512].to_vec(), table + 47 * 4),
    ];
    for (image, place) in cases {
        let error = error_of(image);
        assert_eq!(error.kind(), ErrorKind::Truncated, "{error:?}");
        assert_eq!(error.offset(), Some(place as u64), "{error:?}");
    }
}

fn claim(sectors: u64) -> (Arc<Files>, Disk) {
    // The directory of 64 TiB has 8 MiB. All entries are empty except one in the middle.
    let entries = sectors.div_ceil(512 * 128);
    let header = Header {
        version: 1,
        flags: 1,
        capacity: sectors,
        grain: 128,
        descriptor: (1, 20),
        entries: 512,
        rgd: 0,
        gd: 21,
        overhead: 128,
        compression: 0,
    };
    let mut image = header.bytes();
    image.extend(descriptor("monolithicSparse", &format!("RW {sectors} SPARSE \"x\"")).bytes());
    image.resize(21 * SECTOR + entries as usize * 4, 0);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    let table = (image.len() / SECTOR) as u32;
    let slot = 21 * SECTOR + entries as usize / 2 * 4;
    image[slot..slot + 4].copy_from_slice(&table.to_le_bytes());
    image.resize(image.len() + 2048, 0);
    let grain = (image.len() / SECTOR) as u32;
    image[table as usize * SECTOR..][..4].copy_from_slice(&grain.to_le_bytes());
    image.resize(image.len() + 65536, 0x77);
    let files = Arc::new(Files::new().with("disk.vmdk", image));
    let disk = files.open("disk.vmdk").unwrap();
    (files, disk)
}

#[test]
fn a_claim_of_64_tib_reads_its_directory_once_and_not_at_open() {
    let (files, disk) = claim(128 << 30);
    assert_eq!(disk.virtual_bytes(), 64 << 40);
    assert_eq!(files.reads("disk.vmdk").len(), 2, "head and tail");
    let found = extents(&disk).unwrap();
    let kinds: Vec<bool> = found.iter().map(|extent| matches!(extent.kind, ExtentKind::Data(_))).collect();
    assert_eq!(kinds, [false, true, false]);
    let traffic = files.get("disk.vmdk").traffic();
    assert!(traffic.bytes < 9 << 20, "{traffic:?}");
    assert!(traffic.requests < 16, "{traffic:?}");
}

#[test]
fn a_result_is_bounded_and_the_next_one_continues_it() {
    // Every second grain of 4 KiB, so that no two extents join.
    let mut truth = vec![0; 160 << 20];
    for grain in truth.chunks_mut(4096).step_by(2) {
        grain[0] = 1;
    }
    let built = Hosted { grain: 8, ..Hosted::default() }.build(&truth);
    let disk = open_vmdk(built.bytes).unwrap();
    let first = block_on(disk.extents(GuestRange::first(truth.len() as u64))).unwrap();
    assert!(first.len() < BATCH_EXTENTS + 1024, "{}", first.len());
    assert_eq!(extents(&disk).unwrap().len(), 40960);
}

#[test]
fn an_empty_vmdk_opens() {
    let built = Hosted::default().build(&[]);
    let disk = open_vmdk(built.bytes).unwrap();
    assert_eq!(disk.virtual_bytes(), 0);
    assert!(extents(&disk).unwrap().is_empty());
}

#[test]
fn no_byte_of_header_descriptor_or_tables_can_make_it_panic() {
    let truth = sample(300_000);
    let hosted = Hosted { redundant: true, version: 2, flags: 5, ..Hosted::default() }.build(&truth);
    let stream = Stream { entries: 64, ..Stream::default() }.build(&truth);
    let tail = stream.bytes.len() - 4096..stream.bytes.len();
    let grain = stream.grains[1].0;
    let places: [(&[u8], Vec<usize>); 2] = [
        (
            &hosted.bytes,
            (0..80).chain(512..900).chain(hosted.directories[0]..hosted.directories[0] + 4096).collect(),
        ),
        (&stream.bytes, (0..80).chain(512..900).chain(grain..grain + 64).chain(tail).collect()),
    ];
    for (image, places) in places {
        for place in places {
            for value in [0x00, 0x01, 0x7f, 0xff] {
                if image[place] == value {
                    continue;
                }
                let Ok(disk) = open_vmdk(patch(image, place, &[value])) else { continue };
                // Only the start and the end of a disk that became huge are read.
                let end = disk.virtual_bytes();
                if end <= 1 << 20 {
                    drop(content(&disk));
                } else {
                    drop(block_on(disk.extents(GuestRange::first(end))));
                    drop(block_on(disk.extents(GuestRange::first(end).skip(end - 1))));
                }
            }
        }
    }
}

#[test]
fn vmdk_is_detected_and_not_taken_for_raw() {
    let truth = sample(1 << 20);
    let images =
        [Hosted::default().build(&truth).bytes, Stream::default().build(&truth).bytes, cowd(&truth, 8)];
    let open = |bytes: &[u8], declared| {
        let source = MemorySource::new("disk", bytes.to_vec());
        block_on(diskferry_formats::open(Arc::new(source), declared))
    };
    for image in images {
        let disk = open(&image, Declared::Unknown).unwrap();
        assert_eq!(disk.info().format, "vmdk");
        let error = failure(open(&image, Declared::Format(Format::Raw)));
        assert_eq!(error.kind(), ErrorKind::FormatMismatch);
        let error = failure(open(&patch(&image, 4, &[9]), Declared::Unknown));
        assert_eq!(error.kind(), ErrorKind::UnsupportedFeature, "version 9");
    }
    let text = descriptor("monolithicFlat", "RW 8 FLAT \"a\" 0");
    let error = failure(open(text.as_bytes(), Declared::Unknown));
    assert_eq!(error.kind(), ErrorKind::ExternalDataRefused, "the default gate opens nothing");
    let error = failure(open(text.as_bytes(), Declared::Format(Format::Qcow2)));
    assert_eq!(error.kind(), ErrorKind::FormatMismatch);
}

#[test]
fn an_excessively_shared_table_is_malformed() {
    // A directory of 64 KiB whose entries all name one table of 65,536 holes: a thousand million holes.
    let named = 16_384u64;
    let header = |entries: u64| Header {
        version: 1,
        flags: 1,
        capacity: entries * 65_536 * 8,
        grain: 8,
        descriptor: (1, 20),
        entries: 65_536,
        rgd: 0,
        gd: 21,
        overhead: 128,
        compression: 0,
    };
    let image = |entries: u64| {
        let header = header(entries);
        let mut image = header.bytes();
        let line = format!("RW {} SPARSE \"x\"", header.capacity);
        image.extend(descriptor("monolithicSparse", &line).bytes());
        image.resize(21 * SECTOR, 0);
        let table = ((21 * SECTOR + 4 * named as usize) / SECTOR) as u32;
        (0..named).for_each(|_| image.extend(table.to_le_bytes()));
        image.resize(image.len() + 4 * 65_536, 0);
        image
    };
    let error = error_of(image(named));
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(21 * 512)), "{error}");
    let shared = open_vmdk(image(8)).unwrap();
    assert_eq!(extents(&shared).unwrap().len(), 1, "what is shared within reason is read");
}

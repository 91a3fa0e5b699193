//! Every error of the reader, each with one patched image and the expected kind and offset.

use diskferry_core::internal::Failing;
use diskferry_core::{Error, ErrorKind, GuestRange, MemorySource, Source};

use crate::qcow2::images::*;

const REFCOUNT_TABLE: usize = 0x1_0000;
const L1: usize = 0x3_0000;
const L2: usize = 0x4_0000;
const DATA: usize = 0x5_0000;

/// An image of 1 MiB with tables at known offsets: three clusters of data from guest address 0 on.
fn image(images: &Images, options: &str) -> Vec<u8> {
    let path = images.create("image", "1M", options);
    qemu_io(&path, &["write -P 7 0 192K"]);
    let bytes = std::fs::read(&path).unwrap();
    let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(
        (long(40), long(48)),
        (L1 as u64, REFCOUNT_TABLE as u64),
        "the layout that this test is about"
    );
    assert_eq!(long(L1), 1 << 63 | L2 as u64);
    assert_eq!(long(L2), 1 << 63 | DATA as u64);
    bytes
}

type Patch<'a> = (usize, &'a [u8]);

fn patched(image: &[u8], patches: &[Patch<'_>]) -> Vec<u8> {
    let mut bytes = image.to_vec();
    for (at, patch) in patches {
        bytes[*at..*at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

#[track_caller]
fn opening(image: &[u8], patches: &[Patch<'_>], kind: ErrorKind, place: u64) -> Error {
    let error = open_bytes(patched(image, patches)).map(drop).expect_err("must not open");
    assert_eq!((error.kind(), error.offset()), (kind, Some(place)), "{error}");
    error
}

/// Checks that the image opens and its map returns the error.
#[track_caller]
fn mapping(image: &[u8], patches: &[Patch<'_>], kind: ErrorKind, place: u64) -> Error {
    let disk = open_bytes(patched(image, patches)).unwrap();
    let error = extents(&disk).map(drop).expect_err("must not map");
    assert_eq!((error.kind(), error.offset()), (kind, Some(place)), "{error}");
    error
}

use ErrorKind::{Malformed, Truncated, UnsupportedFeature};

#[test]
fn header_fields_out_of_range_are_errors_with_their_offset() {
    let images = Images::new();
    let image = &image(&images, "");
    let int = |number: u32| number.to_be_bytes();
    let long = |number: u64| number.to_be_bytes();
    opening(image, &[(4, &int(1))], UnsupportedFeature, 4);
    opening(image, &[(4, &int(4))], UnsupportedFeature, 4);
    for bits in [0, 8, 22, 63, 64, u32::MAX] {
        opening(image, &[(20, &int(bits))], Malformed, 20);
    }
    for length in [0, 72, 103, 105, 108, 65_537, 131_072, u32::MAX] {
        opening(image, &[(100, &int(length))], Malformed, 100);
    }
    for offset in [1, 111, 65_536, u64::MAX] {
        opening(image, &[(8, &long(offset)), (16, &int(4))], Malformed, 8);
    }
    for size in [0, 1024, u32::MAX] {
        opening(image, &[(8, &long(1000)), (16, &int(size))], Malformed, 16);
    }
    opening(image, &[(8, &long(65_535)), (16, &int(2))], Malformed, 16);
    for order in [7, 32, u32::MAX] {
        opening(image, &[(96, &int(order))], Malformed, 96);
    }
    for method in [3, u32::MAX] {
        opening(image, &[(32, &int(method))], UnsupportedFeature, 32);
    }
    for entries in [0, (32 << 20) / 8 + 1, u32::MAX] {
        opening(image, &[(36, &int(entries))], Malformed, 36);
    }
    for size in [(512u64 << 20) + 1, 64 << 40, u64::MAX] {
        opening(image, &[(24, &long(size))], Malformed, 36);
    }
    for offset in [0, L1 as u64 + 8, u64::MAX, REFCOUNT_TABLE as u64] {
        opening(image, &[(40, &long(offset))], Malformed, 40);
    }
    for offset in [1 << 20, 1 << 56, !0xffff] {
        opening(image, &[(40, &long(offset))], Truncated, 40);
    }
    opening(image, &[(36, &int(4 << 20))], Truncated, 40);
    for offset in [0, REFCOUNT_TABLE as u64 + 512] {
        opening(image, &[(48, &long(offset))], Malformed, 48);
    }
    opening(image, &[(48, &long(1 << 30))], Truncated, 48);
    opening(image, &[(48, &long(!0xffff))], Malformed, 48);
    for clusters in [0, 129, u32::MAX] {
        opening(image, &[(56, &int(clusters))], Malformed, 56);
    }
    for count in [65_537, u32::MAX] {
        opening(image, &[(60, &int(count)), (64, &long(0x5_0000))], Malformed, 60);
    }
    for offset in [0, 0x5_0008] {
        opening(image, &[(60, &int(1)), (64, &long(offset))], Malformed, 64);
    }
    opening(image, &[(60, &int(1)), (64, &long(1 << 30))], Truncated, 64);
    opening(image, &[(60, &int(65_536)), (64, &long(0x5_0000))], Truncated, 64);
}

#[test]
fn unknown_incompatible_features_are_named() {
    let images = Images::new();
    let image = &image(&images, "");
    let error = opening(image, &[(72, &(1u64 << 63 | 1 << 5).to_be_bytes())], UnsupportedFeature, 72);
    assert!(error.message().contains("incompatible bit 5, incompatible bit 63"), "{error}");
    // The image's own table of names: qemu's first entry, moved to an unknown bit.
    let table = image[..4096].windows(10).position(|bytes| bytes == b"dirty bit\0").unwrap();
    assert_eq!(image[table - 2..table], [0, 0]);
    let patches: &[Patch<'_>] =
        &[(72, &(1u64 << 40).to_be_bytes()), (table - 1, &[40]), (table, b"\x1b[31m holograms\0")];
    let error = opening(image, patches, UnsupportedFeature, 72);
    assert!(error.message().contains("holograms\" (incompatible bit 40)"), "{error}");
    assert!(!error.message().contains('\u{1b}'), "{error}");
    // It is reported before any other error, even if extensions do not parse.
    let patches: &[Patch<'_>] = &[(72, &(1u64 << 40).to_be_bytes()), (40, &[0xff; 8]), (112, &[0xff; 8])];
    opening(image, patches, UnsupportedFeature, 72);
}

#[test]
fn compression_bit_and_byte_must_agree() {
    let images = Images::new();
    let image = &image(&images, "");
    opening(image, &[(79, &[8])], Malformed, 104);
    opening(image, &[(104, &[1])], Malformed, 104);
    opening(image, &[(104, &[2])], UnsupportedFeature, 104);
    opening(image, &[(79, &[8]), (104, &[2])], UnsupportedFeature, 104);
    // A header that ends before the byte.
    let short: Patch<'_> = (100, &104u32.to_be_bytes());
    opening(image, &[short, (79, &[8]), (104, &[0; 8])], Malformed, 72);
    open_bytes(patched(image, &[short, (104, &[0; 8])])).unwrap();
}

#[test]
fn extended_l2_needs_large_clusters() {
    let images = Images::new();
    let path = images.create("small", "1M", "cluster_size=8k");
    let bytes = std::fs::read(path).unwrap();
    opening(&bytes, &[(79, &[16])], Malformed, 20);
}

#[test]
fn extensions_stay_in_the_first_cluster() {
    let images = Images::new();
    let image = &image(&images, "");
    let first = 112;
    assert_eq!(image[first..first + 4], 0x6803_f857u32.to_be_bytes(), "qemu's feature name table");
    opening(image, &[(first + 4, &u32::MAX.to_be_bytes())], Malformed, 112);
    opening(image, &[(first + 4, &(65_536u32 - 112 - 7).to_be_bytes())], Malformed, 112);
    opening(&image[..400], &[], Truncated, 112);
    // The name of a backing file ends them.
    let named: &[Patch<'_>] = &[(8, &160u64.to_be_bytes()), (16, &4u32.to_be_bytes())];
    opening(image, named, Malformed, 112);
    let kind: Patch<'_> = (first, &0x2385_2875u32.to_be_bytes());
    opening(image, &[kind], Malformed, 112);
    // Unknown ones are skipped. One may fill the space to the last byte.
    let unknown: Patch<'_> = (first, &0x1234_5678u32.to_be_bytes());
    open_bytes(patched(image, &[unknown])).unwrap();
    let fills: Patch<'_> = (first + 4, &(65_536u32 - 112 - 8).to_be_bytes());
    open_bytes(patched(image, &[unknown, fills])).unwrap();
}

#[test]
fn an_object_that_ends_in_its_header_or_tables_is_truncated() {
    let images = Images::new();
    let image = &image(&images, "");
    for len in [4, 71, 72, 103] {
        opening(&image[..len], &[], Truncated, len as u64);
    }
    opening(&image[..0x8000], &[], Truncated, 48);
    opening(&image[..REFCOUNT_TABLE + 512], &[], Truncated, 48);
    opening(&image[..L1 + 7], &[], Truncated, 40);
    mapping(&image[..L1 + 8], &[], Truncated, L1 as u64);
    mapping(&image[..L2 + 127], &[], Truncated, L1 as u64);
    mapping(&image[..L2 + 128], &[], Truncated, L2 as u64);
    mapping(&image[..DATA + 0x1_0000], &[], Truncated, L2 as u64 + 8);
    mapping(&image[..DATA + 0x2_8000], &[], Truncated, L2 as u64 + 16);
}

#[test]
fn l1_entries_are_checked_when_used() {
    let images = Images::new();
    let image = &image(&images, "");
    let entry = |entry: u64| entry.to_be_bytes();
    let table = L2 as u64;
    let place = L1 as u64;
    mapping(image, &[(L1, &entry(table | 1))], Malformed, place);
    mapping(image, &[(L1, &entry(table | 1 << 62))], Malformed, place);
    mapping(image, &[(L1, &entry(table + 512))], Malformed, place);
    mapping(image, &[(L1, &entry(L1 as u64))], Malformed, place);
    mapping(image, &[(L1, &entry(REFCOUNT_TABLE as u64))], Malformed, place);
    mapping(image, &[(L1, &entry(1 << 40))], Truncated, place);
    mapping(image, &[(L1, &entry(0x00ff_ffff_ffff_0000))], Truncated, place);
    // No entry can have the header's offset: 0 means no table.
    let disk = open_bytes(patched(image, &[(L1, &entry(0))])).unwrap();
    assert!(read_all(&disk).iter().all(|byte| *byte == 0));
}

#[test]
fn l2_entries_are_checked_when_used() {
    let images = Images::new();
    let image = &image(&images, "");
    let second = L2 + 8;
    let place = second as u64;
    let bad = |entry: u64, kind| mapping(image, &[(second, &entry.to_be_bytes())], kind, place);
    bad(DATA as u64 | 2, Malformed);
    bad(DATA as u64 | 1 << 61, Malformed);
    bad(DATA as u64 + 512, Malformed);
    bad(DATA as u64 + 513, Malformed);
    bad(L1 as u64, Malformed);
    bad(REFCOUNT_TABLE as u64, Malformed);
    bad(1 << 40, Truncated);
    // Compressed: into the header, into tables, past the end.
    bad(1 << 62, Malformed);
    bad(1 << 62 | 0x70, Malformed);
    bad(1 << 62 | (L1 as u64 + 4), Malformed);
    bad(1 << 62 | image.len() as u64, Truncated);
    bad(1 << 62 | 0x3f_ffff_ffff_ffff, Truncated);
    // A cluster that is allocated for zeros may be missing, because it is not read.
    open_bytes(patched(image, &[(second, &(1u64 << 40 | 1).to_be_bytes())]))
        .and_then(|disk| extents(&disk))
        .unwrap();
}

#[test]
fn an_invalid_entry_outside_the_window_is_not_an_error() {
    let images = Images::new();
    let bytes = patched(&image(&images, ""), &[(L2 + 8, &u64::MAX.to_be_bytes())]);
    let disk = open_bytes(bytes).unwrap();
    let got = block_on(disk.extents(GuestRange::first(65_536))).unwrap();
    assert_eq!(got.len(), 1);
}

#[test]
fn the_zero_flag_is_malformed_in_version_2() {
    let images = Images::new();
    let image = &image(&images, "compat=0.10");
    mapping(image, &[(L2 + 8, &1u64.to_be_bytes())], Malformed, L2 as u64 + 8);
}

#[test]
fn sub_clusters_that_contradict_themselves_are_malformed() {
    let images = Images::new();
    let image = &image(&images, "extended_l2=on");
    let second = L2 + 16;
    let place = second as u64;
    let bits = |entry: u64, bitmap: u64| (u128::from(entry) << 64 | u128::from(bitmap)).to_be_bytes();
    mapping(image, &[(second, &bits(DATA as u64, 1 << 32 | 1))], Malformed, place);
    mapping(image, &[(second, &bits(0, 1))], Malformed, place);
    mapping(image, &[(second, &bits(DATA as u64 | 1, 0))], Malformed, place);
    mapping(image, &[(second, &bits(1 << 62 | DATA as u64, 1 << 33))], Malformed, place);
    mapping(image, &[(second, &bits(L1 as u64, 1))], Malformed, place);
    mapping(image, &[(second, &bits(1 << 40, 2))], Truncated, place);
}

#[test]
fn compressed_clusters_that_do_not_decode_are_malformed_with_their_offset() {
    let images = Images::new();
    let raw = images.raw("raw", &pattern(200_000, 3));
    for compression in ["zlib", "zstd"] {
        let path = images.path("image");
        let options = format!("compression_type={compression}");
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, text(&raw), text(&path)]);
        let bytes = std::fs::read(&path).unwrap();
        let disk = open_bytes(bytes.clone()).unwrap();
        let second = extents(&disk).unwrap()[1].to_fetch().unwrap().range;
        let (start, len) = (second.start().get() as usize, second.len() as usize);
        let disk = open_bytes(patched(&bytes, &[(start, &vec![0xff; len])])).unwrap();
        let error = content(&disk).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Malformed, Some(start as u64)));
        // Truncated: the stream ends before the cluster is full.
        let last =
            extents(&open_bytes(bytes.clone()).unwrap()).unwrap().last().unwrap().to_fetch().unwrap().range;
        let disk = open_bytes(bytes[..last.start().get() as usize + 100].to_vec()).unwrap();
        let error = content(&disk).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Malformed, Some(last.start().get())));
    }
}

#[test]
fn a_source_error_is_returned_and_can_be_retried() {
    let images = Images::new();
    let path = images.create("image", "64M", "cluster_size=512");
    qemu_io(&path, &["write -P 3 20M 1M"]);
    let bytes = std::fs::read(&path).unwrap();
    let memory = std::sync::Arc::new(MemorySource::new("x", bytes));
    let failing = Failing::new(std::sync::Arc::clone(&memory) as std::sync::Arc<dyn Source>, |number, _| {
        (number == 2).then(|| Error::new(ErrorKind::SourceUnavailable, "the source went away"))
    });
    let disk = open_source(std::sync::Arc::new(failing)).unwrap();
    let error = extents(&disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
    assert_same(&read_all(&disk), &images.truth(&path), "asked again");
}

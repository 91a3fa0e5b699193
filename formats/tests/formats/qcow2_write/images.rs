//! Images of every kind, checked with qemu-img.

use diskferry_core::WriteOrder::{self, Any, Ascending, Sequential};
use diskferry_core::conformance::digest_of;
use diskferry_corpus::oracle;
use diskferry_formats::Format;

use crate::qcow2_write::disks::{flat, sparse};
use crate::qcow2_write::{convert, judge};
use crate::support::{assert_same, noise, open_as, pattern, read_all, sample};

type Options = &'static [(&'static str, &'static str)];

const PLAIN: Options = &[];
const ZLIB: Options = &[("compression", "zlib")];
const ZSTD: Options = &[("compression", "zstd")];
/// Every kind, and its write orders.
const KINDS: [(Options, &[WriteOrder]); 3] =
    [(PLAIN, &[Any, Ascending, Sequential]), (ZLIB, &[Any, Ascending]), (ZSTD, &[Ascending])];

/// Writes `guest` in every kind with clusters of that size, and reads each with qemu-img and with our reader.
fn check(guest: &[u8], cluster: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    for (kind, orders) in KINDS {
        let mut first: Option<Vec<u8>> = None;
        for order in orders {
            let what = format!("{} bytes in clusters of {cluster}, {kind:?}, {order:?}", guest.len());
            let options = [kind, &[("cluster_size", cluster)]].concat();
            let (image, report) = convert(flat(guest), &options, *order).unwrap();
            assert_eq!(report.digest, Some(digest_of(guest)), "{what}");
            if *order != Sequential
                && let Some(first) = &first
            {
                assert!(*first == image, "{what}: the order makes no difference");
                continue;
            }
            assert_same(&read_all(&open_as(Format::Qcow2, image.clone()).unwrap()), guest, &what);
            std::fs::write(&path, &image).unwrap();
            judge(&path, guest.len() as u64);
            let seen = guest.len() / 512 * 512;
            assert_same(&oracle::guest_bytes(&path, "qcow2"), &guest[..seen], &what);
            // libyal decodes zlib clusters wrongly and does not support zstd, see corpus/README.md. It also refuses
            // empty disks, which have no L1 table in images of any writer.
            if kind == PLAIN && !guest.is_empty() {
                let raw = dir.path().join("libyal.raw");
                oracle::yal_to_raw(&path, "qcow2", &raw);
                assert_same(&std::fs::read(&raw).unwrap(), guest, &format!("{what}, libyal"));
            }
            first.get_or_insert(image);
        }
    }
}

#[test]
fn disks_of_any_size_are_complete_and_clean() {
    for (cluster, bytes) in [("512", 512), ("4K", 4096), ("64K", 65536)] {
        for size in [bytes - 512, bytes, bytes + 512, 3 * bytes + 4096 - 512, 5 * bytes + 1000] {
            check(&sample(size), cluster);
        }
    }
    check(&[], "64K");
    check(&[7; 512], "2M");
    check(&sample((4 << 20) + 512), "2M");
}

#[test]
fn empty_and_full_disks_are_clean() {
    for cluster in ["512", "64K"] {
        check(&vec![0; 300_032], cluster);
        check(&noise(300_032, 5), cluster);
    }
}

#[test]
fn many_tables_and_reference_counts_are_right() {
    // 320 L2 tables, 82 refcount blocks, a refcount table of two clusters.
    let mut guest = noise(10 << 20, 9);
    guest[1 << 20..3 << 20].copy_from_slice(&pattern(2 << 20, 3));
    guest[4 << 20..(4 << 20) + 70_000].fill(0);
    check(&guest, "512");
    // Four L2 tables, one of which is missing.
    let mut guest = vec![0; 8 << 20];
    for at in [0, 2048, (2 << 20) - 512, 6 << 20, (8 << 20) - 1] {
        guest[at] = 1;
    }
    check(&guest, "4K");
}

#[test]
fn streams_share_clusters_with_plain_clusters_between() {
    // Compressible, incompressible and zero clusters in alternating runs of every length.
    let mut guest = Vec::new();
    for turn in 0..60usize {
        let len = (1 + turn * turn % 7) * 4096;
        match turn % 4 {
            0 | 2 => guest.extend(pattern(len, turn as u64)),
            1 => guest.extend(noise(len, turn as u64)),
            _ => guest.resize(guest.len() + len, u8::from(turn % 8 == 7) * 0x33),
        }
    }
    for cluster in ["512", "1K", "4K", "8K", "64K"] {
        check(&guest, cluster);
    }
}

#[test]
fn many_tiny_streams_share_one_large_cluster() {
    // 512 clusters of one byte each: about 20 bytes per stream.
    let guest: Vec<u8> = (0..512u32).flat_map(|n| vec![n as u8 | 1; 8192]).collect();
    check(&guest, "8K");
    let guest: Vec<u8> = (0..4u8).flat_map(|n| vec![n + 1; 2 << 20]).collect();
    check(&guest, "2M");
}

#[test]
fn small_clusters_of_zeros_in_blocks_of_data_are_left_out() {
    let mut guest = vec![0; 1 << 20];
    for at in (0..1 << 20).step_by(4096) {
        guest[at + 1024] = 1;
    }
    let (image, _) = convert(flat(&guest), &[("cluster_size", "512")], Any).unwrap();
    assert!(image.len() < 256 * 512 + 32 * 512 + 16 * 512, "{}", image.len());
    check(&guest, "512");
}

#[test]
fn huge_nearly_empty_disks_become_small_clean_images() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    let size = 64u64 << 40;
    let pieces =
        [(512, noise(4096, 1)), ((3 << 40) - 512, pattern(100_000, 2)), (size - 4096, noise(4096, 3))];
    for (kind, orders) in KINDS {
        for order in orders {
            let (image, report) = convert(sparse(size, &pieces), kind, *order).unwrap();
            assert!(image.len() < 2 << 20, "{} bytes", image.len());
            let disk = open_as(Format::Qcow2, image.clone()).unwrap();
            let back = crate::qcow2_write::digest(disk);
            assert_eq!((back, report.image.virtual_bytes), (report.digest, size));
            std::fs::write(&path, &image).unwrap();
            judge(&path, size);
        }
    }
}

//! Optional features of an image: read, reported or refused.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Capabilities, ErrorKind, ExtentKind, GuestRange, Identity, MemorySource, Result, Segment,
    Source, StoredRange, Traffic,
};

use crate::qcow2::images::*;

fn kinds(disk: &diskferry_core::Disk) -> Vec<(u64, u64, &'static str)> {
    let name = |kind: &ExtentKind| match kind {
        ExtentKind::Data(_) => "data",
        ExtentKind::Sparse(_) => "sparse",
        ExtentKind::Coded(_) => "compressed",
        ExtentKind::Zero => "zero",
        ExtentKind::Hole => "hole",
    };
    extents(disk)
        .unwrap()
        .iter()
        .map(|extent| (extent.guest.start().get(), extent.guest.len(), name(&extent.kind)))
        .collect()
}

#[test]
fn zero_clusters_with_and_without_an_allocation_are_zero() {
    let images = Images::new();
    let image = images.create("image", "1M", "");
    qemu_io(
        &image,
        &[
            "write -P 7 0 256K",
            "write -z 64K 64K",
            "write -zu 128K 64K",
            "write -z 512K 128K",
            "discard 192K 64K",
        ],
    );
    let disk = assert_reads_as_qemu(&images, &image, "zero clusters");
    let k = 1024;
    assert_eq!(
        kinds(&disk),
        [
            (0, 64 * k, "data"),
            (64 * k, 192 * k, "zero"),
            (256 * k, 256 * k, "hole"),
            (512 * k, 128 * k, "zero"),
            (640 * k, 384 * k, "hole")
        ]
    );
    assert!(warnings(&disk).is_empty());
}

#[test]
fn preallocated_images_match_qemu() {
    let images = Images::new();
    for preallocation in ["metadata", "falloc", "full"] {
        for extended in ["off", "on"] {
            for cluster in ["16k", "64k", "2M"] {
                let what =
                    format!("preallocation={preallocation},extended_l2={extended},cluster_size={cluster}");
                let image = images.create("image", "3000K", &what);
                assert_reads_as_qemu(&images, &image, &what);
                qemu_io(&image, &["write -P 9 100K 3K", "write -P 9 2990K 10K"]);
                let disk = assert_reads_as_qemu(&images, &image, &what);
                let content: u64 = kinds(&disk).iter().filter(|e| e.2 == "data").map(|e| e.1).sum();
                assert!(content >= 13 << 10);
            }
        }
    }
}

#[test]
fn the_last_cluster_may_be_short_only_after_the_end_of_the_disk() {
    let images = Images::new();
    let image = images.create("image", "100K", "");
    qemu_io(&image, &["write -P 7 0 100K"]);
    let bytes = std::fs::read(&image).unwrap();
    assert_eq!(bytes.len(), 0x50000 + 2 * 65_536, "the layout that this test needs");
    let truth = images.truth(&image);
    let used = bytes.len() - (128 - 100) * 1024;
    for (len, warned) in [(bytes.len(), false), (bytes.len() - 1, true), (used, true)] {
        let disk = open_bytes(bytes[..len].to_vec()).unwrap();
        assert_same(&read_all(&disk), &truth, "cut");
        assert_eq!(warnings(&disk).contains(&"short_last_cluster"), warned, "{len}");
    }
    let disk = open_bytes(bytes[..used - 1].to_vec()).unwrap();
    let error = extents(&disk).unwrap_err();
    assert_eq!(said(&error), ("truncated", Some(0x40008)), "content is missing");
}

#[test]
fn an_image_grown_after_a_short_preallocated_cluster_matches_qemu() {
    let images = Images::new();
    let image = images.create("image", "100K", "extended_l2=on,preallocation=metadata");
    qemu_img(&["resize", "-q", text(&image), "300K"]);
    assert!(std::fs::metadata(&image).unwrap().len() < 0x50000 + 2 * 65_536, "the last cluster is short");
    assert_reads_as_qemu(&images, &image, "grown");
}

#[test]
fn the_active_disk_is_read_and_snapshots_are_reported() {
    let images = Images::new();
    let image = images.create("image", "4M", "");
    qemu_io(&image, &["write -P 1 0 1M"]);
    qemu_img(&["snapshot", "-c", "before", text(&image)]);
    qemu_io(&image, &["write -P 2 512K 1M"]);
    qemu_img(&["snapshot", "-c", "with \u{1b}[31m", text(&image)]);
    qemu_io(&image, &["write -P 3 900K 4K"]);
    let disk = assert_reads_as_qemu(&images, &image, "snapshots");
    assert_eq!(warnings(&disk), ["snapshots_not_converted"]);
    let message = &disk.warnings().list()[0].message;
    assert!(message.contains("2 internal snapshots") && message.contains("\"before\""), "{message}");
    assert!(!message.contains('\u{1b}'), "{message}");
    assert!(disk.info().features.contains(&"snapshots: 2".to_owned()));

    // The saved state of a machine: the size in the first entry's extra data.
    let mut bytes = std::fs::read(&image).unwrap();
    let table = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
    bytes[table + 40..table + 48].copy_from_slice(&(5u64 << 30).to_be_bytes());
    let disk = open_bytes(bytes).unwrap();
    assert_eq!(warnings(&disk), ["snapshots_not_converted", "vm_state_not_converted"]);
}

#[test]
fn refcounts_of_every_width_are_ignored() {
    let images = Images::new();
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        let what = format!("refcount_bits={bits}");
        let image = images.create("image", "2M", &what);
        qemu_io(&image, &["write -P 5 100K 700K"]);
        let disk = assert_reads_as_qemu(&images, &image, &what);
        assert!(disk.info().features.contains(&format!("refcount_bits: {bits}")));
    }
}

#[test]
fn dirty_corrupt_and_lazy_images_are_read_with_warnings() {
    let images = Images::new();
    let image = images.create("image", "2M", "lazy_refcounts=on");
    qemu_io(&image, &["write -P 5 100K 700K"]);
    let truth = images.truth(&image);
    let bytes = std::fs::read(&image).unwrap();
    for (bits, said) in [(0, vec![]), (1, vec!["dirty"]), (2, vec!["corrupt"]), (3, vec!["dirty", "corrupt"])]
    {
        let mut bytes = bytes.clone();
        bytes[79] |= bits;
        let disk = open_bytes(bytes).unwrap();
        assert_eq!(warnings(&disk), said);
        assert!(disk.info().features.contains(&"lazy_refcounts".to_owned()));
        assert_same(&read_all(&disk), &truth, "flags");
    }
}

#[test]
fn bitmaps_are_reported() {
    let images = Images::new();
    let image = images.create("image", "2M", "");
    qemu_img(&["bitmap", "--add", "--enable", text(&image), "one"]);
    qemu_img(&["bitmap", "--add", text(&image), "two"]);
    qemu_io(&image, &["write -P 5 100K 700K"]);
    let disk = assert_reads_as_qemu(&images, &image, "bitmaps");
    assert_eq!(warnings(&disk), ["bitmaps_not_converted"]);
    assert!(disk.info().features.contains(&"bitmaps: 2".to_owned()));
}

#[track_caller]
fn refused(bytes: Vec<u8>, kind: ErrorKind, names: &str) {
    let disk = open_bytes(bytes).unwrap();
    assert_eq!(disk.virtual_bytes(), 2 << 20, "it is still described");
    let refusal = disk.refusals().first().unwrap();
    assert_eq!(refusal.kind, kind);
    assert!(refusal.message.contains(names), "{}", refusal.message);
    let error = block_on(disk.extents(GuestRange::first(512))).unwrap_err();
    assert_eq!(error.kind(), kind);
}

#[test]
fn images_that_need_other_files_or_keys_are_described_and_refused() {
    let images = Images::new();
    let base = images.create("base", "2M", "");
    qemu_io(&base, &["write -P 5 100K 700K"]);
    let over = images.path("over");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base", text(&over)]);
    refused(std::fs::read(&over).unwrap(), ErrorKind::BackingFileRefused, "\"base\" of format \"qcow2\"");
    let absolute = text(&base).to_owned();
    let options = ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-o", "compat=0.10"];
    qemu_img(&[&options[..], &["-b", &absolute, text(&over), "2M"]].concat());
    let mut bytes = std::fs::read(&over).unwrap();
    refused(bytes.clone(), ErrorKind::BackingFileRefused, &absolute);
    assert_eq!(bytes[72..76], 0xe279_2acau32.to_be_bytes(), "the backing format extension");
    bytes[72..76].fill(0);
    refused(bytes, ErrorKind::BackingFileRefused, &format!("{absolute:?}"));

    let options = format!("data_file={}", text(&images.path("data")));
    let external = images.create("external", "2M", &options);
    refused(std::fs::read(&external).unwrap(), ErrorKind::ExternalDataRefused, "data\"");

    let luks = images.path("luks");
    let secret = ["create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=mellon", "-o"];
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    qemu_img(&[&secret[..], &[options, text(&luks), "2M"]].concat());
    refused(std::fs::read(&luks).unwrap(), ErrorKind::EncryptedRefused, "LUKS");
    let mut aes = std::fs::read(&base).unwrap();
    aes[35] = 1;
    refused(aes, ErrorKind::EncryptedRefused, "AES");
}

#[test]
fn extensions_after_the_head_of_the_object_are_found() {
    let images = Images::new();
    let image = images.create("image", "2M", "cluster_size=2M");
    let mut bytes = std::fs::read(&image).unwrap();
    // An unknown extension that is longer than the head that detection reads, and a name after it.
    let long = 200_001usize;
    let mut at = 112;
    bytes[at..at + 4].copy_from_slice(&0x1234_5678u32.to_be_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&(long as u32).to_be_bytes());
    at += 8 + long.next_multiple_of(8);
    bytes[at..at + 4].copy_from_slice(&0x4441_5441u32.to_be_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&9u32.to_be_bytes());
    bytes[at + 8..at + 17].copy_from_slice(b"elsewhere");
    bytes[79] |= 4;
    refused(bytes, ErrorKind::ExternalDataRefused, "\"elsewhere\"");
}

/// A source that reports which blocks of 64 KiB are holes, like a sparse file.
#[derive(Debug)]
struct Sparse(Bytes, MemorySource);

impl Source for Sparse {
    fn url(&self) -> &str {
        self.1.url()
    }
    fn len(&self) -> u64 {
        self.1.len()
    }
    fn identity(&self) -> &Identity {
        self.1.identity()
    }
    fn capabilities(&self) -> Capabilities {
        self.1.capabilities()
    }
    fn traffic(&self) -> Traffic {
        self.1.traffic()
    }
    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        self.1.read(range)
    }
    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move {
            let mut rest = range;
            let mut segments = Vec::new();
            while !rest.is_empty() && segments.len() < 3 {
                let to_edge = 65_536 - rest.start().get() % 65_536;
                let (one, behind) = rest.split_at(to_edge);
                let bytes = &self.0[one.start().get() as usize..one.end().get() as usize];
                segments.push(Segment { range: one, hole: bytes.iter().all(|byte| *byte == 0) });
                rest = behind;
            }
            Ok(segments)
        })
    }
    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        self.1.verify()
    }
}

#[test]
fn holes_of_a_sparse_file_under_preallocated_clusters_are_not_read() {
    let images = Images::new();
    let image = images.create("image", "4M", "preallocation=metadata");
    qemu_io(&image, &["write -P 9 1M 64K"]);
    let bytes = Bytes::from(std::fs::read(&image).unwrap());
    let source = Sparse(bytes.clone(), MemorySource::new("sparse", bytes));
    let disk = open_source(Arc::new(source)).unwrap();
    let m = 1 << 20;
    assert_eq!(kinds(&disk), [(0, m, "sparse"), (m, 65_536, "data"), (m + 65_536, 3 * m - 65_536, "sparse")]);
    assert_same(&read_all(&disk), &images.truth(&image), "sparse");
    assert!(
        extents(&disk).unwrap().iter().all(|extent| extent.is_allocated()),
        "the image maps them all the same"
    );
}

//! qemu-img, libyal and our own readers read the targets.

use std::path::Path;

use bytes::Bytes;
use diskferry_core::{BoxFuture, ByteStream, Conversion, ImageStream, Input, Result, WriteOrder};
use diskferry_corpus::oracle::{qemu_check, qemu_virtual_bytes, yal_to_raw};
use diskferry_formats::{Declared, open_stream};

use crate::support::qemu::{qemu_img, qemu_io, text};
use crate::support::vmdk::content_of;
use crate::support::{assert_same, block_on, noise, pattern, sample};
use crate::vmdk_write::made::*;

/// Disk sizes near grains and tables, in bytes, and their contents.
fn disks() -> Vec<(&'static str, Vec<u8>)> {
    let table = 32 << 20;
    vec![
        ("the smallest", vec![0xaa; 512]),
        ("the smallest, empty", vec![0; 512]),
        ("a block and a sector", sample(4608)),
        ("a grain less a sector", sample(GRAIN - 512)),
        ("a grain", sample(GRAIN)),
        ("a grain and a sector", sample(GRAIN + 512)),
        ("empty, two tables", vec![0; table + 512]),
        ("two tables, the first full", [noise(table, 1), noise(512, 2)].concat()),
        ("three tables, ends only", pieces(2 * table + 1536, &[(0, vec![1]), (2 * table + 1535, vec![2])])),
        ("mixed", sample((7 << 20) + 1024)),
    ]
}

fn check_with_others(path: &Path, truth: &[u8], what: &str) {
    qemu_check(path, "vmdk");
    assert_eq!(qemu_virtual_bytes(path, "vmdk"), truth.len() as u64, "{what}");
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("guest.raw");
    std::fs::write(&raw, truth).unwrap();
    qemu_img(&["compare", "-f", "vmdk", "-F", "raw", text(path), text(&raw)]);
    yal_to_raw(path, "vmdk", &raw);
    assert_same(&std::fs::read(&raw).unwrap(), truth, what);
}

fn check_under_another_name(kind: &[(&str, &str)], order: WriteOrder, disks: &[(&str, Vec<u8>)]) {
    let directory = tempfile::tempdir().unwrap();
    // A different name than in the descriptor.
    let path = directory.path().join("renamed.img");
    for (name, guest) in disks {
        let what = format!("{name}, {kind:?}, {order:?}");
        let (bytes, ..) = try_write(raw(guest), kind, order).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        check_with_others(&path, guest, &what);
        assert_same(&content_of(bytes).unwrap(), guest, &what);
    }
}

#[test]
fn qemu_and_libyal_read_every_sparse_image_under_any_name() {
    check_under_another_name(&[], WriteOrder::Any, &disks());
}

#[test]
fn qemu_and_libyal_read_every_stream_under_any_name() {
    check_under_another_name(&[STREAM], WriteOrder::Any, &disks());
}

#[test]
fn qemu_and_libyal_read_sequentially_written_images() {
    for kind in KINDS {
        check_under_another_name(kind, WriteOrder::Sequential, &disks()[7..]);
    }
}

#[test]
fn an_aligned_disk_has_the_same_size_in_other_readers() {
    let guest = sample(GRAIN + 700);
    let mut truth = guest.clone();
    truth.resize(1 << 20, 0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vmdk");
    for kind in KINDS {
        std::fs::write(&path, write(raw(&guest), &[kind, &[("align", "1M")]].concat())).unwrap();
        check_with_others(&path, &truth, "aligned");
    }
}

#[test]
fn a_sparse_image_is_writable_in_empty_ranges() {
    let guest = pieces(100 << 20, &[(0, pattern(9000, 1)), ((70 << 20) + 77, noise(9000, 2))]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vmdk");
    for order in [WriteOrder::Any, WriteOrder::Sequential] {
        // Read from a VMDK, so that its map has holes.
        let first = write(raw(&guest), &[]);
        let disk = crate::support::vmdk::open_vmdk(first).unwrap();
        std::fs::write(&path, try_write(disk, &[], order).unwrap().0).unwrap();
        let mut truth = guest.clone();
        truth[40 << 20..(40 << 20) + 4096].fill(0x55);
        truth[(99 << 20) + 512..(99 << 20) + 1024].fill(0x66);
        let writes =
            [format!("write -P 0x55 {} 4096", 40 << 20), format!("write -P 0x66 {} 512", (99 << 20) + 512)];
        qemu_io(&path, "vmdk", &[&writes[0], &writes[1]]);
        check_with_others(&path, &truth, "written to");
    }
}

/// A stream of bytes in pieces of odd lengths.
struct Pieces(Bytes);

impl ByteStream for Pieces {
    fn url(&self) -> &str {
        "-"
    }

    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>> {
        let len = self.0.len().min(most).min(7777);
        let next = self.0.split_to(len);
        Box::pin(async move { Ok(next) })
    }
}

fn one_pass(bytes: Vec<u8>) -> Box<dyn ImageStream> {
    block_on(open_stream(Box::new(Pieces(bytes.into())), Declared::Unknown)).unwrap()
}

#[test]
fn a_stream_is_read_in_one_pass() {
    for (name, guest) in disks() {
        let truth = diskferry_core::conformance::digest_of(&guest);
        let (bytes, report, _) = try_write(raw(&guest), &[STREAM], WriteOrder::Sequential).unwrap();
        assert_eq!(report.digest, Some(truth));
        let read = block_on(Conversion::reading(one_pass(bytes)).stall_timeout(None).run()).unwrap();
        assert_eq!(read.digest, Some(truth), "{name}");
        assert_eq!(read.warnings, Vec::new(), "{name}");
    }
}

#[test]
fn a_stream_converted_from_pipe_to_pipe_is_unchanged() {
    let guest = sample((5 << 20) + 512);
    let first = write(raw(&guest), &[STREAM]);
    let input: Input = one_pass(first.clone()).into();
    let (second, ..) = try_write(input, &[STREAM], WriteOrder::Sequential).unwrap();
    assert!(first[128 * 512..] == second[128 * 512..], "the grains, tables and the directory");
    assert_same(&content_of(second).unwrap(), &guest, "the disk");
}

#[test]
fn a_raw_stream_of_unknown_size_becomes_a_stream_optimized_file() {
    let guest = sample((5 << 20) + 512);
    let stream = |guest: &[u8]| {
        let bytes: Box<dyn ByteStream> = Box::new(Pieces(Bytes::copy_from_slice(guest)));
        Input::from(block_on(open_stream(bytes, Declared::Format(diskferry_formats::Format::Raw))).unwrap())
    };
    for order in [WriteOrder::Any, WriteOrder::Ascending] {
        let (bytes, ..) = try_write(stream(&guest), &[STREAM], order).unwrap();
        assert_same(&content_of(bytes).unwrap(), &guest, "the disk");
    }
    let sequential = (&[STREAM][..], WriteOrder::Sequential);
    for (kind, order) in [sequential, (&[], WriteOrder::Any), (&[], WriteOrder::Sequential)] {
        let error = crate::support::failure(try_write(stream(&guest), kind, order));
        assert_eq!(error.kind().code(), "destination_unsuitable", "{kind:?} {order:?}: {error:?}");
        assert!(error.hint_text().is_some());
    }
}

#[test]
fn the_target_is_not_larger_than_reported() {
    let guest = sample(40 << 20);
    for kind in KINDS {
        for order in [WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential] {
            let (bytes, report, expected) = try_write(raw(&guest), kind, order).unwrap();
            let (name, variant, receipt) = report.target.unwrap();
            assert_eq!((name, receipt.bytes), ("vmdk", bytes.len() as u64));
            assert_eq!(variant, if kind.is_empty() { "monolithicSparse" } else { "streamOptimized" });
            let most = expected.most_bytes.unwrap();
            assert_eq!(expected.exact, kind.is_empty() && order == WriteOrder::Sequential);
            assert!(bytes.len() as u64 <= most && (!expected.exact || bytes.len() as u64 == most));
            assert!(most < (guest.len() + (1 << 20)) as u64, "{most} is too large");
        }
    }
}

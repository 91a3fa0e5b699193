//! VMDK images created by qemu-img, read back to the original bytes.

use std::sync::Arc;

use crate::support::files::Files;
use crate::support::qemu::*;
use crate::support::vmdk::*;
use crate::support::*;
use diskferry_core::{ExtentKind, FileGate, FileSource, GuestOffset, GuestRange};
use diskferry_formats::{Declared, Format, open_with};

/// Creates an image of `truth` and reads it.
fn round(truth: &[u8], options: &str) -> (Arc<Files>, Vec<u8>, diskferry_core::Disk) {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let image = directory.path().join("disk.vmdk");
    std::fs::write(&raw, truth).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", options, text(&raw), text(&image)]);
    std::fs::remove_file(&raw).unwrap();
    let files = Arc::new(Files::of(directory.path()));
    let disk = files.open("disk.vmdk").unwrap();
    let bytes = content(&disk).unwrap();
    (files, bytes, disk)
}

#[test]
fn every_subformat_of_qemu_reads_back() {
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        for len in [512, 65536, (3 << 20) + 512, (33 << 20) + 65536 - 512] {
            let truth = sample(len);
            let (_, bytes, disk) = round(&truth, &format!("subformat={subformat}"));
            assert_same(&bytes, &truth, "the disk");
            assert_eq!(disk.info().variant, subformat);
            assert_eq!(warnings(&disk), Vec::<&str>::new(), "{subformat} {len}");
        }
    }
}

#[test]
fn zeroed_grains_of_qemu_are_zero_and_not_holes() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", text(&image), "4M"]);
    let writes = ["write -P 7 0 1M", "write -P 9 2M 512k", "write -z 256k 128k", "write -z 3M 64k"];
    qemu_io(&image, "vmdk", &writes);
    let bytes = std::fs::read(&image).unwrap();
    let truth = qemu_reads(&bytes, "vmdk");
    let disk = open_vmdk(bytes).unwrap();
    assert_same(&content(&disk).unwrap(), &truth, "the disk");
    let zeros: u64 = extents(&disk)
        .unwrap()
        .iter()
        .filter(|extent| matches!(extent.kind, ExtentKind::Zero))
        .map(|extent| extent.guest.len())
        .sum();
    assert_eq!(zeros, (128 + 64) << 10);
    assert!(disk.info().features.contains(&"zeroed grains".to_owned()));
}

#[test]
fn a_set_of_more_than_two_gigabytes_reads() {
    for (subformat, file) in
        [("twoGbMaxExtentSparse", "disk-s002.vmdk"), ("twoGbMaxExtentFlat", "disk-f002.vmdk")]
    {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.vmdk");
        let option = format!("subformat={subformat}");
        qemu_img(&["create", "-q", "-f", "vmdk", "-o", &option, text(&image), "5G"]);
        let boundary = 4_192_256u64 * 512;
        let places = [0, boundary - 4096, (5 << 30) - 8192];
        let writes: Vec<String> =
            (1..).zip(places).map(|(number, at)| format!("write -P {number} {at} 8192")).collect();
        qemu_io(&image, "vmdk", &writes.iter().map(String::as_str).collect::<Vec<_>>());
        let files = Arc::new(block_on(FileGate::beside(&image)).unwrap());
        let disk = block_on(open_with(
            Arc::new(block_on(FileSource::open(&image)).unwrap()),
            Declared::Format(Format::Vmdk),
            files,
        ))
        .unwrap();
        assert_eq!(disk.virtual_bytes(), 5 << 30);
        assert!(directory.path().join(file).exists());
        extents(&disk).unwrap();
        for (number, place) in places.iter().enumerate() {
            let range = GuestRange::new(GuestOffset::new(*place), 8192).unwrap();
            let read = block_on(disk.read(range)).unwrap();
            assert!(read.iter().all(|byte| *byte == number as u8 + 1), "{subformat} {place}");
        }
    }
}

//! VMDK images that qemu-img makes, read back to the bytes that they were made of.

mod support_vmdk;

use std::sync::Arc;

use support_vmdk::*;

/// Makes an image of `truth` and reads it.
fn round(truth: &[u8], options: &str) -> (Arc<Files>, Vec<u8>, diskferry_core::disk::Disk) {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let image = directory.path().join("disk.vmdk");
    std::fs::write(&raw, truth).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", options, path(&raw), path(&image)]);
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
            assert_same(&bytes, &truth);
            assert_eq!(disk.geometry().variant, subformat);
            assert_eq!(warnings(&disk), Vec::<&str>::new(), "{subformat} {len}");
        }
    }
}

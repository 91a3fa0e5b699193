//! VMDK images that qemu-img makes, read back to the bytes that they were made of.

mod support_vmdk;

use std::path::PathBuf;
use std::sync::Arc;

use diskferry_core::address::{GuestOffset, GuestRange};
use diskferry_core::error::Result;
use diskferry_core::extent::ExtentKind;
use diskferry_core::source::file::FileSource;
use diskferry_core::source::{BoxFuture, Gate, SiblingName, Source};
use diskferry_formats::{Declared, Format, open_with};
use support_vmdk::*;

/// Hands out the files of a directory.
struct OnDisk(PathBuf);

impl Gate for OnDisk {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let path = self.0.join(name.as_str());
        Box::pin(async move { Ok(Arc::new(FileSource::open(path).await?) as Arc<dyn Source>) })
    }
}

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

#[test]
fn zeroed_grains_of_qemu_are_zero_and_not_holes() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", path(&image), "4M"]);
    let writes = ["write -P 7 0 1M", "write -P 9 2M 512k", "write -z 256k 128k", "write -z 3M 64k"];
    let mut command = std::process::Command::new("qemu-io");
    command.args(writes.iter().flat_map(|write| ["-c", write])).args(["-f", "vmdk", path(&image)]);
    let output = command.output().expect("qemu-io is needed: apt-get install qemu-utils");
    assert!(output.status.success(), "{output:?}");
    let raw = directory.path().join("disk.raw");
    qemu_img(&["convert", "-O", "raw", path(&image), path(&raw)]);
    let disk = open_bytes(std::fs::read(&image).unwrap()).unwrap();
    assert_same(&content(&disk).unwrap(), &std::fs::read(&raw).unwrap());
    let zeros: u64 = extents(&disk)
        .unwrap()
        .iter()
        .filter(|extent| matches!(extent.kind, ExtentKind::Zero))
        .map(|extent| extent.guest.len())
        .sum();
    assert_eq!(zeros, (128 + 64) << 10);
    assert!(disk.geometry().features.contains(&"zeroed grains".to_owned()));
}

#[test]
fn a_set_of_more_than_two_gigabytes_reads() {
    for (subformat, file) in
        [("twoGbMaxExtentSparse", "disk-s002.vmdk"), ("twoGbMaxExtentFlat", "disk-f002.vmdk")]
    {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.vmdk");
        let option = format!("subformat={subformat}");
        qemu_img(&["create", "-q", "-f", "vmdk", "-o", &option, path(&image), "5G"]);
        let boundary = 4_192_256u64 * 512;
        let places = [0, boundary - 4096, (5 << 30) - 8192];
        let mut command = std::process::Command::new("qemu-io");
        for (number, place) in places.iter().enumerate() {
            command.args(["-c", &format!("write -P {} {place} 8192", number + 1)]);
        }
        let output = command
            .args(["-f", "vmdk", path(&image)])
            .output()
            .expect("qemu-io is needed: apt-get install qemu-utils");
        assert!(output.status.success(), "{output:?}");
        let files = Arc::new(OnDisk(directory.path().to_owned()));
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

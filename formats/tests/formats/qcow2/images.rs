//! Images created by qemu-img and qemu-io in a temporary directory. They are opened as declared QCOW2.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskferry_core::{Disk, Result, Source};
use diskferry_corpus::oracle;
use diskferry_formats::{Declared, Format};
use tempfile::TempDir;

pub(crate) use crate::support::qcow2::Built;
pub(crate) use crate::support::qemu::{qemu_img, qemu_io_unless_it_stops_itself, text};
pub(crate) use crate::support::{
    assert_same, block_on, content, extents, pattern, read, read_all, said, walk, warnings,
};

/// A temporary directory of images.
pub(crate) struct Images(TempDir);

impl Images {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An empty image with `-o options`.
    pub(crate) fn create(&self, name: &str, size: &str, options: &str) -> PathBuf {
        let path = self.path(name);
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([text(&path), size]);
        qemu_img(&args);
        path
    }

    /// A raw file of those bytes.
    pub(crate) fn raw(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The guest's bytes from qemu-img.
    pub(crate) fn truth(&self, image: &Path) -> Vec<u8> {
        oracle::guest_bytes(image, "qcow2")
    }
}

/// Runs qemu-io commands on an image.
pub(crate) fn qemu_io(image: &Path, commands: &[&str]) {
    crate::support::qemu::qemu_io(image, "qcow2", commands);
}

pub(crate) fn open_source(source: Arc<dyn Source>) -> Result<Disk> {
    crate::support::open_source(source, Declared::Format(Format::Qcow2))
}

pub(crate) fn open_bytes(bytes: Vec<u8>) -> Result<Disk> {
    crate::support::open_as(Format::Qcow2, bytes)
}

pub(crate) fn open(path: &Path) -> Disk {
    open_bytes(std::fs::read(path).unwrap()).unwrap()
}

/// Fails unless the image reads as in qemu-img, in one window and in odd ones.
pub(crate) fn assert_reads_as_qemu(images: &Images, image: &Path, what: &str) -> Disk {
    let disk = open(image);
    let truth = images.truth(image);
    assert_same(&read_all(&disk), &truth, what);
    let odd = (disk.virtual_bytes() / 7).max(1) | 1;
    assert_same(&read(&disk, odd).unwrap().0, &truth, &format!("{what}, in windows of {odd}"));
    disk
}

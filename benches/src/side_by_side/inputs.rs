//! The images to convert. They are made once from programs and libraries of the machine, and kept.
//!
//! ```text
//! /usr/bin, /usr/lib ──mke2fs -d──▶ disk.raw ──qemu-img──▶ plain.qcow2 ──clusters shuffled──▶ fragmented.qcow2
//!                                            ├──qemu-img──▶ zlib.qcow2, zstd.qcow2, dynamic.vhd, sparse.vmdk, stream.vmdk
//! ```

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::form::Form;
use crate::fragment;
use crate::run::run;
use crate::tools;
use crate::tree;

/// Sizes of the inputs, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    /// Total size of the files on the disk.
    pub(crate) content: u64,
    /// Size of the disk.
    pub(crate) disk: u64,
    /// Size of the disk that is fetched as raw.
    pub(crate) fetched: u64,
    /// Size of the disk for `measure`.
    pub(crate) large: u64,
}

/// An input image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Image {
    Raw,
    Plain,
    Zlib,
    Zstd,
    Vhd,
    SparseVmdk,
    StreamVmdk,
    /// `Plain` with shuffled clusters.
    Fragmented,
    /// A smaller raw disk with the same files, because holes of a file are data in an object.
    Fetched,
    /// A fully allocated QCOW2.
    Large,
    /// A nearly empty raw disk of 16 TiB.
    Empty16,
    /// A nearly empty raw disk of 8 TiB.
    Empty8,
    /// An empty disk of 64 TiB. It is a QCOW2, because ext4 does not support files of this length.
    Empty64,
}

impl Image {
    pub(crate) fn form(self) -> Form {
        match self {
            Self::Raw | Self::Fetched | Self::Empty16 | Self::Empty8 => Form::Raw,
            Self::Plain | Self::Fragmented | Self::Large | Self::Empty64 => Form::Plain,
            Self::Zlib => Form::Zlib,
            Self::Zstd => Form::Zstd,
            Self::Vhd => Form::Vhd,
            Self::SparseVmdk => Form::SparseVmdk,
            Self::StreamVmdk => Form::StreamVmdk,
        }
    }

    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Raw => "disk.raw",
            Self::Plain => "plain.qcow2",
            Self::Zlib => "zlib.qcow2",
            Self::Zstd => "zstd.qcow2",
            Self::Vhd => "dynamic.vhd",
            Self::SparseVmdk => "sparse.vmdk",
            Self::StreamVmdk => "stream.vmdk",
            Self::Fragmented => "fragmented.qcow2",
            Self::Fetched => "fetched.raw",
            Self::Large => "large.qcow2",
            Self::Empty16 => "empty-16t.raw",
            Self::Empty8 => "empty-8t.raw",
            Self::Empty64 => "empty-64t.qcow2",
        }
    }
}

/// The directory of the inputs.
#[derive(Debug)]
pub(crate) struct Inputs {
    dir: PathBuf,
    sizes: Sizes,
}

impl Inputs {
    /// Returns the inputs of these sizes below `work`. Inputs of other sizes are kept apart.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub(crate) fn new(work: &Path, sizes: Sizes) -> Result<Self> {
        let Sizes { content, disk, fetched, large } = sizes;
        let dir = work.join(format!("inputs-{content}-{disk}-{fetched}-{large}"));
        fs::create_dir_all(&dir).map_err(Failure::at("making", &dir))?;
        Ok(Self { dir, sizes })
    }

    /// Returns the image's file, and makes it if it is missing. Its bytes are in the page cache.
    ///
    /// # Errors
    /// If a tool is missing or fails, or there is no space.
    pub(crate) fn warm(&self, image: Image) -> Result<PathBuf> {
        let path = self.path(image)?;
        // Nearly empty disks are not read: that would take hours.
        if !matches!(image, Image::Empty16 | Image::Empty8 | Image::Large) {
            read_through(&path)?;
        }
        Ok(path)
    }

    /// Returns the image's file, and makes it if it is missing.
    ///
    /// # Errors
    /// Like [`warm`](Self::warm).
    pub(crate) fn path(&self, image: Image) -> Result<PathBuf> {
        let path = self.dir.join(image.file_name());
        if path.exists() {
            return Ok(path);
        }
        eprintln!("making {}", image.file_name());
        // Renamed when complete, so that an interrupted run does not leave a partial input.
        let begun = self.dir.join(format!("{}.begun", image.file_name()));
        self.make(image, &begun)?;
        fs::rename(&begun, &path).map_err(Failure::at("renaming", &begun))?;
        Ok(path)
    }

    fn make(&self, image: Image, begun: &Path) -> Result<()> {
        match image {
            Image::Raw => self.file_system(begun, self.sizes.disk),
            Image::Fetched => self.file_system(begun, self.sizes.fetched),
            Image::Plain | Image::Zlib | Image::Zstd | Image::Vhd | Image::SparseVmdk | Image::StreamVmdk => {
                let mut convert = Command::new(tools::qemu_img()?);
                convert.args(["convert", "-f", "raw"]).args(image.form().qemu_target());
                run(convert.arg(self.path(Image::Raw)?).arg(begun)).map(drop)
            }
            Image::Fragmented => {
                let plain = self.path(Image::Plain)?;
                fragment::shuffle(&plain, begun)?;
                let mut check = Command::new(tools::qemu_img()?);
                run(check.args(["check", "-q", "-f", "qcow2"]).arg(begun))?;
                let mut compare = Command::new(tools::qemu_img()?);
                compare.args(["compare", "-q", "-f", "qcow2", "-F", "qcow2"]);
                run(compare.arg(&plain).arg(begun)).map(drop)
            }
            Image::Large => create(begun, "preallocation=metadata", self.sizes.large),
            Image::Empty64 => create(begun, "cluster_size=64K", 64 << 40),
            // The maximum file size of ext4 is one block less.
            Image::Empty16 => self.nearly_empty(begun, (16 << 40) - (64 << 10)),
            Image::Empty8 => self.nearly_empty(begun, 8 << 40),
        }
    }

    fn file_system(&self, begun: &Path, bytes: u64) -> Result<()> {
        let staged = self.dir.join("staged");
        tree::stage(&staged, self.sizes.content)?;
        // A file left by an interrupted run may be longer.
        let file = File::create(begun).map_err(Failure::at("making", begun))?;
        file.set_len(bytes).map_err(Failure::at("lengthening", begun))?;
        let mut mke2fs = Command::new(tools::mke2fs()?);
        mke2fs.args(["-q", "-F", "-t", "ext4", "-U", "6d1f2a4e-93b7-4c58-8c0e-27d5a1b9f360", "-d"]);
        run(mke2fs.arg(&staged).arg(begun))?;
        fs::remove_dir_all(&staged).map_err(Failure::at("removing", &staged))
    }

    /// Writes the first MiB of the disk at the start and in the middle.
    fn nearly_empty(&self, begun: &Path, bytes: u64) -> Result<()> {
        let mut head = vec![0; 1 << 20];
        let raw = self.path(Image::Raw)?;
        File::open(&raw)
            .and_then(|mut raw| raw.read_exact(&mut head))
            .map_err(Failure::at("reading", &raw))?;
        let file = File::create(begun).map_err(Failure::at("making", begun))?;
        file.set_len(bytes)
            .and_then(|()| file.write_all_at(&head, 0))
            .and_then(|()| file.write_all_at(&head, bytes / 2))
            .map_err(Failure::at("writing", begun))
    }
}

fn create(begun: &Path, option: &str, bytes: u64) -> Result<()> {
    let mut create = Command::new(tools::qemu_img()?);
    create.args(["create", "-q", "-f", "qcow2", "-o", option]).arg(begun);
    run(create.arg(bytes.to_string())).map(drop)
}

fn read_through(path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(Failure::at("opening", path))?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).map_err(Failure::at("reading", path))? > 0 {}
    Ok(())
}

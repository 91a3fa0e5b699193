//! Sample disk images with known content, and the tools that tests compare with.
//!
//! [`samples`] are small but real disks in every format that diskferry reads, with a partition table, a file system
//! and files. Tests, the demo of the program and the fuzzers share them. `corpus/make` creates them with real tools
//! and writes `manifest.json`, from which the table here is generated. `corpus/README.md` lists how other readers
//! handle them.
//!
//! The feature `oracles` adds the module `oracle`, with wrappers of the tools that tests compare with: `qemu-img`,
//! `fsverity`, libyal's readers and dissect.hypervisor. It enables the feature `tools`, which finds such programs,
//! and `slow`, which adds simple readers written from the specifications. The feature `lattice` adds malformed
//! images: every field of every on-disk structure with the values that break readers, and the expected outcome of
//! each.
#![forbid(unsafe_code)]

#[cfg(feature = "lattice")]
pub mod lattice;
#[cfg(feature = "oracles")]
pub mod oracle;
#[cfg(feature = "slow")]
pub mod slow;
#[cfg(feature = "tools")]
pub mod tools;

use std::io;
use std::path::{Path, PathBuf};

/// An image whose guest disk is known.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// A unique name, such as `qcow2-zstd`.
    pub name: &'static str,
    /// The format, as diskferry's command line spells it: `raw`, `vhd`, `qcow2`, `vmdk`.
    pub format: &'static str,
    /// The variant of the format, in the format's own words, such as `streamOptimized`.
    pub variant: &'static str,
    /// The guest disk. Samples with the same disk have the same digest, whatever their format.
    pub disk: &'static str,
    /// The content of the disk, in one sentence.
    pub about: &'static str,
    /// The files of the image with their names; the one to open comes first.
    pub files: &'static [(&'static str, &'static [u8])],
    /// Size of the guest disk, in bytes.
    pub virtual_bytes: u64,
    /// The fs-verity digest (SHA-256, 4 KiB blocks, no salt) of the guest disk, as `fsverity digest` printed it for the
    /// raw disk before any image was made from it; lower-case hexadecimal.
    pub digest_hex: &'static str,
    /// The package, its version and the commands that made the image from the raw disk.
    pub origin: &'static str,
}

impl Sample {
    /// Name of the file to open.
    pub fn file_name(&self) -> &'static str {
        self.files[0].0
    }

    /// Bytes of the file to open.
    pub fn bytes(&self) -> &'static [u8] {
        self.files[0].1
    }

    /// Stored size: all files together, in bytes.
    pub fn object_bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Writes all files into a directory and returns the path of the one to open.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_to(&self, dir: &Path) -> io::Result<PathBuf> {
        for (name, bytes) in self.files {
            std::fs::write(dir.join(name), bytes)?;
        }
        Ok(dir.join(self.file_name()))
    }
}

/// All samples.
pub fn samples() -> &'static [Sample] {
    SAMPLES
}

/// The sample of this name.
///
/// # Panics
/// If there is none: names are written by hand, in tests and in the demo.
pub fn sample(name: &str) -> &'static Sample {
    SAMPLES.iter().find(|s| s.name == name).unwrap_or_else(|| {
        let names: Vec<_> = SAMPLES.iter().map(|s| s.name).collect();
        panic!("no sample is called {name}; there are {}", names.join(", "))
    })
}

/// A small image that must be refused and has a name: of a kind that broke other readers, or one that only looks
/// harmless.
#[cfg(feature = "lattice")]
#[derive(Clone, Copy, Debug)]
pub struct Malformed {
    /// A unique name, such as `qcow2-l1-size-max`.
    pub name: &'static str,
    /// The name of its file.
    pub file: &'static str,
    /// The format that it is declared as, as diskferry's command line spells it.
    pub format: &'static str,
    /// The stable code of the error; `None` if the image is harmless and reads as zeros.
    pub code: Option<&'static str>,
    /// The defect, in one sentence.
    pub about: &'static str,
    /// Vulnerabilities of other readers in the same class.
    pub like: &'static [&'static str],
    /// The tool that created it.
    pub origin: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// All named images of `corpus/malformed`, which `corpus/malformed/make` makes.
#[cfg(feature = "lattice")]
pub fn malformed() -> &'static [Malformed] {
    MALFORMED
}

#[cfg(feature = "lattice")]
static MALFORMED: &[Malformed] = include!(concat!(env!("OUT_DIR"), "/malformed.rs"));

static SAMPLES: &[Sample] = include!(concat!(env!("OUT_DIR"), "/samples.rs"));

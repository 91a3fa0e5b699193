//! Sample disk images with known content, and the tools that tests use as oracles.
//!
//! [`samples`] are small, realistic disks with partition tables, file systems and files, in every format that diskferry
//! reads. Tests, the program's demo and the fuzzers share them. `corpus/make` makes them with real tools and writes
//! `manifest.json`, from which the table in this crate is generated. `corpus/README.md` documents how other readers read
//! them.
//!
//! Features:
//!
//! - `oracles`: the module `oracle` wraps `qemu-img`, `fsverity`, libyal's readers and dissect.hypervisor. Enables `tools`
//!   and `slow`.
//! - `tools`: the module `tools` finds external programs.
//! - `slow`: the module `slow` has slow, simple reference readers.
//! - `lattice`: the module `lattice` has malformed images. Every field of every on-disk structure takes the values that break
//!   readers, with the expected outcome of each.
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

/// An image with a known guest disk.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// A unique name, such as `qcow2-zstd`.
    pub name: &'static str,
    /// The format, named as on diskferry's command line: `raw`, `vhd`, `qcow2`, `vmdk`.
    pub format: &'static str,
    /// The variant of the format, in the format's terms, such as `streamOptimized`.
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
    /// The package with its version, and the commands that made the image from the raw disk.
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

    /// Stored size of all files, in bytes.
    pub fn object_bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Writes all files to a directory and returns the path of the one to open.
    ///
    /// # Errors
    /// The errors of the file system.
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

/// Returns the sample with this name.
///
/// # Panics
/// If there is none. Names are literals in tests and in the demo.
pub fn sample(name: &str) -> &'static Sample {
    SAMPLES.iter().find(|s| s.name == name).unwrap_or_else(|| {
        let names: Vec<_> = SAMPLES.iter().map(|s| s.name).collect();
        panic!("no sample is called {name}; there are {}", names.join(", "))
    })
}

/// A small image that must be refused: it represents a known vulnerability of other readers, or it only looks harmless.
#[cfg(feature = "lattice")]
#[derive(Clone, Copy, Debug)]
pub struct Malformed {
    /// A unique name, such as `qcow2-l1-size-max`.
    pub name: &'static str,
    /// Its file name.
    pub file: &'static str,
    /// Its declared format, named as on diskferry's command line.
    pub format: &'static str,
    /// The expected error code; none if it is harmless and reads as zeros.
    pub code: Option<&'static str>,
    /// The defect, in one sentence.
    pub about: &'static str,
    /// Vulnerabilities of other readers in the same class.
    pub like: &'static [&'static str],
    /// The tool that made it.
    pub origin: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

/// All images of `corpus/malformed`, made by `corpus/malformed/make`.
#[cfg(feature = "lattice")]
pub fn malformed() -> &'static [Malformed] {
    MALFORMED
}

#[cfg(feature = "lattice")]
static MALFORMED: &[Malformed] = include!(concat!(env!("OUT_DIR"), "/malformed.rs"));

static SAMPLES: &[Sample] = include!(concat!(env!("OUT_DIR"), "/samples.rs"));

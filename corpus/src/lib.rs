//! Sample disk images with known content, and the tools that tests compare with.
//!
//! [`samples`] are small but true disks, a partition table, a file system, files, in every format that diskferry reads;
//! tests, the program's demo and the fuzzers share them. `corpus/make` makes them from real tools and writes
//! `manifest.json`, from which the table here is generated; `corpus/README.md` says what other readers make of them.
//!
//! With the feature `oracles`, the module `oracle` wraps the tools that tests take the truth from: `qemu-img`,
//! `fsverity`, libyal's readers and dissect.hypervisor. With the feature `slow`, which it brings along, the module `slow` has readers of our
//! own that are nothing but obvious. With the feature `lattice`, the module of that name has malformed images: every field of
//! every on-disk structure at the values that break readers, and what must come of each.
#![forbid(unsafe_code)]

#[cfg(feature = "lattice")]
pub mod lattice;
#[cfg(feature = "oracles")]
pub mod oracle;
#[cfg(feature = "slow")]
pub mod slow;

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
    /// What is on the disk, in a sentence.
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

    /// Writes all files into a directory and gives the path of the one to open.
    ///
    /// # Errors
    /// What the file system says.
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
/// When there is none: names are written by hand, in tests and in the demo.
pub fn sample(name: &str) -> &'static Sample {
    SAMPLES.iter().find(|s| s.name == name).unwrap_or_else(|| {
        let names: Vec<_> = SAMPLES.iter().map(|s| s.name).collect();
        panic!("no sample is called {name}; there are {}", names.join(", "))
    })
}

/// A small image that must be refused, kept because it has a name: one of the kinds that broke others, or that only looks
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
    /// The stable code of the error; none where it is harmless, and reads as zeros.
    pub code: Option<&'static str>,
    /// What is wrong with it, in a sentence.
    pub about: &'static str,
    /// The vulnerabilities of other readers whose class it is of.
    pub like: &'static [&'static str],
    /// What made it.
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

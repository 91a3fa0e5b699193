//! What the tests of VMDK share: running qemu-img, walking a disk to its bytes, a gate for a directory.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use diskferry_core::address::{GuestOffset, GuestRange, StoredRange};
use diskferry_core::disk::Disk;
use diskferry_core::error::{Error, ErrorKind, Result};
use diskferry_core::extent::{Extent, ExtentKind, Tally};
use diskferry_core::source::memory::MemorySource;
use diskferry_core::source::wrap::Recording;
use diskferry_core::source::{BoxFuture, Gate, SiblingName, Source};
use diskferry_formats::{Declared, Format, open_with};

pub mod build;

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Runs qemu-img; a failure shows what it said.
pub fn qemu_img(args: &[&str]) -> String {
    let output =
        Command::new("qemu-img").args(args).output().expect("qemu-img is needed: apt-get install qemu-utils");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "qemu-img {args:?}: {said}");
    said
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files as sources in memory, each recorded, and a gate that hands out those beside the image.
#[derive(Default)]
pub struct Files {
    files: Vec<(String, Arc<Recording>)>,
}

impl Files {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let memory = MemorySource::new(name, bytes.into());
        self.files.push((name.to_owned(), Arc::new(Recording::new(Arc::new(memory)))));
        self
    }

    /// All files of a directory.
    pub fn of(directory: &Path) -> Self {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().fold(Self::new(), |files, file| {
            files.with(file.file_name().unwrap().to_str().unwrap(), std::fs::read(file).unwrap())
        })
    }

    pub fn get(&self, name: &str) -> Arc<Recording> {
        let found = self.files.iter().find(|(known, _)| known == name);
        Arc::clone(&found.unwrap_or_else(|| panic!("no file {name}")).1)
    }

    pub fn reads(&self, name: &str) -> Vec<StoredRange> {
        self.get(name).reads()
    }

    pub fn open(self: &Arc<Self>, name: &str) -> Result<Disk> {
        let gate = Arc::clone(self) as Arc<dyn Gate>;
        block_on(open_with(self.get(name), Declared::Format(Format::Vmdk), gate))
    }
}

impl Gate for Files {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let found = self.files.iter().find(|(known, _)| known == name.as_str());
        let result = match found {
            Some((_, source)) => Ok(Arc::clone(source) as Arc<dyn Source>),
            None => Err(Error::new(ErrorKind::SourceNotFound, format!("no file {:?}", name.as_str()))),
        };
        Box::pin(async move { result })
    }
}

/// Opens an image of one file.
pub fn open_bytes(bytes: impl Into<Vec<u8>>) -> Result<Disk> {
    Arc::new(Files::new().with("disk.vmdk", bytes)).open("disk.vmdk")
}

/// All extents of a disk; that they cover it is checked.
pub fn extents(disk: &Disk) -> Result<Vec<Extent>> {
    let mut all = Vec::new();
    let end = GuestOffset::new(disk.virtual_bytes());
    let mut at = GuestOffset::ZERO;
    while at < end {
        let found = block_on(disk.extents(GuestRange::between(at, end)))?;
        assert_eq!(found[0].guest.start(), at, "extents follow each other");
        at = found.last().unwrap().guest.end();
        all.extend(found);
    }
    Ok(all)
}

/// The bytes of a disk, by its extents.
pub fn content(disk: &Disk) -> Result<Vec<u8>> {
    let mut bytes = vec![0; disk.virtual_bytes() as usize];
    for extent in extents(disk)? {
        let start = extent.guest.start().get() as usize;
        let out = &mut bytes[start..start + extent.guest.len() as usize];
        let Some(stored) = extent.to_fetch() else { continue };
        let read = block_on(disk.file(stored.file)?.read(stored.range))?;
        match &extent.kind {
            ExtentKind::Coded(coded) => {
                coded
                    .codec
                    .decode(extent.guest, &read, out, &mut Tally::default())
                    .map_err(|error| error.at(stored.range.start()))?;
            }
            _ => out.copy_from_slice(&read),
        }
    }
    Ok(bytes)
}

/// The bytes of an image of one file.
pub fn content_of(bytes: impl Into<Vec<u8>>) -> Result<Vec<u8>> {
    content(&open_bytes(bytes)?)
}

/// Says where two disks differ, without printing them.
pub fn assert_same(ours: &[u8], truth: &[u8]) {
    assert_eq!(ours.len(), truth.len(), "size of the disk");
    if let Some(at) = ours.iter().zip(truth).position(|(a, b)| a != b) {
        panic!("the disk differs first at {at:#x}: {:#04x} and should be {:#04x}", ours[at], truth[at]);
    }
}

/// A disk of `len` bytes: text that compresses, noise that does not, and holes.
pub fn sample(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (number, chunk) in bytes.chunks_mut(48 << 10).enumerate() {
        match number % 5 {
            0 => {
                for byte in chunk {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    *byte = state as u8;
                }
            }
            1 | 3 => {
                for (at, byte) in chunk.iter_mut().enumerate() {
                    *byte = b"all work and no play "[(at + number) % 21];
                }
            }
            _ => {}
        }
    }
    if let Some(last) = bytes.last_mut() {
        *last = 0x5a;
    }
    bytes
}

/// The codes of a disk's warnings.
pub fn warnings(disk: &Disk) -> Vec<&'static str> {
    disk.warnings().list().into_iter().map(|warning| warning.code).collect()
}

/// The error of reading an image of one file, wherever it shows.
pub fn error_of(bytes: impl Into<Vec<u8>>) -> Error {
    failure(content_of(bytes))
}

/// The error in a result; a success is not printed.
pub fn failure<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("this should fail"),
        Err(error) => error,
    }
}

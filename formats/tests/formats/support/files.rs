//! Images of several files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskferry_core::internal::Recording;
use diskferry_core::{
    BoxFuture, Disk, Error, ErrorKind, Gate, MemorySource, Result, SiblingName, Source, StoredRange,
};
use diskferry_formats::{Declared, Format, open_with};

use super::block_on;

/// Files as recorded sources in memory, and a gate that opens those beside the image.
#[derive(Default)]
pub(crate) struct Files {
    files: Vec<(String, Arc<Recording>)>,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let memory = MemorySource::new(name, bytes.into());
        self.files.push((name.to_owned(), Arc::new(Recording::new(Arc::new(memory)))));
        self
    }

    /// Creates the set of these files.
    pub(crate) fn from(files: &[(&str, &[u8])]) -> Arc<Self> {
        Arc::new(files.iter().fold(Self::new(), |all, (name, bytes)| all.with(name, *bytes)))
    }

    /// All files of a directory.
    pub(crate) fn of(directory: &Path) -> Self {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().fold(Self::new(), |files, file| {
            files.with(file.file_name().unwrap().to_str().unwrap(), std::fs::read(file).unwrap())
        })
    }

    pub(crate) fn get(&self, name: &str) -> Arc<Recording> {
        let found = self.files.iter().find(|(known, _)| known == name);
        Arc::clone(&found.unwrap_or_else(|| panic!("no file {name}")).1)
    }

    pub(crate) fn reads(&self, name: &str) -> Vec<StoredRange> {
        self.get(name).reads()
    }

    /// Opens the VMDK at that name.
    pub(crate) fn open(self: &Arc<Self>, name: &str) -> Result<Disk> {
        self.open_declared(name, Declared::Format(Format::Vmdk))
    }

    pub(crate) fn open_declared(self: &Arc<Self>, name: &str, declared: Declared) -> Result<Disk> {
        let gate = Arc::clone(self) as Arc<dyn Gate>;
        block_on(open_with(self.get(name), declared, gate))
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

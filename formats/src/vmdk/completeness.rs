//! Proves that a stream is complete: its tables must name exactly the grains that were read.
//!
//! A stream that lost a part may look valid. A sector of zeros reads as an end marker, and a table of zeros as a disk
//! without data. So a stream that is read by its markers counts as complete only if its grain directory, and the tables
//! that the directory names, name every grain that was read, at its address, and nothing else. The scan of a file and
//! the reader of a pipe both collect this evidence here.

use std::collections::HashMap;

use diskferry_core::{Error, Result};

use super::grain_digest::{GrainDigest, GrainHasher, TableDigest};
use super::header::{SECTOR, SparseHeader};

/// Most tables that are stored: a disk of 8 TiB in grains of 64 KiB.
pub(super) const MOST_TABLES: u64 = 1 << 18;
/// Most directories, redundant ones included.
const MOST_DIRECTORIES: usize = 16;

/// The structures read from a stream, and the grains that its tables name.
pub(super) struct Completeness {
    hasher: GrainHasher,
    came: GrainDigest,
    /// The tables that were read, by their sector.
    tables: HashMap<u64, TableDigest>,
    /// The directories that were read, by their sector, with the grains that they name.
    directories: Vec<(u64, Option<GrainDigest>)>,
    entries: u64,
    zeroed: bool,
    /// Grains of the disk.
    grains: u64,
    /// Entries of a directory.
    directory_len: u64,
}

impl Completeness {
    /// The initial state of an extent of `bytes` guest bytes: nothing was read yet.
    pub(super) fn new(header: &SparseHeader, bytes: u64) -> Self {
        let entries = u64::from(header.table_entries);
        let span = header.grain_bytes().saturating_mul(entries);
        Self {
            hasher: GrainHasher::new(),
            came: GrainDigest::default(),
            tables: HashMap::new(),
            directories: Vec::new(),
            entries,
            zeroed: header.zeroed_grains,
            grains: bytes.div_ceil(header.grain_bytes().max(1)),
            directory_len: bytes.div_ceil(span.max(1)),
        }
    }

    pub(super) fn hasher(&self) -> &GrainHasher {
        &self.hasher
    }

    /// The grains that were read.
    pub(super) fn came(&self) -> GrainDigest {
        self.came
    }

    /// True once a directory was read. Writers store it after all grains.
    pub(super) fn has_directory(&self) -> bool {
        !self.directories.is_empty()
    }

    /// Records a grain, with its marker at that sector.
    pub(super) fn add_grain(&mut self, number: u64, sector: u64) {
        self.came.add(&self.hasher, number, sector);
    }

    /// Bytes of a table.
    pub(super) fn table_bytes(&self) -> u64 {
        self.entries.saturating_mul(4)
    }

    /// Records a table, with its first entry at that sector.
    ///
    /// # Errors
    /// `unsupported_feature` if there are too many; the caller adds the place.
    pub(super) fn add_table(&mut self, sector: u64, bytes: &[u8]) -> Result<()> {
        let mut table = TableDigest::default();
        table.read(&self.hasher, bytes, self.zeroed);
        self.tables.insert(sector, table);
        if self.tables.len() as u64 > MOST_TABLES {
            return Err(Error::unsupported(format!("a stream of more than {MOST_TABLES} grain tables")));
        }
        Ok(())
    }

    /// Bytes of a directory that are used.
    pub(super) fn directory_bytes(&self) -> u64 {
        self.directory_len.saturating_mul(4)
    }

    /// Starts a directory: its bytes follow.
    pub(super) fn directory(&self) -> DirectoryReader {
        DirectoryReader { next: 0, named: Some(GrainDigest::default()) }
    }

    /// Records a directory, with its first entry at that sector.
    ///
    /// # Errors
    /// `unsupported_feature` if there are too many; the caller adds the place.
    pub(super) fn add_directory(&mut self, sector: u64, read: &DirectoryReader) -> Result<()> {
        self.directories.push((sector, read.named.filter(|_| read.next >= self.directory_len)));
        if self.directories.len() > MOST_DIRECTORIES {
            return Err(Error::unsupported(format!("a stream of more than {MOST_DIRECTORIES} directories")));
        }
        Ok(())
    }

    /// Returns the grains that the directory at that sector names. `None` if there is no such directory, or if it names
    /// a table that was not read.
    pub(super) fn named_by(&self, sector: u64) -> Option<GrainDigest> {
        self.directories.iter().find(|(at, _)| *at == sector).and_then(|(_, named)| *named)
    }

    /// Checks that every directory names exactly the grains that were read.
    ///
    /// # Errors
    /// `truncated`, with the place of the directory; with `end` if there is no directory.
    pub(super) fn check(&self, end: u64) -> Result<()> {
        if self.directories.is_empty() {
            return Err(self.no_directory(end));
        }
        let wrong = self.directories.iter().find(|(_, named)| *named != Some(self.came));
        let Some((sector, named)) = wrong else { return Ok(()) };
        let what = match named {
            None => "tables that are not in the stream".to_owned(),
            Some(named) if named.count == self.came.count => {
                format!("{} others, or the same at other offsets", named.count)
            }
            Some(named) => named.count.to_string(),
        };
        Err(Error::truncated(format!(
            "the stream has {} grains, and its grain directory names {what}: a part of it is missing",
            self.came.count
        ))
        .at(sector.saturating_mul(SECTOR)))
    }

    /// The error that the stream ends, at byte address `end`, before its directory.
    pub(super) fn no_directory(&self, end: u64) -> Error {
        Error::truncated(format!(
            "the stream ends after {} grains without a grain directory",
            self.came.count
        ))
        .at(end)
    }
}

/// A directory that is read in pieces, each of whole entries.
pub(super) struct DirectoryReader {
    next: u64,
    /// `None` once it names a table that was not read.
    named: Option<GrainDigest>,
}

impl DirectoryReader {
    /// Adds the next entries.
    pub(super) fn read(&mut self, completeness: &Completeness, bytes: &[u8]) {
        for entry in bytes.as_chunks::<4>().0 {
            let sector = u64::from(u32::from_le_bytes(*entry));
            if sector != 0 && self.next < completeness.directory_len {
                let first = self.next.saturating_mul(completeness.entries);
                let used = completeness.grains.saturating_sub(first).min(completeness.entries);
                let table = completeness.tables.get(&sector).filter(|table| table.entries >= used);
                self.named = self.named.zip(table).map(|(mut named, table)| {
                    named.add_table(table, first);
                    named
                });
            }
            self.next = self.next.saturating_add(1);
        }
    }
}

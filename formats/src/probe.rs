//! The parts of detection: the result of one format's probe, and the signatures of unsupported formats.
//!
//! Each format has a `probe.rs` with two functions: `has_magic` looks at the first bytes only, and `probe` also checks
//! the header. This module does not import the formats, so they can use it. [`crate::detect`] calls all of them.

use bytes::{Bytes, BytesMut};
use diskferry_core::{Error, HeadTail, StoredOffset, StoredRange};

/// The result of one format's probe.
#[derive(Debug)]
pub(crate) enum Probe {
    /// The object has no magic of the format.
    NoMatch,
    /// The magic is there and the header is valid.
    Valid,
    /// The magic is there and the header is not valid: the error that opening the object would return.
    Invalid(Error),
}

/// A signature: what it identifies, its byte offset, and its bytes.
type Signature = (&'static str, usize, &'static [u8]);

/// Unsupported containers and image formats.
pub(crate) const FOREIGN: &[Signature] = &[
    ("a gzip file", 0, &[0x1f, 0x8b, 0x08]),
    ("an xz file", 0, b"\xfd7zXZ\0"),
    ("a zstd file", 0, &[0x28, 0xb5, 0x2f, 0xfd]),
    ("a bzip2 file", 4, b"1AY&SY"),
    ("an lz4 file", 0, &[0x04, 0x22, 0x4d, 0x18]),
    ("a 7-Zip archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a zip archive", 0, b"PK\x03\x04"),
    ("a RAR archive", 0, b"Rar!\x1a\x07"),
    ("a tar archive (an OVA is one)", 257, b"ustar"),
    ("a VHDX image", 0, b"vhdxfile"),
    ("a VirtualBox VDI image", 64, &[0x7f, 0x10, 0xda, 0xbe]),
    ("a Parallels image", 0, b"WithoutFreeSpace"),
    ("a Parallels image", 0, b"WithouFreSpacExt"),
    ("an Apple sparse image", 0, b"sprs"),
    ("a QED image", 0, b"QED\0"),
    ("an EWF image", 0, b"EVF\x09\x0d\x0a\xff\0"),
    ("a Windows imaging file", 0, b"MSWIM\0\0\0"),
];

/// Returns the unsupported container or image format that `head`, the first bytes of an object, belongs to.
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    let matches = |(_, at, bytes): &&Signature| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes));
    FOREIGN.iter().find(matches).map(|(name, ..)| *name)
}

/// Returns the bytes of `range` if the head and the tail of the object contain all of them. If head and tail meet, the
/// range may cross from one into the other.
pub(crate) fn buffered(file: &HeadTail, range: StoredRange) -> Option<Bytes> {
    if let Some(bytes) = file.get(range) {
        return Some(bytes);
    }
    let border = StoredOffset::new(file.head().len() as u64);
    if border != file.tail_start() || range.start() > border || range.end() < border {
        return None;
    }
    let first = file.get(StoredRange::between(range.start(), border))?;
    let second = file.get(StoredRange::between(border, range.end()))?;
    let mut both = BytesMut::with_capacity(first.len().checked_add(second.len())?);
    both.extend_from_slice(&first);
    both.extend_from_slice(&second);
    Some(both.freeze())
}

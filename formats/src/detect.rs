//! Which format an object is in, from its head and its tail alone.
//!
//! Each format's parser looks for its own marks and says whether what they begin holds up. Raw has no marks: it is what
//! was declared, or what looks like a disk and like nothing else. So a disk image is never taken for a raw disk
//! because its marks are at its end (the fixed VHD's are), nor a raw disk for an image because its guest wrote a magic number into it.

use bytes::{Bytes, BytesMut};
use diskferry_core::{Error, ErrorKind, HeadTail, Result, Warning};

use crate::partition::looks_like_disk;
use crate::{Declared, Format, qcow2, vhd, vmdk};

/// What one format's parser says of an object.
#[derive(Debug)]
pub(crate) enum Recognised {
    /// None of its marks are there.
    No,
    /// Its marks are there and its header holds up.
    Sound,
    /// Its marks are there and its header does not hold up: the error that opening it would give.
    Unsound(Error),
}

/// Decides the format.
///
/// | marks | nothing declared | declared `raw` | declared another |
/// |---|---|---|---|
/// | of one format, sound | that format | `format_mismatch` | that format, if it is the declared one, else `format_mismatch` |
/// | sound ones of several | `ambiguous_format` | `ambiguous_format` | `ambiguous_format` |
/// | unsound ones only | the parser's error | `format_mismatch` | the declared format's error, else `format_mismatch` |
/// | none | `raw` if it looks like a disk, else `unknown_format` | `raw` | `format_mismatch` |
///
/// # Errors
/// Those of the table; the parser's error is `malformed`, `truncated` or `unsupported_feature`, with its place.
pub(crate) fn detect(file: &HeadTail, declared: Declared) -> Result<Format> {
    decide(
        [
            (Format::Qcow2, qcow2::recognise(file)),
            (Format::Vhd, vhd::recognise(file)),
            (Format::Vmdk, vmdk::recognise(file)),
        ],
        declared,
        file.head(),
    )
}

fn decide(found: [(Format, Recognised); 3], declared: Declared, head: &[u8]) -> Result<Format> {
    let mut sound = Vec::new();
    let mut unsound = Vec::new();
    for (format, recognised) in found {
        match recognised {
            Recognised::No => {}
            Recognised::Sound => sound.push(format),
            Recognised::Unsound(error) => unsound.push((format, error)),
        }
    }
    match (sound.as_slice(), declared) {
        ([first, second, ..], _) => {
            return Err(Error::new(
                ErrorKind::AmbiguousFormat,
                format!("the object is a sound {first} and a sound {second} at once"),
            )
            .hint("make the image anew with one tool, so that it has one reading"));
        }
        ([format], Declared::Unknown) => return Ok(*format),
        ([format], Declared::Format(declared)) if *format == declared => return Ok(*format),
        ([format], Declared::Format(declared)) => {
            return Err(mismatch(format!("the image is declared {declared} and is {format}"))
                .hint(format!("declare -f {format}, or leave the format to be detected")));
        }
        ([], _) => {}
    }
    let Declared::Format(declared) = declared else {
        return match unsound.into_iter().next() {
            Some((_, error)) => Err(error),
            None => raw_or_unknown(head),
        };
    };
    if let Some(position) = unsound.iter().position(|(format, _)| *format == declared) {
        return Err(unsound.swap_remove(position).1);
    }
    if let Some((format, error)) = unsound.into_iter().next() {
        return Err(mismatch(format!(
            "the image is declared {declared} and has the marks of {format}, though not a sound one: {}",
            error.message()
        ))
        .at(error.offset().unwrap_or_default()));
    }
    if declared == Format::Raw {
        return Ok(Format::Raw);
    }
    let disk = || looks_like_disk(head).then_some("a raw disk");
    let seen = foreign(head).or_else(disk).unwrap_or("nothing that is known here");
    Err(mismatch(format!("the image is declared {declared}, has no mark of it and looks like {seen}")))
}

/// Looks at a target that was written as `format`, whatever its guest has on its disk.
///
/// A raw target is what it is; the warning `content_looks_like` says where others will take it for another format.
///
/// # Errors
/// `destination_unsuitable` where any other format than `format` is seen in it.
pub(crate) fn recognise(file: &HeadTail, format: Format) -> Result<Vec<Warning>> {
    match (detect(file, Declared::Format(format)), format) {
        (Ok(_), _) => Ok(Vec::new()),
        (Err(error), Format::Raw) => Ok(vec![Warning::new(
            "content_looks_like",
            format!(
                "the raw target will be taken for another format where none is declared: {}",
                error.message()
            ),
        )]),
        (Err(error), _) => Err(Error::new(
            ErrorKind::DestinationUnsuitable,
            format!(
                "what the guest has on its disk makes the {format} target look like another format: {}",
                error.message()
            ),
        )
        .hint("convert to another format, or to another kind of this one")),
    }
}

fn mismatch(message: String) -> Error {
    Error::new(ErrorKind::FormatMismatch, message)
}

fn raw_or_unknown(head: &[u8]) -> Result<Format> {
    let unknown = |message: String| Error::new(ErrorKind::UnknownFormat, message);
    if head.is_empty() {
        return Err(unknown("the object is empty".to_owned()).hint("an empty disk is declared with -f raw"));
    }
    if let Some(name) = foreign(head) {
        return Err(unknown(format!("the object looks like {name}, which is not read"))
            .hint("unpack or convert it first, or declare -f raw if these are the bytes of the disk"));
    }
    if looks_like_disk(head) {
        return Ok(Format::Raw);
    }
    Err(unknown(
        "the object has the marks of no image format, and no partition table or file system of a raw disk"
            .to_owned(),
    )
    .hint("declare -f raw if it is a raw disk"))
}

/// What is known by its first bytes: name, place in bytes, bytes there.
type Mark = (&'static str, usize, &'static [u8]);

/// Containers and image formats that are not read.
const FOREIGN: &[Mark] = &[
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

/// The container or image format that is not read here and that `head`, the first bytes of an object, is of.
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    let is_there =
        |(_, at, bytes): &&Mark| head.get(*at..).is_some_and(|from_there| from_there.starts_with(bytes));
    FOREIGN.iter().find(is_there).map(|(name, ..)| *name)
}

/// The format whose marks `head`, the first bytes of an object, has. Those at an object's end are not seen here.
pub(crate) fn begins_as(head: &[u8]) -> Option<Format> {
    if qcow2::has_marks(head) {
        Some(Format::Qcow2)
    } else if vhd::has_marks(head) {
        Some(Format::Vhd)
    } else {
        vmdk::has_marks(head).then_some(Format::Vmdk)
    }
}

/// The `len` bytes from `start` on, where head and tail of the object hold them all.
pub(crate) fn held(file: &HeadTail, start: u64, len: u64) -> Option<Bytes> {
    let cut = |bytes: &Bytes, base: u64, start: u64, end: u64| {
        let from = usize::try_from(start.checked_sub(base)?).ok()?;
        let to = usize::try_from(end.checked_sub(base)?).ok()?;
        (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
    };
    let end = start.checked_add(len)?;
    let head_end = file.head().len() as u64;
    let tail_start = file.tail_start().get();
    if end <= head_end {
        cut(file.head(), 0, start, end)
    } else if start >= tail_start {
        cut(file.tail(), tail_start, start, end)
    } else if head_end == tail_start {
        let first = cut(file.head(), 0, start, head_end)?;
        let second = cut(file.tail(), tail_start, tail_start, end)?;
        let mut both = BytesMut::with_capacity(first.len().saturating_add(second.len()));
        both.extend_from_slice(&first);
        both.extend_from_slice(&second);
        Some(both.freeze())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Format::{Qcow2, Raw, Vhd, Vmdk};

    /// What is decided where the three parsers see these marks: `s`ound, `u`nsound, `-` none.
    fn decided(
        marks: &str,
        declared: Option<Format>,
        head: &[u8],
    ) -> Result<Format, (ErrorKind, Option<u64>)> {
        let mut see = marks.chars().map(|mark| match mark {
            's' => Recognised::Sound,
            'u' => Recognised::Unsound(Error::truncated("its header ends early").at(77u64)),
            _ => Recognised::No,
        });
        let mut next = || see.next().unwrap();
        let found = [(Qcow2, next()), (Vhd, next()), (Vmdk, next())];
        let declared = declared.map_or(Declared::Unknown, Declared::Format);
        decide(found, declared, head).map_err(|error| (error.kind(), error.offset()))
    }

    #[test]
    fn one_sound_format_is_it_unless_another_is_declared() {
        assert_eq!(decided("s--", None, b""), Ok(Qcow2));
        assert_eq!(decided("-s-", Some(Vhd), b""), Ok(Vhd));
        assert_eq!(decided("u-s", None, b""), Ok(Vmdk), "marks that do not hold up are no second format");
        for declared in [Raw, Vhd, Vmdk] {
            assert_eq!(decided("s--", Some(declared), b""), Err((ErrorKind::FormatMismatch, None)));
        }
        assert_eq!(decided("su-", Some(Vhd), b""), Err((ErrorKind::FormatMismatch, None)));
    }

    #[test]
    fn two_sound_formats_are_ambiguous_whatever_is_declared() {
        for declared in [None, Some(Raw), Some(Qcow2), Some(Vhd), Some(Vmdk)] {
            for marks in ["ss-", "s-s", "-ss", "sss", "sus"] {
                assert_eq!(decided(marks, declared, b""), Err((ErrorKind::AmbiguousFormat, None)));
            }
        }
    }

    #[test]
    fn marks_that_do_not_hold_up_are_never_a_raw_disk() {
        let head = [[0; 510].as_slice(), &[0x55, 0xaa]].concat();
        assert_eq!(decided("u--", None, &head), Err((ErrorKind::Truncated, Some(77))));
        assert_eq!(decided("-uu", None, &head), Err((ErrorKind::Truncated, Some(77))));
        assert_eq!(decided("--u", Some(Vmdk), &head), Err((ErrorKind::Truncated, Some(77))));
        assert_eq!(decided("u-u", Some(Vmdk), &head), Err((ErrorKind::Truncated, Some(77))));
        for declared in [Raw, Vhd, Qcow2] {
            assert_eq!(decided("--u", Some(declared), &head), Err((ErrorKind::FormatMismatch, Some(77))));
        }
    }

    #[test]
    fn without_marks_raw_must_be_declared_or_look_like_a_disk() {
        let marks: [(usize, &[u8]); 3] = [(510, &[0x55, 0xaa]), (0, b"XFSB"), (65_600, b"_BHRfS_M")];
        for (at, bytes) in marks {
            let mut head = vec![0; (at + bytes.len()).max(512)];
            head[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(decided("---", None, &head), Ok(Raw), "{at}");
            assert_eq!(decided("---", Some(Vhd), &head), Err((ErrorKind::FormatMismatch, None)), "{at}");
            head[at] = 0;
            assert_eq!(decided("---", None, &head), Err((ErrorKind::UnknownFormat, None)), "{at}");
        }
        for (name, at, bytes) in FOREIGN {
            let mut head = vec![0; 1024];
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
            head[*at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(decided("---", None, &head), Err((ErrorKind::UnknownFormat, None)), "{name}");
            assert_eq!(decided("---", Some(Raw), &head), Ok(Raw), "{name}");
        }
        assert_eq!(decided("---", None, b""), Err((ErrorKind::UnknownFormat, None)));
        assert_eq!(decided("---", Some(Raw), b""), Ok(Raw));
    }
}

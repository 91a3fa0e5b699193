//! Detection of an object's format, from its head and its tail.
//!
//! Each format's probe looks for its own magic and checks the header. Raw has no magic: an object is raw if it was
//! declared raw, or if it looks like a disk and like nothing else. So a fixed VHD, whose footer is at its end, is never
//! taken for a raw disk. A raw disk is never taken for an image because its guest wrote a magic number into it.

use diskferry_core::{Error, ErrorKind, HeadTail, Result, Warning};

use crate::format::{Declared, Format};
use crate::partition::looks_like_disk;
use crate::probe::{Probe, foreign};
use crate::{qcow2, vhd, vmdk};

/// Decides the format.
///
/// | probes | nothing declared | declared `raw` | another format declared |
/// |---|---|---|---|
/// | one valid format | that format | `format_mismatch` | that format, if it is the declared one, else `format_mismatch` |
/// | several valid formats | `ambiguous_format` | `ambiguous_format` | `ambiguous_format` |
/// | invalid formats only | the probe's error | `format_mismatch` | the declared format's error, else `format_mismatch` |
/// | no match | `raw` if it looks like a disk, else `unknown_format` | `raw` | `format_mismatch` |
///
/// # Errors
/// Those of the table. A probe's error is `malformed`, `truncated` or `unsupported_feature`, with its offset.
pub(crate) fn detect(file: &HeadTail, declared: Declared) -> Result<Format> {
    decide(
        [
            (Format::Qcow2, qcow2::probe(file)),
            (Format::Vhd, vhd::probe(file)),
            (Format::Vmdk, vmdk::probe(file)),
        ],
        declared,
        file.head(),
    )
}

fn decide(found: [(Format, Probe); 3], declared: Declared, head: &[u8]) -> Result<Format> {
    let mut valid = Vec::new();
    let mut invalid = Vec::new();
    for (format, recognised) in found {
        match recognised {
            Probe::NoMatch => {}
            Probe::Valid => valid.push(format),
            Probe::Invalid(error) => invalid.push((format, error)),
        }
    }
    match (valid.as_slice(), declared) {
        ([first, second, ..], _) => {
            return Err(Error::new(
                ErrorKind::AmbiguousFormat,
                format!("the object is valid both as {first} and as {second}"),
            )
            .hint("create the image again with one tool, so that it has one interpretation"));
        }
        ([format], Declared::Unknown) => return Ok(*format),
        ([format], Declared::Format(declared)) if *format == declared => return Ok(*format),
        ([format], Declared::Format(declared)) => {
            return Err(mismatch(format!("the image is declared as {declared} but is {format}"))
                .hint(format!("declare -f {format}, or omit the format so that it is detected")));
        }
        ([], _) => {}
    }
    let Declared::Format(declared) = declared else {
        return match invalid.into_iter().next() {
            Some((_, error)) => Err(error),
            None => raw_or_unknown(head),
        };
    };
    if let Some(position) = invalid.iter().position(|(format, _)| *format == declared) {
        return Err(invalid.swap_remove(position).1);
    }
    if let Some((format, error)) = invalid.into_iter().next() {
        return Err(mismatch(format!(
            "the image is declared as {declared} but has the magic of {format}, with an error: {}",
            error.message()
        ))
        .at(error.offset().unwrap_or_default()));
    }
    if declared == Format::Raw {
        return Ok(Format::Raw);
    }
    let disk = || looks_like_disk(head).then_some("a raw disk");
    let seen = foreign(head).or_else(disk).unwrap_or("nothing known");
    Err(mismatch(format!("the image is declared as {declared}, lacks its magic and looks like {seen}")))
}

/// Checks a target that was written as `format`, regardless of the guest's data.
///
/// A raw target is never refused. The warning `content_looks_like` is added if other tools will take it for another
/// format.
///
/// # Errors
/// `destination_unsuitable` if the target is not detected as `format` alone.
pub(crate) fn check_target(file: &HeadTail, format: Format) -> Result<Vec<Warning>> {
    match (detect(file, Declared::Format(format)), format) {
        (Ok(_), _) => Ok(Vec::new()),
        (Err(error), Format::Raw) => Ok(vec![Warning::new(
            "content_looks_like",
            format!(
                "other tools will take the raw target for another format if none is declared: {}",
                error.message()
            ),
        )]),
        (Err(error), _) => Err(Error::new(
            ErrorKind::DestinationUnsuitable,
            format!(
                "the guest's data makes the {format} target look like another format: {}",
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
        return Err(unknown("the object is empty".to_owned()).hint("declare an empty disk with -f raw"));
    }
    if let Some(name) = foreign(head) {
        return Err(unknown(format!("the object looks like {name}, which is not supported"))
            .hint("unpack or convert it first, or declare -f raw if these are the bytes of the disk"));
    }
    if looks_like_disk(head) {
        return Ok(Format::Raw);
    }
    Err(unknown(
        "the object has no magic of an image format, and no partition table or file system of a raw disk"
            .to_owned(),
    )
    .hint("declare -f raw if it is a raw disk"))
}

/// Returns the format whose magic `head`, the first bytes of an object, has. A magic at the object's end is not seen
/// here.
pub(crate) fn format_by_magic(head: &[u8]) -> Option<Format> {
    if qcow2::has_magic(head) {
        Some(Format::Qcow2)
    } else if vhd::has_magic(head) {
        Some(Format::Vhd)
    } else {
        vmdk::has_magic(head).then_some(Format::Vmdk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Format::{Qcow2, Raw, Vhd, Vmdk};

    /// The decision for the probe results in `probes`: `v`alid, `i`nvalid, `-` no match.
    fn decided(
        probes: &str,
        declared: Option<Format>,
        head: &[u8],
    ) -> Result<Format, (ErrorKind, Option<u64>)> {
        let mut answers = probes.chars().map(|answer| match answer {
            'v' => Probe::Valid,
            'i' => Probe::Invalid(Error::truncated("its header ends early").at(77u64)),
            _ => Probe::NoMatch,
        });
        let mut next = || answers.next().unwrap();
        let found = [(Qcow2, next()), (Vhd, next()), (Vmdk, next())];
        let declared = declared.map_or(Declared::Unknown, Declared::Format);
        decide(found, declared, head).map_err(|error| (error.kind(), error.offset()))
    }

    #[test]
    fn the_only_valid_format_is_detected_unless_another_is_declared() {
        assert_eq!(decided("v--", None, b""), Ok(Qcow2));
        assert_eq!(decided("-v-", Some(Vhd), b""), Ok(Vhd));
        assert_eq!(decided("i-v", None, b""), Ok(Vmdk), "an invalid format does not make it ambiguous");
        for declared in [Raw, Vhd, Vmdk] {
            assert_eq!(decided("v--", Some(declared), b""), Err((ErrorKind::FormatMismatch, None)));
        }
        assert_eq!(decided("vi-", Some(Vhd), b""), Err((ErrorKind::FormatMismatch, None)));
    }

    #[test]
    fn two_valid_formats_are_ambiguous_whatever_is_declared() {
        for declared in [None, Some(Raw), Some(Qcow2), Some(Vhd), Some(Vmdk)] {
            for probes in ["vv-", "v-v", "-vv", "vvv", "viv"] {
                assert_eq!(decided(probes, declared, b""), Err((ErrorKind::AmbiguousFormat, None)));
            }
        }
    }

    #[test]
    fn an_object_with_an_invalid_header_is_never_a_raw_disk() {
        let head = [[0; 510].as_slice(), &[0x55, 0xaa]].concat();
        assert_eq!(decided("i--", None, &head), Err((ErrorKind::Truncated, Some(77))));
        assert_eq!(decided("-ii", None, &head), Err((ErrorKind::Truncated, Some(77))));
        assert_eq!(decided("--i", Some(Vmdk), &head), Err((ErrorKind::Truncated, Some(77))));
        assert_eq!(decided("i-i", Some(Vmdk), &head), Err((ErrorKind::Truncated, Some(77))));
        for declared in [Raw, Vhd, Qcow2] {
            assert_eq!(decided("--i", Some(declared), &head), Err((ErrorKind::FormatMismatch, Some(77))));
        }
    }

    #[test]
    fn without_magic_raw_must_be_declared_or_look_like_a_disk() {
        let marks: [(usize, &[u8]); 3] = [(510, &[0x55, 0xaa]), (0, b"XFSB"), (65_600, b"_BHRfS_M")];
        for (at, bytes) in marks {
            let mut head = vec![0; (at + bytes.len()).max(512)];
            head[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(decided("---", None, &head), Ok(Raw), "{at}");
            assert_eq!(decided("---", Some(Vhd), &head), Err((ErrorKind::FormatMismatch, None)), "{at}");
            head[at] = 0;
            assert_eq!(decided("---", None, &head), Err((ErrorKind::UnknownFormat, None)), "{at}");
        }
        for (name, at, bytes) in crate::probe::FOREIGN {
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

//! The named images of the corpus.

use std::collections::BTreeSet;

use diskferry_corpus::malformed;
use diskferry_formats::{Declared, Format};

use crate::support::*;

/// The classes that must have an image: of QEMU in 2014, and of OpenStack since.
const KNOWN: [&str; 13] = [
    "CVE-2014-0142",
    "CVE-2014-0143",
    "CVE-2014-0144",
    "CVE-2014-0145",
    "CVE-2014-0146",
    "CVE-2014-0147",
    "CVE-2014-0148",
    "CVE-2014-0222",
    "CVE-2014-0223",
    "CVE-2015-5162",
    "CVE-2022-47951",
    "CVE-2024-32498",
    "CVE-2024-4467",
];

#[test]
fn every_known_class_has_an_image_and_none_is_large() {
    let seen: BTreeSet<&str> = malformed().iter().flat_map(|image| image.like).copied().collect();
    assert_eq!(seen, KNOWN.into_iter().collect());
    let names: BTreeSet<&str> = malformed().iter().map(|image| image.name).collect();
    assert_eq!(names.len(), malformed().len());
    assert!(malformed().iter().all(|image| image.bytes.len() <= 64 << 10));
}

#[test]
fn every_named_image_is_refused_with_its_code() {
    for image in malformed() {
        let format: Format = image.format.parse().unwrap();
        let result = open_as(format, image.bytes).and_then(|disk| {
            disk.admit()?;
            assert!(disk.virtual_bytes() <= 1 << 20, "{}", image.name);
            content(&disk)
        });
        match (&result, image.code) {
            (Ok(read), None) => assert!(read.iter().all(|byte| *byte == 0), "{}", image.name),
            (Err(error), Some(code)) => {
                assert_eq!(error.kind().code(), code, "{}: {error:?}", image.name);
                assert!([3, 4].contains(&error.kind().exit_code()), "{}: {error:?}", image.name);
                assert!(!error.message().chars().any(char::is_control), "{}: {error:?}", image.name);
            }
            _ => panic!("{}: {result:?}, expected {:?}", image.name, image.code),
        }
    }
}

#[test]
fn undeclared_no_named_image_is_taken_for_something_else() {
    for image in malformed() {
        let disk = open_bytes(image.bytes, Declared::Unknown).and_then(|disk| {
            disk.admit()?;
            extents(&disk).map(|_| disk)
        });
        match disk {
            Ok(disk) => {
                let harmless = image.code.is_none() && disk.info().format == image.format;
                // Without a declaration, the first bytes decide.
                let guest = image.format == "raw" && disk.info().format == "qcow2";
                assert!(harmless || guest, "{}: {}", image.name, disk.info().format);
            }
            Err(error) => assert!([3, 4].contains(&error.kind().exit_code()), "{}: {error:?}", image.name),
        }
    }
}

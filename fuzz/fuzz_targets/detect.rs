//! Opens arbitrary bytes with every declared format. The detected and the declared format must agree, else opening fails.
#![no_main]

use diskferry_core::{Disk, ErrorKind, Result};
use diskferry_formats::internal::looks_like_disk;
use diskferry_formats::{Declared, Format};
use diskferry_fuzz::{read, repair, seeds};
use libfuzzer_sys::fuzz_target;

fn said(result: &Result<Disk>) -> Result<String, (ErrorKind, String)> {
    match result {
        Ok(disk) => Ok(format!("{:?} {:?}", disk.info(), disk.refusals())),
        Err(error) => Err((error.kind(), error.message().to_owned())),
    }
}

fn detect(bytes: &[u8]) {
    let _ = looks_like_disk(bytes);
    let unknown = read::open(bytes.to_vec(), Declared::Unknown);
    let mut mismatches = 0;
    for format in Format::ALL {
        let declared = read::open(bytes.to_vec(), Declared::Format(format));
        let mismatch = matches!(&declared, Err(error) if error.kind() == ErrorKind::FormatMismatch);
        mismatches += usize::from(mismatch);
        if let Ok(disk) = &declared {
            assert_eq!(disk.info().format, format.name());
        }
        match &unknown {
            // An image with a detected format opens only as that format.
            Ok(disk) if disk.info().format == format.name() => {
                assert_eq!(said(&unknown), said(&declared))
            }
            Ok(_) => assert!(mismatch, "{format}: {:?}", said(&declared)),
            Err(error) => match error.kind() {
                ErrorKind::AmbiguousFormat => assert_eq!(said(&unknown), said(&declared)),
                ErrorKind::UnknownFormat => assert_eq!(format == Format::Raw, declared.is_ok(), "{format}"),
                // The magic matches but the header is invalid, or the header is valid and a later structure is not.
                _ => assert!(declared.is_err(), "{format}"),
            },
        }
    }
    if unknown.is_ok() {
        assert_eq!(mismatches, 3);
    }
    if let Ok(disk) = read::open(bytes.to_vec(), Declared::Format(Format::Raw)) {
        assert!(read::guest(&disk, 0, disk.virtual_bytes()).is_some_and(|guest| guest == bytes));
    }
}

fuzz_target!(init: seeds::write_if_asked(&Format::ALL, |_| Vec::new()), |bytes: &[u8]| {
    detect(bytes);
    let mut image = bytes.to_vec();
    repair::vhd(&mut image);
    if image != bytes {
        detect(&image);
    }
});

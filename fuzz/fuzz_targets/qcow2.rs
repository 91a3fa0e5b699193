//! Any bytes as a QCOW2: open, map, read.
#![no_main]

use diskferry_formats::Format;
use diskferry_fuzz::{read, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&[Format::Qcow2], |_| Vec::new()), |bytes: &[u8]| {
    read::read_as(Format::Qcow2, bytes);
});

//! Opens, maps and reads arbitrary bytes as a QCOW2.
#![no_main]

use diskferry_formats::Format;
use diskferry_fuzz::{read, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&[Format::Qcow2], |_| Vec::new()), |bytes: &[u8]| {
    read::read_as(Format::Qcow2, bytes);
});

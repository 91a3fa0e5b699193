//! Opens, maps and reads arbitrary bytes as a single-file VMDK.
#![no_main]

use diskferry_formats::Format;
use diskferry_fuzz::{read, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&[Format::Vmdk], |_| Vec::new()), |bytes: &[u8]| {
    read::read_as(Format::Vmdk, bytes);
});

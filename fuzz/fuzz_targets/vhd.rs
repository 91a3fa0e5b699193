//! Opens, maps and reads arbitrary bytes as a VHD: unchanged, and with repaired checksums.
#![no_main]

use diskferry_formats::Format;
use diskferry_fuzz::{read, repair, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&[Format::Vhd], |_| Vec::new()), |bytes: &[u8]| {
    read::read_as(Format::Vhd, bytes);
    let mut image = bytes.to_vec();
    repair::vhd(&mut image);
    if image != bytes {
        read::read_as(Format::Vhd, &image);
    }
});

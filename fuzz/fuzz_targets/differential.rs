//! Reads arbitrary bytes as an image of any format. If diskferry accepts the image, the slow reader must read the same bytes.
#![no_main]

use diskferry_corpus::slow;
use diskferry_formats::{Declared, Format};
use diskferry_fuzz::{read, repair, seeds};
use libfuzzer_sys::fuzz_target;

fn compare(format: Format, bytes: &[u8]) {
    let Ok(ours) = read::open(bytes.to_vec(), Declared::Format(format)) else { return };
    if ours.admit().is_err() {
        return;
    }
    let files = [("image", bytes)];
    let slow = slow::open(format.name(), &files);
    if let Some(slow) = &slow {
        assert_eq!(ours.virtual_bytes(), slow.virtual_bytes(), "{format}: the size of the disk");
    }
    for (at, len) in read::compared(ours.virtual_bytes()) {
        let Some(guest) = read::guest(&ours, at, len) else { continue };
        let Some(truth) = slow.as_ref().and_then(|slow| slow.read(at, len)) else {
            panic!("{format}: diskferry reads {len} bytes at {at}, the slow reader cannot")
        };
        let differs = guest.iter().zip(&truth).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{format}: the first byte that differs from {at} on");
    }
}

fn prefix(format: Format) -> Vec<u8> {
    vec![Format::ALL.iter().position(|known| *known == format).unwrap_or_default() as u8]
}

fuzz_target!(init: seeds::write_if_asked(&Format::ALL, prefix), |bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let format = Format::ALL[usize::from(*first) % Format::ALL.len()];
    let mut image = bytes.to_vec();
    if format == Format::Vhd {
        repair::vhd(&mut image);
    }
    compare(format, &image);
});

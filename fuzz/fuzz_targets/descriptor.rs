//! Reads arbitrary text as a VMDK descriptor, with a gate that opens every name. Names that begin with `f` give the bytes
//! after the first NUL of the input; others give zeros. If diskferry accepts it, the slow reader must read the same bytes.
#![no_main]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use diskferry_corpus::slow;
use diskferry_formats::{Declared, Format};
use diskferry_fuzz::source::{Guarded, OpenGate};
use diskferry_fuzz::{read, seeds};
use libfuzzer_sys::fuzz_target;

const SIGNATURE: &[u8] = b"# Disk DescriptorFile\n";

fuzz_target!(init: seeds::write_if_asked(&[Format::Vmdk], described), |bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let file = bytes.get(end + 1..).unwrap_or_default();
    let mut text = bytes[..end].to_vec();
    if !text.starts_with(b"#") {
        text.splice(..0, SIGNATURE.iter().copied());
    }
    let gate = Arc::new(OpenGate { file: Bytes::copy_from_slice(file), asked: Mutex::default() });
    let source = Guarded::new(text.clone());
    let Ok(disk) = read::open_with(source, Declared::Format(Format::Vmdk), Arc::clone(&gate) as _) else { return };
    read::all(&disk);
    if disk.admit().is_err() {
        return;
    }
    let asked = gate.asked.lock().expect("one thread").clone();
    // A descriptor that names itself gets different content through the gate.
    if asked.iter().any(|name| name == "disk.vmdk") {
        return;
    }
    let siblings: Vec<Bytes> = asked.iter().map(|name| gate.bytes(name)).collect();
    let mut files = vec![("disk.vmdk", &text[..])];
    files.extend(asked.iter().map(String::as_str).zip(siblings.iter().map(|bytes| &bytes[..])));
    let slow = slow::open("vmdk", &files);
    if let Some(slow) = &slow {
        assert_eq!(disk.virtual_bytes(), slow.virtual_bytes(), "the size of the disk");
    }
    // The slow reader treats names that are not UTF-8 as bytes.
    if !text.is_ascii() {
        return;
    }
    for (at, len) in read::compared(disk.virtual_bytes()) {
        let Some(guest) = read::guest(&disk, at, len) else { continue };
        let truth = slow.as_ref().and_then(|slow| slow.read(at, len)).expect("the slow reader reads the range");
        assert!(guest == truth, "{len} bytes at {at} differ");
    }
});

/// A descriptor that names the image of the seed.
fn described(_: Format) -> Vec<u8> {
    let text = "version=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 27 SPARSE \"f.vmdk\"\nRW 17 VMFSSPARSE \"f2.vmdk\"\n\
                RDONLY 64 FLAT \"zeros\" 3\nRW 9 ZERO\n";
    [SIGNATURE, text.as_bytes(), &[0]].concat()
}

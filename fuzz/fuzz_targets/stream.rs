//! Reads arbitrary bytes as a streamOptimized VMDK, in one pass and by random access. If both succeed, the disks must be equal.
#![no_main]

use diskferry_core::{ErrorKind, Result, Tally};
use diskferry_formats::{Declared, Format, open_stream};
use diskferry_fuzz::source::Portions;
use diskferry_fuzz::{read, seeds};
use libfuzzer_sys::fuzz_target;

/// Maximum size of a disk that is assembled.
const MOST: u64 = 4 << 20;
/// Maximum number of guest bytes that are decoded.
const MOST_DECODED: u64 = 8 << 20;

/// Reads the disk in one pass: its size, and its bytes if it is small enough.
fn in_one_pass(bytes: &[u8]) -> Result<Option<(u64, Vec<u8>)>> {
    let portions = Box::new(Portions::new(bytes.to_vec()));
    let opened = read::now(open_stream(portions, Declared::Unknown));
    let mut stream = match opened {
        // An image that cannot be read in one pass is refused with an error that says so.
        Err(error) if error.kind() == ErrorKind::Usage => return Err(error),
        opened => read::checked(opened)?,
    };
    let size = stream.info().virtual_bytes;
    let mut disk = vec![0; if size <= MOST { size as usize } else { 0 }];
    let mut decoded = 0;
    let mut seen = std::collections::BTreeSet::new();
    while let Some(piece) = read::checked(read::now(stream.next()))? {
        assert!(!piece.guest.is_empty() && piece.guest.end().get() <= size, "{:?} of {size}", piece.guest);
        assert!(seen.insert(piece.guest.start()), "{:?} comes twice", piece.guest);
        decoded += piece.guest.len();
        if decoded > MOST_DECODED {
            return Ok(None);
        }
        let mut out = vec![0; piece.guest.len() as usize];
        match &piece.codec {
            Some(codec) => {
                let decoded = codec.decode(piece.guest, &piece.bytes, &mut out, &mut Tally::default());
                read::checked(decoded)?;
            }
            None => out.copy_from_slice(&piece.bytes),
        }
        if let Some(place) =
            disk.get_mut(piece.guest.start().get() as usize..piece.guest.end().get() as usize)
        {
            place.copy_from_slice(&out);
        }
    }
    assert!(stream.stored_bytes() <= bytes.len() as u64);
    Ok((size <= MOST).then_some((size, disk)))
}

fuzz_target!(init: seeds::write_if_asked(&[Format::Vmdk], |_| Vec::new()), |bytes: &[u8]| {
    let Ok(Some((size, stream))) = in_one_pass(bytes) else { return };
    let Ok(disk) = read::open(bytes.to_vec(), Declared::Format(Format::Vmdk)) else { return };
    assert_eq!(disk.virtual_bytes(), size, "the size, in one pass and by random access");
    if let Some(guest) = read::guest(&disk, 0, size) {
        let differs = guest.iter().zip(&stream).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs in one pass and by random access");
    }
});

//! Writes a small disk in any format to a sink with any write order. Our reader and the slow reader must read it back.
#![no_main]

use arbitrary::Arbitrary;
use diskferry_core::{ErrorKind, WriteOrder, conformance::digest_of};
use diskferry_corpus::slow;
use diskferry_formats::{Declared, Format};
use diskferry_fuzz::made::{KINDS, Run, disk, written};
use diskferry_fuzz::read;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case {
    runs: Vec<Run>,
    kind: u8,
    order: u8,
}

fuzz_target!(|case: Case| {
    let runs = &case.runs[..case.runs.len().min(40)];
    let kind = KINDS[usize::from(case.kind) % KINDS.len()];
    let compressed_tables = kind.0 == Format::Qcow2 && kind.1.contains("compression");
    let orders = [WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential];
    let order = orders[usize::from(case.order) % if compressed_tables { 2 } else { 3 }];
    let (disk, mut guest) = disk(runs);
    guest.resize(guest.len().next_multiple_of(kind.2 as usize), 0);
    let (image, report) = match written(disk, kind, order) {
        Ok(written) => written,
        // An empty fixed VHD is refused.
        Err(error) if guest.is_empty() && error.kind() == ErrorKind::DestinationUnsuitable => return,
        Err(error) => panic!("{kind:?}, {order:?}: {error:?}"),
    };
    assert_eq!(report.digest, Some(digest_of(&guest)), "{kind:?}, {order:?}: the digest");
    let back = read::open(image.clone(), Declared::Format(kind.0)).expect("the written image opens");
    let bytes = read::guest(&back, 0, guest.len() as u64).expect("the written image can be read");
    assert!(back.virtual_bytes() == guest.len() as u64 && bytes == guest, "{kind:?}, {order:?}: our reader");
    assert!(back.warnings().list().is_empty(), "{kind:?}, {order:?}: {:?}", back.warnings().list());
    let files = [("image", &image[..])];
    let slow = slow::open(kind.0.name(), &files).expect("the slow reader opens the image");
    assert_eq!(slow.virtual_bytes(), guest.len() as u64);
    assert!(
        slow.read(0, guest.len() as u64).is_some_and(|bytes| bytes == guest),
        "{kind:?}: the slow reader"
    );
});

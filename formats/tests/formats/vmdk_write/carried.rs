//! Deflate streams of the source are copied verbatim.

use diskferry_formats::Format;

use crate::support::qemu::{convert, qemu_reads};
use crate::support::vmdk::open_vmdk;
use crate::support::{assert_same, open_as, pattern, sample};
use crate::vmdk_write::made::*;

/// From the first grain on.
fn behind_the_front(bytes: &[u8]) -> &[u8] {
    &bytes[128 * 512..]
}

#[test]
fn grains_of_a_stream_are_copied_verbatim_to_a_stream() {
    let guest = [pattern(3 << 20, 1), sample((3 << 20) + 1024)].concat();
    let best = write(raw(&guest), &[STREAM, ("level", "9")]);
    let again = write(open_vmdk(best.clone()).unwrap(), &[STREAM, ("level", "1")]);
    let anew = write(open_vmdk(best.clone()).unwrap(), &[STREAM, ("level", "1"), ("recompress", "on")]);
    let fast = write(raw(&guest), &[STREAM, ("level", "1")]);
    assert!(behind_the_front(&anew) == behind_the_front(&fast), "deflated anew");
    assert!(behind_the_front(&again) != behind_the_front(&fast), "carried over");
    for bytes in [best, again, anew] {
        assert_same(&qemu_reads(&bytes, "vmdk"), &guest, "the disk");
    }
}

#[test]
fn clusters_of_a_qcow2_become_grains() {
    // Whole grains only: if the disk ends inside the last one, it is compressed again.
    let guest = pattern(4 << 20, 3);
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("raw"), directory.path().join("disk.qcow2"));
    std::fs::write(&source, &guest).unwrap();
    diskferry_corpus::oracle::make(&source, "qcow2", &["cluster_size=64K"], &["-c"], &image);
    let qcow2 = std::fs::read(&image).unwrap();
    let carried = |level| write(open_as(Format::Qcow2, qcow2.clone()).unwrap(), &[STREAM, ("level", level)]);
    let (one, nine) = (carried("1"), carried("9"));
    assert!(one == nine, "nothing was deflated");
    assert_same(&qemu_reads(&one, "vmdk"), &guest, "the disk");
    let options = [STREAM, ("level", "9"), ("recompress", "on")];
    let anew = write(open_as(Format::Qcow2, qcow2.clone()).unwrap(), &options);
    assert!(behind_the_front(&anew) != behind_the_front(&one));
    assert_same(&qemu_reads(&anew, "vmdk"), &guest, "the disk");
}

#[test]
fn a_stream_of_qemu_becomes_one_with_its_directory_at_the_end() {
    let guest = sample((3 << 20) + 512);
    let theirs = convert(&guest, "vmdk", "subformat=streamOptimized");
    let ours = write(open_vmdk(theirs).unwrap(), &[STREAM]);
    assert_same(&qemu_reads(&ours, "vmdk"), &guest, "the disk");
}

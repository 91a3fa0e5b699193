//! A guest with the footer of a VHD in its last sector must not turn the target into a VHD.

use diskferry_core::WriteOrder;
use diskferry_corpus::oracle::qemu_check;
use diskferry_formats::{Declared, Format};

use crate::support::qemu::{convert, qemu_probes, written};
use crate::support::{assert_same, noise, open_as, open_bytes, read_all};
use crate::vmdk_write::made::*;

#[test]
fn a_target_is_never_a_vhd_whatever_the_guest_stores_at_its_end() {
    let plain = noise(3 * GRAIN, 1);
    let vhd = convert(&plain, "vhd", "subformat=fixed,force_size=on");
    let footer = &vhd[vhd.len() - 512..];
    assert!(footer.starts_with(b"conectix"));
    // Length of the disk, offset of the footer, and its length.
    for (len, at, part) in [
        (3 * GRAIN, 3 * GRAIN - 512, 512),
        (3 * GRAIN, 3 * GRAIN - 511, 511),
        // Zeros of the guest after it, and of the grain that the disk ends in.
        (3 * GRAIN, 2 * GRAIN + 512, 512),
        (3 * GRAIN, 3 * GRAIN - 4196, 512),
        (3 * GRAIN - 1024, 3 * GRAIN - 1536, 512),
        (2 * GRAIN + 512, 2 * GRAIN, 512),
    ] {
        let mut guest = plain[..len].to_vec();
        guest[at..].fill(0);
        guest[at..at + part].copy_from_slice(&footer[..part]);
        // As a raw disk it would be refused, because it has the magic of a VHD. In a stream that is inside a zlib
        // stream.
        let source = convert(&guest, "vmdk", "subformat=streamOptimized");
        for kind in KINDS {
            for order in [WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential] {
                let disk = open_as(Format::Vmdk, source.clone()).unwrap();
                let (bytes, ..) = try_write(disk, kind, order).unwrap();
                assert_eq!(qemu_probes(&bytes), "vmdk");
                if order == WriteOrder::Any {
                    let directory = written(&[("disk.vmdk", &bytes)]);
                    qemu_check(&directory.path().join("disk.vmdk"), "vmdk");
                }
                let disk = open_bytes(bytes, Declared::Unknown).unwrap();
                assert_same(&read_all(&disk), &guest, "the disk");
            }
        }
    }
}

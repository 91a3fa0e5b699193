//! Random disks through both kinds and all orders.

use diskferry_core::{WriteOrder, conformance::digest_of};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::qemu::qemu_reads;
use crate::support::vmdk::open_vmdk;
use crate::support::{assert_same, noise, pattern, read_all};
use crate::vmdk_write::made::*;

/// Runs of sectors, each with one kind of content.
fn runs() -> impl Strategy<Value = Vec<(usize, u8, u64)>> {
    let sectors = prop_oneof![1..16usize, 100..140usize, 120..1200usize];
    prop::collection::vec((sectors, 0..4u8, any::<u64>()), 1..30)
}

fn disk(runs: &[(usize, u8, u64)]) -> Vec<u8> {
    let mut guest = Vec::new();
    for (sectors, kind, seed) in runs {
        let len = sectors * 512;
        match kind {
            0 => guest.extend(noise(len, *seed)),
            1 => guest.extend(pattern(len, *seed)),
            _ => guest.resize(guest.len() + len, 0),
        }
    }
    guest
}

#[test]
fn random_disks_read_back_equal() {
    let config = Config { cases: 10, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&runs(), |runs| {
            let guest = disk(&runs);
            let digest = digest_of(&guest);
            // The source has the same kind, because the map of a raw disk has no holes.
            let sparse = write(raw(&guest), &[]);
            for kind in KINDS {
                for order in [WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential] {
                    let (bytes, report, _) =
                        try_write(open_vmdk(sparse.clone()).unwrap(), kind, order).unwrap();
                    prop_assert_eq!(report.digest, Some(digest));
                    assert_same(&read_all(&open_vmdk(bytes.clone()).unwrap()), &guest, "the disk");
                    if order == WriteOrder::Any {
                        assert_same(&qemu_reads(&bytes, "vmdk"), &guest, "the disk");
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}

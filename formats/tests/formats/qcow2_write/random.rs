//! Random disks, written with random options.

use diskferry_core::{WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential};
use diskferry_corpus::oracle;
use diskferry_formats::Format;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::qcow2_write::disks::sparse;
use crate::qcow2_write::{convert, judge};
use crate::support::{noise, open_as, pattern, read_all};

/// Runs of a disk: empty sectors, then sectors with data.
fn runs() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    prop::collection::vec((0..600u64, 1..200u64, 0..4u8), 0..12)
}

#[test]
fn random_disks_read_back_equal() {
    let config = Config { cases: 40, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let kinds = prop_oneof![Just("none"), Just("zlib"), Just("zstd")];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    TestRunner::new(config)
        .run(
            &(runs(), 0..1000u64, 9..=21u32, kinds, any::<bool>()),
            |(runs, behind, bits, kind, in_order)| {
                let mut guest = Vec::new();
                let mut pieces = Vec::new();
                for (number, (hole, sectors, what)) in runs.into_iter().enumerate() {
                    guest.resize(guest.len() + hole as usize * 512, 0);
                    let len = sectors as usize * 512;
                    let bytes = match what {
                        0 => noise(len, number as u64),
                        1 => pattern(len, number as u64),
                        2 => vec![what; len],
                        _ => vec![0; len],
                    };
                    pieces.push((guest.len() as u64, bytes.clone()));
                    guest.extend(bytes);
                }
                guest.resize(guest.len() + behind as usize * 512, 0);
                let disk = sparse(guest.len() as u64, &pieces);
                let order = match (kind, in_order) {
                    ("none", true) => Sequential,
                    (_, true) => Ascending,
                    (_, false) => Any,
                };
                let size = (1u64 << bits).to_string();
                let (image, _) =
                    convert(disk, &[("cluster_size", &size), ("compression", kind)], order).unwrap();
                prop_assert!(read_all(&open_as(Format::Qcow2, image.clone()).unwrap()) == guest);
                std::fs::write(&path, image).unwrap();
                judge(&path, guest.len() as u64);
                prop_assert!(oracle::guest_bytes(&path, "qcow2") == guest);
                Ok(())
            },
        )
        .unwrap();
}

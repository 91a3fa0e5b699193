//! VHDs of random shape read like their model, and damaged ones cause no harm.

use crate::support::vhd::*;
use crate::support::*;
use diskferry_core::ErrorKind;
use diskferry_formats::{Declared, Format};
use proptest::prelude::*;

/// The stored blocks, their order, and their visible sectors.
fn shape() -> impl Strategy<Value = (Vhd, Vec<u32>, u64)> {
    let block = prop_oneof![Just(9u32), Just(10), Just(12), Just(13), Just(16)];
    (block, 1u64..200, any::<u64>()).prop_flat_map(|(shift, sectors, seed)| {
        let vhd = Vhd { block_bytes: 1 << shift, ..Vhd::new(3, sectors * 512) };
        let count = vhd.size.div_ceil(u64::from(vhd.block_bytes)) as u32;
        let all: Vec<u32> = (0..count).collect();
        let stored = proptest::sample::subsequence(all, 0..=count as usize).prop_shuffle();
        (Just(vhd), stored, Just(seed))
    })
}

fn blocks(vhd: &Vhd, stored: &[u32], seed: u64) -> Vec<(u32, Vec<bool>, Vec<u8>)> {
    let len = vhd.block_bytes as usize;
    let block = |index: &u32| {
        let data = noise(len, seed ^ u64::from(*index));
        let bits = noise(len / SECTOR, seed ^ !u64::from(*index)).iter().map(|byte| byte % 3 != 0).collect();
        (*index, bits, data)
    };
    stored.iter().map(block).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_reads_as_its_blocks_and_bitmaps_define((vhd, stored, seed) in shape(), window in 1u64..120) {
        let blocks = blocks(&vhd, &stored, seed);
        let mut truth = vec![0; vhd.size as usize];
        let (mut hidden, mut first) = (0, None);
        for (index, bits, data) in &blocks {
            let start = *index as usize * vhd.block_bytes as usize;
            for (sector, bit) in bits.iter().enumerate() {
                let at = start + sector * SECTOR;
                if at >= truth.len() {
                    continue;
                }
                if *bit {
                    truth[at..at + SECTOR].copy_from_slice(&data[sector * SECTOR..(sector + 1) * SECTOR]);
                } else {
                    hidden += 1;
                    first = Some(first.map_or(at as u64, |first: u64| first.min(at as u64)));
                }
            }
        }
        let disk = open_vhd(vhd.dynamic(&blocks));
        let (bytes, tally) = read(&disk, window * 512).unwrap();
        prop_assert!(bytes == truth);
        // A unit in two windows is decoded once here, so every hidden sector counts once.
        prop_assert_eq!((tally.count, tally.first.map(|first| first.get())), (hidden, first));
    }

    #[test]
    fn damage_causes_an_error_or_another_disk(
        (vhd, stored, seed) in shape(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        sums in any::<bool>(),
    ) {
        let mut image = vhd.dynamic(&blocks(&vhd, &stored, seed));
        let len = image.len();
        let metadata = 1536 + 4 * vhd.size.div_ceil(u64::from(vhd.block_bytes)) as usize;
        for (place, value, at_end) in &damage {
            let at = if *at_end { len - 512 + place.index(96) } else { place.index(metadata) };
            image[at] = *value;
        }
        if sums {
            // Like a careful attacker, this updates the checksums after the damage.
            patch(&mut image, 0, 512, 84, &[0]);
            patch(&mut image, 512, 1024, 1000, &[0]);
            patch(&mut image, len - 512, 512, 84, &[0]);
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(len));
        }
        let error = match open_bytes(image, Declared::Format(Format::Vhd)) {
            Err(error) => Some(error),
            Ok(disk) => walk(&disk, u64::MAX).err(),
        };
        if let Some(error) = error {
            prop_assert!(error.kind() != ErrorKind::Internal, "{error:?}");
            prop_assert!(matches!(error.kind().exit_code(), 3 | 4), "{error:?}");
        }
    }
}

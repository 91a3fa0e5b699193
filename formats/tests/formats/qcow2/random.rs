//! Random histories of an image, written by qemu-io, read the same as in qemu-img.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::qcow2::images::*;

/// Sectors of the disks: slightly more than 2 MiB, not a whole number of clusters.
const SECTORS: u64 = 4111;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, sectors: u64, byte: u8 },
    Zero { at: u64, sectors: u64, unmap: bool },
    Discard { at: u64, sectors: u64 },
    Compress { at: u64, byte: u8 },
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run = || (0..SECTORS, 1..400u64).prop_map(|(at, sectors)| (at, sectors.min(SECTORS - at)));
    let step = prop_oneof![
        6 => (run(), 1..=255u8).prop_map(|((at, sectors), byte)| Step::Write { at, sectors, byte }),
        2 => (run(), any::<bool>()).prop_map(|((at, sectors), unmap)| Step::Zero { at, sectors, unmap }),
        1 => run().prop_map(|(at, sectors)| Step::Discard { at, sectors }),
        2 => (0..SECTORS, 1..=255u8).prop_map(|(at, byte)| Step::Compress { at, byte }),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..14)
}

fn options() -> impl Strategy<Value = (u32, String)> {
    let shape = prop_oneof![
        (9..=21u32).prop_map(|bits| (bits, "compat=0.10".to_owned())),
        (9..=21u32, any::<bool>()).prop_map(|(bits, zstd)| {
            (bits, format!("compression_type={}", if zstd { "zstd" } else { "zlib" }))
        }),
        (14..=21u32).prop_map(|bits| (bits, "extended_l2=on".to_owned())),
    ];
    shape.prop_map(|(bits, options)| (bits, format!("{options},cluster_size={}", 1u64 << bits)))
}

#[test]
fn random_histories_match_qemu() {
    let config = Config { cases: 24, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let images = Images::new();
    TestRunner::new(config)
        .run(&(options(), steps()), |((bits, options), steps)| {
            let image = images.create("image", &(SECTORS * 512).to_string(), &options);
            let cluster = 1u64 << bits;
            let mut commands = Vec::new();
            let flush = |commands: &mut Vec<String>| {
                let all: Vec<&str> = commands.iter().map(String::as_str).collect();
                let told = all.is_empty() || qemu_io_unless_it_stops_itself(&image, "qcow2", &all);
                commands.clear();
                if told { Ok(()) } else { Err(TestCaseError::reject("qemu marked its own image as corrupt")) }
            };
            // qemu only compresses into clusters that were never written.
            let mut written = vec![false; (SECTORS * 512 / cluster + 1) as usize];
            let mut touch = |at: u64, len: u64| {
                let clusters = &mut written[(at / cluster) as usize..=((at + len - 1) / cluster) as usize];
                let fresh = clusters.iter().all(|written| !written);
                clusters.fill(true);
                fresh
            };
            for (number, step) in steps.iter().enumerate() {
                if let Step::Write { at, sectors, .. }
                | Step::Zero { at, sectors, .. }
                | Step::Discard { at, sectors } = step
                {
                    touch(at * 512, sectors * 512);
                }
                match step {
                    Step::Write { at, sectors, byte } => {
                        commands.push(format!("write -P {byte} {} {}", at * 512, sectors * 512));
                    }
                    Step::Zero { at, sectors, unmap } => {
                        let unmap = if *unmap { "u" } else { "" };
                        commands.push(format!("write -z{unmap} {} {}", at * 512, sectors * 512));
                    }
                    Step::Discard { at, sectors } => {
                        commands.push(format!("discard {} {}", at * 512, sectors * 512));
                    }
                    Step::Compress { at, byte } => {
                        let at = at * 512 / cluster * cluster;
                        let len = cluster.min(SECTORS * 512 - at);
                        if touch(at, len) {
                            commands.push(format!("write -c -P {byte} {at} {len}"));
                        }
                    }
                    Step::Snapshot => {
                        flush(&mut commands)?;
                        qemu_img(&["snapshot", "-c", &number.to_string(), text(&image)]);
                    }
                }
            }
            flush(&mut commands)?;
            assert_reads_as_qemu(&images, &image, &format!("{options}: {steps:?}"));
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_damage_gives_a_result_or_a_typed_error_quickly() {
    let images = Images::new();
    let raw = images.raw("raw", &pattern(300_000, 1));
    let mut seeds = Vec::new();
    for options in ["compat=0.10", "cluster_size=4k", "extended_l2=on", "compression_type=zstd"] {
        let path = images.path("image");
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, text(&raw), text(&path)]);
        qemu_img(&["resize", "-q", text(&path), "2M"]);
        qemu_io(&path, &["write -P 4 500K 100K", "write -z 700K 100K"]);
        qemu_img(&["snapshot", "-c", "one", text(&path)]);
        seeds.push(std::fs::read(&path).unwrap());
    }
    // Likely harmful locations: the header, the first entries of each cluster, and any offset.
    let place = prop_oneof![
        4 => 0..120usize,
        4 => (0..12usize, 0..64usize).prop_map(|(cluster, at)| cluster * 65_536 + at),
        4 => (0..128usize, 0..64usize).prop_map(|(cluster, at)| cluster * 4096 + at),
        1 => 0..400_000usize,
    ];
    let byte = prop_oneof![Just(0u8), Just(1), Just(0x40), Just(0x80), Just(0xff), any::<u8>()];
    let damage = prop::collection::vec((place, byte), 1..6);
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(
            &(0..seeds.len(), damage, any::<prop::sample::Index>(), any::<bool>()),
            |(seed, damage, cut, cuts)| {
                let mut bytes = seeds[seed].clone();
                for (at, byte) in damage {
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
                if cuts {
                    bytes.truncate(cut.index(bytes.len()) + 1);
                }
                let read = open_bytes(bytes).and_then(|disk| {
                    let window = disk.virtual_bytes().min(4 << 20);
                    block_on(disk.read(diskferry_core::GuestRange::first(window)))
                });
                if let Err(error) = read {
                    prop_assert!([3, 4].contains(&error.kind().exit_code()), "{error:?}");
                }
                Ok(())
            },
        )
        .unwrap();
}

//! Valid seed images: created by qemu-img, by hand from the specifications, and by our writers.

use std::sync::LazyLock;

use diskferry_core::WriteOrder;
use diskferry_corpus::oracle;
use diskferry_formats::Format;

use crate::support::made::{flat, written_in};
use crate::support::qemu::{qemu_img, qemu_io, text};
use crate::support::vhd::Vhd;
use crate::support::vmdk::{Hosted, Stream, cowd};
use crate::support::{SECTOR, sample};

/// A valid image.
pub(crate) struct Seed {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) bytes: Vec<u8>,
}

/// All seeds, created once.
pub(crate) static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| {
    let mut seeds = by_qemu();
    seeds.extend(by_hand());
    seeds.extend(by_us());
    seeds
});

/// A disk of some hundred KiB that ends inside every unit.
fn disk() -> Vec<u8> {
    sample(331 * SECTOR)
}

/// Format, options, flags of `qemu-img convert`.
type Recipe = (Format, &'static str, &'static [&'static str]);

const RECIPES: &[Recipe] = &[
    (Format::Qcow2, "compat=0.10,cluster_size=4k", &[]),
    (Format::Qcow2, "cluster_size=512", &[]),
    (Format::Qcow2, "cluster_size=4k", &[]),
    (Format::Qcow2, "cluster_size=16k,extended_l2=on", &[]),
    (Format::Qcow2, "cluster_size=4k,compat=0.10", &["-c"]),
    (Format::Qcow2, "cluster_size=8k", &["-c"]),
    (Format::Qcow2, "cluster_size=8k,compression_type=zstd", &["-c"]),
    (Format::Vhd, "subformat=dynamic,force_size=on", &[]),
    (Format::Vhd, "subformat=dynamic", &[]),
    (Format::Vhd, "subformat=fixed,force_size=on", &[]),
    (Format::Vmdk, "subformat=monolithicSparse", &[]),
    (Format::Vmdk, "subformat=streamOptimized", &[]),
];

fn by_qemu() -> Vec<Seed> {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::write(&raw, disk()).unwrap();
    let make = |(format, options, flags): &Recipe| {
        let given: Vec<&str> = options.split(',').collect();
        oracle::make(&raw, format.name(), &given, flags, &path);
        if *format == Format::Qcow2 {
            // Space after the converted data, for entries of every kind.
            qemu_img(&["resize", "-q", text(&path), "300K"]);
            let commands = ["write -P 7 200K 5K", "write -z 210K 20K", "write -zu 1K 17K", "discard 32K 8K"];
            qemu_io(&path, "qcow2", &commands);
            qemu_img(&["snapshot", "-c", "one", text(&path)]);
            qemu_io(&path, "qcow2", &["write -P 9 100K 3K"]);
        }
        let name = format!("{format} by qemu-img, {options} {flags:?}");
        Seed { name, format: *format, bytes: std::fs::read(&path).unwrap() }
    };
    RECIPES.iter().map(make).collect()
}

fn by_hand() -> Vec<Seed> {
    let disk = disk();
    let seed = |name: &str, format, bytes| Seed { name: name.to_owned(), format, bytes };
    let bits = |seed: usize, block: u32| {
        (0..block as usize / SECTOR).map(|sector| !(sector * 7 + seed).is_multiple_of(3)).collect::<Vec<_>>()
    };
    let mut seeds = Vec::new();
    for block_bytes in [4096, 32 << 10] {
        let vhd = Vhd { block_bytes, ..Vhd::new(3, disk.len() as u64) };
        let blocks: Vec<_> = (0u32..)
            .zip(disk.chunks(block_bytes as usize))
            .filter(|(index, _)| index % 4 != 2)
            .map(|(index, data)| {
                let mut data = data.to_vec();
                data.resize(block_bytes as usize, 0);
                (index, bits(index as usize, block_bytes), data)
            })
            .collect();
        seeds.push(seed(
            &format!("vhd with bitmaps, blocks of {block_bytes}"),
            Format::Vhd,
            vhd.dynamic(&blocks),
        ));
    }
    let short = Vhd { short_footer: true, ..Vhd::new(2, disk.len() as u64) };
    seeds.push(seed("vhd with a short footer", Format::Vhd, short.fixed(&disk)));
    let small = || Hosted { grain: 8, entries: 16, ..Hosted::default() };
    let hosted = [
        ("vmdk with small tables", small()),
        ("vmdk with a redundant directory", Hosted { redundant: true, flags: 5, ..small() }),
        ("vmdk with bare compressed grains", Hosted { compressed: true, ..small() }),
    ];
    seeds.extend(hosted.map(|(name, hosted)| seed(name, Format::Vmdk, hosted.build(&disk).bytes)));
    let stream = || Stream { grain: 8, entries: 16, ..Stream::default() };
    let whole = stream().build(&disk).bytes;
    let without_footer = whole[..whole.len() - 3 * SECTOR].to_vec();
    seeds.push(seed("vmdk stream", Format::Vmdk, whole));
    seeds.push(seed("vmdk stream without its footer", Format::Vmdk, without_footer));
    let mut order: Vec<usize> = (0..disk.len().div_ceil(8 * SECTOR)).collect();
    order.reverse();
    let backwards = Stream { order: Some(order), full_last: false, ..stream() };
    seeds.push(seed("vmdk stream, backwards", Format::Vmdk, backwards.build(&disk).bytes));
    seeds.push(seed("vmdk of ESX", Format::Vmdk, cowd(&disk, 8)));
    seeds
}

fn by_us() -> Vec<Seed> {
    let kinds = [
        (Format::Vhd, ""),
        (Format::Vhd, "subformat=fixed"),
        (Format::Qcow2, "cluster_size=4K"),
        (Format::Qcow2, "cluster_size=4K,compression=zlib"),
        (Format::Qcow2, "cluster_size=64K,compression=zstd"),
        (Format::Vmdk, ""),
        (Format::Vmdk, "subformat=streamOptimized"),
    ];
    let make = |(format, options): (Format, &str)| {
        let (bytes, _) = written_in(WriteOrder::Any, flat(&disk()), format, options).unwrap();
        Seed { name: format!("{format} by us, {options}"), format, bytes }
    };
    kinds.map(make).into()
}

//! Small objects that expand to large disks: many references to the same stored bytes, and streams that inflate a
//! thousandfold. Reading them stops at the content limit, after each stored byte was fetched about once.

use std::io::Write;
use std::sync::Arc;

use crate::support::made::run;
use crate::support::qcow2::Built;
use crate::support::vhd::Vhd;
use crate::support::vmdk::{Header, Hosted, Stream, descriptor, marker, zlib};
use crate::support::*;
use diskferry_core::internal::Recording;
use diskferry_core::{Conversion, ErrorKind, GuestOffset, GuestRange, ImageLimit, Limits, MemorySource};
use diskferry_formats::{Declared, Format};
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// Clusters and grains.
const UNIT: usize = 64 << 10;
/// Virtual size of most bombs: two thousand units.
const CLAIMED: usize = 2000 * UNIT;
/// The limit that applies, for content and for the object.
const LIMIT: u64 = 24 << 20;

/// A unit without a block of zeros that compresses about a thousandfold.
fn unit() -> Vec<u8> {
    vec![0x5a; UNIT]
}

/// A QCOW2 whose entries are all `entry`, with `stored` in cluster 4.
fn qcow2(entry: u64, stored: &[u8]) -> Vec<u8> {
    let (table, data) = (3 * UNIT, 4 * UNIT);
    let mut image = Built::new(16, CLAIMED as u64, 1, data + UNIT);
    image.long(2 * UNIT, 1 << 63 | table as u64);
    for index in 0..CLAIMED / UNIT {
        image.long(table + 8 * index, entry);
    }
    image.0[data..data + stored.len()].copy_from_slice(stored);
    image.0
}

/// The entry of a compressed cluster in cluster 4.
fn compressed(len: usize) -> u64 {
    let sectors = (len.div_ceil(SECTOR) - 1) as u64;
    1 << 62 | sectors << (62 - (16 - 8)) | (4 * UNIT) as u64
}

fn deflated() -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&unit()).unwrap();
    encoder.finish().unwrap()
}

fn qcow2_of_one_deflated_cluster() -> Vec<u8> {
    let stream = deflated();
    qcow2(compressed(stream.len()), &stream)
}

fn qcow2_of_one_zstd_cluster() -> Vec<u8> {
    let stream = zstd::bulk::compress(&unit(), 19).unwrap();
    let mut image = Built(qcow2(compressed(stream.len()), &stream));
    // compression_type, in a longer header.
    image.long(72, 1 << 3).int(100, 112).0[104] = 1;
    image.0
}

fn qcow2_of_one_plain_cluster() -> Vec<u8> {
    qcow2(1 << 63 | (4 * UNIT) as u64, &unit())
}

/// A sparse VMDK whose grain table entries all point to the first grain.
fn vmdk_of_one_grain(compressed: bool) -> Vec<u8> {
    let mut truth = vec![0; CLAIMED];
    truth[..UNIT].copy_from_slice(&unit());
    let built =
        Hosted { compressed, version: if compressed { 3 } else { 1 }, ..Hosted::default() }.build(&truth);
    let mut image = built.bytes;
    let tables = built.tables[0];
    let first: [u8; 4] = image[tables..tables + 4].try_into().unwrap();
    for index in 0..CLAIMED / UNIT {
        image[tables + 4 * index..][..4].copy_from_slice(&first);
    }
    image
}

fn stream_of_grains_that_inflate_a_thousandfold() -> Vec<u8> {
    Stream::default().build(&vec![0x5a; CLAIMED]).bytes
}

/// A dynamic VHD whose table entries all point to the first block.
fn vhd_of_one_block() -> Vec<u8> {
    let vhd = Vhd::new(3, CLAIMED as u64);
    let block = vhd.block_bytes as usize;
    let mut image = vhd.dynamic(&[(0, vec![true; block / SECTOR], vec![0x5a; block])]);
    let bat = 512 + 1024;
    let first: [u8; 4] = image[bat..bat + 4].try_into().unwrap();
    for index in 0..CLAIMED.div_ceil(block) {
        image[bat + 4 * index..][..4].copy_from_slice(&first);
    }
    image
}

/// The result of reading all of `image`, and the number of bytes that were fetched.
fn read_within(limit: u64, format: Format, image: Vec<u8>) -> (ErrorKind, u64) {
    let source = Arc::new(Recording::new(Arc::new(MemorySource::new("bomb", image))));
    let read = async {
        let disk = diskferry_formats::open(Arc::clone(&source), Declared::Format(format)).await?;
        let limits = Limits::default().image(ImageLimit::Exact(limit));
        Conversion::reading(disk).limits(limits).run().await
    };
    let kind = failure(run(read)).kind();
    (kind, source.reads().iter().map(|range| range.len()).sum())
}

#[test]
fn many_references_to_the_same_bytes_end_at_the_limit_of_the_content() {
    for (name, format, image) in [
        ("deflated cluster", Format::Qcow2, qcow2_of_one_deflated_cluster()),
        ("zstd cluster", Format::Qcow2, qcow2_of_one_zstd_cluster()),
        ("plain cluster", Format::Qcow2, qcow2_of_one_plain_cluster()),
        ("plain grain", Format::Vmdk, vmdk_of_one_grain(false)),
        ("deflated grain", Format::Vmdk, vmdk_of_one_grain(true)),
        ("grains of a stream", Format::Vmdk, stream_of_grains_that_inflate_a_thousandfold()),
    ] {
        let object = image.len() as u64;
        assert!(object < 2 << 20, "{name}: a bomb is small, not {object} bytes");
        let (kind, read) = read_within(LIMIT, format, image);
        assert_eq!(kind, ErrorKind::ContentTooLarge, "{name}");
        assert!(read <= 4 * object + (1 << 20), "{name}: {read} bytes were read of {object}");
    }
}

#[test]
fn blocks_of_a_vhd_in_one_place_are_malformed() {
    let image = vhd_of_one_block();
    let object = image.len() as u64;
    let (kind, read) = read_within(LIMIT, Format::Vhd, image);
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(read <= 2 * object, "{read} bytes were read of {object}");
}

#[test]
fn bombs_below_the_limit_are_measured_completely() {
    // Below the limit, the disk is read to its end.
    let image = qcow2_of_one_deflated_cluster();
    let disk = open_as(Format::Qcow2, image).unwrap();
    let limits = Limits::default().image(ImageLimit::Exact(CLAIMED as u64 + 1));
    let report = run(Conversion::reading(disk).limits(limits).run()).unwrap();
    assert_eq!(report.sizes.content_bytes, Some(CLAIMED as u64));
}

/// Number of directory entries that name one table.
const NAMED: usize = 32_768;
/// Guest bytes that all of them map: 1 TiB.
const TERABYTE: u64 = (NAMED * 512 * UNIT) as u64;

/// The text of a sparse image of a terabyte.
fn terabyte_of(kind: &str) -> String {
    descriptor(kind, &format!("RW {} SPARSE \"disk.vmdk\"", TERABYTE / 512))
}

/// A sparse VMDK of one grain, one table and a directory that names it in all entries.
fn vmdk_of_one_table(grain: &[u8], compressed: bool) -> Vec<u8> {
    let (directory, table, data) = (8 * SECTOR, 8 * SECTOR + 4 * NAMED, 8 * SECTOR + 4 * NAMED + 2048);
    let data = data.next_multiple_of(UNIT);
    let header = Header {
        version: if compressed { 3 } else { 1 },
        flags: if compressed { 0x1_0001 } else { 1 },
        capacity: TERABYTE / 512,
        grain: 128,
        descriptor: (1, 4),
        entries: 512,
        rgd: 0,
        gd: (directory / SECTOR) as u64,
        overhead: (data / SECTOR) as u64,
        compression: u16::from(compressed),
    };
    let mut image = header.bytes();
    image.extend(terabyte_of(if compressed { "streamOptimized" } else { "monolithicSparse" }).as_bytes());
    image.resize(directory, 0);
    image.extend(((table / SECTOR) as u32).to_le_bytes().repeat(NAMED));
    image.extend(((data / SECTOR) as u32).to_le_bytes().repeat(512));
    image.resize(data, 0);
    image.extend(grain);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    image
}

/// A streamOptimized VMDK, valid except for its directory, which names one table in all entries.
fn stream_of_one_table() -> Vec<u8> {
    let stream = Stream { descriptor: Some(terabyte_of("streamOptimized")), ..Stream::default() };
    let built = stream.build(&vec![0x5a; 512 * UNIT]);
    let mut image = built.bytes[..built.directory].to_vec();
    let table: [u8; 4] = built.bytes[built.directory + SECTOR..][..4].try_into().unwrap();
    image.extend(marker((4 * NAMED / SECTOR) as u64, 2));
    let directory = image.len() / SECTOR;
    image.extend(table.repeat(NAMED));
    image.extend(marker(1, 3));
    let mut footer = built.bytes[built.bytes.len() - 2 * SECTOR..][..SECTOR].to_vec();
    footer[56..64].copy_from_slice(&(directory as u64).to_le_bytes());
    image.extend(footer);
    let footer = image.len() - SECTOR;
    for header in [0, footer] {
        image[header + 12..header + 20].copy_from_slice(&(TERABYTE / 512).to_le_bytes());
    }
    image.extend(marker(0, 0));
    image
}

/// A QCOW2 of one L2 table, named by `named` entries of the L1 table. All its entries are `entry`.
fn qcow2_of_one_table(named: usize, bits: u32, entry: impl Fn(usize) -> u64, stored: &[u8]) -> Vec<u8> {
    let cluster = 1usize << bits;
    let table = (2 * cluster + 8 * named).next_multiple_of(cluster);
    let size = (named as u64) << (2 * bits - 3);
    let mut image = Built::new(bits, size, named as u32, table + cluster);
    image.0[2 * cluster..][..8 * named].as_chunks_mut::<8>().0.fill((1 << 63 | table as u64).to_be_bytes());
    for index in 0..cluster / 8 {
        let word = match entry(index) {
            // Compressed, at the next cluster.
            0 => {
                1 << 62
                    | ((stored.len().div_ceil(SECTOR) - 1) as u64) << (62 - (bits - 8))
                    | (table + cluster) as u64
            }
            word => word,
        };
        image.long(table + 8 * index, word);
    }
    image.0.extend(stored);
    image.0.resize(image.0.len().next_multiple_of(SECTOR), 1);
    image.0
}

/// The number of extents of a walk over the whole disk, and its result.
fn walked(format: Format, image: Vec<u8>) -> (usize, Option<ErrorKind>) {
    let disk = open_as(format, image).unwrap();
    let end = GuestOffset::new(disk.virtual_bytes());
    let (mut at, mut count) = (GuestOffset::ZERO, 0);
    while at < end {
        match block_on(disk.extents(GuestRange::between(at, end))) {
            Ok(extents) => {
                at = extents.last().unwrap().guest.end();
                count += extents.len();
            }
            Err(error) => return (count, Some(error.kind())),
        }
    }
    (count, None)
}

/// The work is counted, not timed. Every command walks the map, and an extent takes about a microsecond at most.
#[test]
fn small_objects_are_never_walked_for_long() {
    let zeros = |bits: u32| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; 1 << bits]).unwrap();
        encoder.finish().unwrap()
    };
    let (small, large) = (zeros(16), zeros(17));
    let plain = unit();
    let alternating = |index: usize| if index.is_multiple_of(2) { 1 } else { 0 };
    for (name, format, image) in [
        ("sparse", Format::Vmdk, vmdk_of_one_table(&plain, false)),
        ("compressed", Format::Vmdk, vmdk_of_one_table(&zlib(&plain), true)),
        ("stream", Format::Vmdk, stream_of_one_table()),
        ("L2 table of zeros", Format::Qcow2, qcow2_of_one_table(8192, 16, |_| 1, &[1])),
        (
            "L2 table of one cluster and zeros",
            Format::Qcow2,
            qcow2_of_one_table(8192, 16, alternating, &small),
        ),
        ("L2 table of one cluster", Format::Qcow2, qcow2_of_one_table(8192, 16, |_| 0, &small)),
        // No table is shared, but all entries name one cluster.
        ("one large cluster", Format::Qcow2, qcow2_of_one_table(1, 17, |_| 0, &large)),
        (
            "one plain cluster",
            Format::Qcow2,
            qcow2_of_one_table(1, 17, |_| 1 << 63 | (4 << 17), &[7; 1 << 17]),
        ),
    ] {
        let object = image.len();
        assert!(object < 1 << 20, "{name}: {object} bytes");
        let (extents, end) = walked(format, image);
        println!("{name}: {object} bytes, {extents} extents, {end:?}");
        assert_eq!(end, Some(ErrorKind::Malformed), "{name}");
        assert!(extents <= 1 << 17, "{name}: {extents} extents");
    }
}

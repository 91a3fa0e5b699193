//! The bytes of a target compared with the specification (VMware, *Virtual Disk Format 1.1* and *5.0*), without our
//! readers: the offset and value of each field.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::support::{SECTOR, noise, pattern};
use crate::vmdk_write::made::*;

/// A header's fields, by their offset in its packed struct.
struct Fields {
    version: u32,
    flags: u32,
    capacity: u64,
    redundant: u64,
    directory: u64,
    overhead: u64,
    compression: u16,
}

/// Checks the fields that are the same in all headers, and returns the others.
fn header(bytes: &[u8]) -> Fields {
    assert_eq!(&bytes[..4], b"KDMV");
    assert_eq!(u64_at(bytes, 20), 128, "grainSize");
    assert_eq!((u64_at(bytes, 28), u64_at(bytes, 36)), (1, 20), "descriptorOffset and descriptorSize");
    assert_eq!(u32_at(bytes, 44), 512, "numGTEsPerGT");
    assert_eq!(bytes[72], 0, "uncleanShutdown");
    assert_eq!(&bytes[73..77], b"\n \r\n", "the newline detection bytes");
    assert!(bytes[79..SECTOR].iter().all(|byte| *byte == 0), "the padding");
    Fields {
        version: u32_at(bytes, 4),
        flags: u32_at(bytes, 8),
        capacity: u64_at(bytes, 12),
        redundant: u64_at(bytes, 48),
        directory: u64_at(bytes, 56),
        overhead: u64_at(bytes, 64),
        compression: u16::from_le_bytes([bytes[77], bytes[78]]),
    }
}

/// The descriptor's lines without comments, as keys and values, and its extent lines.
fn descriptor(bytes: &[u8]) -> (BTreeMap<String, String>, Vec<String>) {
    let sectors = &bytes[SECTOR..21 * SECTOR];
    let end = sectors.iter().position(|byte| *byte == 0).unwrap();
    assert!(sectors[end..].iter().all(|byte| *byte == 0), "only zeros after the text");
    let text = std::str::from_utf8(&sectors[..end]).unwrap();
    assert!(text.starts_with("# Disk DescriptorFile\nversion=1\n") && text.ends_with('\n'));
    let (mut keys, mut extents) = (BTreeMap::new(), Vec::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once('=') {
            Some((key, value)) => {
                let value = value.trim().trim_matches('"').to_owned();
                assert_eq!(keys.insert(key.trim().to_owned(), value), None, "{key} twice");
            }
            None => extents.push(line.to_owned()),
        }
    }
    (keys, extents)
}

fn check_identity(keys: &BTreeMap<String, String>) {
    let cid = &keys["CID"];
    assert!(cid.len() == 8 && !["ffffffff", "fffffffe", "00000000"].contains(&cid.as_str()), "{cid}");
    assert!(keys["ddb.longContentID"].len() == 32 && keys["ddb.longContentID"].ends_with(cid));
    assert_eq!(keys["parentCID"], "ffffffff");
    assert_eq!(keys["ddb.adapterType"], "lsilogic");
    assert_eq!(keys["ddb.virtualHWVersion"], "4");
}

/// A disk of four tables that ends inside a grain. The second table has no grain.
fn disk() -> Vec<u8> {
    let table = 32 << 20;
    pieces(
        3 * table + 70 * SECTOR,
        &[
            (0, noise(GRAIN, 1)),
            (GRAIN + 5000, pattern(3 * GRAIN, 2)),
            (table - GRAIN, pattern(100, 3)),
            (2 * table, noise(4096, 4)),
            (3 * table - 1, vec![5]),
            (3 * table, pattern(70 * SECTOR, 6)),
        ],
    )
}

/// The grains of a disk that are not zeros, each padded with zeros.
fn grains(guest: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let grains = (0..).zip(guest.chunks(GRAIN)).filter(|(_, grain)| grain.iter().any(|byte| *byte != 0));
    let whole = |grain: &[u8]| [grain, &vec![0; GRAIN - grain.len()]].concat();
    grains.map(|(number, grain)| (number, whole(grain))).collect()
}

#[test]
fn a_stream_follows_the_specification() {
    let guest = disk();
    let bytes = write(raw(&guest), &[STREAM]);
    let sectors = guest.len() / SECTOR;

    let front = header(&bytes);
    assert_eq!((front.version, front.flags, front.compression), (3, 0x3_0001, 1));
    assert_eq!(front.capacity, sectors as u64);
    assert_eq!((front.directory, front.redundant), (u64::MAX, 0), "the directory is at the end");
    assert_eq!(front.overhead, 128);
    let (keys, extents) = descriptor(&bytes);
    assert_eq!(keys["createType"], "streamOptimized");
    assert_eq!(extents, [format!("RDONLY {sectors} SPARSE \"generated-stream.vmdk\"")]);
    check_identity(&keys);
    let geometry = ["cylinders", "heads", "sectors"].map(|key| keys[&format!("ddb.geometry.{key}")].as_str());
    assert_eq!(geometry, ["96", "64", "32"]);
    assert!(bytes[21 * SECTOR..128 * SECTOR].iter().all(|byte| *byte == 0));

    // From marker to marker.
    let mut expected = grains(&guest);
    let (mut at, mut last_lba) = (128 * SECTOR, None);
    let mut tables = BTreeMap::new();
    let mut open: BTreeMap<u64, u32> = BTreeMap::new();
    let directory = loop {
        let (value, size) = (u64_at(&bytes, at), u32_at(&bytes, at + 8) as usize);
        if size > 0 {
            assert!(value.is_multiple_of(128) && last_lba.is_none_or(|last| last < value), "grains ascend");
            last_lba = Some(value);
            let mut grain = Vec::new();
            let mut stream = &bytes[at + 12..at + 12 + size];
            ZlibDecoder::new(&mut stream).read_to_end(&mut grain).unwrap();
            assert!(stream.is_empty(), "the marker says the stream's exact length");
            assert!(expected.remove(&(value / 128)) == Some(grain), "the grain at {value}");
            let end = (at + 12 + size).next_multiple_of(SECTOR);
            assert!(bytes[at + 12 + size..end].iter().all(|byte| *byte == 0), "zeros up to the sector");
            open.insert(value / 128, (at / SECTOR) as u32);
            at = end;
            continue;
        }
        assert!(bytes[at + 16..at + SECTOR].iter().all(|byte| *byte == 0), "a marker fills its sector");
        match u32_at(&bytes, at + 12) {
            1 => {
                assert_eq!(value, 4, "sectors of a table");
                let index = *open.keys().next().unwrap() / 512;
                at += SECTOR;
                tables.insert(index, (at / SECTOR) as u32);
                for slot in 0..512 {
                    let entry = u32_at(&bytes, at + slot as usize * 4);
                    assert_eq!(entry, open.remove(&(index * 512 + slot)).unwrap_or(0), "entry {slot}");
                }
                assert!(open.is_empty(), "a table follows its grains: {open:?}");
                at += 4 * SECTOR;
            }
            2 => {
                assert_eq!(value, 1, "sectors of the directory");
                break at + SECTOR;
            }
            kind => panic!("a marker of type {kind} at {at}"),
        }
    };
    assert!(expected.is_empty() && open.is_empty(), "every grain is stored, and in a table");
    assert_eq!(tables.keys().copied().collect::<Vec<_>>(), [0, 2, 3], "tables without a grain are left out");
    for index in 0..128 {
        let entry = u32_at(&bytes, directory + index as usize * 4);
        assert_eq!(entry, tables.get(&index).copied().unwrap_or(0), "directory entry {index}");
    }

    let end = &bytes[directory + SECTOR..];
    assert_eq!((u64_at(end, 0), u32_at(end, 8), u32_at(end, 12)), (1, 0, 3), "the footer's marker");
    assert!(end[16..SECTOR].iter().all(|byte| *byte == 0));
    let mut footer = end[SECTOR..2 * SECTOR].to_vec();
    assert_eq!(header(&footer).directory, (directory / SECTOR) as u64);
    footer[56..64].fill(0xff);
    assert_eq!(footer, bytes[..SECTOR], "except for the directory's address the footer equals the header");
    assert_eq!(end[2 * SECTOR..], [0; SECTOR], "the end of the stream");
}

#[test]
fn a_sparse_image_follows_the_specification() {
    let guest = disk();
    let bytes = write(raw(&guest), &[]);
    let sectors = guest.len() / SECTOR;

    let front = header(&bytes);
    assert_eq!((front.version, front.flags, front.compression), (1, 3, 0));
    assert_eq!(front.capacity, sectors as u64);
    assert!(front.overhead.is_multiple_of(128), "grains begin at a grain's multiple");
    let (keys, extents) = descriptor(&bytes);
    assert_eq!(keys["createType"], "monolithicSparse");
    assert_eq!(extents, [format!("RW {sectors} SPARSE \"disk.vmdk\"")]);
    check_identity(&keys);

    let expected = grains(&guest);
    let first = front.overhead as usize * SECTOR;
    let end = first + expected.len() * GRAIN;
    assert!(bytes[end..].iter().all(|byte| *byte == 0), "only zeros after the last grain");
    for directory in [front.redundant, front.directory] {
        let mut places = Vec::new();
        for table in 0..4u64 {
            let entry = u64::from(u32_at(&bytes, directory as usize * SECTOR + table as usize * 4));
            assert_eq!(entry, directory + 1 + table * 4, "every table is written");
            for slot in 0..512 {
                let entry = u32_at(&bytes, entry as usize * SECTOR + slot as usize * 4);
                if entry != 0 {
                    places.push((table * 512 + slot, entry as usize * SECTOR));
                }
            }
        }
        let numbers: Vec<_> = expected.keys().copied().collect();
        assert_eq!(places.iter().map(|(number, _)| *number).collect::<Vec<_>>(), numbers);
        for (rank, (number, place)) in places.into_iter().enumerate() {
            assert_eq!(place, first + rank * GRAIN, "grains are consecutive in guest order");
            assert!(bytes[place..place + GRAIN] == expected[&number], "grain {number}");
        }
    }
    assert_eq!(front.redundant, 21);
    assert_eq!(front.directory, 21 + 1 + 4 * 4);
    let used = (front.directory + 1 + 4 * 4) as usize * SECTOR;
    assert!(used <= first && bytes[used..first].iter().all(|byte| *byte == 0));
}

#[test]
fn an_id_is_the_content_id_and_ends_in_the_cid() {
    let guest = pattern(GRAIN, 1);
    for kind in KINDS {
        let id = ("id", "123e4567-e89b-12d3-a456-426614174000");
        let (keys, _) = descriptor(&write(raw(&guest), &[kind, &[id]].concat()));
        assert_eq!(keys["ddb.longContentID"], "123e4567e89b12d3a456426614174000");
        assert_eq!(keys["CID"], "14174000");
    }
}

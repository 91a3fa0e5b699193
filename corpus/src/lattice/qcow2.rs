//! QCOW2, versions 2 and 3, with standard and with extended L2 entries.
//!
//! ```text
//! cluster  0       1               2               3    4    5 6 7  8 9         10
//!          header  refcount table  refcount block  L1   L2   data   compressed  snapshots
//! ```

use std::sync::Arc;

use super::build::{Image, deflate, guest};
use super::{
    BE16, BE32, BE64, BYTE, Base, Case, Expect, MALFORMED, SAME, Structure, TRUNCATED, UNMARKED, UNSUPPORTED,
    Value, all, reads, refused,
};

const CLUSTER: usize = 4096;
const REFCOUNTS: usize = CLUSTER;
const BLOCK: usize = 2 * CLUSTER;
const L1: usize = 3 * CLUSTER;
const L2: usize = 4 * CLUSTER;
const DATA: usize = 5 * CLUSTER;
const COMPRESSED: usize = 8 * CLUSTER;
const SNAPSHOTS: usize = 10 * CLUSTER;
/// Size of the object.
const END: u64 = 11 * CLUSTER as u64;
/// Size of the disk, which ends within the last cluster.
const DISK: usize = 6 * CLUSTER - 100;
/// The "copied" flag: the table or cluster has exactly one reference.
const COPIED: u64 = 1 << 63;
const CODED: u64 = 1 << 62;
/// The maximum address in an entry.
const FAR: u64 = 0x00ff_ffff_ffff_f000;
/// Offset of the first extension after the version 3 header.
const EXTENSION: usize = 112;
/// Bit position of the number of additional sectors in the entry of a compressed cluster.
const MORE: u32 = 58;

pub(super) fn cases(out: &mut Vec<Case>) {
    let v3 = base(3);
    header_v3(out, &v3);
    extensions(out, &v3);
    entries(out, &v3);
    refcounts(out, &v3);
    snapshots(out, &v3);
    zeroed_tails(out, &v3);
    backing(out);
    header_v2(out, &base(2));
    extended(out);
}

/// Clusters: data, zeros, unallocated, data, compressed data, and data to the end of the disk.
fn base(version: u32) -> Arc<Base> {
    let mut disk = guest(6 * CLUSTER);
    disk[CLUSTER..3 * CLUSTER].fill(0);
    let mut image = Image::new(END as usize);
    image.put(0, b"QFI\xfb").be32(4, version).be32(20, 12).be64(24, DISK as u64);
    image.be32(36, 1).be64(40, L1 as u64).be64(48, REFCOUNTS as u64).be32(56, 1);
    image.be32(60, 1).be64(64, SNAPSHOTS as u64);
    if version == 3 {
        image.be32(96, 4).be32(100, 112);
        // An unknown extension, the feature name table, and bitmaps.
        image.be32(EXTENSION, 0x1234_5678).be32(EXTENSION + 4, 8);
        image.be32(128, 0x6803_f857).be32(132, 48).put(136, b"\0\0dirty bit");
        image.be32(184, 0x2385_2875).be32(188, 24).be32(192, 1).be64(200, 32).be64(208, 9 * CLUSTER as u64);
    }
    image.be64(REFCOUNTS, BLOCK as u64);
    for cluster in 0..11 {
        image.put(BLOCK + 2 * cluster, &[0, 1]);
    }
    image.be64(L1, COPIED | L2 as u64);
    let zero = u64::from(version == 3);
    let stored = deflate(&disk[4 * CLUSTER..5 * CLUSTER]);
    let more = (stored.len().div_ceil(512) - 1) as u64;
    let entries = [
        COPIED | DATA as u64,
        zero,
        0,
        COPIED | (DATA + CLUSTER) as u64,
        CODED | more << MORE | COMPRESSED as u64,
        COPIED | (DATA + 2 * CLUSTER) as u64,
    ];
    for (index, entry) in entries.into_iter().enumerate() {
        image.be64(L2 + 8 * index, entry);
    }
    image.put(DATA, &disk[..CLUSTER]).put(DATA + CLUSTER, &disk[3 * CLUSTER..4 * CLUSTER]);
    image.put(DATA + 2 * CLUSTER, &disk[5 * CLUSTER..DISK]).put(COMPRESSED, &stored);
    image.be64(SNAPSHOTS, L1 as u64).be32(SNAPSHOTS + 8, 1).put(SNAPSHOTS + 12, &[0, 1, 0, 4]);
    image.put(SNAPSHOTS + 40, b"1kept");
    disk.truncate(DISK);
    Base::one("qcow2", if version == 3 { "v3" } else { "v2" }, image.0, disk)
}

fn empty(disk: &mut Vec<u8>, _: &[u8]) {
    disk.clear();
}

fn first_byte(disk: &mut Vec<u8>, _: &[u8]) {
    disk.truncate(1);
}

/// The fields of both versions, except the magic number and the version.
fn common(header: &mut Structure<'_>) {
    header
        .number("backing_file_offset", BE64, [SAME, MALFORMED, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::SelfReferring, 40, MALFORMED)
        .and(Value::Boundary, CLUSTER as u64 - 1, MALFORMED.says("backing_file_size").at(16))
        .and(Value::PastTheEnd, CLUSTER as u64, MALFORMED)
        // Without an offset there is no backing file name.
        .number("backing_file_size", BE32, all(SAME))
        .number("cluster_bits", BE32, all(MALFORMED))
        .and(Value::Boundary, 8, MALFORMED)
        .and(Value::Boundary, 22, MALFORMED)
        .and(Value::Overflow, 63, MALFORMED)
        .and(Value::Overflow, 64, MALFORMED)
        // The entries are then those of one-sector clusters.
        .and(
            Value::Meaning,
            9,
            reads(|disk, _| {
                for cluster in [0, 3, 4, 5] {
                    disk.copy_within(cluster * CLUSTER..cluster * CLUSTER + 512, cluster * 512);
                }
                disk[512..3 * 512].fill(0);
                disk[6 * 512..].fill(0);
            }),
        )
        .and(Value::Meaning, 21, MALFORMED.says("refcount_table_offset").at(48))
        .number("size", BE64, [reads(empty), reads(first_byte), refuse_size(), refuse_size(), refuse_size()])
        .and(Value::Boundary, 512 * CLUSTER as u64, reads(|disk, _| disk.resize(512 * CLUSTER, 0)))
        .and(Value::Boundary, 512 * CLUSTER as u64 + 1, refuse_size())
        .and(Value::Overflow, u64::MAX - 511, refuse_size())
        .number(
            "crypt_method",
            BE32,
            [
                SAME,
                refused("encrypted_refused").says("encrypted with AES"),
                UNSUPPORTED,
                UNSUPPORTED,
                UNSUPPORTED,
            ],
        )
        .and(Value::Meaning, 2, refused("encrypted_refused").says("encrypted with LUKS"))
        .and(Value::Boundary, 3, UNSUPPORTED)
        .number("l1_size", BE32, [MALFORMED, SAME, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 512, SAME)
        .and(Value::Boundary, (4 << 20) + 1, MALFORMED)
        .and(Value::PastTheEnd, 4 << 20, TRUNCATED.at(40))
        .and(Value::PastTheEnd, (END - L1 as u64) / 8 + 1, TRUNCATED.at(40))
        .and(Value::Overlapping, 513, MALFORMED.says("L1 entry").at(L1))
        .number("l1_table_offset", BE64, [MALFORMED, MALFORMED, TRUNCATED, MALFORMED, MALFORMED])
        .and(Value::Unaligned, L1 as u64 + 512, MALFORMED)
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::PastTheEnd, 1 << 56, TRUNCATED)
        .given(Value::Overflow, !0xfff, &[(36, BE32, 513)], MALFORMED)
        .and(Value::Overlapping, REFCOUNTS as u64, MALFORMED)
        // An L1 table is read as an L2 table, and data as a table.
        .and(Value::Overlapping, L2 as u64, MALFORMED.says("L2 entry").at(DATA))
        .number("refcount_table_offset", BE64, [MALFORMED, MALFORMED, TRUNCATED, MALFORMED, MALFORMED])
        .and(Value::Unaligned, REFCOUNTS as u64 + 512, MALFORMED)
        .and(Value::PastTheEnd, END, TRUNCATED)
        .and(Value::Overflow, !0xfff, MALFORMED)
        .and(Value::Overlapping, L1 as u64, MALFORMED.says("l1_table_offset").at(40))
        .number("refcount_table_clusters", BE32, [MALFORMED, SAME, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 2049, MALFORMED)
        .and(Value::PastTheEnd, 2048, TRUNCATED.at(48))
        .and(Value::Overlapping, 3, MALFORMED.says("l1_table_offset").at(40))
        .number("nb_snapshots", BE32, [SAME, SAME, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 65_537, MALFORMED)
        .and(Value::PastTheEnd, 65_536, TRUNCATED.at(64))
        .number("snapshots_offset", BE64, [MALFORMED, MALFORMED, TRUNCATED, MALFORMED, MALFORMED])
        .and(Value::Unaligned, SNAPSHOTS as u64 + 8, MALFORMED)
        .and(Value::PastTheEnd, END, TRUNCATED)
        .given(Value::Overflow, !0xfff, &[(60, BE32, 200)], MALFORMED)
        // Snapshots are reported, and are not part of the content.
        .and(Value::Overlapping, L1 as u64, SAME)
        .and(Value::SelfReferring, 0, MALFORMED);
}

/// A disk that is larger than the L1 table maps.
fn refuse_size() -> Expect {
    MALFORMED.says("l1_size").at(36)
}

fn header_v3(out: &mut Vec<Case>, base: &Arc<Base>) {
    let mut header = Structure::new(out, base, "v3 header", 0, 112);
    header
        .number("magic", BE32, all(UNMARKED))
        .number("version", BE32, all(UNSUPPORTED))
        .and(Value::Boundary, 4, UNSUPPORTED)
        .and(Value::Meaning, 2, MALFORMED.says("zero flag").at(L2 + 8));
    common(&mut header);
    header
        .number("incompatible_features", BE64, [SAME, SAME, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .and(Value::Meaning, 2, SAME)
        .and(Value::Meaning, 4, refused("external_data_refused").says("data in another file"))
        .and(Value::Meaning, 8, MALFORMED.says("compression_type").at(104))
        .and(Value::Meaning, 16, MALFORMED.says("cluster_bits").at(20))
        .and(Value::Boundary, 32, UNSUPPORTED)
        .number("compatible_features", BE64, all(SAME))
        .number("autoclear_features", BE64, all(SAME))
        .number("refcount_order", BE32, [SAME, SAME, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 6, SAME)
        .and(Value::Boundary, 7, MALFORMED)
        .and(Value::Overflow, 32, MALFORMED)
        .number("header_length", BE32, all(MALFORMED))
        .and(Value::Meaning, 104, SAME)
        .and(Value::Boundary, 72, MALFORMED)
        .and(Value::Unaligned, 108, MALFORMED)
        .and(Value::Boundary, CLUSTER as u64, SAME)
        .and(Value::PastTheEnd, CLUSTER as u64 + 8, MALFORMED)
        .number("compression_type", BYTE, [SAME, MALFORMED, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED])
        .and(Value::Boundary, 2, UNSUPPORTED)
        .bytes("padding", 7, all(SAME))
        .cut([
            UNMARKED,
            TRUNCATED.says("QCOW2 header").at(56),
            // All fields exist, but the structures that they point at do not.
            TRUNCATED.says("refcount_table_offset").at(48),
        ])
        .complete();
    Structure::new(out, base, "v3 header without its end", 0, 104).cut([
        UNMARKED,
        TRUNCATED.says("QCOW2 header").at(52),
        TRUNCATED.says("QCOW2 header").at(103),
    ]);
}

fn header_v2(out: &mut Vec<Case>, base: &Arc<Base>) {
    let mut header = Structure::new(out, base, "v2 header", 0, 72);
    header.number("magic", BE32, all(UNMARKED)).number("version", BE32, all(UNSUPPORTED));
    common(&mut header);
    header
        .cut([UNMARKED, TRUNCATED.says("QCOW2 header").at(36), TRUNCATED.says("QCOW2 header").at(71)])
        .complete();
    Structure::new(out, base, "v2 L2 entry", L2 + 8, 8)
        .number("L2 entry", BE64, [SAME, MALFORMED.says("zero flag"), SAME, MALFORMED, MALFORMED])
        .complete();
}

fn extensions(out: &mut Vec<Case>, base: &Arc<Base>) {
    Structure::new(out, base, "header extension", EXTENSION, 16)
        .number("type", BE32, all(SAME))
        // The format of a backing file that does not exist, and the name of a data file that is not used.
        .and(Value::Meaning, 0xe279_2aca, SAME)
        .and(Value::Meaning, 0x4441_5441, SAME)
        // A feature name table whose length is not a multiple of its entry size.
        .and(Value::Meaning, 0x6803_f857, SAME)
        .and(Value::Meaning, 0x2385_2875, MALFORMED.says("bitmaps extension").at(EXTENSION))
        .number(
            "length",
            BE32,
            [
                SAME,
                SAME,
                MALFORMED.says("header extension").at(EXTENSION),
                MALFORMED.says("header extension").at(EXTENSION),
                MALFORMED.says("header extension").at(EXTENSION),
            ],
        )
        .and(Value::Boundary, (CLUSTER - EXTENSION - 8) as u64, SAME)
        .and(
            Value::PastTheEnd,
            (CLUSTER - EXTENSION - 7) as u64,
            MALFORMED.says("header extension").at(EXTENSION),
        )
        .bytes("data", 8, all(SAME))
        .cut([
            TRUNCATED.says("refcount_table_offset").at(48),
            TRUNCATED.says("header extension").at(EXTENSION),
            TRUNCATED.says("header extension").at(EXTENSION),
        ])
        .complete();
    Structure::new(out, base, "feature name", 136, 48)
        .number("kind", BYTE, all(SAME))
        .number("bit", BYTE, all(SAME))
        .bytes("name", 46, all(SAME))
        .complete();
    Structure::new(out, base, "bitmaps extension", 184, 32)
        .number("type", BE32, all(SAME))
        .number(
            "length",
            BE32,
            [
                MALFORMED.says("bitmaps extension").at(184),
                MALFORMED.says("bitmaps extension").at(184),
                MALFORMED.says("header extension").at(184),
                MALFORMED.says("header extension").at(184),
                MALFORMED.says("header extension").at(184),
            ],
        )
        .and(Value::Boundary, 23, MALFORMED.says("bitmaps extension").at(184))
        .and(Value::Boundary, 25, MALFORMED.says("bitmaps extension").at(184))
        .number("nb_bitmaps", BE32, all(SAME))
        .number("reserved", BE32, all(SAME))
        .number("bitmap_directory_size", BE64, all(SAME))
        .number("bitmap_directory_offset", BE64, all(SAME))
        .cut([
            TRUNCATED.says("refcount_table_offset").at(48),
            TRUNCATED.says("header extension").at(184),
            TRUNCATED.says("header extension").at(184),
        ])
        .complete();
}

/// The two header fields of a backing file.
fn backing(out: &mut Vec<Case>) {
    let v3 = base(3);
    let mut image = Image(v3.files[0].1.clone());
    image.be64(8, 1000).be32(16, 4).put(1000, b"base");
    // Even the undamaged image is refused; the damage changes only the reason.
    let base = Base::one("qcow2", "v3 with a backing file", image.0, Vec::new());
    let refuse = refused("backing_file_refused").says("backing file");
    Structure::new(out, &base, "name of a backing file", 0, 20)
        .from(8)
        .number("backing_file_offset", BE64, [SAME_AS_V3, MALFORMED, MALFORMED, MALFORMED, MALFORMED])
        .and(Value::SelfReferring, 8, MALFORMED)
        .and(Value::Meaning, 1000, refuse)
        // The name limits the extensions, and must not overlap one.
        .and(Value::Overlapping, 130, refuse)
        .and(Value::Overlapping, 140, MALFORMED.says("header extension").at(128))
        .and(Value::PastTheEnd, CLUSTER as u64 - 3, MALFORMED.says("backing_file_size").at(16))
        .number("backing_file_size", BE32, [MALFORMED, refuse.at(8), MALFORMED, MALFORMED, MALFORMED])
        .and(Value::Boundary, 1023, refuse.at(8))
        .and(Value::Boundary, 1024, MALFORMED)
        .complete();
    Structure::new(out, &base, "backing file's name", 1000, 4).cut([
        TRUNCATED.says("backing file's name").at(8),
        TRUNCATED.says("backing file's name").at(8),
        TRUNCATED.says("backing file's name").at(8),
    ]);
}

/// The outcome if the backing file is removed: the disk of version 3.
const SAME_AS_V3: Expect = reads(|disk, _| {
    *disk = guest(6 * CLUSTER);
    disk[CLUSTER..3 * CLUSTER].fill(0);
    disk.truncate(DISK);
});

fn entries(out: &mut Vec<Case>, base: &Arc<Base>) {
    let nothing = reads(|disk, _| disk.fill(0));
    Structure::new(out, base, "L1 entry", L1, 8)
        .number("L1 entry", BE64, [nothing, MALFORMED, nothing, MALFORMED, MALFORMED])
        .and(Value::Meaning, L2 as u64, SAME)
        .and(Value::Meaning, COPIED | 1 << 62 | L2 as u64, MALFORMED)
        .and(Value::Unaligned, COPIED | (L2 + 512) as u64, MALFORMED)
        .and(Value::PastTheEnd, COPIED | END, TRUNCATED)
        .and(Value::Overflow, COPIED | FAR, TRUNCATED)
        .and(Value::Overlapping, COPIED | REFCOUNTS as u64, MALFORMED)
        .and(Value::Overlapping, COPIED | BLOCK as u64, TRUNCATED.says("L2 entry").at(BLOCK + 16))
        .and(Value::Overlapping, COPIED | DATA as u64, MALFORMED.says("L2 entry").at(DATA))
        .and(Value::SelfReferring, COPIED | L1 as u64, MALFORMED)
        .cut([TRUNCATED.says("l1_table_offset").at(40); 3])
        .complete();
    // Without snapshots, because their table is at the end of the object.
    let mut image = Image(base.files[0].1.clone());
    let plain = Base::one("qcow2", "v3 without snapshots", image.be32(60, 0).0.clone(), base.disk.clone());
    Structure::new(out, &plain, "L2 table", L2, 48).cut([TRUNCATED.says("L1 entry").at(L1); 3]);
    Structure::new(out, base, "L2 entry", L2, 8)
        .number(
            "L2 entry",
            BE64,
            [
                reads(|disk, _| disk[..CLUSTER].fill(0)),
                reads(|disk, _| disk[..CLUSTER].fill(0)),
                reads(|disk, _| disk[..CLUSTER].fill(0)),
                MALFORMED,
                MALFORMED,
            ],
        )
        .and(Value::Meaning, COPIED | DATA as u64 | 2, MALFORMED)
        .and(Value::Meaning, COPIED | DATA as u64 | 1 << 61, MALFORMED)
        .and(Value::Unaligned, COPIED | (DATA + 512) as u64, MALFORMED)
        .and(Value::PastTheEnd, COPIED | END, TRUNCATED)
        .and(Value::Overflow, COPIED | FAR, TRUNCATED)
        .and(Value::Overlapping, COPIED | REFCOUNTS as u64, MALFORMED)
        .and(Value::Overlapping, COPIED | L1 as u64, MALFORMED)
        // Both guest clusters then have the same data.
        .and(
            Value::Overlapping,
            COPIED | (DATA + CLUSTER) as u64,
            reads(|disk, _| disk.copy_within(3 * CLUSTER..4 * CLUSTER, 0)),
        )
        // L2 tables are found while the map is walked. Reading one as data exposes only the guest's own content.
        .and(
            Value::SelfReferring,
            COPIED | L2 as u64,
            reads(|disk, image| disk[..CLUSTER].copy_from_slice(&image[L2..L2 + CLUSTER])),
        )
        .complete();
    Structure::new(out, &plain, "cluster", DATA, CLUSTER).cut([
        TRUNCATED.says("L2 entry").at(L2),
        TRUNCATED.says("L2 entry").at(L2),
        TRUNCATED.says("L2 entry").at(L2),
    ]);
    let hole = reads(|disk, _| disk[4 * CLUSTER..5 * CLUSTER].fill(0));
    let more = 8u64 << MORE;
    Structure::new(out, base, "compressed L2 entry", L2 + 32, 8)
        .number("compressed L2 entry", BE64, [hole, hole, hole, MALFORMED, MALFORMED])
        .and(Value::Meaning, COPIED | CODED | more | COMPRESSED as u64, SAME)
        .and(Value::Boundary, CODED | 15 << MORE | COMPRESSED as u64, SAME)
        .and(Value::Boundary, CODED | COMPRESSED as u64, MALFORMED.says("compressed unit").at(COMPRESSED))
        .and(Value::Boundary, CODED | more | 1 << 56, MALFORMED)
        .and(Value::Unaligned, CODED | more | (COMPRESSED as u64 + 1), broken(COMPRESSED + 1))
        .and(Value::PastTheEnd, CODED | more | END, TRUNCATED)
        .and(Value::Overflow, CODED | 15 << MORE | ((1 << 56) - 1), TRUNCATED)
        .and(Value::Overlapping, CODED | more, MALFORMED)
        .and(Value::Overlapping, CODED | more | L1 as u64, MALFORMED)
        .and(Value::Overlapping, CODED | more | REFCOUNTS as u64, MALFORMED)
        .and(Value::Overlapping, CODED | more | DATA as u64, broken(DATA))
        .and(Value::SelfReferring, CODED | more | L2 as u64, broken(L2))
        .complete();
    Structure::new(out, &plain, "compressed cluster", COMPRESSED, 4101).cut([
        TRUNCATED.says("compressed L2 entry").at(L2 + 32),
        // The entry counts sectors, and the last may be incomplete: only the stream shows that it is truncated.
        broken(COMPRESSED),
        broken(COMPRESSED),
    ]);
}

/// An invalid deflate stream.
fn broken(at: usize) -> Expect {
    MALFORMED.says("compressed unit").at(at)
}

/// Reference counts are needed only by writers.
fn refcounts(out: &mut Vec<Case>, base: &Arc<Base>) {
    Structure::new(out, base, "refcount table entry", REFCOUNTS, 8)
        .number("refcount table entry", BE64, all(SAME))
        .and(Value::PastTheEnd, END, SAME)
        .and(Value::SelfReferring, REFCOUNTS as u64, SAME)
        .cut([TRUNCATED.says("refcount_table_offset").at(48); 3])
        .complete();
    Structure::new(out, base, "refcount block entry", BLOCK, 2)
        .number("refcount block entry", BE16, all(SAME))
        .complete();
}

/// Snapshots are not part of the content. Their names are listed as far as they can be read.
fn snapshots(out: &mut Vec<Case>, base: &Arc<Base>) {
    Structure::new(out, base, "snapshot", SNAPSHOTS, 40)
        .number("l1_table_offset", BE64, all(SAME))
        .number("l1_size", BE32, all(SAME))
        .number("id_str_size", BE16, all(SAME))
        .number("name_size", BE16, all(SAME))
        .number("date_sec", BE32, all(SAME))
        .number("date_nsec", BE32, all(SAME))
        .number("vm_clock_nsec", BE64, all(SAME))
        .number("vm_state_size", BE32, all(SAME))
        .number("extra_data_size", BE32, all(SAME))
        .cut([TRUNCATED.says("snapshots_offset").at(64); 3])
        .complete();
}

/// A zero entry means an unallocated cluster. Reference counts show whether entries were lost.
fn zeroed_tails(out: &mut Vec<Case>, base: &Arc<Base>) {
    // As a writer leaves it: no snapshots or bitmaps, and correct reference counts.
    let mut image = Image(base.files[0].1.clone());
    image.be32(60, 0).be64(64, 0).put(184, &[0; 32]).put(BLOCK + 2 * 10, &[0, 0]);
    image.0.truncate(SNAPSHOTS);
    let base = Base::one("qcow2", "v3 as written", image.0, base.disk.clone());
    // The data of the compressed cluster in a stored block: deflate has no checksum of the content.
    let plain = reads(|disk, image| {
        disk[4 * CLUSTER..5 * CLUSTER].copy_from_slice(&image[COMPRESSED + 5..COMPRESSED + 5 + CLUSTER]);
    });
    Structure::new(out, &base, "zeroed tail", 0, 0).zeroed_tails(|at, first| match at {
        0 => UNMARKED,
        _ if at <= L2 => TRUNCATED.says("ends in zeros from").at(first),
        // Data clusters are lost, and the compressed cluster after them, which is detected.
        _ if at <= COMPRESSED => broken(COMPRESSED),
        _ if at <= COMPRESSED + CLUSTER => plain,
        _ => SAME,
    });
}

/// Extended L2 entries: sub-clusters of data and of zeros.
fn extended(out: &mut Vec<Case>) {
    const CLUSTER: usize = 16 << 10;
    const UNIT: usize = CLUSTER / 32;
    const L1: usize = 3 * CLUSTER;
    const L2: usize = 4 * CLUSTER;
    const DATA: usize = 5 * CLUSTER;
    const ENTRY: u64 = COPIED | DATA as u64;
    let mut disk = guest(2 * CLUSTER);
    // The first half of the first cluster is data, then 8 zero sub-clusters, then 8 unallocated ones.
    disk[CLUSTER / 2..CLUSTER].fill(0);
    let mut image = Image::new(7 * CLUSTER);
    image.put(0, b"QFI\xfb").be32(4, 3).be32(20, 14).be64(24, 2 * CLUSTER as u64);
    image.be32(36, 1).be64(40, L1 as u64).be64(48, CLUSTER as u64).be32(56, 1);
    image.be64(72, 16).be32(96, 4).be32(100, 104);
    image.be64(L1, COPIED | L2 as u64);
    image.be64(L2, ENTRY).be64(L2 + 8, 0x00ff_0000_0000_ffff);
    image.be64(L2 + 16, COPIED | (DATA + CLUSTER) as u64).be64(L2 + 24, 0xffff_ffff);
    image.put(DATA, &disk[..CLUSTER / 2]).put(DATA + CLUSTER, &disk[CLUSTER..]);
    let base = Base::one("qcow2", "v3 with extended L2 entries", image.0, disk);
    let without = MALFORMED.says("no cluster");
    Structure::new(out, &base, "extended L2 entry", L2, 16)
        .number("L2 entry", BE64, [without, MALFORMED, without, MALFORMED, MALFORMED])
        .and(Value::Meaning, ENTRY | 1, MALFORMED.says("zero flag"))
        .and(Value::Meaning, CODED | DATA as u64, MALFORMED.says("sub-cluster bits"))
        .and(Value::Unaligned, ENTRY + 512, MALFORMED)
        .and(Value::PastTheEnd, COPIED | (7 * CLUSTER) as u64, TRUNCATED)
        .and(Value::Overflow, COPIED | (FAR & !0x3fff), TRUNCATED)
        .and(Value::Overlapping, COPIED | L1 as u64, MALFORMED)
        .and(Value::Overlapping, COPIED | CLUSTER as u64, MALFORMED)
        .number(
            "sub-cluster bitmap",
            BE64,
            [
                reads(|disk, _| disk[..CLUSTER].fill(0)),
                reads(|disk, _| disk[UNIT..CLUSTER].fill(0)),
                reads(|disk, _| disk[..CLUSTER].fill(0)),
                MALFORMED.says("allocated and zero at once").at(L2),
                MALFORMED.says("allocated and zero at once").at(L2),
            ],
        )
        .and(Value::Overlapping, 1 << 32 | 1, MALFORMED.says("allocated and zero at once").at(L2))
        .and(Value::Meaning, 0xffff_ffff_0000_0000, reads(|disk, _| disk[..CLUSTER].fill(0)))
        .complete();
}

//! Compressed clusters that qemu reads but does not write: copied from other images, in several frames, or followed by
//! other bytes.

use std::io::Write;

use diskferry_core::ErrorKind;
use diskferry_formats::internal;
use flate2::{Compress, Compression, FlushCompress};

use crate::qcow2::images::*;

const CLUSTER: usize = 65_536;
/// Offset of the compressed bytes, not aligned to anything.
const AT: usize = 4 * CLUSTER + 77;

/// A disk of one cluster, compressed to `payload`, followed by `behind` up to the end of the object.
fn image(payload: &[u8], behind: &[u8], zstd: bool) -> Vec<u8> {
    let mut image = Built::new(16, CLUSTER as u64, 1, AT);
    image.long(2 * CLUSTER, (1 << 63) | (3 * CLUSTER as u64));
    let more = (AT % 512 + payload.len() + behind.len() - 1) / 512;
    image.long(3 * CLUSTER, 1 << 62 | (more as u64) << 54 | AT as u64);
    if zstd {
        image.int(76, 8).int(100, 112).int(104, 1 << 24);
    }
    [&image.0, payload, behind].concat()
}

/// Fails unless we and qemu read the image as `truth`.
#[track_caller]
fn reads(bytes: Vec<u8>, truth: &[u8]) {
    let images = Images::new();
    let path = images.raw("image", &bytes);
    assert_same(&images.truth(&path), truth, "qemu");
    let disk = open_bytes(bytes).unwrap();
    assert_same(&read_all(&disk), truth, "ours");
}

#[track_caller]
fn malformed(bytes: Vec<u8>) {
    let error = content(&open_bytes(bytes).unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(AT as u64)), "{error}");
}

/// A cluster whose second half repeats the first, which only a window of 32 KiB can use.
fn far_repeat() -> Vec<u8> {
    let mut state = 1u64;
    let half: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(CLUSTER / 2 - 300)
    .collect();
    let mut bytes = [&half[..], &half, &[9; 600]].concat();
    bytes.truncate(CLUSTER);
    bytes
}

fn deflated(bytes: &[u8], end: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * bytes.len() + 100);
    Compress::new(Compression::best(), false).compress_vec(bytes, &mut out, end).unwrap();
    out
}

#[test]
fn deflate_with_a_window_of_32_kib_is_read() {
    let truth = far_repeat();
    let payload = deflated(&truth, FlushCompress::Finish);
    assert!(payload.len() < CLUSTER * 3 / 5, "the window was used: {}", payload.len());
    reads(image(&payload, &[], false), &truth);
    reads(image(&payload, &[0xee; 700], false), &truth);
}

#[test]
fn deflate_without_an_end_marker_is_read() {
    let truth = pattern(CLUSTER, 8);
    let payload = deflated(&truth, FlushCompress::Sync);
    // qemu accepts it only if the following bytes look like deflate, as this second stream does.
    reads(image(&payload, &deflated(&truth, FlushCompress::Finish), false), &truth);
    for behind in [&[][..], &[0; 300], &[0xff; 300]] {
        let disk = open_bytes(image(&payload, behind, false)).unwrap();
        assert_same(&read_all(&disk), &truth, "ours");
    }
    malformed(image(&payload[..payload.len() / 2], &[], false));
}

#[test]
fn deflate_of_another_length_than_a_cluster_is_malformed_or_cut() {
    let truth = pattern(CLUSTER + 1, 8);
    // One byte too few is malformed. Extra bytes are ignored.
    malformed(image(&deflated(&truth[..CLUSTER - 1], FlushCompress::Finish), &[], false));
    reads(image(&deflated(&truth, FlushCompress::Finish), &[], false), &truth[..CLUSTER]);
}

#[test]
fn zstd_in_several_frames_followed_by_garbage_is_read() {
    let truth = pattern(CLUSTER, 9);
    let payload = [
        zstd::bulk::compress(&truth[..1000], 1).unwrap(),
        zstd::bulk::compress(&truth[1000..50_000], 19).unwrap(),
        zstd::bulk::compress(&truth[50_000..], 3).unwrap(),
    ]
    .concat();
    reads(image(&payload, &[], true), &truth);
    reads(image(&payload, &[0xee; 700], true), &truth);
    malformed(image(&payload[..payload.len() - 1], &[], true));
}

#[test]
fn zstd_of_another_length_than_a_cluster_is_malformed() {
    let truth = pattern(CLUSTER + 1, 9);
    malformed(image(&zstd::bulk::compress(&truth, 1).unwrap(), &[], true));
    malformed(image(&zstd::bulk::compress(&truth[..CLUSTER - 1], 1).unwrap(), &[], true));
}

#[test]
fn zstd_written_as_a_stream_is_read() {
    // Without a length in its header, and with a checksum.
    let truth = pattern(CLUSTER, 10);
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&truth).unwrap();
    reads(image(&encoder.finish().unwrap(), &[], true), &truth);
}

#[test]
fn an_object_may_end_with_the_last_byte_that_is_decoded() {
    let images = Images::new();
    let truth = pattern(3 * CLUSTER, 11);
    let raw = images.raw("raw", &truth);
    for (compression, decode) in [
        ("zlib", internal::inflate_raw as fn(&[u8], &mut [u8]) -> diskferry_core::Result<usize>),
        ("zstd", internal::unzstd),
    ] {
        let path = images.path("image");
        let options = format!("compression_type={compression}");
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, text(&raw), text(&path)]);
        let bytes = std::fs::read(&path).unwrap();
        let last =
            extents(&open_bytes(bytes.clone()).unwrap()).unwrap().last().unwrap().to_fetch().unwrap().range;
        let start = last.start().get() as usize;
        let taken = decode(&bytes[start..], &mut vec![0; CLUSTER]).unwrap();
        assert!(start + taken < bytes.len(), "the last sector has space");
        let disk = open_bytes(bytes[..start + taken].to_vec()).unwrap();
        assert_same(&read_all(&disk), &truth, compression);
    }
}

#[test]
fn entries_that_share_a_cluster_each_read_and_count_it() {
    let images = Images::new();
    let truth = pattern(1 << 20, 8);
    let raw = images.raw("raw", &truth);
    for options in ["cluster_size=64K", "cluster_size=2M", "cluster_size=512"] {
        for compressed in [&["-c"][..], &[]] {
            let path = images.path("image");
            let args = [&["convert"], compressed, &["-f", "raw", "-O", "qcow2", "-o", options]].concat();
            qemu_img(&[&args[..], &[text(&raw), text(&path)]].concat());
            let mut bytes = std::fs::read(&path).unwrap();
            let long = |bytes: &[u8], at: usize| {
                u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00
            };
            let l1 = long(&bytes, 40) as usize;
            let l2 = long(&bytes, l1) as usize;
            // The second cluster's entry is replaced by the first's. With clusters of 2 MiB the disk has no second
            // cluster.
            let first = bytes[l2..l2 + 8].to_vec();
            bytes[l2 + 8..l2 + 16].copy_from_slice(&first);
            let shared = images.raw("shared", &bytes);
            let disk = assert_reads_as_qemu(&images, &shared, options);
            let mapped: u64 = extents(&disk)
                .unwrap()
                .iter()
                .filter(|extent| extent.is_allocated())
                .map(|extent| extent.guest.len())
                .sum();
            assert_eq!(mapped, 1 << 20, "{options}");
        }
    }
}

//! Compressed streams of the source are copied, or compressed again if requested.

use diskferry_core::{Compression, Disk, ExtentKind, Tally, WriteOrder::Any};
use diskferry_corpus::oracle;
use diskferry_formats::Format;

use crate::qcow2_write::{convert, judge};
use crate::support::{assert_same, block_on, extents, noise, open_as, pattern, qemu};

/// The compressed streams of an image, each with its guest address.
fn streams(disk: &Disk) -> Vec<(u64, Compression, Vec<u8>)> {
    let mut found = Vec::new();
    for extent in extents(disk).unwrap() {
        let ExtentKind::Coded(coded) = &extent.kind else { continue };
        let bytes = block_on(disk.file(coded.stored.file).unwrap().read(coded.stored.range)).unwrap();
        let mut out = vec![0; extent.guest.len() as usize];
        let stream = coded.codec.decode(extent.guest, &bytes, &mut out, &mut Tally::default()).unwrap();
        if let Some(stream) = stream {
            found.push((extent.guest.start().get(), stream.compression, bytes[stream.bytes].to_vec()));
        }
    }
    found
}

/// Number of streams that a reader with a window of 4 KiB cannot inflate. The inflater is zlib, independent of our
/// deflater.
fn beyond_4k(streams: &[(u64, Compression, Vec<u8>)]) -> usize {
    const SCRIPT: &str = "
import os, sys, zlib
wide = 0
for name in os.listdir(sys.argv[1]):
    with open(os.path.join(sys.argv[1], name), 'rb') as file:
        rest = file.read()
    state = zlib.decompressobj(-12)
    try:
        for piece in range(1 << 14):
            state.decompress(rest, 512)
            rest = state.unconsumed_tail
        assert state.eof
    except zlib.error:
        wide += 1
print(wide)
";
    let dir = tempfile::tempdir().unwrap();
    for (at, _, stream) in streams {
        std::fs::write(dir.path().join(at.to_string()), stream).unwrap();
    }
    oracle::tool("python3", &["-c", SCRIPT, qemu::text(dir.path())]).trim().parse().unwrap()
}

/// Clusters of all kinds; matches are up to 20 KiB apart.
fn guest() -> Vec<u8> {
    let mut guest = pattern(1 << 20, 1);
    for repeats in 0..4 {
        let block = noise(20_000, repeats);
        guest.extend([&block[..], &block, &block, &pattern(5536, 2)].concat());
    }
    guest.extend(noise(100_000, 3));
    guest.resize((4 << 20) + 512, 0);
    guest
}

fn whole(image: Vec<u8>, guest: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    std::fs::write(&path, image).unwrap();
    judge(&path, guest.len() as u64);
    assert_same(&oracle::guest_bytes(&path, "qcow2"), guest, "what qemu-img reads");
}

#[test]
fn clusters_compressed_by_qemu_are_copied() {
    let guest = guest();
    for kind in ["zlib", "zstd"] {
        let dir = tempfile::tempdir().unwrap();
        let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
        std::fs::write(&raw, &guest).unwrap();
        oracle::make(&raw, "qcow2", &[&format!("compression_type={kind}")], &["-c"], &path);
        let source = std::fs::read(&path).unwrap();
        let theirs = streams(&open_as(Format::Qcow2, source.clone()).unwrap());
        let open = || open_as(Format::Qcow2, source.clone()).unwrap();
        let (image, _) = convert(open(), &[("compression", kind)], Any).unwrap();
        assert!(
            streams(&open_as(Format::Qcow2, image.clone()).unwrap()) == theirs,
            "{kind}: the very same streams"
        );
        whole(image, &guest);
        let options = [("compression", kind), ("recompress", "on"), ("level", "9")];
        let (image, _) = convert(open(), &options, Any).unwrap();
        assert!(
            streams(&open_as(Format::Qcow2, image.clone()).unwrap()) != theirs,
            "{kind}: compressed anew"
        );
        whole(image, &guest);
        // Another cluster size means another unit.
        let options = [("compression", kind), ("cluster_size", "32K")];
        whole(convert(open(), &options, Any).unwrap().0, &guest);
    }
}

/// The bytes that dissect.hypervisor reads: it inflates clusters with QEMU's window.
fn dissected(image: &[u8]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    std::fs::write(&path, image).unwrap();
    oracle::dissect(&path, "qcow2")
}

#[test]
fn grains_with_a_wide_window_are_copied_with_a_warning_unless_recompressed() {
    let guest = guest();
    let source = qemu::convert(&guest, "vmdk", "subformat=streamOptimized");
    let theirs = streams(&open_as(Format::Vmdk, source.clone()).unwrap());
    let wide = beyond_4k(&theirs);
    assert!(wide >= 4, "{wide} of {} grains reach back further than 4 KiB", theirs.len());
    let open = || open_as(Format::Vmdk, source.clone()).unwrap();
    let (image, report) = convert(open(), &[("compression", "zlib")], Any).unwrap();
    let ours = streams(&open_as(Format::Qcow2, image.clone()).unwrap());
    assert!(!ours.is_empty() && ours.iter().all(|stream| theirs.contains(stream)));
    assert!(beyond_4k(&ours) >= 4);
    let warnings: Vec<_> = report.warnings.iter().filter(|w| w.code == "wide_window").collect();
    let [warning] = &warnings[..] else { panic!("{:?}", report.warnings) };
    // qemu's grains always declare 32 KiB.
    let copied = ours.len();
    assert!(warning.message.starts_with(&format!("{copied} compressed clusters")), "{}", warning.message);
    assert!(warning.message.contains("recompress=on"), "{}", warning.message);
    let refused = dissected(&image).unwrap_err();
    assert!(refused.contains("invalid distance too far back"), "{refused}");
    whole(image, &guest);

    let (image, report) = convert(open(), &[("compression", "zlib"), ("recompress", "on")], Any).unwrap();
    assert!(report.warnings.iter().all(|w| w.code != "wide_window"), "{:?}", report.warnings);
    let ours = streams(&open_as(Format::Qcow2, image.clone()).unwrap());
    assert!(!ours.is_empty() && beyond_4k(&ours) == 0);
    assert_same(&dissected(&image).unwrap(), &guest, "what dissect.hypervisor reads");
    whole(image, &guest);
}

/// A streamOptimized image of one grain whose zlib header declares a window of `1 << bits` bytes.
fn one_grain(bits: u16) -> Vec<u8> {
    let grain = [&[7; 2000][..], &[0; 63_536]].concat();
    let mut image = qemu::convert(&grain, "vmdk", "subformat=streamOptimized");
    // After the grain's marker.
    let at = (64 << 10) + 12;
    assert_eq!(image[at], 0x78, "a zlib header that declares 32 KiB");
    let cmf = (bits - 8) << 4 | 8;
    image[at] = u8::try_from(cmf).unwrap();
    // Both bytes are a multiple of 31 (RFC 1950, 2.2).
    image[at + 1] = u8::try_from((31 - (cmf << 8) % 31) % 31).unwrap();
    image
}

#[test]
fn a_copied_grain_causes_a_warning_only_if_it_declares_more_than_4k() {
    for (bits, expected) in [(12, &[][..]), (13, &["wide_window"]), (15, &["wide_window"])] {
        let disk = open_as(Format::Vmdk, one_grain(bits)).unwrap();
        let (image, report) = convert(disk, &[("compression", "zlib")], Any).unwrap();
        let codes: Vec<_> = report.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, expected, "{bits} bits");
        // The stream itself is short, and no longer has the declared window.
        let disk = open_as(Format::Qcow2, image).unwrap();
        assert_eq!(convert(disk, &[("compression", "zlib")], Any).unwrap().1.warnings, []);
    }
}

#[test]
fn deflated_clusters_use_a_window_of_4k_at_every_level() {
    let guest = guest();
    let levels = ["1", "2", "3", "4", "5", "6", "7", "8", "9"].map(|level| (level, "64K"));
    for (level, size) in levels.into_iter().chain([("9", "8K"), ("9", "2M"), ("1", "2M")]) {
        let options = [("compression", "zlib"), ("level", level), ("cluster_size", size)];
        let (image, _) = convert(crate::qcow2_write::disks::flat(&guest), &options, Any).unwrap();
        let ours = streams(&open_as(Format::Qcow2, image).unwrap());
        assert!(!ours.is_empty());
        assert_eq!(beyond_4k(&ours), 0, "level {level}, clusters of {size}");
    }
}

//! Images created by qemu-img and qemu-io read the same as in qemu-img.

use diskferry_core::ExtentKind;

use crate::qcow2::images::*;

/// Writes of several kinds to the first, the last and some clusters between; `size` in bytes.
fn scatter(size: u64) -> Vec<String> {
    let last = size - 512;
    vec![
        "write -P 0x11 0 512".to_owned(),
        format!("write -P 0x22 {} 70000", size / 3 / 512 * 512),
        format!("write -P 0x33 {} 1536", size / 2 / 512 * 512),
        format!("write -z {} 3000", size / 5 * 2 / 512 * 512),
        format!("write -P 0x44 {last} 512"),
    ]
}

fn write(image: &std::path::Path, commands: &[String]) {
    qemu_io(image, &commands.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn every_cluster_size_and_version_matches_qemu() {
    let images = Images::new();
    for compat in ["0.10", "1.1"] {
        for bits in 9..=21 {
            let what = format!("compat={compat},cluster_size={}", 1u64 << bits);
            let size = (5 << 20) + 3 * 512;
            let image = images.create("image", &size.to_string(), &what);
            write(&image, &scatter(size));
            let disk = assert_reads_as_qemu(&images, &image, &what);
            assert_eq!(disk.info().variant, if compat == "0.10" { "v2" } else { "v3" });
            assert_eq!(disk.info().cluster_bytes, Some(1 << bits));
            assert_eq!(disk.virtual_bytes(), size);
            std::fs::remove_file(image).unwrap();
        }
    }
}

#[test]
fn extended_l2_matches_qemu() {
    let images = Images::new();
    for bits in 14..=21 {
        let what = format!("extended_l2=on,cluster_size={}", 1u64 << bits);
        let size = (5 << 20) + 3 * 512;
        let image = images.create("image", &size.to_string(), &what);
        write(&image, &scatter(size));
        let sub = (1u64 << bits) / 32;
        qemu_io(
            &image,
            &[
                &format!("write -P 0x55 {} {sub}", 7 * sub),
                &format!("write -z {} {}", 9 * sub, 3 * sub),
                &format!("discard {} {}", 10 * sub, sub),
            ],
        );
        let disk = assert_reads_as_qemu(&images, &image, &what);
        assert!(disk.info().features.iter().any(|feature| feature == "extended_l2"));
        assert!(
            extents(&disk).unwrap().iter().any(
                |extent| extent.guest.start().get() == 9 * sub && matches!(extent.kind, ExtentKind::Zero)
            ),
            "sub-clusters are mapped one by one"
        );
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn compressed_clusters_match_qemu() {
    let images = Images::new();
    let mut bytes = pattern((3 << 20) + 1536, 1);
    // Some zeros, and some incompressible data.
    bytes[700_000..1_500_000].fill(0);
    let mut state = 7u64;
    for byte in &mut bytes[1_600_000..1_900_000] {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *byte = (state >> 56) as u8;
    }
    let raw = images.raw("raw", &bytes);
    for compression in ["zlib", "zstd"] {
        for (bits, extended) in [(9, "off"), (12, "off"), (16, "off"), (16, "on"), (21, "off"), (21, "on")] {
            let what = format!(
                "compression_type={compression},cluster_size={},extended_l2={extended}",
                1u64 << bits
            );
            let image = images.path("image");
            let (from, to) = (text(&raw), text(&image));
            qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &what, from, to]);
            let disk = open(&image);
            assert_same(&read_all(&disk), &bytes, &what);
            assert_same(&read(&disk, 100_001).unwrap().0, &bytes, &what);
            let feature = format!("compression: {compression}");
            assert!(disk.info().features.contains(&feature));
            assert!(
                extents(&disk).unwrap().iter().any(|extent| matches!(extent.kind, ExtentKind::Coded(_))),
                "{what}"
            );
            std::fs::remove_file(image).unwrap();
        }
    }
}

#[test]
fn odd_sizes_keep_their_exact_length() {
    let images = Images::new();
    for size in [1u64, 511, 512, 513, 65_535, 65_536, 65_537, 100_000, 1_000_001] {
        let bytes = pattern(size as usize, size);
        let padded = {
            let mut padded = bytes.clone();
            padded.resize((size.next_multiple_of(512)) as usize, 0);
            images.raw("raw", &padded)
        };
        for compress in [None, Some("-c")] {
            let image = images.path("image");
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", text(&padded), text(&image)];
            args.extend(compress);
            qemu_img(&args);
            // qemu-img counts in sectors. The header can have any number of bytes.
            let mut patched = std::fs::read(&image).unwrap();
            patched[24..32].copy_from_slice(&size.to_be_bytes());
            let disk = open_bytes(patched).unwrap();
            assert_eq!(disk.virtual_bytes(), size);
            assert_same(&read_all(&disk), &bytes, &format!("{size} bytes {compress:?}"));
        }
    }
    let empty = open(&images.create("empty", "0", ""));
    assert_eq!(empty.virtual_bytes(), 0);
    assert!(extents(&empty).unwrap().is_empty());
}

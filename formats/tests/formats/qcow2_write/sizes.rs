//! Compares the sizes of images with those of qemu-img.

use diskferry_core::WriteOrder::Any;
use diskferry_corpus::oracle;

use crate::qcow2_write::convert;
use crate::qcow2_write::disks::flat;
use crate::support::{noise, pattern};

/// The length in bytes of qemu-img's image of a raw disk.
fn qemu_makes(guest: &[u8], options: &[&str], flags: &[&str]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::write(&raw, guest).unwrap();
    oracle::make(&raw, "qcow2", options, flags, &image);
    std::fs::metadata(&image).unwrap().len()
}

/// A typical disk: 8 MiB of a program, some text, some noise, and zeros that are not in the map.
fn ordinary() -> Vec<u8> {
    let mut guest = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    guest.truncate(8 << 20);
    guest.resize(12 << 20, 0);
    guest.extend(pattern(4 << 20, 5));
    guest.extend(noise(1 << 20, 6));
    guest.resize(64 << 20, 0);
    guest
}

#[test]
fn a_raw_disk_of_mostly_zeros_becomes_as_small_as_with_qemu() {
    for (size, slack) in [("64K", 1u64 << 20), ("4K", 64 << 10), ("2M", 4 << 20)] {
        let mut guest = ordinary();
        guest[30 << 20] = 1;
        let theirs = qemu_makes(&guest, &[&format!("cluster_size={size}")], &[]);
        let (image, _) = convert(flat(&guest), &[("cluster_size", size)], Any).unwrap();
        let ours = image.len() as u64;
        assert!(ours <= theirs + slack, "clusters of {size}: {ours} bytes, qemu-img makes {theirs}");
    }
}

#[test]
fn compressed_images_are_about_as_small_as_with_qemu() {
    let guest = ordinary();
    for kind in ["zlib", "zstd"] {
        for size in ["16K", "64K", "1M"] {
            let options = [format!("cluster_size={size}"), format!("compression_type={kind}")];
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let theirs = qemu_makes(&guest, &options, &["-c"]);
            let (image, _) =
                convert(flat(&guest), &[("cluster_size", size), ("compression", kind)], Any).unwrap();
            let ours = image.len() as u64;
            assert!(
                ours <= theirs + theirs * 3 / 100,
                "{kind}, clusters of {size}: {ours} bytes, {theirs} by qemu-img"
            );
        }
    }
}

#[test]
fn a_higher_level_does_not_enlarge_the_image() {
    let guest = ordinary();
    for (kind, levels) in [("zlib", ["1", "6", "9"]), ("zstd", ["1", "3", "12"])] {
        let lengths = levels.map(|level| {
            let (image, _) = convert(flat(&guest), &[("compression", kind), ("level", level)], Any).unwrap();
            image.len()
        });
        assert!(lengths.is_sorted_by(|a, b| a > b), "{kind}, levels {levels:?}: {lengths:?}");
    }
}

//! Seeds for fuzzing: small images of every kind, the samples of the corpus and its malformed headers.
//!
//! A target that is started with `FUZZ_SEEDS=DIRECTORY` writes its seeds to that directory and exits.

use std::path::Path;

use diskferry_core::WriteOrder;
use diskferry_formats::Format;

use crate::made::{Content, KINDS, Run, disk, written};

/// Maximum length of a seed, in bytes. Longer seeds make every execution slow.
const LONGEST: usize = 256 << 10;

/// If `FUZZ_SEEDS` is set, writes the seeds for a target that reads these formats, and exits the process. Each seed starts
/// with the bytes that `prefix` returns for its format.
pub fn write_if_asked(formats: &[Format], prefix: fn(Format) -> Vec<u8>) {
    let Some(directory) = std::env::var_os("FUZZ_SEEDS") else { return };
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory).expect("the seed directory can be created");
    let mut count = 0;
    for (format, image) in images().into_iter().filter(|(format, _)| formats.contains(format)) {
        let seed = [prefix(format), image].concat();
        std::fs::write(directory.join(format!("seed-{count:03}")), seed).expect("a seed");
        count += 1;
    }
    println!("{count} seeds in {}", directory.display());
    std::process::exit(0);
}

fn images() -> Vec<(Format, Vec<u8>)> {
    let run = |len, fine, content, seed| Run { len, fine, content, seed };
    let shapes = [
        vec![run(3, false, Content::Text, 1), run(77, true, Content::Noise, 2)],
        vec![
            run(2, false, Content::Noise, 3),
            run(20, false, Content::Hole, 0),
            run(1, false, Content::Text, 4),
            run(3, false, Content::Zeros, 0),
            run(1, false, Content::Noise, 5),
        ],
    ];
    let mut images = Vec::new();
    for kind in KINDS {
        for shape in &shapes {
            let made = written(disk(shape).0, *kind, WriteOrder::Any);
            images.push((kind.0, made.expect("the small disk is converted").0));
        }
    }
    let samples = diskferry_corpus::samples().iter();
    images.extend(samples.filter_map(|sample| Some((sample.format.parse().ok()?, sample.bytes().to_vec()))));
    images.extend(malformed());
    images.push((Format::Qcow2, extended_l2()));
    images.push((Format::Vmdk, cowd()));
    images.retain(|(_, image)| image.len() <= LONGEST);
    // A stream without its footer.
    let cut: Vec<_> = images
        .iter()
        .filter(|(format, image)| *format == Format::Vmdk && image.len() > 4096)
        .map(|(format, image)| (*format, image[..image.len() - 1024].to_vec()))
        .collect();
    images.extend(cut);
    images
}

/// Malformed headers of the corpus, with their names. The extension is the format.
fn malformed() -> Vec<(Format, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/malformed");
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let read = |path: &Path| Some((path.extension()?.to_str()?.parse().ok()?, std::fs::read(path).ok()?));
    files.iter().filter_map(|path| read(path)).collect()
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A QCOW2 with sub-clusters of every kind: header, refcount table, L1 table, L2 table and a cluster, of 16 KiB each.
fn extended_l2() -> Vec<u8> {
    const CLUSTER: usize = 16 << 10;
    let mut image = vec![0; 5 * CLUSTER];
    let int = |image: &mut Vec<u8>, at: usize, number: u32| put(image, at, &number.to_be_bytes());
    put(&mut image, 0, b"QFI\xfb");
    for (at, number) in [(4, 3), (20, 14), (36, 1), (56, 1), (76, 16), (96, 4), (100, 104)] {
        int(&mut image, at, number);
    }
    for (at, number) in [(28, 2 * CLUSTER as u32 + 700), (44, 2 * CLUSTER as u32), (52, CLUSTER as u32)] {
        int(&mut image, at, number);
    }
    int(&mut image, 2 * CLUSTER + 4, 3 * CLUSTER as u32);
    for entry in [0, 2] {
        let at = 3 * CLUSTER + entry * 16;
        int(&mut image, at + 4, 4 * CLUSTER as u32);
        int(&mut image, at + 8, 0x0000_ff00);
        int(&mut image, at + 12, 0x00ff_000f);
    }
    image[4 * CLUSTER..].fill(0x5a);
    image
}

/// A COWD extent with two grains of 4 KiB.
fn cowd() -> Vec<u8> {
    let mut image = b"COWD".to_vec();
    for field in [1u32, 3, 17, 8, 4, 1, 0] {
        image.extend(field.to_le_bytes());
    }
    image.resize(4 * 512, 0);
    image.extend(5u32.to_le_bytes());
    image.resize(5 * 512, 0);
    image.extend(37u32.to_le_bytes());
    image.extend(0u32.to_le_bytes());
    image.extend(45u32.to_le_bytes());
    image.resize(37 * 512, 0);
    image.resize(46 * 512, 0x77);
    image
}

//! `--memory` bounds the process: its peak memory is at most the budget plus 64 MiB, for every image, source and target.
//!
//! The program runs in a separate process with the smallest supported budget. The kernel reports its peak memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use diskferry_corpus::oracle::{fsverity_digest, make, qemu_check, qemu_img};
use serde_json::Value;

use crate::targets::support::{BUCKET, Bench, Content, Kind, MIB, made, program};

const BUDGET: &str = "32M";
const CEILING: u64 = (32 + 64) * MIB;
const CLUSTER: usize = 64 << 10;
const DISK: u64 = 320 * MIB;
const TARGETS: [&str; 5] = ["raw", "qcow2-zlib", "vmdk-stream", "qcow2-zstd", "vhd-dynamic"];

/// Exit status and peak resident memory of a process, measured by the kernel.
struct Ended {
    output: Output,
    peak: u64,
}

/// Runs a command to its end and copies its standard output to `sink`.
fn watched(command: &mut Command, mut sink: impl io::Write + Send) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    std::thread::scope(|scope| {
        let copied = scope.spawn(move || io::copy(&mut stdout, &mut sink).unwrap());
        let said = scope.spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).unwrap();
            said
        });
        let mut peak = 0;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0) * 1024);
            std::thread::sleep(Duration::from_millis(2));
        };
        copied.join().unwrap();
        let output = Output { status: ended, stdout: Vec::new(), stderr: said.join().unwrap() };
        Ended { output, peak }
    })
}

/// Runs a conversion, and asserts its digest and its memory bound. The report is on standard error or in `sink`.
fn holds(what: &str, command: &mut Command, digest: &str) {
    let mut stdout = Vec::new();
    let ended = watched(command.args(["--json", "--memory", BUDGET, "--threads", "2"]), &mut stdout);
    let said = String::from_utf8_lossy(&ended.output.stderr);
    assert!(ended.output.status.success(), "{what}: {said}");
    // If the target is standard output, the report is on standard error.
    let report = [stdout.as_slice(), &ended.output.stderr].into_iter().find(|text| text.starts_with(b"{\""));
    let report: Value = serde_json::from_slice(report.unwrap_or_default())
        .unwrap_or_else(|error| panic!("{what}: {error}: {said}"));
    assert_eq!(report["digest"]["hex"], digest, "{what}");
    let own = report["transfer"]["peak_memory_bytes"].as_u64().unwrap();
    // Printing the report takes some memory after the measurement.
    assert!(own + 4 * MIB >= ended.peak, "{what}: reported {own}, measured {}", ended.peak);
    let peak = own.max(ended.peak);
    println!("{:>4} MiB  {what}", peak / MIB);
    assert!(peak <= CEILING, "{what}: {} MiB of memory, of {} at most", peak / MIB, CEILING / MIB);
}

/// A disk of 320 MiB: 96 MiB of noise and text with no two equal clusters, and zeros between them.
fn disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(DISK).unwrap();
    let half = 2 * MIB as usize;
    let mut run = made(&[(half, Content::Noise(1)), (half, Content::Text(2))]);
    for turn in 0..24u64 {
        for (number, cluster) in run.chunks_mut(CLUSTER).enumerate() {
            cluster[..8].copy_from_slice(&(turn << 32 | number as u64 | 1 << 63).to_le_bytes());
        }
        file.write_all_at(&run, turn * 13 * MIB).unwrap();
    }
    file.write_all_at(&[0x55, 0xaa], 510).unwrap();
}

/// Shuffles the clusters of an uncompressed QCOW2, tables and data alike.
fn shuffle(image: &Path) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let offset = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
    let tables = number(36) >> 32;
    let l1 = number(40);
    let entries: Vec<u64> = (0..tables)
        .map(|index| offset(number(l1 + index * 8)))
        .filter(|table| *table != 0)
        .flat_map(|table| (0..8192).map(move |index| table + index * 8))
        .filter(|at| number(*at) != 0)
        .collect();
    let stored: Vec<(u64, Vec<u8>)> = entries
        .iter()
        .map(|at| {
            let mut cluster = vec![0; CLUSTER];
            let entry = number(*at);
            file.read_exact_at(&mut cluster, offset(entry)).unwrap();
            (entry, cluster)
        })
        .collect();
    assert!(stored.len() > 1000);
    let step = (stored.len() / 3..).find(|step| gcd(*step, stored.len()) == 1).unwrap();
    for (index, at) in entries.iter().enumerate() {
        let (entry, _) = &stored[index * step % stored.len()];
        file.write_all_at(&stored[index].1, offset(*entry)).unwrap();
        file.write_all_at(&entry.to_be_bytes(), *at).unwrap();
    }
    qemu_check(image, "qcow2");
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An image of the disk.
struct Image {
    name: &'static str,
    format: &'static str,
    path: PathBuf,
}

/// Makes every kind of image of the disk, each in its own directory because of its siblings.
fn images(dir: &Path, raw: &Path) -> Vec<Image> {
    let by_qemu: [(&str, &str, &[&str], &[&str]); 14] = [
        ("vhd-fixed", "vhd", &["subformat=fixed", "force_size=on"], &[]),
        ("vhd-dynamic", "vhd", &["subformat=dynamic", "force_size=on"], &[]),
        ("qcow2-plain", "qcow2", &[], &[]),
        ("qcow2-fragmented", "qcow2", &[], &[]),
        ("qcow2-2m", "qcow2", &["cluster_size=2M"], &[]),
        ("qcow2-zlib", "qcow2", &[], &["-c"]),
        ("qcow2-zstd", "qcow2", &["compression_type=zstd"], &["-c"]),
        ("qcow2-zlib-2m", "qcow2", &["cluster_size=2M"], &["-c"]),
        ("qcow2-zstd-2m", "qcow2", &["cluster_size=2M", "compression_type=zstd"], &["-c"]),
        ("vmdk-sparse", "vmdk", &["subformat=monolithicSparse"], &[]),
        ("vmdk-flat", "vmdk", &["subformat=monolithicFlat"], &[]),
        ("vmdk-split", "vmdk", &["subformat=twoGbMaxExtentSparse"], &[]),
        ("vmdk-split-flat", "vmdk", &["subformat=twoGbMaxExtentFlat"], &[]),
        ("vmdk-stream", "vmdk", &["subformat=streamOptimized"], &[]),
    ];
    let mut images = vec![Image { name: "raw", format: "raw", path: raw.into() }];
    for (name, format, options, flags) in by_qemu {
        std::fs::create_dir(dir.join(name)).unwrap();
        let path = dir.join(name).join(format!("{name}.{format}"));
        make(raw, format, options, flags, &path);
        if name == "qcow2-fragmented" {
            shuffle(&path);
        }
        images.push(Image { name, format, path });
    }
    // With its tables after the grains; and the same image without the footer that locates them.
    for (name, cut) in [("vmdk-stream-footer", 0), ("vmdk-stream-cut", 1024)] {
        std::fs::create_dir(dir.join(name)).unwrap();
        let path = dir.join(name).join(format!("{name}.vmdk"));
        let mut convert = program();
        convert.args([
            "convert",
            "--no-sync",
            "-f",
            "raw",
            "-o",
            "subformat=streamOptimized",
            "-o",
            "level=1",
        ]);
        let ended = convert.args([raw, &path]).output().unwrap();
        assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        images.push(Image { name, format: "vmdk", path });
    }
    images
}

fn convert(image: &Image, source: &str, kind: Kind, target: &str) -> Command {
    let mut convert = program();
    convert.args(["convert", "-f", image.format, "-O", kind.format.name(), "--force", "--no-sync"]);
    for (key, value) in kind.options {
        convert.args(["-o", &format!("{key}={value}")]);
    }
    convert.args([source, target]);
    convert
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_of_32_mib_holds_for_every_image_target_and_destination() {
    let bench = Bench::new().await;
    let dir = bench.dir.path();
    let raw = dir.join("disk.raw");
    disk(&raw);
    let digest = fsverity_digest(&raw);
    let images = images(dir, &raw);
    let out = dir.join("out");
    let out = out.to_str().unwrap();
    let keys = bench.server.keys();
    for (number, image) in images.iter().enumerate() {
        let path = image.path.to_str().unwrap();
        for turn in [0, 2] {
            let kind = Kind::named(TARGETS[(number + turn) % TARGETS.len()]);
            holds(
                &format!("{} to {} by files", image.name, kind.name),
                &mut convert(image, path, kind, out),
                &digest,
            );
        }
        // From a store, with its siblings.
        for file in image.path.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if file.is_file() && (image.name != "raw" || name == "disk.raw") {
                bench.server.put_file(BUCKET, name, &file).await.unwrap();
            }
        }
        let name = image.path.file_name().unwrap().to_str().unwrap();
        let kind = Kind::named(TARGETS[(number + 1) % TARGETS.len()]);
        let target = if kind.flows() { "-" } else { "s3://library/out" };
        let mut convert = convert(image, &format!("s3://{BUCKET}/{name}"), kind, target);
        convert
            .env("AWS_ACCESS_KEY_ID", &keys.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret_key)
            .env("AWS_ENDPOINT_URL", bench.server.endpoint())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        holds(&format!("{} from S3 to {} at {target}", image.name, kind.name), &mut convert, &digest);
        // From a pipe, which is read once.
        if ["raw", "vmdk-stream", "vmdk-stream-footer"].contains(&image.name) {
            let mut convert = self::convert(image, "-", Kind::named("raw"), out);
            convert.stdin(File::open(&image.path).unwrap());
            holds(&format!("{} from a pipe to raw", image.name), &mut convert, &digest);
        }
    }
}

/// Runs a command on an image that demands more memory than the budget. Only the peak memory matters, not the result.
fn bounded(args: &[&str]) {
    let mut command = program();
    let ended = watched(command.args(args).args(["--memory", BUDGET, "--threads", "2"]), io::sink());
    println!("{:>4} MiB  {args:?}", ended.peak / MIB);
    let said = String::from_utf8_lossy(&ended.output.stderr);
    assert!(ended.output.status.code().is_some_and(|code| code <= 6), "{args:?}: {said}");
    assert!(ended.peak > MIB, "{args:?}: exited before it was measured");
    assert!(ended.peak <= CEILING, "{args:?}: {} MiB of memory", ended.peak / MIB);
}

/// A QCOW2 in which every second 512-byte cluster has data: more than 2²⁰ runs, above the number that is kept apart.
fn comb(path: &Path) {
    const RUNS: u64 = (1 << 20) + 64;
    let tables = (RUNS * 2).div_ceil(64);
    let l1_at = 1024;
    let tables_at = (l1_at + tables * 8u64).next_multiple_of(512);
    let data_at = tables_at + tables * 512;
    let file = File::create(path).unwrap();
    let mut header = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &(RUNS * 1024).to_be_bytes());
    put(36, &(tables as u32).to_be_bytes());
    put(40, &l1_at.to_be_bytes());
    put(48, &512u64.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    file.write_all_at(&header, 0).unwrap();
    let l1: Vec<u8> = (0..tables).flat_map(|table| (tables_at + table * 512).to_be_bytes()).collect();
    file.write_all_at(&l1, l1_at).unwrap();
    let l2: Vec<u8> = [data_at.to_be_bytes(), [0; 8]].concat().repeat(32);
    file.write_all_at(&l2.repeat(tables as usize), tables_at).unwrap();
    file.write_all_at(&[7; 512], data_at).unwrap();
}

#[test]
fn budget_of_32_mib_holds_for_images_with_huge_tables() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // All grain tables of 2 TiB exist, 128 MiB of them, and map nothing.
    let vmdk = at("tables.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", &vmdk, "2T"]);
    // An L1 table of 31 MiB.
    let qcow2 = at("tables.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", &qcow2, "127G"]);
    let vhd = at("tables.vhd");
    qemu_img(&["create", "-q", "-f", "vpc", "-o", "force_size=on", &vhd, "2040G"]);
    let out = at("out");
    for image in [&vmdk, &qcow2, &vhd] {
        bounded(&["measure", image]);
        bounded(&["digest", image]);
        for target in [["-O", "vmdk"], ["-O", "qcow2"]] {
            bounded(&[&["convert", image, &out, "--force", "--no-sync"], &target[..]].concat());
        }
    }
    let comb_image = at("comb.qcow2");
    comb(Path::new(&comb_image));
    bounded(&["measure", &comb_image]);
    bounded(&["measure", &comb_image, "-O", "qcow2", "-o", "cluster_size=512"]);
    bounded(&["convert", &comb_image, &out, "--force", "-O", "qcow2", "-o", "cluster_size=512"]);
}

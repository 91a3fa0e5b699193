//! Conversion from one object to another without a local copy: a 2 GiB disk with a budget of 64 MiB and concurrent parts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diskferry_corpus::oracle::{fsverity_digest, make, qemu_check, qemu_img, qemu_virtual_bytes};
use diskferry_formats::{Declared, open};
use diskferry_s3io::S3Source;
use diskferry_s3io::server::{Exchange, Fault};
use serde_json::Value;

use crate::targets::support::{BUCKET, Bench, Content, Kind, MEMORY, MIB, Place, made, program, resources};

const GIB: u64 = 1 << 30;
/// The server's delay per part. Two parts that start within this time were uploaded concurrently.
const PART_TAKES: Duration = Duration::from_millis(200);

/// 2 GiB: alternating noise and zeros (608 MiB of noise), and 64 MiB of compressible data at the end.
fn disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(2 * GIB).unwrap();
    let mut noise = made(&[(8 * MIB as usize, Content::Noise(1))]);
    for turn in 0..76u64 {
        // No two clusters are equal.
        for (at, unit) in noise.chunks_mut(65_536).enumerate() {
            unit[..8].copy_from_slice(&(turn << 32 | at as u64 | 1 << 63).to_le_bytes());
        }
        file.write_all_at(&noise, turn * 25 * MIB).unwrap();
    }
    let text = made(&[(8 * MIB as usize, Content::Text(2))]);
    for turn in 0..8 {
        file.write_all_at(&text, 2 * GIB - (turn + 1) * 8 * MIB).unwrap();
    }
}

/// An upload, as the server observed it.
struct Upload {
    parts: Vec<Exchange>,
    /// The highest number of parts that were certainly uploaded concurrently.
    side_by_side: usize,
}

/// A server that has the disk as `disk.qcow2` and delays every part.
struct Stores {
    bench: Bench,
    digest: String,
    begun: Arc<Mutex<Vec<Instant>>>,
}

impl Stores {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let raw = bench.dir.path().join("disk.raw");
        disk(&raw);
        let digest = fsverity_digest(&raw);
        let image = bench.dir.path().join("disk.qcow2");
        make(&raw, "qcow2", &[], &[], &image);
        bench.server.put_file(BUCKET, "disk.qcow2", &image).await.unwrap();
        std::fs::remove_file(image).unwrap();
        let begun = Arc::new(Mutex::new(Vec::new()));
        let parts = Arc::clone(&begun);
        bench.server.set_faults(move |request| match request.part {
            Some(_) => {
                parts.lock().unwrap().push(Instant::now());
                vec![Fault::Delay(PART_TAKES)]
            }
            None => vec![Fault::Delay(Duration::from_millis(10))],
        });
        bench.server.forget();
        Self { bench, digest, begun }
    }

    fn upload(&self) -> Upload {
        let exchanges = self.bench.server.exchanges();
        let parts = exchanges.into_iter().filter(|exchange| exchange.request.part.is_some()).collect();
        let begun = std::mem::take(&mut *self.begun.lock().unwrap());
        let together = |first: &Instant| {
            begun.iter().filter(|other| *other >= first && other.duration_since(*first) < PART_TAKES).count()
        };
        let side_by_side = begun.iter().map(together).max().unwrap_or(0);
        self.bench.server.forget();
        Upload { parts, side_by_side }
    }

    /// Asserts that the uploaded object has the disk's content.
    fn check(&self, name: &str, format: &str) {
        let target = self.bench.server.root().join(BUCKET).join(name);
        let raw = self.bench.dir.path().join("disk.raw");
        qemu_check(&target, format);
        assert_eq!(qemu_virtual_bytes(&target, format), 2 * GIB);
        qemu_img(&["compare", "-f", format, "-F", "raw", target.to_str().unwrap(), raw.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gibibytes_are_converted_from_s3_to_s3_in_64_mib_with_concurrent_parts() {
    let stores = Stores::new().await;
    let keys = stores.bench.server.keys();
    // The directory in which the program would create temporary files.
    let scratch = tempfile::tempdir().unwrap();
    let output = program()
        .args(["convert", "s3://library/disk.qcow2", "s3://library/copy.qcow2", "--json"])
        // The budget does not include each worker's codecs and stack.
        .args(["--memory", "64M", "--threads", "2"])
        .env("AWS_ACCESS_KEY_ID", keys.access_key)
        .env("AWS_SECRET_ACCESS_KEY", keys.secret_key)
        .env("AWS_ENDPOINT_URL", stores.bench.server.endpoint())
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("TMPDIR", scratch.path())
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["digest"]["hex"], stores.digest);
    assert_eq!(report["sizes"]["virtual_bytes"], 2 * GIB);
    let peak = report["transfer"]["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak <= MEMORY + 64 * MIB, "{} MiB of memory", peak / MIB);
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0, "temporary files were left on a local disk");

    let upload = stores.upload();
    assert!(upload.side_by_side >= 2, "{} concurrent parts", upload.side_by_side);
    let mut sizes: Vec<(u32, u64)> =
        upload.parts.iter().map(|part| (part.request.part.unwrap(), part.request.body)).collect();
    sizes.sort_unstable();
    let numbers: Vec<u32> = sizes.iter().map(|(number, _)| *number).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "every part once: {numbers:?}");
    assert!(sizes.len() >= 80, "{} parts", sizes.len());
    let (last, equal) = sizes.split_last().unwrap();
    assert!(equal.iter().all(|(_, size)| *size == equal[0].1) && last.1 <= equal[0].1, "{sizes:?}");
    let bytes: u64 = sizes.iter().map(|(_, size)| size).sum();
    assert_eq!(report["target"]["bytes"], bytes);
    stores.check("copy.qcow2", "qcow2");

    // The same through the library, with the engine's own measurement of reserved memory.
    let source = S3Source::open(&stores.bench.client, "s3://library/disk.qcow2").await.unwrap();
    let disk = open(Arc::new(source), Declared::Unknown).await.unwrap();
    let kind = Kind::named("vmdk-sparse");
    let options = kind.options(&[]);
    let resources = resources(MEMORY, 2, None);
    let written = stores.bench.convert(disk, &options, (Place::S3, "copy.vmdk"), &resources);
    let report = written.await.unwrap().report;
    assert_eq!(report.digest.unwrap().to_string(), stores.digest);
    assert!(report.stats.peak_budget_bytes <= MEMORY, "{} bytes", report.stats.peak_budget_bytes);
    let side_by_side = stores.upload().side_by_side;
    assert!(side_by_side >= 2, "{side_by_side} concurrent parts");
    stores.check("copy.vmdk", "vmdk");
}

//! A conversion that is killed at any moment can be resumed. The target is byte-identical, and little is fetched twice.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use diskferry_corpus::oracle::make;
use diskferry_s3io::server::{Server, ServerOptions, Shape};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BUCKET: &str = "images";
const MIB: u64 = 1 << 20;
/// About the bytes that a run may have in flight. A killed run could not have recorded more than these as stored.
const MEMORY: u64 = 32 * MIB;

/// Twice the bytes that may be stored but not yet recorded: one checkpoint is being written while the next becomes due.
const MARKS: u64 = 16 * MIB;

/// Size of an upload part.
const PART: u64 = 8 * MIB;

/// Deterministic pseudo-random numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// A disk of slightly more than 144 MiB: text, noise and holes, in runs of any length.
fn disk(path: &Path) {
    let mut numbers = Numbers(7);
    let mut bytes = Vec::new();
    while bytes.len() < 144 << 20 {
        let len = numbers.next(3 << 20) as usize + 1;
        match numbers.next(4) {
            0 => bytes.resize(bytes.len() + len, 0),
            1 => bytes.extend((0..len).map(|i| b"one line of text after another, and so on\n"[i % 42])),
            _ => bytes.extend(std::iter::repeat_with(|| numbers.next(256) as u8).take(len)),
        }
    }
    bytes.resize((144 << 20) + 1536, 7);
    // One Linux partition that starts at 1 MiB.
    bytes[..512].fill(0);
    bytes[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(path, bytes).unwrap();
}

struct Bench {
    server: Server,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let server = Server::start(ServerOptions::default().public(true)).unwrap();
        runtime.block_on(server.create_bucket(BUCKET)).unwrap();
        Self { server, dir: tempfile::tempdir().unwrap(), runtime }
    }

    fn put(&self, key: &str, file: &Path) -> String {
        self.runtime.block_on(self.server.put_file(BUCKET, key, file)).unwrap();
        self.server.object_url(BUCKET, key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn convert(&self, from: &str, to: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(name);
        }
        let keys = self.server.keys();
        command.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
        command.env("AWS_ENDPOINT_URL", self.server.endpoint()).env("AWS_REGION", "us-east-1");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        let memory = MEMORY.to_string();
        command.args(["--json", "--memory", &memory, "convert", "--no-sync", from]).arg(to).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Bytes that the server sent since its log was last cleared.
    fn sent(&self) -> u64 {
        self.server.exchanges().iter().map(|exchange| exchange.sent).sum()
    }

    /// Whether the program requested completion of an upload.
    fn completes(&self) -> bool {
        let exchanges = self.server.exchanges();
        exchanges
            .iter()
            .any(|exchange| exchange.request.method == "POST" && exchange.request.upload_id.is_some())
    }

    /// Removes the leftovers of killed runs from the server and the directory.
    fn clear(&self) {
        for dir in [self.dir.path(), self.server.root(), &self.server.root().join(BUCKET)] {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                if name.starts_with(".upload") || name.contains("diskferry") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Runs a command to its end and returns its report.
    fn finish(mut command: Command) -> Value {
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        serde_json::from_str(&out).unwrap()
    }

    /// Kills a conversion `kills` times at random moments, then lets it finish.
    fn kill_and_resume(
        &self,
        what: &str,
        (from, stored): (&str, u64),
        place: Place,
        target: &[&str],
        kills: u64,
        numbers: &mut Numbers,
    ) {
        let what = &format!("{what} to {target:?} in {place:?}");
        let whole = self.path("whole");
        let (to, out) = match place {
            Place::File => (self.path("out").to_str().unwrap().to_owned(), self.path("out")),
            Place::S3 => (format!("s3://{BUCKET}/out"), self.server.root().join(BUCKET).join("out")),
        };
        self.server.set_shape(Shape::default());
        let said = Self::finish(self.convert(from, whole.to_str().unwrap(), target));
        let mut args = target.to_vec();
        args.extend(["--resume", "--quiet"]);
        let line = Shape { latency: Duration::from_millis(5), each: None, all: Some(64 << 20) };
        self.server.set_shape(line);
        self.server.forget();
        let mut killed = 0;
        let resumed = loop {
            let mut command = self.convert(from, &to, &args);
            if killed == kills {
                break Self::finish(command);
            }
            let mut child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(60 + numbers.next(1700)));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.success() || out.exists() || self.completes() {
                // It finished first, or was about to publish, which this server does not do atomically. It starts over.
                self.clear();
                let _ = std::fs::remove_file(&out);
                self.server.forget();
                killed = 0;
                continue;
            }
            assert!(output.stderr.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            killed += 1;
        };
        let sent = self.sent();
        let parts = match place {
            Place::File => 0,
            // Two parts being uploaded, one being filled, and the first, which waits for its header.
            Place::S3 => 4 * PART,
        };
        let most = stored + stored / 10 + kills * (MEMORY + MARKS + parts);
        assert!(sent <= most, "{what}: {sent} bytes were sent, {kills} kills, {stored} stored");
        assert!(std::fs::read(&whole).unwrap() == std::fs::read(&out).unwrap(), "{what}: the target differs");
        assert_eq!(resumed["digest"], said["digest"], "{what}");
        assert_eq!(resumed["measure"], said["measure"], "{what}");
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let places = [self.dir.path(), self.server.root(), &self.server.root().join(BUCKET)];
        let mut left: Vec<_> = places.into_iter().flat_map(names).collect();
        // A run that was killed after the upload was created and before its ID was recorded leaves an upload without parts.
        left.retain(|name| {
            name.contains(".part-") || (name.contains("diskferry") && !name.starts_with(".s3s-fs"))
        });
        left.retain(|name| !name.ends_with(".internal.part"));
        assert!(left.is_empty(), "{what}: {left:?}");
        [whole, out].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}

/// The destination of a target.
#[derive(Clone, Copy, Debug)]
enum Place {
    File,
    S3,
}

#[test]
fn conversion_killed_repeatedly_gives_the_same_target() {
    let bench = Bench::new();
    let raw = bench.path("disk.raw");
    disk(&raw);
    let len = |path: &Path| std::fs::metadata(path).unwrap().len();
    let sources: Vec<_> = [
        ("raw", vec![], vec![]),
        ("qcow2", vec![], vec!["-c"]),
        ("vmdk", vec!["subformat=streamOptimized"], vec![]),
    ]
    .into_iter()
    .map(|(format, options, flags)| {
        let image = bench.path(&format!("image.{format}"));
        make(&raw, format, &options, &flags, &image);
        (format, bench.put(&format!("image.{format}"), &image), len(&image))
    })
    .collect();
    let mut numbers = Numbers(2026);
    let everywhere = std::env::var_os("RESUME_EVERYWHERE").is_some();
    let kills = if everywhere { 2 } else { 1 };
    for (source, url, stored) in &sources {
        for target in [
            &["-O", "raw"][..],
            &["-O", "vhd", "-o", "subformat=fixed"],
            &["-O", "vhd"],
            &["-O", "qcow2"],
            &["-O", "qcow2", "-o", "cluster_size=512"],
            &["-O", "qcow2", "-o", "compression=zlib,cluster_size=2M"],
            &["-O", "qcow2", "-o", "compression=zstd"],
            &["-O", "vmdk"],
            &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        ] {
            // `RESUME_EVERYWHERE=1` tests all combinations. The kind of source affects file and S3 targets alike.
            let places: &[_] =
                if everywhere || *source == "raw" { &[Place::S3, Place::File] } else { &[Place::S3] };
            for place in places {
                bench.kill_and_resume(source, (url, *stored), *place, target, kills, &mut numbers);
            }
        }
    }
}

#[test]
fn interrupted_run_reports_its_journal_and_neither_contains_a_secret() {
    let bench = Bench::new();
    let raw = bench.path("disk.raw");
    disk(&raw);
    bench.put("disk.raw", &raw);
    let url =
        bench.runtime.block_on(bench.server.presign(BUCKET, "disk.raw", Duration::from_secs(600))).unwrap();
    let signature = url.split_once("X-Amz-Signature=").unwrap().1.split('&').next().unwrap().to_owned();
    let secret = bench.server.keys().secret_key;
    bench.server.set_shape(Shape { all: Some(24 << 20), ..Shape::default() });
    let file = bench.path("out.raw");
    let bucket = bench.server.root().join(BUCKET);
    for (to, journal, signal) in [
        (file.to_str().unwrap(), bench.path(".out.raw.diskferry.journal"), Signal::INT),
        ("s3://images/out.raw", bucket.join("out.raw.diskferry-journal"), Signal::TERM),
    ] {
        let mut command = bench.convert(&url, to, &["--resume", "-vvv", "-f", "raw"]);
        let mut child = command.spawn().unwrap();
        let mut err = child.stderr.take().unwrap();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).map(|_| text)
        });
        // The first journal of an upload only identifies its writer.
        while std::fs::metadata(&journal).map_or(0, |meta| meta.len()) < 1000 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it wrote a checkpoint");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        let said = reading.join().unwrap().unwrap();
        assert_eq!(status.code(), Some(130), "{said}");
        assert!(said.contains("cancelled") && said.contains("run it again with --resume"), "{said}");
        let kept = std::fs::read(&journal).unwrap();
        for planted in [&signature, &secret] {
            assert!(!said.contains(planted.as_str()), "{to}: {said}");
            let found = kept.windows(planted.len()).any(|bytes| bytes == planted.as_bytes());
            assert!(!found, "{to}: the journal has a secret");
        }
    }
}

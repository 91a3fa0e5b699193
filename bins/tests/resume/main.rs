//! Killed at any moment and gone on with: the target is the same, byte for byte, and little is fetched twice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use diskferry_corpus::oracle::make;
use diskferry_s3io::server::{Server, ServerOptions, Shape};
use serde_json::Value;

const BUCKET: &str = "images";
const MIB: u64 = 1 << 20;
/// What a run may have in flight, about: more than it could know to have stored when it was killed.
const MEMORY: u64 = 32 * MIB;

/// What may be stored and not noted yet, twice over: a mark is under way while the next one comes due.
const MARKS: u64 = 16 * MIB;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// A disk of 144 MiB and a bit: text, noise and holes, in runs of any length.
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
    // One partition of Linux, from the first MiB on.
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
        let server = Server::start(ServerOptions { public: true, ..ServerOptions::default() }).unwrap();
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

    fn convert(&self, from: &str, to: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(name);
        }
        let memory = MEMORY.to_string();
        command
            .args(["--json", "--quiet", "--memory", &memory, "convert", "--no-sync", from])
            .arg(to)
            .args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Bytes that the server sent since it was last asked to forget.
    fn sent(&self) -> u64 {
        self.server.exchanges().iter().map(|exchange| exchange.sent).sum()
    }

    /// Runs to the end.
    fn finish(mut command: Command) -> Value {
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        serde_json::from_str(&out).unwrap()
    }

    /// Kills a conversion so many times, at random moments, and lets it come to its end.
    fn kill_and_go_on(
        &self,
        what: &str,
        from: &str,
        stored: u64,
        target: &[&str],
        kills: u64,
        numbers: &mut Numbers,
    ) {
        let (whole, out) = (self.path("whole"), self.path("out"));
        self.server.set_shape(Shape::default());
        let said = Self::finish(self.convert(from, &whole, target));
        let mut args = target.to_vec();
        args.push("--resume");
        let line = Shape { latency: Duration::from_millis(5), each: None, all: Some(64 << 20) };
        self.server.set_shape(line);
        self.server.forget();
        let mut killed = 0;
        let resumed = loop {
            let mut command = self.convert(from, &out, &args);
            if killed == kills {
                break Self::finish(command);
            }
            let mut child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(60 + numbers.next(900)));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                // It was faster. From here it begins anew.
                std::fs::remove_file(&out).unwrap();
                self.server.forget();
                killed = 0;
                continue;
            }
            assert!(output.stderr.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            killed += 1;
        };
        let sent = self.sent();
        let most = stored + stored / 10 + kills * (MEMORY + MARKS);
        assert!(sent <= most, "{what}: {sent} bytes were sent, {kills} kills, {stored} stored");
        assert!(std::fs::read(&whole).unwrap() == std::fs::read(&out).unwrap(), "{what}: the target differs");
        assert_eq!(resumed["digest"], said["digest"], "{what}");
        assert_eq!(resumed["measure"], said["measure"], "{what}");
        let left = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("diskferry")).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
        [whole, out].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}

#[test]
fn a_conversion_that_is_killed_again_and_again_comes_to_the_same_file() {
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
            bench.kill_and_go_on(&format!("{source} to {target:?}"), url, *stored, target, 4, &mut numbers);
        }
    }
}

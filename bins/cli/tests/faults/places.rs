//! The destination fails during a conversion. The error is typed, nothing is left, and the run can be resumed if possible.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diskferry_core::{Error, ErrorKind, Report, Result, Sink};
use diskferry_corpus::tools::command;
use diskferry_formats::Format;
use diskferry_s3io::server::{Fault, Request, Shape};

use crate::support::{Bench, Image, LIBRARY, MEMORY, digest, file, is_data, names, resources};

const DISK_MIB: u64 = 96;

/// A temporary file system with a size in MiB.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], dir.path());
        Self(dir)
    }

    fn resize(&self, mib: u64) {
        mount(&["-o", &format!("remount,size={mib}m")], self.0.path());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn mount(args: &[&str], path: &Path) {
    let done = command("mount").args(args).arg(path).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = command("umount").arg(self.0.path()).status();
    }
}

/// A bench with one image, on a simulated network on which a conversion takes one or two seconds.
async fn bench() -> (Bench, Image) {
    let image = Image::named("qcow2");
    let bench = Bench::new(DISK_MIB, &[image]).await;
    bench.server.set_shape(Shape { latency: Duration::from_millis(5), each: None, all: Some(48 << 20) });
    (bench, image)
}

async fn run(bench: &Bench, image: Image, sink: Result<Box<dyn Sink>>, resume: bool) -> Result<Report> {
    // With few concurrent requests, late data is requested late.
    let few = resources(MEMORY).connections(Some(2));
    bench.conversion(image, sink?, Format::Raw).await?.resources(few).resume(resume).run().await
}

/// Asserts that the failed run kept its resume data, hints at `--resume`, and was resumed.
async fn assert_resumed(bench: &Bench, what: &str, error: &Error, again: Result<Report>, target: &Path) {
    assert!(error.hint_text().unwrap_or_default().contains("--resume"), "{what}: {error:?}");
    let report = again.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(report.stats.resumed_bytes > 0, "{what}: {:?}, {:?}", report.stats, report.warnings);
    assert_eq!(report.digest.unwrap().to_string(), bench.digest, "{what}");
    assert_eq!(digest(target, Format::Raw).await, bench.digest, "{what}: the target");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_leaves_no_files_or_the_run_is_resumed_after_space_is_freed() {
    let (bench, image) = bench().await;
    let mount = Mount::new(40);
    let path = mount.path().join("disk.raw");
    let error = run(&bench, image, file(&path, false).await, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationFull, "{error:?}");
    assert!(names(mount.path()).is_empty(), "{:?}", names(mount.path()));

    let error = run(&bench, image, file(&path, true).await, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationFull, "{error:?}");
    assert!(!path.exists());
    mount.resize(200);
    let again = run(&bench, image, file(&path, true).await, true).await;
    assert_resumed(&bench, "a full disk", &error, again, &path).await;
    assert_eq!(names(mount.path()), ["disk.raw"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_removed_midway_is_destination_unavailable() {
    let (bench, image) = bench().await;
    let dir = bench.dir.path().join("there");
    std::fs::create_dir(&dir).unwrap();
    let gone = dir.clone();
    bench.when_read(3, move || std::fs::remove_dir_all(&gone).unwrap());
    let sink = file(&dir.join("disk.raw"), false).await;
    let error = run(&bench, image, sink, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bucket_removed_midway_is_destination_unavailable() {
    let (bench, image) = bench().await;
    // The embedded store would create the removed directory again, so the failure is injected.
    let written = |request: &Request| request.object.starts_with(LIBRARY);
    let gone = Fault::Refuse(404, "NoSuchBucket", "The specified bucket does not exist");
    from_then_on(&bench, 8, written, gone);
    let error = run(&bench, image, bench.object("target", false).await, false).await.unwrap_err();
    bench.client.settle().await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
    assert!(error.message().contains("bucket") && !error.is_retryable(), "{error:?}");
    assert!(!bench.stored("target").exists());
}

/// Answers every request for which `counts` returns true with this fault, from the nth one on.
fn from_then_on(
    bench: &Bench,
    nth: u64,
    counts: impl Fn(&Request) -> bool + Send + Sync + 'static,
    fault: Fault,
) {
    let count = std::sync::atomic::AtomicU64::new(0);
    bench.server.set_faults(move |request| {
        let after = counts(request) && count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= nth;
        if after { vec![fault.clone()] } else { Vec::new() }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_credentials_that_expire_midway_are_reported_and_the_run_is_resumed() {
    let (bench, image) = bench().await;
    let token = Fault::Refuse(400, "ExpiredToken", "The provided token has expired.");
    for to_s3 in [false, true] {
        let path = bench.dir.path().join("disk.raw");
        let sink = async |resume| match to_s3 {
            true => bench.object("target", resume).await,
            false => file(&path, resume).await,
        };
        for resume in [false, true] {
            from_then_on(&bench, 16, is_data, token.clone());
            let error = run(&bench, image, sink(resume).await, resume).await.unwrap_err();
            bench.client.settle().await;
            assert_eq!(error.kind(), ErrorKind::SourceExpired, "{error:?}");
            assert!(
                !error.message().contains("token has"),
                "the store's message may contain a secret: {error}"
            );
            bench.server.set_faults(|_| Vec::new());
            if resume {
                let again = run(&bench, image, sink(true).await, true).await;
                let target = if to_s3 { bench.stored("target") } else { path.clone() };
                assert_resumed(&bench, "expired credentials", &error, again, &target).await;
            } else {
                assert!(bench.left().is_empty() && names(bench.dir.path()).is_empty(), "{:?}", bench.left());
            }
        }
        let _ = std::fs::remove_file(&path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destination_credentials_that_expire_or_lose_permissions_are_reported_and_the_run_is_resumed() {
    let (bench, image) = bench().await;
    for (code, name) in [("ExpiredToken", "expired"), ("AccessDenied", "denied")] {
        let fault = Fault::Refuse(if code == "ExpiredToken" { 400 } else { 403 }, code, "no");
        for resume in [false, true] {
            // With expired credentials the upload cannot be aborted either; with lost permissions it can.
            let parts = |request: &Request| request.part.is_some();
            from_then_on(&bench, 8, parts, fault.clone());
            let error = run(&bench, image, bench.object(name, resume).await, resume).await.unwrap_err();
            bench.client.settle().await;
            assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error:?}");
            assert!(!bench.stored(name).exists());
            bench.server.set_faults(|_| Vec::new());
            if resume {
                let again = run(&bench, image, bench.object(name, true).await, true).await;
                assert_resumed(&bench, name, &error, again, &bench.stored(name)).await;
                std::fs::remove_file(bench.stored(name)).unwrap();
            }
            assert!(bench.left().is_empty(), "{name}: {:?}", bench.left());
        }
    }
}

/// Runs the program as an unprivileged user, to whom file permissions apply.
fn as_nobody(program: &Path, args: &[&str]) -> Command {
    let mut command = command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).args(args);
    command.env_clear();
    command
}

#[test]
fn directory_that_becomes_read_only_is_destination_forbidden() {
    use std::os::unix::fs::PermissionsExt as _;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bench, image) = runtime.block_on(bench());
    let allow =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let program: PathBuf = bench.dir.path().join("diskferry");
    std::fs::copy(env!("CARGO_BIN_EXE_diskferry"), &program).unwrap();
    let dir = bench.dir.path().join("there");
    std::fs::create_dir(&dir).unwrap();
    rustix::fs::chown(&dir, Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
    allow(bench.dir.path(), 0o755);
    let shut = dir.clone();
    bench.when_read(3, move || allow(&shut, 0o555));
    let url = runtime.block_on(bench.server.presign("images", image.name, Duration::from_secs(600))).unwrap();
    let to = dir.join("disk.raw");
    let args = ["--json", "convert", "--no-sync", &url, to.to_str().unwrap()];
    let output = as_nobody(&program, &args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(6) && said.contains("\"destination_forbidden\""), "{said}");
    assert!(!to.exists());
    // The partial file could not be removed either. The next run removes it.
    allow(&dir, 0o755);
    let output = as_nobody(&program, &args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(&dir), ["disk.raw"]);
}

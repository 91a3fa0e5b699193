//! A target's place fails midway: typed, clean, and gone on with where that can be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diskferry_core::{Error, ErrorKind, Report, Result, Sink};
use diskferry_corpus::tools::command;
use diskferry_formats::Format;
use diskferry_s3io::server::{Fault, Request, Shape};

use crate::support::{Bench, Image, LIBRARY, MEMORY, digest, file, is_data, names, resources};

const DISK_MIB: u64 = 96;

/// A file system of its own, of so many MiB.
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

/// A bench with one image, on a line on which a conversion takes a second or two.
async fn bench() -> (Bench, Image) {
    let image = Image::named("qcow2");
    let bench = Bench::new(DISK_MIB, &[image]).await;
    bench.server.set_shape(Shape { latency: Duration::from_millis(5), each: None, all: Some(48 << 20) });
    (bench, image)
}

async fn run(bench: &Bench, image: Image, sink: Result<Box<dyn Sink>>, resume: bool) -> Result<Report> {
    // With few requests in flight, what comes late is asked for late.
    let few = resources(MEMORY).connections(Some(2));
    bench.conversion(image, sink?, Format::Raw).await?.resources(few).resume(resume).run().await
}

/// What failed keeps what it needs, says so, and is gone on with.
async fn goes_on(bench: &Bench, what: &str, error: &Error, again: Result<Report>, target: &Path) {
    assert!(error.hint_text().unwrap_or_default().contains("--resume"), "{what}: {error:?}");
    let report = again.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(report.stats.resumed_bytes > 0, "{what}: {:?}, {:?}", report.stats, report.warnings);
    assert_eq!(report.digest.unwrap().to_string(), bench.digest, "{what}");
    assert_eq!(digest(target, Format::Raw).await, bench.digest, "{what}: the target");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_midway_is_left_clean_or_gone_on_with_when_there_is_room() {
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
    goes_on(&bench, "a full disk", &error, again, &path).await;
    assert_eq!(names(mount.path()), ["disk.raw"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_removed_midway_is_an_unavailable_destination() {
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
async fn a_bucket_that_is_removed_midway_is_an_unavailable_destination() {
    let (bench, image) = bench().await;
    // The store would make a directory that is gone anew: it has to be told.
    let written = |request: &Request| request.object.starts_with(LIBRARY);
    let gone = Fault::Refuse(404, "NoSuchBucket", "The specified bucket does not exist");
    from_then_on(&bench, 8, written, gone);
    let error = run(&bench, image, bench.object("target", false).await, false).await.unwrap_err();
    bench.client.settle().await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
    assert!(error.message().contains("bucket") && !error.is_retryable(), "{error:?}");
    assert!(!bench.stored("target").exists());
}

/// From the nth of them on, every request that `counts` is answered by this.
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
async fn credentials_of_the_source_that_expire_midway_are_said_and_the_run_is_gone_on_with() {
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
                "what the store repeats may hold a secret: {error}"
            );
            bench.server.set_faults(|_| Vec::new());
            if resume {
                let again = run(&bench, image, sink(true).await, true).await;
                let target = if to_s3 { bench.stored("target") } else { path.clone() };
                goes_on(&bench, "expired credentials", &error, again, &target).await;
            } else {
                assert!(bench.left().is_empty() && names(bench.dir.path()).is_empty(), "{:?}", bench.left());
            }
        }
        let _ = std::fs::remove_file(&path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_the_destination_that_expire_or_lose_their_rights_midway_are_said_and_gone_on_with() {
    let (bench, image) = bench().await;
    for (code, name) in [("ExpiredToken", "expired"), ("AccessDenied", "denied")] {
        let fault = Fault::Refuse(if code == "ExpiredToken" { 400 } else { 403 }, code, "no");
        for resume in [false, true] {
            // With expired credentials, nothing of what is there can be taken back either: only with lost rights.
            let parts = |request: &Request| request.part.is_some();
            from_then_on(&bench, 8, parts, fault.clone());
            let error = run(&bench, image, bench.object(name, resume).await, resume).await.unwrap_err();
            bench.client.settle().await;
            assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error:?}");
            assert!(!bench.stored(name).exists());
            bench.server.set_faults(|_| Vec::new());
            if resume {
                let again = run(&bench, image, bench.object(name, true).await, true).await;
                goes_on(&bench, name, &error, again, &bench.stored(name)).await;
                std::fs::remove_file(bench.stored(name)).unwrap();
            }
            assert!(bench.left().is_empty(), "{name}: {:?}", bench.left());
        }
    }
}

/// The program as a user who may do nothing but what the modes of files allow.
fn as_nobody(program: &Path, args: &[&str]) -> Command {
    let mut command = command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).args(args);
    command.env_clear();
    command
}

#[test]
fn a_directory_that_may_not_be_written_any_more_is_a_forbidden_destination() {
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
    // The hidden file that could not be removed either is when it can be.
    allow(&dir, 0o755);
    let output = as_nobody(&program, &args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(&dir), ["disk.raw"]);
}

//! Properties of file targets: names, locks, full disks and permissions.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};

use bytes::Bytes;
use diskferry_core::conformance::pattern;
use diskferry_core::{
    Error, ErrorKind, FileIo, FileSink, FileSinkOptions, FileSource, Preallocation, Receipt, Result, Sink,
    SinkHint, Source, TargetOffset,
};
use diskferry_corpus::tools::command;
use rustix::thread::{Gid, Uid};

fn options() -> FileSinkOptions {
    FileSinkOptions::default()
}

/// With each kind of I/O.
fn by(io: FileIo) -> FileSinkOptions {
    let mut options = options();
    options.io = io;
    options
}

fn forced() -> FileSinkOptions {
    let mut options = options();
    options.force = true;
    options
}

fn exactly(len: u64) -> SinkHint {
    SinkHint::default().most_bytes(Some(len)).exact(true).memory(0)
}

async fn write(sink: &FileSink, at: u64, bytes: impl Into<Bytes>) -> Result<()> {
    sink.write(TargetOffset::new(at), vec![bytes.into()]).await
}

async fn publish(path: &Path, bytes: &'static str, options: FileSinkOptions) -> Result<Receipt> {
    let sink = FileSink::create(path, options).await?;
    write(&sink, 0, bytes).await?;
    sink.finish(bytes.len() as u64).await
}

async fn refused(path: &Path, options: FileSinkOptions) -> Error {
    FileSink::create(path, options).await.map(drop).expect_err("creating it is refused")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A mounted file system, unmounted at the end.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output =
            command("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "mounting needs root (sudo, or unshare --map-root-user --mount): {message}"
        );
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = command("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_file_gets_its_name_only_when_complete() {
    for io in [FileIo::Plain, FileIo::Ring] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let sink = FileSink::create(&path, by(io)).await.unwrap();
        write(&sink, 0, "half").await.unwrap();
        assert_eq!(names(dir.path()), [".disk.raw.diskferry.partial"]);
        let receipt = sink.finish(1 << 20).await.unwrap();
        assert_eq!(names(dir.path()), ["disk.raw"]);
        assert_eq!((receipt.bytes, receipt.written), (1 << 20, 4));
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.len() == 1 << 20 && meta.blocks() * 512 <= 64 << 10, "unwritten bytes must be holes");
        assert_eq!(sink.finish(1 << 20).await.unwrap_err().kind(), ErrorKind::Internal);
        sink.abort().await;
        drop(sink);
        assert_eq!(names(dir.path()), ["disk.raw"], "a published target cannot be aborted");
    }
}

#[tokio::test]
async fn an_existing_file_is_replaced_only_by_force_and_only_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = refused(&path, options()).await;
    assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error:?}");
    let sink = FileSink::create(&path, forced()).await.unwrap();
    write(&sink, 0, "new").await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    sink.finish(3).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "permissions must not widen");
    assert_eq!(names(dir.path()), ["disk.raw"]);
}

#[tokio::test]
async fn a_file_that_appears_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let sink = FileSink::create(&path, options()).await.unwrap();
    std::fs::write(&path, "another's").unwrap();
    let error = sink.finish(0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error:?}");
    sink.abort().await;
    assert_eq!(std::fs::read(&path).unwrap(), b"another's");
    assert_eq!(names(dir.path()), ["disk.raw"]);
}

#[tokio::test]
async fn of_two_concurrent_publishers_exactly_one_succeeds() {
    for _ in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let mut options = options();
        options.sync = false;
        let sink = FileSink::create(&path, options).await.unwrap();
        write(&sink, 0, "ours").await.unwrap();
        let barrier = Arc::new(Barrier::new(2));
        let other = std::thread::spawn({
            let (path, barrier) = (path.clone(), Arc::clone(&barrier));
            move || {
                barrier.wait();
                std::fs::File::create_new(path).is_ok()
            }
        });
        barrier.wait();
        let ours = sink.finish(4).await;
        let theirs = other.join().unwrap();
        assert_eq!(ours.is_ok(), !theirs, "{ours:?}");
        assert_eq!(std::fs::read(&path).unwrap(), if theirs { "" } else { "ours" }.as_bytes());
        if let Err(error) = ours {
            assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_partial_file_that_was_removed_or_swapped_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join(".disk.raw.diskferry.partial");
    for swap in [false, true] {
        let sink = FileSink::create(dir.path().join("disk.raw"), options()).await.unwrap();
        std::fs::remove_file(&partial).unwrap();
        if swap {
            std::fs::write(&partial, "foreign").unwrap();
        }
        let error = sink.finish(0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
        sink.abort().await;
        assert_eq!(partial.exists(), swap, "a file of another process must not be removed");
        assert!(!dir.path().join("disk.raw").exists());
    }
}

#[tokio::test]
async fn a_second_sink_for_the_same_name_is_busy_until_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let link = dir.path().join("link");
    symlink(dir.path(), &link).unwrap();
    let first = FileSink::create(&path, options()).await.unwrap();
    for spelling in [path.clone(), link.join("disk.raw"), dir.path().join("./disk.raw")] {
        let error = refused(&spelling, forced()).await;
        assert_eq!(error.kind(), ErrorKind::DestinationBusy, "{error:?}");
    }
    write(&first, 0, "first").await.unwrap();
    FileSink::create(dir.path().join("other.raw"), options()).await.unwrap().finish(0).await.unwrap();
    drop(first);
    publish(&path, "second", options()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"second");
    publish(&path, "third", forced()).await.unwrap();
    assert_eq!(names(dir.path()), ["disk.raw", "link", "other.raw"]);
}

#[tokio::test]
async fn the_partial_file_of_a_dead_process_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(dir.path().join(".disk.raw.diskferry.partial"), "of a process that was killed").unwrap();
    publish(&path, "new", options()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(names(dir.path()), ["disk.raw"]);
}

#[tokio::test]
async fn links_and_other_files_under_the_partial_name_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join(".disk.raw.diskferry.partial");
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, &partial).unwrap();
    let error = refused(&dir.path().join("disk.raw"), forced()).await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    std::fs::remove_file(&partial).unwrap();
    std::fs::create_dir(&partial).unwrap();
    let error = refused(&dir.path().join("disk.raw"), forced()).await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
}

#[test]
fn of_many_concurrent_sinks_exactly_one_gets_the_name() {
    const MANY: usize = 8;
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        if round % 2 == 1 {
            std::fs::write(dir.path().join(".disk.raw.diskferry.partial"), "stale").unwrap();
        }
        let (path, barrier) = (dir.path().join("disk.raw"), Barrier::new(MANY));
        let results: Vec<Result<FileSink>> = std::thread::scope(|scope| {
            let begin = || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                barrier.wait();
                runtime.block_on(FileSink::create(&path, options()))
            };
            let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let errors = results.iter().filter_map(|result| result.as_ref().err());
        let kinds: Vec<_> = errors.map(Error::kind).collect();
        assert_eq!(kinds, [ErrorKind::DestinationBusy; MANY - 1]);
        assert_eq!(names(dir.path()).len(), 1);
        drop(results);
        assert!(names(dir.path()).is_empty());
    }
}

#[tokio::test]
async fn a_full_disk_is_reported_and_leaves_nothing() {
    for io in [FileIo::Plain, FileIo::Ring] {
        let mount = Mount::tmpfs("size=1m");
        let path = mount.path().join("disk.raw");
        let sink = FileSink::create(&path, by(io)).await.unwrap();
        let error = write(&sink, 0, pattern(2 << 20, 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationFull, "{error:?}");
        assert!(sink.written().unwrap() <= 1 << 20);
        sink.abort().await;
        assert!(names(mount.path()).is_empty());

        let mut taking = options();
        taking.preallocation = Preallocation::Falloc;
        let sink = FileSink::create(&path, taking.clone()).await.unwrap();
        let error = sink.prepare(exactly(2 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationFull, "space is allocated at the start: {error:?}");
        drop(sink);
        let sink = FileSink::create(&path, taking).await.unwrap();
        let error = sink.finish(2 << 20).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationFull, "{error:?}");
        drop(sink);
        assert!(names(mount.path()).is_empty());

        publish(&path, "there is space again", options()).await.unwrap();
        let sink = FileSink::create(&path, forced()).await.unwrap();
        sink.prepare(exactly(1 << 30)).await.unwrap();
        sink.finish(1 << 30).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 30, "holes need no space");
    }
}

#[tokio::test]
async fn a_length_that_no_file_can_have_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::create(&dir.path().join("disk.raw"), options()).await.unwrap();
    let error = sink.prepare(exactly(u64::MAX)).await.unwrap_err();
    drop(sink);
    assert_eq!(error.kind(), ErrorKind::DestinationFull, "{error:?}");
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn preallocated_space_is_really_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let mut options = options();
    options.preallocation = Preallocation::Falloc;
    FileSink::create(&path, options).await.unwrap().finish(1 << 20).await.unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert!(meta.len() == 1 << 20 && meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
}

#[tokio::test]
async fn a_read_only_file_system_is_forbidden() {
    let mount = Mount::tmpfs("size=1m,ro");
    let error = refused(&mount.path().join("disk.raw"), options()).await;
    assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error:?}");
}

/// Runs `check` as a user to whom permissions apply. Tests may run as root, who is not subject to them.
fn as_nobody(check: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if rustix::process::geteuid().is_root() {
            let (gid, uid) = (Gid::from_raw(65534), Uid::from_raw(65534));
            // Affects only this thread and the threads that it starts.
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        }
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(check());
    });
    thread.join().unwrap();
}

#[test]
fn missing_permissions_are_forbidden() {
    as_nobody(async || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let mode = |mode| {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for forbidden in [0o500, 0o000] {
            mode(forbidden);
            let error = refused(&path, forced()).await;
            assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{forbidden:o}: {error:?}");
        }
        let error = FileSource::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceForbidden, "{error:?}");

        mode(0o300);
        publish(&path, "a directory that cannot be listed", options()).await.unwrap();
        mode(0o700);
        assert_eq!(names(dir.path()), ["disk.raw"]);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        let error = FileSource::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceForbidden, "{error:?}");

        let lost = dir.path().join("lost.raw");
        let sink = FileSink::create(&lost, options()).await.unwrap();
        mode(0o500);
        let error = sink.finish(0).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::DestinationForbidden,
            "permission lost during the run: {error:?}"
        );
        mode(0o700);
        sink.abort().await;
        assert_eq!(names(dir.path()), ["disk.raw"]);
    });
}

#[tokio::test]
async fn names_of_other_kinds_of_files_are_unsuitable() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(command("mkfifo").arg(&fifo).status().unwrap().success());
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, "x").unwrap();
    symlink(&fifo, &link).unwrap();
    let trailing = dir.path().join("new/");
    let long = dir.path().join("x".repeat(256));
    let paths =
        [dir.path(), Path::new("/"), Path::new(".."), &trailing, &fifo, &link, &file.join("y"), &long];
    for path in paths.into_iter().chain([Path::new("/dev/null")]) {
        for options in [options(), forced()] {
            let error = refused(path, options).await;
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{}: {error:?}", path.display());
        }
    }
    let error = refused(&dir.path().join("missing/disk.raw"), options()).await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
    assert!(error.hint_text().is_some() && !error.is_retryable());
    assert_eq!(names(dir.path()), ["fifo", "file", "link"]);
}

#[tokio::test]
async fn a_block_device_is_not_replaced() {
    let found = std::fs::read_dir("/sys/class/block").unwrap().find_map(|entry| {
        let path = Path::new("/dev").join(entry.unwrap().file_name());
        path.exists().then_some(path)
    });
    let device = found.expect("this machine has a block device in /dev");
    let error = refused(&device, forced()).await;
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
    assert!(error.message().contains("block device"), "{error:?}");
}

#[tokio::test]
async fn with_force_a_link_is_replaced_and_not_its_target() {
    let dir = tempfile::tempdir().unwrap();
    let (old, link) = (dir.path().join("old"), dir.path().join("link"));
    std::fs::write(&old, "old").unwrap();
    symlink(&old, &link).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    for name in ["link", "dangling"] {
        let path = dir.path().join(name);
        assert_eq!(refused(&path, options()).await.kind(), ErrorKind::DestinationExists);
        publish(&path, "new", forced()).await.unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }
    assert_eq!(std::fs::read(&old).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["dangling", "link", "old"]);
}

#[tokio::test]
async fn the_longest_name_that_a_file_can_have_works() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["x".repeat(255), "ä".repeat(127)] {
        publish(&dir.path().join(&name), "x", options()).await.unwrap();
    }
    assert_eq!(names(dir.path()).len(), 2);
}

#[tokio::test]
async fn a_directory_that_is_renamed_meanwhile_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    let sink = FileSink::create(here.join("disk.raw"), options()).await.unwrap();
    std::fs::rename(&here, &there).unwrap();
    sink.finish(0).await.unwrap();
    assert_eq!(names(&there), ["disk.raw"]);
}

#[tokio::test]
async fn a_source_may_be_replaced_by_its_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, "old").unwrap();
    let source = Arc::new(FileSource::open(&path).await.unwrap());
    let sink = FileSink::create(&path, forced()).await.unwrap();
    let bytes = source.read(diskferry_core::StoredRange::first(3)).await.unwrap();
    write(&sink, 0, bytes).await.unwrap();
    source.verify().await.unwrap();
    sink.finish(3).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[tokio::test]
async fn finishing_shorter_than_the_written_bytes_is_internal() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::create(dir.path().join("disk.raw"), options()).await.unwrap();
    write(&sink, 10, "bytes").await.unwrap();
    assert_eq!(sink.finish(14).await.unwrap_err().kind(), ErrorKind::Internal);
    sink.finish(15).await.unwrap();
}

#[test]
fn a_killed_process_leaves_no_lock_and_no_file_under_the_name() {
    const CHILD: &str = "DISKFERRY_TEST_CHILD";
    if let Some(path) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let sink = FileSink::create(path, options()).await.unwrap();
            write(&sink, 0, "half").await.unwrap();
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            std::future::pending::<()>().await;
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let name = "file_sink::a_killed_process_leaves_no_lock_and_no_file_under_the_name";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", name]).env(CHILD, &path).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    assert_eq!(names(dir.path()), [".disk.raw.diskferry.partial"]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(publish(&path, "whole", options())).unwrap();
    assert_eq!(names(dir.path()), ["disk.raw"]);
}

#[tokio::test]
async fn bytes_of_an_interrupted_run_are_dropped_without_resume() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".disk.raw.diskferry.partial"), [9; 10_000]).unwrap();
    std::fs::write(dir.path().join(".disk.raw.diskferry.journal"), "how").unwrap();
    let mut options = FileSinkOptions::default();
    options.resume = true;
    let sink = FileSink::create(dir.path().join("disk.raw"), options).await.unwrap();
    sink.prepare(SinkHint::default()).await.unwrap();
    sink.finish(10_000).await.unwrap();
    assert!(std::fs::read(dir.path().join("disk.raw")).unwrap() == [0; 10_000]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

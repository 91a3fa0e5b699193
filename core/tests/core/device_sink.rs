//! Block devices as targets, on loop devices of the kernel: their content, their errors, and their state after an
//! abort.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::conformance::{Replacing, Stage, check_sink, check_source, pattern};
use diskferry_core::internal::{Buffer, DEVICE_HEAD_BYTES};
use diskferry_core::{
    BlockDeviceSink, BoxFuture, DeviceSinkOptions, Error, ErrorKind, FileIo, FileSink, FileSinkOptions,
    Result, Sink, SinkHint, StoredRange, TargetOffset, TargetRange, is_block_device,
};
use diskferry_corpus::tools::command;
use rustix::fs::{FlockOperation, OFlags};
use rustix::thread::{Gid, Uid};

const MIB: u64 = 1 << 20;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (needs root, and loop devices of the kernel): {message}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A mounted file system, unmounted at the end.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(arguments: &[&str], what: impl AsRef<Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run(command("mount").args(arguments).arg(what.as_ref()).arg(dir.path()));
        Self(dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = command("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A loop device over a file, detached at the end.
struct Loop {
    path: PathBuf,
    _dir: tempfile::TempDir,
    _mount: Option<Mount>,
}

impl Loop {
    fn new(len: u64) -> Self {
        Self::with(len, &[])
    }

    fn with(len: u64, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Self::attach(&dir.path().join("disk"), len, arguments);
        Self { path, _dir: dir, _mount: None }
    }

    /// Over a file in a tmpfs.
    fn over(len: u64, mount: Mount) -> Self {
        let path = Self::attach(&mount.0.path().join("disk"), len, &[]);
        Self { path, _dir: tempfile::tempdir().unwrap(), _mount: Some(mount) }
    }

    fn attach(file: &Path, len: u64, arguments: &[&str]) -> PathBuf {
        File::create_new(file).unwrap().set_len(len).unwrap();
        let path = run(command("losetup").args(["--find", "--show"]).args(arguments).arg(file));
        PathBuf::from(path)
    }

    fn open(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// The previous content: no byte of it is zero.
    fn fill(&self, len: u64) -> Vec<u8> {
        let old = pattern(usize::try_from(len).unwrap(), 0xc0de);
        let file = self.open();
        file.write_all_at(&old, 0).unwrap();
        file.sync_all().unwrap();
        old
    }

    /// The kernel's count of sectors written to the device, in units of 512 bytes.
    fn sectors_written(&self) -> u64 {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        text.split_whitespace().nth(6).unwrap().parse().unwrap()
    }

    fn is_free(&self) -> bool {
        let flags = OFlags::EXCL.bits().cast_signed();
        let Ok(file) = File::options().read(true).custom_flags(flags).open(&self.path) else { return false };
        rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Waits until nobody holds the device: a process that another test spawns holds all inherited descriptors until
    /// it executes its program.
    fn becomes_free(&self) -> bool {
        for _ in 0..400 {
            if self.is_free() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    async fn sink(&self) -> BlockDeviceSink {
        self.sink_by(FileIo::Plain).await
    }

    async fn sink_by(&self, io: FileIo) -> BlockDeviceSink {
        let mut options = DeviceSinkOptions::default();
        options.io = io;
        BlockDeviceSink::create(&self.path, options).await.unwrap()
    }

    async fn refused(&self) -> Error {
        let created = BlockDeviceSink::create(&self.path, DeviceSinkOptions::default()).await;
        let error = created.map(drop).expect_err("it is refused");
        let admitted = BlockDeviceSink::admit(&self.path).await.expect_err("admit must refuse it");
        assert_eq!((admitted.kind(), admitted.message()), (error.kind(), error.message()));
        error
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = command("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn exactly(len: u64) -> SinkHint {
    SinkHint::default().most_bytes(Some(len)).exact(true).memory(0)
}

fn at_most(len: u64) -> SinkHint {
    SinkHint::default().most_bytes(Some(len)).exact(false).memory(0)
}

async fn write(sink: &BlockDeviceSink, at: u64, bytes: impl Into<Bytes>) -> Result<()> {
    sink.write(TargetOffset::new(at), vec![bytes.into()]).await
}

async fn zero(sink: &BlockDeviceSink, at: u64, len: u64) {
    sink.zero(TargetRange::new(TargetOffset::new(at), len).unwrap()).await.unwrap();
}

fn is_blank(content: &[u8]) -> bool {
    content.iter().take(1 << 20).all(|byte| *byte == 0)
}

/// A device that holds previous content whenever a sink is created for it.
struct Bench {
    device: Loop,
    len: u64,
    sync: bool,
    io: FileIo,
}

impl Stage for Bench {
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn Sink>>> {
        Box::pin(async {
            let mut options = DeviceSinkOptions::default();
            options.sync = self.sync;
            options.io = self.io;
            self.device.fill(self.len);
            let sink = BlockDeviceSink::create(&self.device.path, options).await?;
            Ok(Arc::new(sink) as Arc<dyn Sink>)
        })
    }

    fn published(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async { Some(self.device.content()) })
    }

    fn leftovers(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            // The last system call of a dropped sink holds the device until it ends.
            for _ in 0..1000 {
                if self.device.is_free() {
                    return Vec::new();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            vec!["the device is still claimed".to_owned()]
        })
    }

    fn replacing(&self) -> Replacing {
        Replacing::InPlace
    }
}

async fn check(device: Loop, len: u64, sync: bool) {
    let mut bench = Bench { device, len, sync, io: FileIo::Plain };
    for io in [FileIo::Plain, FileIo::Ring] {
        bench.io = io;
        // Mostly within the head, and partly after it.
        for unit in [192 << 10, 700_001] {
            check_sink(&bench, unit).await;
        }
    }
}

#[tokio::test]
async fn a_device_sink_conforms() {
    check(Loop::new(12 * MIB), 12 * MIB, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_sink_conforms_without_sync_on_many_threads() {
    check(Loop::new(12 * MIB), 12 * MIB, false).await;
}

#[tokio::test]
async fn a_device_that_cannot_create_zeros_conforms() {
    check(Loop::over(12 * MIB, Mount::new(&["-t", "ramfs"], "ramfs")), 12 * MIB, true).await;
}

#[tokio::test]
async fn a_device_with_large_sectors_conforms() {
    check(Loop::with(12 * MIB, &["--sector-size", "4096"]), 12 * MIB, true).await;
}

#[tokio::test]
async fn a_device_that_is_too_small_is_refused_before_it_is_changed() {
    let device = Loop::new(2 * MIB);
    let old = device.fill(2 * MIB);
    let sink = device.sink().await;
    assert_eq!(sink.device_bytes(), 2 * MIB);
    let error = sink.prepare(exactly(2 * MIB + 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
    assert!(error.message().contains("2097153") && error.message().contains("2097152"), "{error:?}");
    sink.abort().await;
    drop(sink);
    assert!(device.content() == old);
}

#[tokio::test]
async fn a_device_of_the_exact_size_fits() {
    for len in [MIB / 2, MIB, 2 * MIB + 512] {
        let device = Loop::new(len);
        device.fill(len);
        let sink = device.sink().await;
        sink.prepare(exactly(len)).await.unwrap();
        let truth = pattern(usize::try_from(len).unwrap(), len);
        write(&sink, 0, truth.clone()).await.unwrap();
        let receipt = sink.finish(len).await.unwrap();
        assert_eq!((receipt.bytes, receipt.written), (len, len));
        assert!(device.content() == truth, "{len}");
    }
}

#[tokio::test]
async fn with_only_an_upper_bound_a_write_that_does_not_fit_is_refused() {
    for io in [FileIo::Plain, FileIo::Ring] {
        let device = Loop::new(2 * MIB);
        let old = device.fill(2 * MIB);
        let sink = device.sink_by(io).await;
        sink.prepare(at_most(100 * MIB)).await.unwrap();
        write(&sink, 0, "a header").await.unwrap();
        write(&sink, 2 * MIB - 1, "x").await.unwrap();
        let too_much = write(&sink, 2 * MIB - 1, "xy").await.unwrap_err();
        assert_eq!(too_much.kind(), ErrorKind::DestinationUnsuitable, "{too_much:?}");
        assert!(too_much.message().contains("at least 2097153"), "{too_much:?}");
        for at in [2 * MIB, u64::MAX - 1] {
            let range = TargetRange::new(TargetOffset::new(at), 1).unwrap();
            assert_eq!(sink.zero(range).await.unwrap_err().kind(), ErrorKind::DestinationUnsuitable);
            assert_eq!(write(&sink, at, "123").await.unwrap_err().kind(), ErrorKind::DestinationUnsuitable);
        }
        assert_eq!(sink.finish(2 * MIB + 1).await.unwrap_err().kind(), ErrorKind::DestinationUnsuitable);
        assert!(sink.abort().await);
        let content = device.content();
        assert!(is_blank(&content) && content[1 << 20..(2 << 20) - 1] == old[1 << 20..(2 << 20) - 1]);
    }
}

#[tokio::test]
async fn a_device_is_unchanged_until_it_is_prepared() {
    let device = Loop::new(2 * MIB);
    let old = device.fill(2 * MIB);
    BlockDeviceSink::admit(&device.path).await.unwrap();
    let sink = device.sink().await;
    assert_eq!(write(&sink, 0, "early").await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(sink.finish(0).await.unwrap_err().kind(), ErrorKind::Internal);
    assert!(sink.abort().await);
    drop(sink);
    drop(device.sink().await);
    assert!(device.content() == old);
}

#[tokio::test]
async fn the_first_mebibyte_is_zero_until_the_end_and_bytes_after_the_target_are_unchanged() {
    for io in [FileIo::Plain, FileIo::Ring] {
        let device = Loop::new(4 * MIB);
        let old = device.fill(4 * MIB);
        let sink = device.sink_by(io).await;
        sink.prepare(at_most(3 * MIB)).await.unwrap();
        assert!(is_blank(&device.content()), "the old start must be zeroed first");
        let truth = pattern((5 << 20) / 2, 5);
        write(&sink, 0, truth.clone()).await.unwrap();
        let half = device.content();
        assert!(is_blank(&half) && half[1 << 20..truth.len()] == truth[1 << 20..]);
        sink.finish(truth.len() as u64).await.unwrap();
        let content = device.content();
        assert!(content[..truth.len()] == truth && content[truth.len()..] == old[truth.len()..]);
        assert!(!sink.abort().await, "a published target cannot be aborted");
        drop(sink);
        assert!(device.content() == content && device.becomes_free());
    }
}

#[tokio::test]
async fn direct_and_cached_writes_are_consistent() {
    for sector in ["512", "4096"] {
        let device = Loop::with(16 * MIB, &["--sector-size", sector]);
        device.fill(16 * MIB);
        let sink = device.sink().await;
        sink.prepare(exactly(16 * MIB)).await.unwrap();
        let truth = pattern(16 << 20, 9);
        let pages = {
            let mut buffer = Buffer::new(16 << 20).unwrap();
            buffer.copy_from_slice(&truth);
            buffer.freeze()
        };
        let before = device.sectors_written();
        sink.write(TargetOffset::new(4 * MIB), vec![pages.slice(4 << 20..6 << 20)]).await.unwrap();
        let direct = device.sectors_written() - before;
        assert!(direct >= 4096, "{direct} sectors were written before anything was flushed");
        // The rest is written from the end to the start, in steps that end within pages as often as at page
        // boundaries.
        let steps = [65536, 4096, 512, 131_072, 3584, 262_144, 1000, 3096, 700_000];
        let mut ends = vec![6 << 20];
        while *ends.last().unwrap() < 16 << 20 {
            ends.push((ends.last().unwrap() + steps[ends.len() % steps.len()]).min(16 << 20));
        }
        for ends in ends.windows(2).rev() {
            let cut = (ends[0] + ends[1]) / 2 / 4096 * 4096;
            let cut = cut.clamp(ends[0], ends[1]);
            let pieces = vec![pages.slice(ends[0]..cut), pages.slice(cut..ends[1])];
            sink.write(TargetOffset::new(ends[0] as u64), pieces).await.unwrap();
        }
        sink.write(TargetOffset::new(0), vec![pages.slice(..4 << 20)]).await.unwrap();
        sink.finish(16 * MIB).await.unwrap();
        assert!(device.content() == truth, "sectors of {sector} bytes");
    }
}

#[tokio::test]
async fn a_short_target_is_followed_by_zeros_up_to_the_first_mebibyte() {
    let device = Loop::new(2 * MIB);
    let old = device.fill(2 * MIB);
    let sink = device.sink().await;
    sink.prepare(exactly(3)).await.unwrap();
    write(&sink, 0, "abc").await.unwrap();
    sink.finish(3).await.unwrap();
    let content = device.content();
    assert!(content.starts_with(b"abc") && content[3..1 << 20].iter().all(|byte| *byte == 0));
    assert!(content[1 << 20..] == old[1 << 20..]);
}

/// Zeros at all alignments next to bytes that must not change.
async fn zeros_beside_data(device: &Loop) -> u64 {
    let old = device.fill(8 * MIB);
    let sink = device.sink().await;
    sink.prepare(at_most(8 * MIB)).await.unwrap();
    let mut truth = old.clone();
    truth[..1 << 20].fill(0);
    for (at, len) in [
        (MIB - 3, 70_000),
        (2 * MIB, 65_536),
        (3 * MIB + 1, 131_071),
        (4 * MIB + 511, 1),
        (5 * MIB - 4096, MIB + 4097),
        (7 * MIB, MIB),
        (7 * MIB, 0),
    ] {
        zero(&sink, at, len).await;
        truth[usize::try_from(at).unwrap()..][..usize::try_from(len).unwrap()].fill(0);
    }
    let written = sink.written().unwrap();
    sink.finish(8 * MIB).await.unwrap();
    drop(sink);
    // Read from the device and not from the page cache.
    let file = device.open();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(device.content() == truth);
    written
}

#[tokio::test]
async fn zeros_reach_the_device_and_change_no_adjacent_byte() {
    let written = zeros_beside_data(&Loop::new(8 * MIB)).await;
    assert!(written < 5 * 65_536, "{written} bytes of zeros written that the device could make");
    let device = Loop::over(8 * MIB, Mount::new(&["-t", "ramfs"], "ramfs"));
    let written = zeros_beside_data(&device).await;
    let told = 70_000 - 3 + 65_536 + 131_071 + 1 + MIB + 4097 + MIB;
    assert_eq!(written, told, "zeros after the head are written if the device cannot create them");
}

#[tokio::test]
async fn a_long_run_of_zeros_is_not_written() {
    const LEN: u64 = 1 << 30;
    let device = Loop::new(LEN);
    device.open().write_all_at(b"old", LEN / 2).unwrap();
    let sink = device.sink().await;
    sink.prepare(exactly(LEN)).await.unwrap();
    zero(&sink, 0, LEN).await;
    assert_eq!(sink.written(), Some(0));
    let receipt = sink.finish(LEN).await.unwrap();
    assert_eq!(receipt.written, DEVICE_HEAD_BYTES);
    let mut found = [1; 3];
    device.open().read_exact_at(&mut found, LEN / 2).unwrap();
    assert_eq!(found, [0; 3]);
}

#[tokio::test]
async fn a_device_in_use_is_busy_and_unchanged() {
    let device = Loop::new(8 * MIB);
    run(command("mkfs.ext2").arg("-q").arg(&device.path));
    let old = device.content();
    let mount = Mount::new(&["-o", "ro"], &device.path);
    let error = device.refused().await;
    assert_eq!(error.kind(), ErrorKind::DestinationBusy, "mounted: {error:?}");
    assert!(error.is_retryable() && error.hint_text().is_some());
    drop(mount);

    let sink = device.sink().await;
    let error = device.refused().await;
    assert_eq!(error.kind(), ErrorKind::DestinationBusy, "another sink: {error:?}");
    drop(sink);

    let other = device.open();
    rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();
    let error = device.refused().await;
    assert_eq!(error.kind(), ErrorKind::DestinationBusy, "locked: {error:?}");
    // As udev does, for a moment.
    let let_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        drop(other);
    });
    drop(device.sink().await);
    let_go.join().unwrap();
    assert!(device.content() == old);
}

#[tokio::test]
async fn a_device_that_is_held_for_a_moment_is_retried() {
    let device = Loop::new(2 * MIB);
    // A spawned process holds the open descriptors of this one until it executes its program.
    let others = std::thread::spawn(|| {
        for _ in 0..200 {
            assert!(command("true").status().unwrap().success());
        }
    });
    while !others.is_finished() {
        BlockDeviceSink::admit(&device.path).await.unwrap();
        drop(device.sink().await);
    }
    others.join().unwrap();
}

#[tokio::test]
async fn a_read_only_device_is_forbidden() {
    let device = Loop::with(2 * MIB, &["--read-only"]);
    let error = device.refused().await;
    assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error:?}");
}

#[test]
fn a_device_without_permission_is_forbidden() {
    let device = Loop::new(2 * MIB);
    let thread = std::thread::spawn(move || {
        let (gid, uid) = (Gid::from_raw(65534), Uid::from_raw(65534));
        // Affects only this thread and the threads that it starts.
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(device.refused());
        assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error:?}");
        device
    });
    drop(thread.join().unwrap());
}

#[tokio::test]
async fn a_link_is_followed_and_other_files_are_refused() {
    let device = Loop::new(2 * MIB);
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink(&device.path, &link).unwrap();
    assert!(is_block_device(&link) && is_block_device(&device.path));
    let sink = BlockDeviceSink::create(&link, DeviceSinkOptions::default()).await.unwrap();
    assert_eq!(sink.url(), link.to_str().unwrap());
    drop(sink);
    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    for (path, kind) in [
        (file.as_path(), ErrorKind::DestinationUnsuitable),
        (dir.path(), ErrorKind::DestinationUnsuitable),
        (Path::new("/dev/null"), ErrorKind::DestinationUnsuitable),
        (&dir.path().join("missing"), ErrorKind::DestinationUnavailable),
    ] {
        assert!(!is_block_device(path));
        let error = BlockDeviceSink::create(path, DeviceSinkOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}: {error:?}", path.display());
        assert_eq!(BlockDeviceSink::admit(path).await.unwrap_err().kind(), kind);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    for path in [&device.path, &link] {
        let error = FileSink::create(path, FileSinkOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
        assert!(error.hint_text().unwrap().contains("BlockDeviceSink"), "{error:?}");
    }
}

#[tokio::test]
async fn a_device_that_fails_is_unavailable_and_looks_empty() {
    for io in [FileIo::Plain, FileIo::Ring] {
        // Its file system has no space for all of it, which the kernel reports on write-back: immediately for direct
        // writes, which depend on the alignment in memory, otherwise at the end.
        let device = Loop::over(16 * MIB, Mount::new(&["-t", "tmpfs", "-o", "size=4m"], "tmpfs"));
        let sink = device.sink_by(io).await;
        sink.prepare(exactly(16 * MIB)).await.unwrap();
        let error = match write(&sink, 0, pattern(16 << 20, 1)).await {
            Ok(()) => sink.finish(16 * MIB).await.unwrap_err(),
            Err(error) => error,
        };
        let kinds = [ErrorKind::DestinationUnavailable, ErrorKind::DestinationFull];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert!(sink.abort().await);
        drop(sink);
        let mut start = vec![1; 1 << 20];
        device.open().read_exact_at(&mut start, 0).unwrap();
        assert!(is_blank(&start));
    }
}

#[tokio::test]
async fn a_published_device_reads_back_until_it_is_retracted() {
    for io in [FileIo::Plain, FileIo::Ring] {
        let device = Loop::new(4 * MIB);
        device.fill(4 * MIB);
        let sink = device.sink_by(io).await;
        sink.prepare(at_most(4 * MIB)).await.unwrap();
        let truth = pattern(3_000_001, 4);
        write(&sink, 0, truth.clone()).await.unwrap();
        assert_eq!(sink.read_back(1).await.unwrap_err().kind(), ErrorKind::Internal);
        let receipt = sink.finish(3_000_001).await.unwrap();
        let source = sink.read_back(3_000_001).await.unwrap();
        assert_eq!(source.url(), device.path.to_str().unwrap());
        check_source(&*source, &truth).await;
        let beyond = source.read(StoredRange::first(3_000_002)).await.unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::Truncated);
        assert!(sink.retract(&receipt).await.unwrap());
        assert!(!sink.retract(&receipt).await.unwrap(), "there is nothing left to retract");
        let content = device.content();
        assert!(is_blank(&content) && content[1 << 20..3_000_001] == truth[1 << 20..]);
        drop(sink);
        assert!(!device.is_free(), "the source holds it");
        drop(source);
        assert!(device.becomes_free());
    }
}

#[test]
fn a_killed_process_leaves_a_device_that_is_free_and_looks_empty() {
    const CHILD: &str = "DISKFERRY_TEST_KILLED_DEVICE";
    if let Some(path) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let sink = BlockDeviceSink::create(path, DeviceSinkOptions::default()).await.unwrap();
            sink.prepare(at_most(4 * MIB)).await.unwrap();
            write(&sink, 0, pattern(3 << 20, 1)).await.unwrap();
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            std::future::pending::<()>().await;
        });
    }
    let device = Loop::new(4 * MIB);
    device.fill(4 * MIB);
    let name = "device_sink::a_killed_process_leaves_a_device_that_is_free_and_looks_empty";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", name]).env(CHILD, &device.path).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    assert!(device.becomes_free() && is_blank(&device.content()));
}

#[tokio::test]
async fn a_failing_device_is_noticed_long_before_the_end() {
    for io in [FileIo::Plain, FileIo::Ring] {
        const LEN: u64 = 1 << 30;
        let device = Loop::over(LEN, Mount::new(&["-t", "tmpfs", "-o", "size=4m"], "tmpfs"));
        let sink = device.sink_by(io).await;
        sink.prepare(exactly(LEN)).await.unwrap();
        let piece = Bytes::from(pattern(32 << 20, 1));
        let mut at = 0;
        let error = loop {
            match write(&sink, at, piece.clone()).await {
                Ok(()) => at += 32 * MIB,
                Err(error) => break error,
            }
            assert!(at < LEN / 2, "no error after {at} bytes");
        };
        let kinds = [ErrorKind::DestinationUnavailable, ErrorKind::DestinationFull];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
}

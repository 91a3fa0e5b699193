//! Properties of local sources: holes, changes, refusals, siblings.

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use diskferry_core::conformance::pattern;
use diskferry_core::internal::SEGMENTS;
use diskferry_core::{
    ErrorKind, FileGate, FileIo, FileSource, Gate, MapSource, Result, SiblingName, Source, StoredOffset,
    StoredRange,
};
use diskferry_corpus::tools::command;

const KIB: u64 = 1024;

fn range(start: u64, len: u64) -> StoredRange {
    StoredRange::new(StoredOffset::new(start), len).unwrap()
}

/// Every way to read a file.
async fn open_each(path: &Path) -> [Box<dyn Source>; 3] {
    [
        Box::new(FileSource::open_with(path, FileIo::Plain).await.unwrap()),
        Box::new(FileSource::open_with(path, FileIo::Ring).await.unwrap()),
        Box::new(MapSource::open(path).await.unwrap()),
    ]
}

async fn open(path: &Path, mmap: bool) -> Result<Box<dyn Source>> {
    Ok(if mmap { Box::new(MapSource::open(path).await?) } else { Box::new(FileSource::open(path).await?) })
}

fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn run(program: &str, args: &[&str], path: &Path) {
    let status = command(program).args(args).arg(path).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

async fn all_segments(source: &dyn Source) -> Vec<(u64, u64, bool)> {
    let mut all = Vec::new();
    let mut at = StoredOffset::ZERO;
    while at.get() < source.len() {
        let segments =
            source.segments(StoredRange::between(at, StoredOffset::new(source.len()))).await.unwrap();
        at = segments.last().unwrap().range.end();
        all.extend(segments.iter().map(|s| (s.range.start().get(), s.range.len(), s.hole)));
    }
    all
}

#[tokio::test]
async fn holes_from_seeking_and_punching_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let sparse = File::create(&path).unwrap();
    sparse.write_all_at(&pattern(64 << 10, 1), 1 << 20).unwrap();
    sparse.write_all_at(&pattern(256 << 10, 1), 2 << 20).unwrap();
    sparse.set_len(4 << 20).unwrap();
    run("fallocate", &["-p", "-o", "2162688", "-l", "65536"], &path);
    for mmap in [false, true] {
        let source = open(&path, mmap).await.unwrap();
        let expected = vec![
            (0, 1024 * KIB, true),
            (1024 * KIB, 64 * KIB, false),
            (1088 * KIB, 960 * KIB, true),
            (2048 * KIB, 64 * KIB, false),
            (2112 * KIB, 64 * KIB, true),
            (2176 * KIB, 128 * KIB, false),
            (2304 * KIB, 1792 * KIB, true),
        ];
        assert_eq!(all_segments(&*source).await, expected);
        let cut = source.segments(range(1000 * KIB + 1, 100 * KIB)).await.unwrap();
        assert_eq!(cut[0].range, range(1000 * KIB + 1, 24 * KIB - 1));
        assert_eq!((cut.len(), cut[2].range, cut[2].hole), (3, range(1088 * KIB, 12 * KIB + 1), true));
        assert_eq!(source.traffic().bytes, 0, "segments must not read data");
    }
}

#[tokio::test]
async fn an_answer_of_segments_is_bounded_however_fragmented_the_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let sparse = File::create(&path).unwrap();
    let pages = SEGMENTS as u64 + 100;
    sparse.set_len(pages * 2 * 4096).unwrap();
    for page in 0..pages {
        sparse.write_all_at(&[1; 4096], page * 2 * 4096).unwrap();
    }
    let source = open(&path, false).await.unwrap();
    assert_eq!(source.segments(range(0, source.len())).await.unwrap().len(), SEGMENTS);
    let all = all_segments(&*source).await;
    assert_eq!(all.len() as u64, pages * 2);
    assert!(all.iter().enumerate().all(|(index, (_, len, hole))| *len == 4096 && *hole == (index % 2 == 1)));
}

#[tokio::test]
async fn a_file_without_hole_information_is_data() {
    // Files in procfs cannot seek to holes.
    let source = FileSource::open("/proc/self/status").await.unwrap();
    assert_eq!((source.len(), all_segments(&source).await), (0, Vec::new()));
    let dir = tempfile::tempdir().unwrap();
    let source = FileSource::open(file(&dir, "x", &pattern(10_000, 1))).await.unwrap();
    assert_eq!(all_segments(&source).await, vec![(0, 10_000, false)]);
}

#[tokio::test]
async fn a_change_is_detected_by_the_next_read_and_by_verify() {
    type Change = fn(&Path);
    let changes: [(&str, bool, Change); 6] = [
        ("grown", true, |path| File::options().append(true).open(path).unwrap().set_len(900_000).unwrap()),
        ("shrunk", true, |path| File::options().write(true).open(path).unwrap().set_len(4096).unwrap()),
        ("emptied", true, |path| drop(File::create(path).unwrap())),
        ("written to", true, |path| {
            File::options().write(true).open(path).unwrap().write_all_at(b"x", 70_000).unwrap();
        }),
        ("replaced", false, |path| {
            let other = path.with_extension("new");
            std::fs::write(&other, pattern(500_000, 1)).unwrap();
            std::fs::rename(other, path).unwrap();
        }),
        ("removed", false, |path| std::fs::remove_file(path).unwrap()),
    ];
    for way in 0..3 {
        for (what, shows_in_reads, change) in changes {
            let dir = tempfile::tempdir().unwrap();
            let path = file(&dir, "disk", &pattern(500_000, 1));
            let source = open_each(&path).await.into_iter().nth(way).unwrap();
            source.read(range(0, 500_000)).await.unwrap();
            source.verify().await.unwrap();
            change(&path);
            let read = source.read(range(0, 500_000)).await;
            if shows_in_reads {
                let error = read.expect_err(what);
                assert_eq!(error.kind(), ErrorKind::SourceChanged, "{what}: {error:?}");
                let error = source.segments(range(0, 500_000)).await.expect_err(what);
                assert_eq!(error.kind(), ErrorKind::SourceChanged, "{what}: {error:?}");
            } else {
                assert!(read.unwrap() == pattern(500_000, 1), "{what}: the opened file is still read");
            }
            let error = source.verify().await.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::SourceChanged, "{what}: {error:?}");
            assert!(error.message().contains("disk") && error.is_retryable(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn files_of_other_kinds_are_refused_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    run("mkfifo", &[], &fifo);
    for mmap in [false, true] {
        for path in [dir.path(), &fifo, Path::new("/dev/null")] {
            let error = open(path, mmap).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{error:?}");
            assert!(error.hint_text().is_some(), "{error:?}");
        }
        let missing = dir.path().join("missing");
        let error = open(&missing, mmap).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceNotFound, "{error:?}");
        let error = open(&file(&dir, "x", b"x").join("y"), mmap).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceNotFound, "{error:?}");
    }
}

#[tokio::test]
async fn a_symbolic_link_as_the_source_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "disk", b"bytes");
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let source = FileSource::open(&link).await.unwrap();
    assert_eq!(source.read(range(0, 5)).await.unwrap(), "bytes");
    source.verify().await.unwrap();
    std::fs::remove_file(&link).unwrap();
    symlink("/dev/null", &link).unwrap();
    assert_eq!(source.verify().await.unwrap_err().kind(), ErrorKind::SourceChanged);
}

#[tokio::test]
async fn the_gate_opens_plain_files_of_its_directory_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let image = file(&dir, "image.vmdk", b"image");
    file(&dir, "plain", b"plain");
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink("plain", dir.path().join("in")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    std::fs::create_dir(dir.path().join("directory")).unwrap();
    run("mkfifo", &[], &dir.path().join("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for mmap in [false, true] {
        let gate = FileGate::beside(&image).await.unwrap().mmap(mmap);
        let plain = gate.open(&SiblingName::new("plain").unwrap()).await.unwrap();
        assert_eq!(plain.read(range(0, 5)).await.unwrap(), "plain");
        assert_eq!(plain.url(), dir.path().join("plain").display().to_string());
        for name in ["out", "in", "dangling", "directory", "fifo", "socket"] {
            let error = gate.open(&SiblingName::new(name).unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ExternalDataRefused, "{name}: {error:?}");
            assert!(error.message().contains(name), "{error:?}");
        }
        let error = gate.open(&SiblingName::new("missing").unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceNotFound, "{error:?}");
    }
}

#[tokio::test]
async fn the_gate_keeps_its_directory_after_a_rename() {
    let dir = tempfile::tempdir().unwrap();
    let (images, moved) = (dir.path().join("images"), dir.path().join("moved"));
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("part"), b"right").unwrap();
    let gate = FileGate::beside(images.join("image.vmdk")).await.unwrap();
    std::fs::rename(&images, &moved).unwrap();
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("part"), b"wrong").unwrap();
    let part = gate.open(&SiblingName::new("part").unwrap()).await.unwrap();
    assert_eq!(part.read(range(0, 5)).await.unwrap(), "right");
    part.verify().await.unwrap();
    std::fs::remove_file(moved.join("part")).unwrap();
    symlink(images.join("part"), moved.join("part")).unwrap();
    assert_ne!(part.verify().await.map_err(|error| error.kind()), Ok(()), "a link replaced it");
}

#[tokio::test]
async fn a_block_device_is_read_to_its_known_end() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = pattern(1 << 20, 1);
    let path = file(&dir, "disk", &bytes);
    let output = command("losetup").args(["--find", "--show"]).arg(&path).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a loop device needs root and /dev/loop-control: {message}");
    struct Loop(String);
    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = command("losetup").args(["--detach", &self.0]).status();
        }
    }
    let device = Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    for mmap in [false, true] {
        let source = open(Path::new(&device.0), mmap).await.unwrap();
        diskferry_core::conformance::check_source(&*source, &bytes).await;
    }
}

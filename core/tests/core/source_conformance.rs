//! Runs the conformance suite for every source of this crate.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use diskferry_core::conformance::{check_source, pattern};
use diskferry_core::internal::{Failing, Recording};
use diskferry_core::{
    FileGate, FileIo, FileSource, Gate, HeadTailSource, MapSource, MemorySource, SiblingName, Source,
};

/// Bytes with zeros, some of which a file can store as holes.
fn truths() -> Vec<Vec<u8>> {
    let mut long = pattern(700_000, 1);
    long[64 << 10..192 << 10].fill(0);
    long[600_000..].fill(0);
    vec![Vec::new(), vec![7], pattern(512, 2), pattern(4097, 3), long, vec![0; 300_001]]
}

/// Writes only non-zero bytes, so that the rest are holes.
fn write_sparse(path: &Path, truth: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(truth.len() as u64).unwrap();
    for (index, page) in truth.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, index as u64 * 4096).unwrap();
        }
    }
}

#[test]
fn a_memory_source_conforms_and_needs_no_runtime() {
    for truth in truths() {
        let source = MemorySource::new("x", truth.clone());
        let mut check = std::pin::pin!(check_source(&source, &truth));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(check.as_mut().poll(&mut context).is_ready(), "memory never waits");
    }
}

#[tokio::test]
async fn a_file_source_conforms() {
    let dir = tempfile::tempdir().unwrap();
    for (index, truth) in truths().into_iter().enumerate() {
        let path = dir.path().join(index.to_string());
        write_sparse(&path, &truth);
        for io in [FileIo::Plain, FileIo::Ring] {
            check_source(&FileSource::open_with(&path, io).await.unwrap(), &truth).await;
        }
    }
}

#[tokio::test]
async fn a_map_source_conforms() {
    let dir = tempfile::tempdir().unwrap();
    for (index, truth) in truths().into_iter().enumerate() {
        let path = dir.path().join(index.to_string());
        write_sparse(&path, &truth);
        check_source(&MapSource::open(&path).await.unwrap(), &truth).await;
    }
}

#[tokio::test]
async fn siblings_through_the_gate_conform() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.vmdk");
    for (mmap, io) in [(false, FileIo::Plain), (false, FileIo::Ring), (true, FileIo::Plain)] {
        let gate = FileGate::beside(&image).await.unwrap().mmap(mmap).io(io);
        for (index, truth) in truths().into_iter().enumerate() {
            let name = format!("image-s{index:03}.vmdk");
            write_sparse(&dir.path().join(&name), &truth);
            let source = gate.open(&SiblingName::new(&name).unwrap()).await.unwrap();
            check_source(&*source, &truth).await;
        }
    }
}

#[tokio::test]
async fn wrapped_sources_conform() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    for truth in truths() {
        write_sparse(&path, &truth);
        let inner: [Arc<dyn Source>; 2] = [
            Arc::new(MemorySource::new("x", truth.clone())),
            Arc::new(FileSource::open(&path).await.unwrap()),
        ];
        for inner in inner {
            check_source(&Recording::new(Arc::clone(&inner)), &truth).await;
            check_source(&Failing::new(Arc::clone(&inner), |_, _| None), &truth).await;
            check_source(&HeadTailSource::open(inner).await.unwrap(), &truth).await;
        }
    }
}

use std::io::{Seek, Write};

use rustix::pipe::PipeFlags;

use super::*;

/// A separate ring. If a policy forbids io_uring, as in many containers, there is nothing to test: requests then use
/// plain calls, which the conformance suites of sources and sinks cover.
fn ring() -> Option<Ring> {
    match Ring::start(thread::set_up) {
        Ok(ring) => Some(ring),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("NOT TESTED: io_uring is forbidden here (kernel.io_uring_disabled, seccomp)");
            None
        }
        Err(error) => panic!("the tests need io_uring, Linux 5.6 or later: {error}"),
    }
}

fn file(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    Arc::new(file)
}

/// A read that never completes, and the other end of its pipe.
fn silent() -> (Arc<File>, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    (Arc::new(File::from(reader)), writer)
}

/// Waits for an action of another thread.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn ends(ring: Ring) {
    until(|| ring.shared.queue().waiting.is_empty()).await;
    let shared = Arc::clone(&ring.shared);
    drop(ring);
    // The thread holds the other reference.
    until(|| Arc::strong_count(&shared) == 1).await;
}

#[tokio::test]
async fn written_bytes_are_read_back_and_the_end_of_the_file_is_reported() {
    let Some(ring) = ring() else { return };
    let file = file(b"");
    let pieces: Vec<_> = (0..3000_u32).map(|i| Bytes::from(vec![i as u8; (i % 700) as usize])).collect();
    let truth = pieces.concat();
    let Moved { data, done } = ring.write(&file, 77, pieces.clone()).await.unwrap();
    assert_eq!((data, done), (pieces, truth.len()), "more pieces than one call accepts");
    let Moved { data, done } = ring.read(&file, 77, Buffer::new(truth.len()).unwrap()).await.unwrap();
    assert!(done == truth.len() && data[..] == truth);
    let Moved { data, done } = ring.read(&file, 77, Buffer::new(truth.len() + 5).unwrap()).await.unwrap();
    assert!(done == truth.len() && data[..done] == truth && data.len() == done + 5);
    assert_eq!(ring.read(&file, 0, Buffer::new(0).unwrap()).await.unwrap().done, 0);
    assert_eq!(ring.write(&file, 0, vec![Bytes::new()]).await.unwrap().done, 0);
    assert_eq!(Arc::strong_count(&file), 1);
    ends(ring).await;
}

#[tokio::test]
async fn more_requests_than_the_kernel_accepts_at_once_all_complete() {
    let Some(ring) = ring() else { return };
    let truth: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 4096) as u8).collect();
    let file = file(&truth);
    let reads = (0..2000_usize).map(|i| {
        let at = i % 256 * 4096;
        let (ring, file, truth) = (&ring, &file, &truth);
        async move {
            let moved = ring.read(file, at as u64, Buffer::new(4096).unwrap()).await.unwrap();
            assert!(moved.done == 4096 && moved.data[..] == truth[at..at + 4096]);
        }
    });
    futures_util::future::join_all(reads).await;
    ends(ring).await;
}

#[tokio::test]
async fn a_failed_call_returns_its_buffers() {
    let Some(ring) = ring() else { return };
    let (reader, _writer) = silent();
    let pieces = vec![Bytes::from_static(b"not to be written")];
    let moved = ring.write(&reader, 0, pieces.clone()).await.unwrap();
    assert_eq!((moved.data, moved.done), (pieces, 0));
}

#[tokio::test]
async fn short_reads_continue() {
    let Some(ring) = ring() else { return };
    let (reader, writer) = silent();
    let read = ring.read(&reader, 0, Buffer::new(6).unwrap());
    let mut read = std::pin::pin!(read);
    assert!(futures_util::poll!(&mut read).is_pending());
    rustix::io::write(&writer, b"abc").unwrap();
    // The first part was read by now; otherwise it was not a short read.
    until(|| rustix::io::ioctl_fionread(&reader).unwrap() == 0).await;
    assert!(futures_util::poll!(&mut read).is_pending());
    rustix::io::write(&writer, b"def").unwrap();
    let Moved { data, done } = read.await.unwrap();
    assert_eq!((&data[..], done), (&b"abcdef"[..], 6));
}

#[tokio::test]
async fn a_dropped_read_keeps_its_file_until_the_kernel_completes_it() {
    let Some(ring) = ring() else { return };
    let (reader, writer) = silent();
    {
        let mut read = std::pin::pin!(ring.read(&reader, 0, Buffer::new(256 << 10).unwrap()));
        assert!(futures_util::poll!(&mut read).is_pending());
        until(|| ring.shared.queue().waiting.is_empty()).await;
        assert_eq!(Arc::strong_count(&reader), 2, "the ring keeps the file open");
    }
    // The kernel is asked to cancel the read. The file is released only after it confirms that.
    until(|| Arc::strong_count(&reader) == 1).await;
    rustix::io::write(&writer, b"kept").unwrap();
    let Moved { data, done } = ring.read(&reader, 0, Buffer::new(4).unwrap()).await.unwrap();
    assert_eq!((&data[..], done), (&b"kept"[..], 4), "the dropped read must not consume bytes");
    ends(ring).await;
}

#[tokio::test]
async fn a_dropped_request_that_has_not_begun_is_removed() {
    let Some(ring) = ring() else { return };
    let (reader, _writer) = silent();
    let buffer = || Buffer::new(16).unwrap();
    let mut held: Vec<_> = (0..100).map(|_| Box::pin(ring.read(&reader, 0, buffer()))).collect();
    for read in &mut held {
        assert!(futures_util::poll!(read).is_pending());
    }
    until(|| ring.shared.queue().waiting.len() == 36).await;
    held.truncate(80);
    assert_eq!(ring.shared.queue().waiting.len(), 16);
    drop(held);
    until(|| Arc::strong_count(&reader) == 1).await;
    ends(ring).await;
}

#[tokio::test]
async fn a_ring_ends_with_a_request_under_way() {
    let Some(ring) = ring().map(Box::new) else { return };
    let (reader, _writer) = silent();
    let mut read = Box::pin(ring.read(&reader, 0, Buffer::new(16).unwrap()));
    assert!(futures_util::poll!(&mut read).is_pending());
    until(|| ring.shared.queue().waiting.is_empty()).await;
    drop(read);
    ends(*ring).await;
    assert_eq!(Arc::strong_count(&reader), 1);
}

#[test]
fn an_unavailable_ring_is_none_without_an_error() {
    for errno in [rustix::io::Errno::NOSYS, rustix::io::Errno::PERM, rustix::io::Errno::NOMEM] {
        assert!(shared(&Mutex::new(Weak::new()), || Ring::start(|| Err(errno.into()))).is_none());
    }
}

#[test]
fn a_ring_that_lacks_an_operation_is_none() {
    let Some(_) = ring() else { return };
    for lacking in [io_uring::opcode::Read::CODE, io_uring::opcode::AsyncCancel::CODE] {
        let set_up = || thread::admit(io_uring::IoUring::new(2)?, |code| code != lacking);
        assert!(shared(&Mutex::new(Weak::new()), || Ring::start(set_up)).is_none());
    }
}

#[test]
fn a_ring_that_was_unavailable_is_tried_again() {
    let Some(_) = ring() else { return };
    let place = Mutex::new(Weak::new());
    assert!(shared(&place, || Ring::start(|| Err(rustix::io::Errno::NOMEM.into()))).is_none());
    assert!(shared(&place, || Ring::start(thread::set_up)).is_some());
}

#[tokio::test]
async fn a_ring_is_shared_while_in_use_and_not_after_it_broke() {
    let Some(_) = ring() else { return };
    let place = Mutex::new(Weak::new());
    let start = || shared(&place, || Ring::start(thread::set_up)).unwrap();
    let (one, two) = (start(), start());
    assert!(Arc::ptr_eq(&one, &two));
    one.shared.queue().closed = true;
    let (file, buffer) = (file(b"abc"), Buffer::new(3).unwrap());
    let moved = one.read(&file, 0, buffer).await.unwrap();
    assert_eq!((moved.data.len(), moved.done), (3, 0), "the plain call must do it");
    assert!(!Arc::ptr_eq(&one, &start()));
}

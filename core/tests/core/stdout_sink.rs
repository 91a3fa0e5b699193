//! Standard output as a target: pipes, files, sockets, and readers that exit or do not read.

use std::fs::File;
use std::io::{PipeReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::conformance::{Replacing, Stage, check_sink, pattern};
use diskferry_core::{BoxFuture, ErrorKind, Result, Sink, SinkHint, StdoutSink, TargetOffset, TargetRange};

async fn write(sink: &StdoutSink, at: u64, bytes: impl Into<Bytes>) -> Result<()> {
    sink.write(TargetOffset::new(at), vec![bytes.into()]).await
}

async fn zero(sink: &StdoutSink, at: u64, len: u64) -> Result<()> {
    sink.zero(TargetRange::new(TargetOffset::new(at), len).unwrap()).await
}

fn reading(mut reader: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    })
}

fn over(output: impl Into<OwnedFd>) -> StdoutSink {
    StdoutSink::over(output.into(), "-").unwrap()
}

/// A new output for every sink, with its reader.
struct Outputs {
    open: fn() -> (OwnedFd, JoinHandle<Vec<u8>>),
    last: Mutex<Option<JoinHandle<Vec<u8>>>>,
    read: Mutex<Option<Vec<u8>>>,
}

impl Stage for Outputs {
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn Sink>>> {
        Box::pin(async {
            let (output, reader) = (self.open)();
            *self.read.lock().unwrap() = None;
            *self.last.lock().unwrap() = Some(reader);
            Ok(Arc::new(StdoutSink::over(output, "-")?) as Arc<dyn Sink>)
        })
    }

    fn published(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async {
            let mut read = self.read.lock().unwrap();
            if let Some(reader) = self.last.lock().unwrap().take() {
                *read = Some(reader.join().unwrap());
            }
            read.clone()
        })
    }

    fn leftovers(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async { Vec::new() })
    }

    fn replacing(&self) -> Replacing {
        Replacing::Streamed
    }
}

async fn check(open: fn() -> (OwnedFd, JoinHandle<Vec<u8>>)) {
    let outputs = Outputs { open, last: Mutex::new(None), read: Mutex::new(None) };
    check_sink(&outputs, 100_000).await;
}

#[tokio::test]
async fn a_pipe_conforms() {
    check(|| {
        let (reader, writer) = std::io::pipe().unwrap();
        (writer.into(), reading(reader))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_conforms() {
    check(|| {
        let (reader, writer) = UnixStream::pair().unwrap();
        (writer.into(), reading(reader))
    })
    .await;
}

#[tokio::test]
async fn a_non_blocking_socket_conforms() {
    check(|| {
        let (reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        (writer.into(), reading(reader))
    })
    .await;
}

#[tokio::test]
async fn a_redirected_file_is_written_from_its_current_position() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    let sink = over(file.try_clone().unwrap());
    sink.prepare(SinkHint::default()).await.unwrap();
    write(&sink, 0, "data").await.unwrap();
    zero(&sink, 4, 3_000_000).await.unwrap();
    write(&sink, 3_000_004, "end").await.unwrap();
    let receipt = sink.finish(3_000_007).await.unwrap();
    assert_eq!((receipt.url.as_str(), receipt.bytes, receipt.written), ("-", 3_000_007, 3_000_007));
    drop(sink);
    let mut all = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut all).unwrap();
    let truth = [&b"beforedata"[..], &vec![0; 3_000_000], b"end"].concat();
    assert!(all == truth);
}

#[tokio::test]
async fn an_out_of_order_write_is_internal_and_not_written() {
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = reading(reader);
    let sink = over(writer);
    write(&sink, 0, "abc").await.unwrap();
    for at in [0, 2, 4, u64::MAX] {
        assert_eq!(write(&sink, at, "x").await.unwrap_err().kind(), ErrorKind::Internal);
    }
    assert_eq!(zero(&sink, 4, 1).await.unwrap_err().kind(), ErrorKind::Internal);
    for len in [0, 2, 4] {
        assert_eq!(sink.finish(len).await.unwrap_err().kind(), ErrorKind::Internal);
    }
    sink.finish(3).await.unwrap();
    assert_eq!(write(&sink, 3, "d").await.unwrap_err().kind(), ErrorKind::Internal);
    drop(sink);
    assert_eq!(reader.join().unwrap(), b"abc");
}

#[tokio::test]
async fn a_reader_that_exits_is_reported_and_not_retryable() {
    async fn check(output: OwnedFd, leave: impl FnOnce()) {
        let sink = over(output);
        write(&sink, 0, "first").await.unwrap();
        leave();
        let error = match write(&sink, 5, pattern(3 << 20, 1)).await {
            Err(error) => error,
            Ok(()) => panic!("nobody reads it"),
        };
        assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
        assert!(error.message().contains("the reader of standard output closed it"), "{error:?}");
        assert!(!error.is_retryable());
        assert!(sink.abort().await);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    check(writer.into(), || drop(reader)).await;
    let (reader, writer) = UnixStream::pair().unwrap();
    check(writer.into(), || drop(reader)).await;
    // The reader exits while the write waits for it.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (leaving, left) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut some = vec![0; 100];
        left.recv().unwrap();
        reader.read_exact(&mut some).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    });
    check(writer.into(), || leaving.send(()).unwrap()).await;
    thread.join().unwrap();
}

#[tokio::test]
async fn a_reader_that_exits_before_the_end_is_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    let sink = over(writer);
    write(&sink, 0, "all of it").await.unwrap();
    drop(reader);
    let error = sink.finish(9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnavailable, "{error:?}");
}

/// A pipe that nobody reads, and a write that waits for it.
fn stuck(check: impl AsyncFnOnce(StdoutSink), output: OwnedFd) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(check(over(output)));
    // Waits for its threads, which would block if one of them still waited for the reader.
    drop(runtime);
}

#[test]
fn a_dropped_write_leaves_no_waiting_thread() {
    let pipe = || -> (Box<dyn std::any::Any>, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Box::new(reader), writer.into())
    };
    let socket = || -> (Box<dyn std::any::Any>, OwnedFd) {
        let (reader, writer) = UnixStream::pair().unwrap();
        (Box::new(reader), writer.into())
    };
    for open in [pipe, socket] {
        // Dropped while the thread is about to wait, and while it waits.
        for pause in [0, 1, 50].map(Duration::from_millis) {
            let (_reader, output) = open();
            stuck(
                async |sink| {
                    let mut writing = sink.write(TargetOffset::ZERO, vec![pattern(4 << 20, 1).into()]);
                    assert!(futures_util::poll!(&mut writing).is_pending());
                    std::thread::sleep(pause);
                    drop(writing);
                    let error = write(&sink, sink.written().unwrap(), "more").await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Cancelled, "it is torn: {error:?}");
                    assert!(sink.abort().await);
                },
                output,
            );
            let (_reader, output) = open();
            stuck(
                async |sink| {
                    let mut zeros = sink.zero(TargetRange::first(1 << 40));
                    assert!(futures_util::poll!(&mut zeros).is_pending());
                    std::thread::sleep(pause);
                },
                output,
            );
        }
    }
}

#[tokio::test]
async fn an_abort_ends_a_waiting_write() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let sink = over(writer);
    let written = write(&sink, 0, pattern(4 << 20, 1));
    let abort = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(sink.abort().await);
    };
    let (written, ()) = tokio::join!(written, abort);
    assert_eq!(written.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(sink.finish(sink.written().unwrap()).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn the_flags_of_a_shared_descriptor_are_unchanged() {
    let (reader, writer) = std::io::pipe().unwrap();
    let before = rustix::fs::fcntl_getfl(&writer).unwrap();
    let reader = reading(reader);
    let sink = over(writer.try_clone().unwrap());
    write(&sink, 0, pattern(2 << 20, 1)).await.unwrap();
    sink.finish(2 << 20).await.unwrap();
    assert_eq!(rustix::fs::fcntl_getfl(&writer).unwrap(), before);
    drop((writer, sink));
    assert!(reader.join().unwrap() == pattern(2 << 20, 1));
}

#[tokio::test]
async fn descriptors_not_open_for_writing_are_refused() {
    let directory = File::open(tempfile::tempdir().unwrap().path()).unwrap();
    let (reader, _writer): (PipeReader, _) = std::io::pipe().unwrap();
    for output in [OwnedFd::from(directory), OwnedFd::from(reader)] {
        let error = StdoutSink::over(output, "-").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationForbidden, "{error:?}");
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = write(&over(full), 0, "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationFull, "{error:?}");
}

#[test]
fn a_terminal_is_refused_with_a_hint() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = File::options().write(true).open(name.to_str().unwrap()).unwrap();
    let error = StdoutSink::over(terminal.as_fd().try_clone_to_owned().unwrap(), "-").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{error:?}");
    assert!(error.hint_text().unwrap().contains("redirect"), "{error:?}");
}

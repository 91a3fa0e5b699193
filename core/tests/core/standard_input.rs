//! Standard input as a stream: pieces, ends, and dropped readers.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use diskferry_core::conformance::pattern;
use diskferry_core::{ByteStream, ErrorKind, StandardInput};

async fn read_all(input: &mut StandardInput, most: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = input.next(most).await.unwrap();
        assert!(bytes.len() <= most);
        if bytes.is_empty() {
            break;
        }
        all.extend_from_slice(&bytes);
    }
    assert!(input.next(most).await.unwrap().is_empty(), "the end must be permanent");
    all
}

#[tokio::test]
async fn a_pipe_is_read_to_its_end() {
    for most in [1000, 1 << 20] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let bytes = pattern(3_000_000, 1);
        let truth = bytes.clone();
        let writing = std::thread::spawn(move || {
            for piece in bytes.chunks(70_001) {
                writer.write_all(piece).unwrap();
            }
        });
        let mut input = StandardInput::over(reader.into(), "-").unwrap();
        assert!(read_all(&mut input, most).await == truth);
        writing.join().unwrap();
    }
}

#[tokio::test]
async fn a_redirected_file_is_read_from_its_current_position() {
    let bytes = pattern(100_000, 1);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.seek(SeekFrom::Start(1000)).unwrap();
    let mut input = StandardInput::over(file.into(), "-").unwrap();
    assert!(read_all(&mut input, 4096).await == bytes[1000..]);
}

#[tokio::test]
async fn available_bytes_are_returned_without_waiting_for_more() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut input = StandardInput::over(reader.into(), "-").unwrap();
    writer.write_all(b"first").unwrap();
    assert_eq!(input.next(1 << 20).await.unwrap(), "first");
    writer.write_all(b"second").unwrap();
    assert_eq!(input.next(3).await.unwrap(), "sec");
    assert_eq!(input.next(1 << 20).await.unwrap(), "ond");
}

#[tokio::test]
async fn a_dropped_call_loses_no_byte() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut input = StandardInput::over(reader.into(), "-").unwrap();
    for _ in 0..3 {
        assert!(futures_util::poll!(input.next(1 << 20)).is_pending());
    }
    writer.write_all(b"bytes").unwrap();
    drop(writer);
    assert_eq!(read_all(&mut input, 2).await, b"bytes");
}

#[test]
fn a_dropped_stream_leaves_no_waiting_thread() {
    // Dropped while the thread is about to wait, and while it waits.
    for pause in [0, 1, 50].map(Duration::from_millis) {
        let (reader, _writer) = std::io::pipe().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut input = StandardInput::over(reader.into(), "-").unwrap();
            assert!(futures_util::poll!(input.next(1000)).is_pending());
            std::thread::sleep(pause);
        });
        // Waits for its threads, which would block if one of them still waited for input.
        drop(runtime);
    }
}

#[tokio::test]
async fn a_non_blocking_descriptor_is_polled() {
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    reader.set_nonblocking(true).unwrap();
    let mut input = StandardInput::over(reader.into(), "-").unwrap();
    assert!(futures_util::poll!(input.next(1000)).is_pending());
    (&writer).write_all(b"late").unwrap();
    drop(writer);
    assert_eq!(read_all(&mut input, 1000).await, b"late");
}

#[tokio::test]
async fn silent_input_fails_after_the_stall_timeout() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let timeout = Some(Duration::from_millis(40));
    let mut input = StandardInput::over(reader.into(), "-").unwrap().stall_timeout(timeout);
    writer.write_all(b"bytes").unwrap();
    assert_eq!(input.next(1000).await.unwrap(), "bytes");
    let error = input.next(1000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
    assert_eq!(error.message(), "- delivered nothing after 5 bytes, for 0.04 seconds");
    // The next call waits again.
    writer.write_all(b"late").unwrap();
    drop(writer);
    assert_eq!(read_all(&mut input, 1000).await, b"late");
}

#[tokio::test]
async fn a_directory_is_refused_as_input() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = StandardInput::over(File::open(dir.path()).unwrap().into(), "-").unwrap();
    assert_eq!(input.next(1000).await.unwrap_err().kind(), ErrorKind::Usage);
}

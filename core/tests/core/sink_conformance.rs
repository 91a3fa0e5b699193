//! Runs the conformance suite for every sink of this crate.

use std::path::PathBuf;
use std::sync::Arc;

use diskferry_core::conformance::{Stage, check_sink};
use diskferry_core::{BoxFuture, FileIo, FileSink, FileSinkOptions, Preallocation, Result, Sink};

struct Dir {
    dir: tempfile::TempDir,
    options: FileSinkOptions,
}

impl Dir {
    fn path(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }
}

impl Stage for Dir {
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn Sink>>> {
        Box::pin(async {
            let sink = FileSink::create(self.path(), self.options.clone()).await?;
            Ok(Arc::new(sink) as Arc<dyn Sink>)
        })
    }

    fn published(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async { std::fs::read(self.path()).ok() })
    }

    fn leftovers(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            // A dropped creation is undone by the thread that it runs on: lets that complete.
            let mut names = Vec::new();
            for _ in 0..1000 {
                let entries = std::fs::read_dir(self.dir.path()).unwrap();
                names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                names.retain(|name| name != "disk.raw");
                if names.is_empty() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            names
        })
    }
}

async fn check(mut options: FileSinkOptions) {
    for io in [FileIo::Plain, FileIo::Ring] {
        options.io = io;
        let options = options.clone();
        check_sink(&Dir { dir: tempfile::tempdir().unwrap(), options }, 64 << 10).await;
    }
}

fn replacing() -> FileSinkOptions {
    let mut options = FileSinkOptions::default();
    options.force = true;
    options
}

#[tokio::test]
async fn a_file_sink_conforms() {
    check(replacing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_sink_conforms_without_sync_on_many_threads() {
    let mut options = replacing();
    options.sync = false;
    check(options).await;
}

#[tokio::test]
async fn a_file_sink_with_preallocation_conforms() {
    let mut options = replacing();
    options.preallocation = Preallocation::Falloc;
    check(options).await;
}

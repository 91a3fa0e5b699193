//! Reads an image through a source of your own: here, one that decrypts nothing and only logs each read of a local file.
//!
//!     cargo run -p diskferry --example custom_source -- disk.qcow2
//!
//! A source needs five methods. Everything else (detection, block maps, measuring, converting) works on it unchanged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use diskferry::custom::{BoxFuture, Capabilities, Identity, StoredRange};
use diskferry::{Declared, Error, ErrorKind, Limits, Measure, Result, Source, measure};

/// A local file that remembers which ranges were read.
#[derive(Debug)]
pub struct LoggedFile {
    url: String,
    file: File,
    len: u64,
    identity: Identity,
    reads: Mutex<Vec<StoredRange>>,
}

impl LoggedFile {
    /// Opens a file.
    ///
    /// # Errors
    /// `source_unavailable` if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::source_io)?;
        let len = file.metadata().map_err(Error::source_io)?.len();
        let url = path.display().to_string();
        Ok(Self { url, file, len, identity: Identity::default(), reads: Mutex::default() })
    }

    /// The ranges that were read so far, in order.
    pub fn reads(&self) -> Vec<StoredRange> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for LoggedFile {
    fn url(&self) -> &str {
        &self.url
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(1 << 20).in_flight(4)
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<bytes::Bytes>> {
        Box::pin(async move {
            if range.end().get() > self.len {
                let message = format!("{range} ends after byte {}", self.len);
                return Err(Error::new(ErrorKind::Truncated, message));
            }
            self.reads.lock().unwrap_or_else(PoisonError::into_inner).push(range);
            // A real source awaits its storage here. A blocking call of this size is only good enough for an example.
            let mut bytes = vec![0; range.len() as usize];
            self.file.read_exact_at(&mut bytes, range.start().get()).map_err(Error::source_io)?;
            Ok(bytes.into())
        })
    }
}

/// Measures an image through the source.
///
/// # Errors
/// Those of opening and measuring.
pub async fn measured(source: Arc<LoggedFile>) -> Result<Measure> {
    let disk = Arc::new(diskferry::open(source, Declared::Unknown).await?);
    measure(&disk, &Limits::default()).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        return Err(Error::new(ErrorKind::Usage, "custom_source requires the path of an image"));
    };
    let source = Arc::new(LoggedFile::open(Path::new(&path))?);
    let measure = measured(Arc::clone(&source)).await?;
    println!("accepted: {}, {:?}", measure.verdict.accepted(), measure.sizes);
    source.reads().iter().for_each(|range| println!("read {range}"));
    Ok(())
}

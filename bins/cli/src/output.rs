//! Writing to standard output. The reader may close the pipe, and the disk may be full.

use std::io;

use diskferry_core::{Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt;

/// Standard output.
pub(crate) struct Output(tokio::io::Stdout);

impl Output {
    pub(crate) fn new() -> Self {
        Self(tokio::io::stdout())
    }

    /// Writes and flushes `text`. Returns false if the reader closed the pipe; the caller then stops without an error.
    pub(crate) async fn write(&mut self, text: &str) -> Result<bool> {
        let written = async {
            self.0.write_all(text.as_bytes()).await?;
            self.0.flush().await
        };
        match written.await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Writes a complete result.
pub(crate) async fn print(text: &str) -> Result<()> {
    Output::new().write(text).await.map(drop)
}

/// Writes a complete result as one JSON document.
pub(crate) async fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(json(value)? + "\n")).await
}

/// Serializes a value as one line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("the result cannot be serialized").caused_by(error))
}

fn failed(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::DestinationFull
        }
        _ => ErrorKind::DestinationUnavailable,
    };
    Error::new(kind, format!("writing to standard output failed: {error}")).retry(false).caused_by(error)
}

//! Standard output, where the reader may go away and the disk may be full.

use std::io;

use diskferry_core::{Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt;

/// Standard output.
pub(crate) struct Output(tokio::io::Stdout);

impl Output {
    pub(crate) fn new() -> Self {
        Self(tokio::io::stdout())
    }

    /// Writes `text` through. False where the reader went away: there is no use in going on, and nothing to complain about.
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

/// Writes a whole result.
pub(crate) async fn print(text: &str) -> Result<()> {
    Output::new().write(text).await.map(drop)
}

/// Writes a whole result as one JSON document.
pub(crate) async fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(json(value)? + "\n")).await
}

/// A value as JSON, on one line.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("a result does not serialise").caused_by(error))
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

//! Reads a raw disk and prints its size, its real content, and its digest.
//!
//! ```sh
//! cargo run -p diskferry-core --example digest -- disk.raw
//! ```
//!
//! This crate knows no image format, so the example has a block map for raw disks of its own. `diskferry-formats` has
//! readers for all supported formats.

use std::process::ExitCode;
use std::sync::Arc;

use diskferry_core::{
    BlockMap, BoxFuture, Conversion, Disk, Error, ErrorKind, Extent, ExtentKind, FileIndex, FileSource,
    GuestRange, ImageInfo, ImageLimit, Limits, Result, Source, Stored, StoredOffset, StoredRange, Warnings,
};

/// Maps every guest byte to the stored byte with the same address.
struct Flat;

impl BlockMap for Flat {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        let start = StoredOffset::new(window.start().get());
        Box::pin(async move {
            let range = StoredRange::new(start, window.len())
                .ok_or_else(|| Error::internal(format!("{window} ends after the last address")))?;
            let stored = Stored { file: FileIndex(0), range };
            Ok(vec![Extent::new(window, ExtentKind::Data(stored))])
        })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        None
    }
}

async fn digest(path: &str) -> Result<()> {
    let source = FileSource::open(path).await?;
    let info = ImageInfo::default().format("raw").virtual_bytes(source.len());
    let disk = Disk::new(info, vec![Arc::new(source)], Box::new(Flat), Warnings::new(), Vec::new());

    let limits = Limits::default().image(ImageLimit::None);
    let report = Conversion::reading(disk).limits(limits).run().await?;
    println!("size     {} bytes", report.image.virtual_bytes);
    println!("content  {} bytes", report.sizes.content_bytes.unwrap_or(0));
    if let Some(digest) = report.digest {
        println!("digest   sha256:{digest}");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match std::env::args().nth(1) {
        Some(path) => digest(&path).await,
        None => Err(Error::new(ErrorKind::Usage, "the path of a raw disk is missing")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error[{}]: {error}", error.kind());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

//! Opens an image file and prints its format, its sizes and its extents.
//!
//! ```text
//! cargo run -p diskferry-formats --example image_info -- disk.qcow2
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use diskferry_core::{Error, ErrorKind, FileGate, FileSource, Result, Walk};
use diskferry_formats::{Declared, open_with};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match print_image().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn print_image() -> Result<()> {
    let path =
        std::env::args_os().nth(1).ok_or_else(|| Error::new(ErrorKind::Usage, "usage: image_info FILE"))?;
    let source = FileSource::open(&path).await?;
    // The gate opens the extent files beside a VMDK descriptor, and nothing else.
    let disk = open_with(source, Declared::Unknown, Arc::new(FileGate::beside(&path).await?)).await?;

    let info = disk.info();
    println!("format         {} ({})", info.format, info.variant);
    println!("virtual size   {} bytes", info.virtual_bytes);
    println!("object size    {} bytes", disk.object_bytes());
    for refusal in disk.refusals() {
        println!("refused        {}", refusal.message);
    }

    let mut walk = Walk::new(&disk);
    while let Some(stretches) = walk.next().await? {
        for stretch in stretches {
            println!(
                "{:>16} +{:<14} {}",
                stretch.guest.start().get(),
                stretch.guest.len(),
                stretch.kind.name()
            );
        }
    }
    for warning in disk.warnings().list() {
        println!("warning        {}: {}", warning.code, warning.message);
    }
    Ok(())
}

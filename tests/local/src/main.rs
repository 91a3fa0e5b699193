//! Converts a local image to a QCOW2 file: `local SOURCE TARGET`.

use diskferry::{
    Conversion, Declared, Error, ErrorKind, FileSink, FileSinkOptions, FileSource, Format, Limits, Result,
    TargetOptions, measure,
};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::Usage, "local needs SOURCE and TARGET"));
    };
    let source = FileSource::open(from).await?;
    let disk = Arc::new(diskferry::open(source, Declared::Unknown).await?);
    let limits = Limits::default();
    measure(&disk, &limits).await?.verdict.enforce()?;
    let target = diskferry::create(
        Format::Qcow2,
        FileSink::create(to, FileSinkOptions::default()).await?,
        &TargetOptions::default(),
    )?;
    let report = Conversion::new(disk, target).limits(limits).run().await?;
    println!("{}", report.digest.map(|digest| digest.to_string()).unwrap_or_default());
    Ok(())
}

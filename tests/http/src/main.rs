//! Converts an image at a URL to a QCOW2 file: `http-embedder URL TARGET`.

use diskferry::{
    Client, ClientOptions, Conversion, Declared, Error, ErrorKind, FileSink, FileSinkOptions, Format,
    HttpSource, Limits, Result, TargetOptions, measure,
};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::Usage, "http-embedder needs URL and TARGET"));
    };
    let client = Client::new(ClientOptions::default()).await?;
    let source = HttpSource::open(&client, from).await?;
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

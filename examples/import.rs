//! An import backend: converts an image in one bucket to a QCOW2 in another.
//!
//!     cargo run -p diskferry --example import -- s3://images/centos7.vmdk s3://library/centos7.qcow2
//!
//! Credentials, region and endpoint come from the AWS environment variables and configuration files.

use std::process::ExitCode;
use std::sync::Arc;

use diskferry::{
    Client, ClientOptions, Conversion, Declared, Error, ErrorKind, Format, Limits, Progress, Report, Result,
    S3Sink, S3Source, TargetOptions, measure,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Imports the image at `url` as the QCOW2 object `target`, which must not exist. The source format is detected.
///
/// Cancelling `cancel` stops the import and leaves no target, unless it is already being published. Dropping the future does
/// the same. A background task of the client then aborts the upload; [`Client::settle`] waits for it.
pub async fn import(
    client: &Client,
    url: &str,
    target: &str,
    limits: Limits,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<Report> {
    let source = S3Source::open(client, url).await?;
    let disk = Arc::new(diskferry::open(source, Declared::Unknown).await?);

    // The tables suffice to refuse most images that exceed a limit, before any data is read.
    measure(&disk, &limits).await?.verdict.enforce()?;

    let sink = S3Sink::create(client, target).await?;
    let target = diskferry::create(Format::Qcow2, sink, &TargetOptions::default())?;
    Conversion::new(disk, target).verify(true).limits(limits).on_progress(progress).cancel(cancel).run().await
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.as_slice() {
        [url, target] => run(url, target).await,
        _ => Err(Error::new(
            ErrorKind::Usage,
            "import requires two arguments: s3://BUCKET/KEY of the source and of the target",
        )),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error[{}]: {error}", error.kind());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

async fn run(url: &str, target: &str) -> Result<()> {
    let client = Client::new(ClientOptions::default()).await?;
    let limits = Limits::default().capacity(Some(40 << 30));
    let (sender, mut receiver) = watch::channel(Progress::default());
    let shown = tokio::spawn(async move {
        while receiver.changed().await.is_ok() {
            let progress = *receiver.borrow_and_update();
            eprintln!("{}: {} bytes", progress.phase.name(), progress.done_bytes);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    let report = import(&client, url, target, limits, sender, CancellationToken::new()).await;
    shown.abort();
    let report = report?;
    let digest = report.digest.map(|digest| digest.to_string()).unwrap_or_default();
    println!("{} bytes of content, sha256:{digest}", report.sizes.content_bytes.unwrap_or_default());
    Ok(())
}

//! The example of the README, as an import backend would have it, against a store.

#[allow(dead_code, unreachable_pub)]
#[path = "../examples/import.rs"]
mod import;

use diskferry::{Client, Declared, ErrorKind, Format, Limits, Progress, Result, S3Source};
use diskferry_core::Phase;
use diskferry_s3io::server::{Server, ServerOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn the_example_imports_refuses_and_is_cancelled() -> Result<()> {
    let server = Server::start(ServerOptions::default()).expect("a server");
    let client = Client::new(server.client_options()).await?;
    let sample = diskferry_corpus::sample("qcow2-40g-ext4");
    for bucket in ["images", "library"] {
        server.create_bucket(bucket).await?;
    }
    server.put("images", sample.file_name(), sample.bytes()).await?;
    let url = format!("s3://images/{}", sample.file_name());
    let target = "s3://library/disk.qcow2";
    let begin = |capacity: u64, cancel: CancellationToken| {
        let (sender, receiver) = watch::channel(Progress::default());
        let limits = Limits::default().capacity(Some(capacity));
        (import::import(&client, &url, target, limits, sender, cancel), receiver)
    };

    let (refused, _) = begin(20 << 30, CancellationToken::new());
    assert_eq!(refused.await.expect_err("it does not fit").kind(), ErrorKind::CapacityExceeded);

    let cancel = CancellationToken::new();
    cancel.cancel();
    let (cancelled, _) = begin(40 << 30, cancel);
    assert_eq!(cancelled.await.expect_err("it was cancelled").kind(), ErrorKind::Cancelled);
    let nothing = S3Source::open(&client, target).await.expect_err("nothing was published");
    assert_eq!(nothing.kind(), ErrorKind::SourceNotFound);

    let (imported, progress) = begin(40 << 30, CancellationToken::new());
    let report = imported.await?;
    assert_eq!(report.digest.expect("a digest is made").to_string(), sample.digest_hex);
    let written = S3Source::open(&client, target).await?;
    let disk = diskferry::open(written, Declared::Format(Format::Qcow2)).await?;
    assert_eq!(disk.virtual_bytes(), sample.virtual_bytes);
    assert_eq!(
        (progress.borrow().phase, progress.borrow().done_bytes),
        (Phase::Finish, sample.virtual_bytes)
    );
    Ok(())
}

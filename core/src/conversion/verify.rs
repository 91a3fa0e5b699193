//! Verification: reads a target back through its own reader, and compares its digest with that of the source.

use std::sync::Arc;
use std::time::Duration;

use crate::conversion::content_meter::ContentMeter;
use crate::conversion::watchdog::Watchdog;
use crate::digest::{Digest, DigestTree};
use crate::engine::{ItemMeter, Transfer, TransferOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Layout, Order};
use crate::limits::ImageLimit;
use crate::sink::{Receipt, Sink};

/// Reads the target of `len` bytes back and compares digests. Fails if it makes no progress for `stall`.
///
/// # Errors
/// `verification_failed` if the target cannot be read, or has another digest.
pub(crate) async fn check(
    layout: &dyn Layout,
    sink: &dyn Sink,
    len: u64,
    expected: Option<Digest>,
    options: &TransferOptions,
    stall: Option<Duration>,
) -> Result<()> {
    let expected = expected.ok_or_else(|| Error::internal("a target is verified without a digest"))?;
    let failed = |why: String| Error::new(ErrorKind::VerificationFailed, format!("{}: {why}", sink.url()));
    let unread = |error: Error| {
        failed(format!("reading it back failed: {}", error.message()))
            .retry(error.is_retryable())
            .caused_by(error)
    };
    let source = sink.read_back(len).await.map_err(unread)?;
    let disk = layout.open(source).await.map_err(unread)?;
    let options =
        TransferOptions { order: Order::Any, passthrough: None, done: Arc::default(), ..options.clone() };
    let mut transfer = Transfer::of_disk(Arc::new(disk), options);
    let mut meter = ContentMeter::new(Some(DigestTree::new()), ImageLimit::None);
    let mut watch = stall.map(Watchdog::new);
    loop {
        tokio::select! {
            biased;
            item = transfer.next() => match item.map_err(unread)? {
                Some(item) => meter.add(&item)?,
                None => break,
            },
            watch = Watchdog::tick(&mut watch) => {
                watch.look(Some(&transfer), None, meter.seen_bytes, 0).map_err(unread)?;
            }
        }
    }
    let size = transfer.virtual_bytes();
    let size = size.ok_or_else(|| Error::internal("a target was read to its end and its size is unknown"))?;
    let found = meter.digest(size)?;
    match found {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(failed(format!("its digest is sha256:{found}, expected sha256:{expected}"))),
        None => Err(Error::internal("a target was read back without a digest")),
    }
}

/// Retracts a published target that failed verification. The error says what happened to it.
pub(crate) async fn taken_back(error: Error, sink: &dyn Sink, receipt: &Receipt) -> Error {
    let (became, hint) = match sink.retract(receipt).await {
        Ok(true) => ("it was deleted".to_owned(), "convert it again"),
        Ok(false) => {
            ("it was replaced by another object, which was not deleted".to_owned(), "check what is there now")
        }
        Err(left) => (format!("deleting it failed: {}", left.message()), "delete it"),
    };
    error.followed_by(became).hint(hint)
}

//! Metrics report what sources and sinks count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use diskferry_core::{Source, conformance::pattern};
use diskferry_s3io::metrics;
use diskferry_s3io::server::Fault;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::faults::behind_head;
use crate::support::{client, content, empty, open, range, serve};
use crate::uploads::{PART, sink, upload};

/// The content of a recorder: how often each metric was counted or recorded, by name and labels.
fn counts(recorder: &DebuggingRecorder) -> BTreeMap<String, u64> {
    let all = recorder.snapshotter().snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let labels: String =
            key.key().labels().map(|label| format!(" {}={}", label.key(), label.value())).collect();
        let count = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Gauge(_) => 0,
            DebugValue::Histogram(values) => values.len() as u64,
        };
        (format!("{}{labels}", key.key().name()), count)
    })
    .collect()
}

#[tokio::test]
async fn retries_and_slowdowns_are_counted() {
    let recorder = DebuggingRecorder::new();
    let _installed = ::metrics::set_default_local_recorder(&recorder);
    let server = serve(&content(3 << 20, 1)).await;
    let source = open(&server).await;
    server.set_faults(behind_head(|count| match count {
        0 => vec![Fault::Status(503)],
        1 => vec![Fault::Reset(100_000)],
        _ => Vec::new(),
    }));
    source.read(range(1 << 20, 1 << 20)).await.unwrap();
    let (seen, traffic) = (counts(&recorder), source.traffic());
    assert_eq!(seen[metrics::FIRST_BYTE], traffic.requests, "{seen:?}");
    assert_eq!(seen["diskferry_s3_requests_again_total of=source"], traffic.retries, "{seen:?}");
    assert_eq!(seen[metrics::SLOWDOWN], 1, "{seen:?}");
}

#[tokio::test]
async fn uploaded_parts_are_counted() {
    let recorder = DebuggingRecorder::new();
    let _installed = ::metrics::set_default_local_recorder(&recorder);
    let server = empty().await;
    let failures = AtomicU64::new(0);
    server.set_faults(move |request| match request.part {
        Some(_) if failures.fetch_add(1, Ordering::SeqCst) == 0 => vec![Fault::Status(500)],
        _ => Vec::new(),
    });
    let client = client(&server).await;
    upload(&sink(&client, false, 2).await, &Bytes::from(pattern(3 * PART + 5, 1))).await.unwrap();
    let seen = counts(&recorder);
    assert_eq!(seen[metrics::PART], 4, "{seen:?}");
    assert_eq!(seen["diskferry_s3_requests_again_total of=destination"], 1, "{seen:?}");
}

//! A run reports how its time was spent, and publishes progress and metrics. The runtime's clock jumps: no test
//! waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Capabilities, Conversion, Error, ErrorKind, Identity as SourceIdentity, Journal, MemorySink,
    MemorySource, Order, Receipt, Report, Result, Segment, Sink, SinkCapabilities, SinkHint, Source,
    StoredRange, Target, TargetOffset, TargetRange, Traffic, metrics,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::engine::made::{Identity, Made, block_on, made, resources};
use crate::engine::stall::jumping;

/// The duration of each slow step: far longer than the real time of a test.
const LONG: Duration = Duration::from_secs(100_000);

/// A source and a sink with some slow steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slow {
    Nothing,
    Reading,
    Writing,
    Finishing,
    ReadingBack,
}

impl Slow {
    async fn step(self, at: Self) {
        if self == at {
            jumping(tokio::time::sleep(LONG)).await;
        }
    }
}

#[derive(Debug)]
struct LateSource(MemorySource);

impl Source for LateSource {
    fn url(&self) -> &str {
        self.0.url()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn identity(&self) -> &SourceIdentity {
        self.0.identity()
    }

    fn capabilities(&self) -> Capabilities {
        // One at a time, since each pauses the clock.
        self.0.capabilities().in_flight(1)
    }

    fn traffic(&self) -> Traffic {
        self.0.traffic()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            jumping(tokio::time::sleep(LONG)).await;
            self.0.read(range).await
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.0.segments(range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        self.0.verify()
    }
}

struct LateSink(MemorySink, Slow);

impl Sink for LateSink {
    fn url(&self) -> &str {
        self.0.url()
    }

    fn capabilities(&self) -> SinkCapabilities {
        self.0.capabilities().in_flight(1)
    }

    fn written(&self) -> Option<u64> {
        self.0.written()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        self.0.prepare(expected)
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        Box::pin(async move {
            self.1.step(Slow::ReadingBack).await;
            self.0.read_back(len).await
        })
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        self.0.retract(receipt)
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.1.step(Slow::Writing).await;
            self.0.write(at, pieces).await
        })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        self.0.zero(range)
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            self.1.step(Slow::Finishing).await;
            self.0.finish(len).await
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        self.0.abort()
    }
}

fn small() -> Made {
    made(65536, &[(2, 1, 0), (3, 3, 1), (5, 2, 2)], 0)
}

fn convert(slow: Slow) -> Result<Report, Error> {
    let made = match slow {
        // The clock jumps as soon as no task is ready, and a CPU worker is not a task. With one part, no worker is
        // busy during the write, so the whole jump is charged to the write.
        Slow::Writing => made(65536, &[(2, 1, 0)], 0),
        _ => small(),
    };
    let disk = match slow {
        Slow::Reading => made.disk_over(Arc::new(LateSource(MemorySource::new("late", made.store.clone())))),
        _ => made.disk(),
    };
    let sink = Box::new(LateSink(MemorySink::new(), slow));
    let target = Target { layout: Box::new(Identity(Order::Any)), sink };
    // This long is not a stall here.
    block_on(Conversion::new(disk, target).resources(resources()).verify(true).stall_timeout(None).run())
}

#[test]
fn time_is_charged_to_what_the_run_waited_for_and_adds_up() {
    for (slow, part) in [
        (Slow::Reading, "source"),
        (Slow::Writing, "destination"),
        (Slow::Finishing, "finish"),
        (Slow::ReadingBack, "verify"),
    ] {
        let spent = convert(slow).unwrap().stats.timing;
        let rest: f64 = spent.parts().iter().filter(|(name, _)| *name != part).map(|(_, rest)| rest).sum();
        let its = spent.parts().iter().find(|(name, _)| *name == part).unwrap().1;
        assert!(its >= LONG.as_secs_f64(), "{part}: {spent:?}");
        assert!(rest < LONG.as_secs_f64() / 100.0, "{part}: {spent:?}");
    }
    let spent = convert(Slow::Nothing).unwrap().stats.timing;
    assert!(
        spent.parts().iter().all(|(_, seconds)| (0.0..LONG.as_secs_f64()).contains(seconds)),
        "{spent:?}"
    );
}

/// The values of a recorder, by name and labels.
fn recorded(run: impl FnOnce()) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    ::metrics::with_local_recorder(&recorder, run);
    let all = snapshotter.snapshot().into_vec().into_iter();
    let value = |value: DebugValue| match value {
        DebugValue::Counter(count) => count as f64,
        DebugValue::Gauge(gauge) => gauge.into_inner(),
        DebugValue::Histogram(values) => values.len() as f64,
    };
    all.map(|(key, _, _, found)| {
        let labels: String =
            key.key().labels().map(|label| format!(" {}={}", label.key(), label.value())).collect();
        (format!("{}{labels}", key.key().name()), value(found))
    })
    .collect()
}

#[test]
fn metrics_agree_with_the_report_and_gauges_return_to_zero() {
    let mut report = None;
    let seen = recorded(|| report = Some(convert(Slow::Nothing).unwrap()));
    let movement = report.unwrap().stats;
    let at = |name: &str| seen.get(name).copied().unwrap_or_else(|| panic!("no {name}: {seen:?}"));
    assert_eq!(at(metrics::SOURCE_REQUESTS) as u64, movement.source.requests);
    assert_eq!(at(metrics::SOURCE_BYTES) as u64, movement.source.bytes);
    assert_eq!(at(metrics::TARGET_BYTES) as u64, movement.bytes_written);
    assert_eq!(at(metrics::GUEST_BYTES) as usize, small().guest.len());
    assert_eq!(at("diskferry_conversions_total outcome=done"), 1.0);
    assert!(seen.contains_key("diskferry_spent_microseconds_total on=source"), "{seen:?}");
    for gauge in [
        metrics::RUNNING,
        metrics::READS,
        metrics::CPU_JOBS,
        metrics::WRITES,
        metrics::BACKLOG_BYTES,
        metrics::WAITING_FOR_MEMORY,
    ] {
        assert!(seen.get(gauge).is_none_or(|left| *left == 0.0), "{gauge}: {seen:?}");
    }
}

#[test]
fn failed_and_dropped_runs_are_counted_too() {
    let made = small();
    let short = Bytes::from(made.store[..made.store.len() / 2].to_vec());
    let seen = recorded(|| {
        let disk = made.disk_over(Arc::new(MemorySource::new("short", short)));
        let error = block_on(Conversion::reading(disk).resources(resources()).run()).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Cancelled);
        let target = Target {
            layout: Box::new(Identity(Order::Any)),
            sink: Box::new(LateSink(MemorySink::new(), Slow::Writing)),
        };
        block_on(async {
            let run = Conversion::new(made.disk(), target).resources(resources()).stall_timeout(None).run();
            let ended = tokio::time::timeout(Duration::from_millis(1), run).await;
            assert!(ended.is_err());
        });
    });
    let failed: Vec<_> = seen.keys().filter(|name| name.contains("outcome=")).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(seen[metrics::RUNNING], 0.0);
}

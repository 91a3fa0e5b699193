//! Sources that answer in any order, slow sinks, and failures and drops at every point: the result is right, or
//! nothing remains.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Budget, Capabilities, Conversion, CpuPool, Error, ErrorKind, FileSink, FileSinkOptions,
    Identity as SourceIdentity, Journal, MemorySink, MemorySource, Order, Receipt, Report, Resources, Result,
    Segment, Sink, SinkCapabilities, SinkHint, Source, StoredRange, Target, TargetOffset, TargetRange,
    Traffic, compare,
};
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::engine::made::{Identity, Made, any_disk, block_on, digest_of, made, resources};

/// Yields to all other tasks this many times.
async fn dawdle(times: u64) {
    let mut left = times;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A pseudo-random number, the same for the same seed and index.
fn dice(seed: u64, place: u64) -> u64 {
    let mixed = (seed ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
}

/// Answers in a different order, and counts the reads in flight.
#[derive(Debug)]
struct Jumbled {
    inner: MemorySource,
    seed: u64,
    under_way: Arc<AtomicU64>,
}

impl Jumbled {
    fn new(store: &[u8], seed: u64) -> Self {
        Self { inner: MemorySource::new("jumbled", store.to_vec()), seed, under_way: Arc::default() }
    }
}

struct UnderWay(Arc<AtomicU64>);

impl UnderWay {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for Jumbled {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn identity(&self) -> &SourceIdentity {
        self.inner.identity()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(256 << 10).gap_bytes(4096).in_flight(7).remote(true)
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        let guard = UnderWay::new(&self.under_way);
        Box::pin(async move {
            let _guard = guard;
            dawdle(dice(self.seed, range.start().get()) % 9).await;
            self.inner.read(range).await
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        self.inner.segments(range)
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            dawdle(3).await;
            self.inner.verify().await
        })
    }
}

/// A slow sink, which fails at the write with a given number and counts aborts.
#[derive(Debug)]
struct Slow {
    inner: MemorySink,
    seed: u64,
    fails_at: Option<u64>,
    writes: AtomicU64,
    aborts: Arc<AtomicU64>,
}

impl Slow {
    fn new(seed: u64) -> Self {
        Self {
            inner: MemorySink::new(),
            seed,
            fails_at: None,
            writes: AtomicU64::new(0),
            aborts: Arc::default(),
        }
    }

    async fn step(&self) -> Result<()> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        dawdle(dice(self.seed, number) % 5).await;
        match self.fails_at {
            Some(at) if at == number => Err(Error::new(ErrorKind::DestinationFull, "on purpose")),
            _ => Ok(()),
        }
    }
}

impl Sink for Slow {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn capabilities(&self) -> SinkCapabilities {
        self.inner.capabilities().in_flight(2)
    }

    fn written(&self) -> Option<u64> {
        self.inner.written()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    fn prepare(&self, expected: SinkHint) -> BoxFuture<'_, Result<()>> {
        self.inner.prepare(expected)
    }

    fn read_back(&self, len: u64) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        self.inner.read_back(len)
    }

    fn retract(&self, receipt: &Receipt) -> BoxFuture<'_, Result<bool>> {
        self.inner.retract(receipt)
    }

    fn write(&self, at: TargetOffset, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.step().await?;
            self.inner.write(at, pieces).await
        })
    }

    fn zero(&self, range: TargetRange) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.step().await?;
            self.inner.zero(range).await
        })
    }

    fn finish(&self, len: u64) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            self.step().await?;
            self.inner.finish(len).await
        })
    }

    fn abort(&self) -> BoxFuture<'_, bool> {
        self.aborts.fetch_add(1, Ordering::SeqCst);
        self.inner.abort()
    }
}

fn to(sink: impl Sink + 'static, order: Order) -> Target {
    Target { layout: Box::new(Identity(order)), sink: Box::new(sink) }
}

/// Treats a hang as a failure.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it hangs")
}

/// Waits until all memory is returned, at the latest when the workers finish abandoned jobs.
async fn all_memory_is_returned(budget: &Budget) {
    in_time(async {
        while budget.used() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A disk with all kinds of `units` of 64 KiB, in a different stored order.
fn large(units: u64, seed: u64) -> Made {
    let units: Vec<_> =
        (0..units).map(|unit| (1, dice(seed, unit) as u8, dice(seed, unit + (1 << 32)) as u32)).collect();
    made(65536, &units, 1000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_answers_and_the_speed_of_the_sink_do_not_matter(made in any_disk(), seed in any::<u64>()) {
        for order in [Order::Any, Order::Guest] {
            let source = Jumbled::new(&made.store, seed);
            let sink = Slow::new(seed);
            let target = sink.inner.clone();
            let resources = resources();
            let run = Conversion::new(made.disk_over(Arc::new(source)), to(sink, order)).resources(resources.clone());
            let report = block_on(in_time(run.run())).unwrap();
            prop_assert!(target.published().unwrap() == made.guest, "{order:?}");
            prop_assert_eq!(report.digest, Some(digest_of(&made.guest)));
            block_on(all_memory_is_returned(resources.budget.as_ref().unwrap()));
        }
    }
}

#[test]
fn many_conversions_share_the_smallest_budget() {
    let resources = resources();
    let budget = resources.budget.clone().unwrap();
    let disks: Vec<Made> = (0..6).map(|seed| large(300, seed)).collect();
    let runs = disks.iter().enumerate().flat_map(|(seed, made)| {
        [Order::Any, Order::Guest].map(|order| {
            let sink = Slow::new(seed as u64);
            let target = sink.inner.clone();
            let disk = made.disk_over(Arc::new(Jumbled::new(&made.store, seed as u64)));
            let run = Conversion::new(disk, to(sink, order)).resources(resources.clone()).digest(false);
            async move {
                let report = run.run().await.unwrap();
                assert!(target.published().unwrap() == made.guest, "{seed} {order:?}");
                report
            }
        })
    });
    let reports: Vec<Report> = block_on(in_time(join_all(runs)));
    assert!(reports.iter().all(|report| report.stats.peak_budget_bytes <= Budget::SMALLEST));
    block_on(all_memory_is_returned(&budget));
}

#[test]
fn different_disks_are_compared_in_the_smallest_budget() {
    let scattered = large(900, 5);
    let mut flat = made(4096, &[(scattered.guest.len() as u64 / 4096 + 1, 1, 0)], 1000);
    let mut compare_with = |guest: &[u8]| {
        // One extent, larger than the budget, next to many in another order.
        flat.store.truncate(77);
        flat.store.extend_from_slice(guest);
        let a = Arc::new(scattered.disk_over(Arc::new(Jumbled::new(&scattered.store, 1))));
        let b = Arc::new(flat.disk_over(Arc::new(Jumbled::new(&flat.store, 2))));
        [(&a, &b), (&b, &a)].map(|(a, b)| block_on(in_time(compare(a, b, &resources()))).unwrap())
    };
    assert!(compare_with(&scattered.guest).iter().all(|found| found.equal));
    let mut other = scattered.guest.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    assert!(compare_with(&other).iter().all(|found| found.first_difference == Some(last as u64)));
}

#[test]
fn a_failed_write_ends_the_run_and_aborts_the_target_once() {
    let made = large(60, 3);
    for order in [Order::Any, Order::Guest] {
        // All writes, the zeros, and the finish.
        for number in 0.. {
            let sink = Slow { fails_at: Some(number), ..Slow::new(number) };
            let (target, aborts) = (sink.inner.clone(), Arc::clone(&sink.aborts));
            let resources = resources();
            let disk = made.disk_over(Arc::new(Jumbled::new(&made.store, number)));
            let run = Conversion::new(disk, to(sink, order)).resources(resources.clone()).digest(false);
            let ended = block_on(in_time(run.run()));
            block_on(all_memory_is_returned(resources.budget.as_ref().unwrap()));
            if ended.is_ok() {
                assert!(number > 20, "{number} writes");
                break;
            }
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::DestinationFull);
            assert_eq!((target.published(), aborts.load(Ordering::SeqCst)), (None, 1), "{order:?} {number}");
        }
    }
}

/// Polls `future` this many times, and drops it if it is not ready then.
async fn polled<F: Future>(future: F, times: u64) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = times;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        Pin::as_mut(&mut future).poll(cx).map(Some)
    })
    .await
}

#[test]
fn a_run_dropped_or_cancelled_at_any_point_leaves_nothing() {
    let made = large(40, 4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let left = || std::fs::read_dir(dir.path()).unwrap().count();
    let pool = Arc::new(CpuPool::new(2).unwrap());
    for cancelled in [false, true] {
        for order in [Order::Any, Order::Guest] {
            for polls in 0.. {
                let budget = Budget::new(Budget::SMALLEST);
                let resources = Resources::default()
                    .budget(Some(budget.clone()))
                    .pool(Some(Arc::clone(&pool)))
                    .connections(None);
                let source = Jumbled::new(&made.store, polls);
                let under_way = Arc::clone(&source.under_way);
                let token = CancellationToken::new();
                let ended = block_on(async {
                    let mut options = FileSinkOptions::default();
                    options.sync = false;
                    let sink = FileSink::create(dir.path().join("disk.raw"), options).await.unwrap();
                    let run = Conversion::new(made.disk_over(Arc::new(source)), to(sink, order))
                        .resources(resources)
                        .digest(false)
                        .cancel(token.clone())
                        .run();
                    let mut run = Box::pin(run);
                    let ended = in_time(polled(run.as_mut(), polls)).await;
                    if ended.is_none() && cancelled {
                        token.cancel();
                        match in_time(run).await {
                            // Too late: the target is complete, and reported as such.
                            Ok(_) => {
                                assert!(std::fs::read(&path).unwrap() == made.guest);
                                std::fs::remove_file(&path).unwrap();
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Cancelled);
                                assert!(!path.exists(), "an error despite a target after {polls} polls");
                            }
                        }
                    }
                    ended
                });
                assert_eq!(under_way.load(Ordering::SeqCst), 0, "reads continue after {polls} polls");
                block_on(all_memory_is_returned(&budget));
                if let Some(report) = ended {
                    report.unwrap();
                    assert!(polls > 1, "{polls} polls");
                    assert!(std::fs::read(dir.path().join("disk.raw")).unwrap() == made.guest);
                    std::fs::remove_file(dir.path().join("disk.raw")).unwrap();
                    break;
                }
                // If it was dropped during publishing, the target is complete or absent.
                if !cancelled && std::fs::read(&path).is_ok_and(|published| published == made.guest) {
                    std::fs::remove_file(&path).unwrap();
                }
                assert_eq!(left(), 0, "files remain after {polls} polls");
            }
        }
    }
}

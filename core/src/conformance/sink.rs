//! The conformance suite for sinks.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::drop_after;
use crate::address::{StoredRange, TargetOffset, TargetRange};
use crate::conformance::pattern;
use crate::error::{ErrorKind, Result};
use crate::sink::{ReadBack, Sink, SinkHint, WriteOrder};
use crate::source::BoxFuture;

/// The fate of a previous object while a new one is written to the same destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replacing {
    /// It exists until the new one is complete, which then replaces it in one step: files, objects.
    AtOnce,
    /// It is overwritten: the start is zeroed first and written last, and bytes after the target's end are unchanged:
    /// devices. [`Stage::published`] is the whole content of the device.
    InPlace,
    /// Every target has a destination of its own, and written data cannot be taken back: pipes. [`Stage::published`]
    /// is called only after a sink was dropped, and returns what it wrote.
    Streamed,
}

/// The destination of sinks in a test: one name, for which sinks are created one after the other.
pub trait Stage: Send + Sync {
    /// Creates a sink for the name, which replaces an existing object.
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn Sink>>>;

    /// The content of the object with the name, if it exists.
    fn published(&self) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// Objects that should not exist: partial files, incomplete uploads. It may wait a moment for a dropped sink to
    /// clean up.
    fn leftovers(&self) -> BoxFuture<'_, Vec<String>>;

    /// The fate of a previous object. The default is the strictest.
    fn replacing(&self) -> Replacing {
        Replacing::AtOnce
    }
}

/// The content that is expected if nothing was published.
enum Before {
    /// This content.
    Same(Option<Vec<u8>>),
    /// Zeros at the start.
    Blank,
    /// A part of the data that was written since.
    Anything,
}

impl Before {
    async fn of(stage: &dyn Stage) -> Self {
        match stage.replacing() {
            Replacing::AtOnce => Self::Same(stage.published().await),
            Replacing::InPlace => Self::Blank,
            Replacing::Streamed => Self::Anything,
        }
    }

    /// Checks the content of the stage.
    async fn is_there(&self, stage: &dyn Stage) -> bool {
        /// The bytes at the start of a device that the contract requires to be zeroed.
        const START: usize = 1 << 20;
        match self {
            Self::Same(before) => stage.published().await == *before,
            Self::Blank => {
                let found = stage.published().await.expect("a device has content");
                found.iter().take(START).all(|byte| *byte == 0)
            }
            Self::Anything => true,
        }
    }
}

/// Checks that `truth` is published.
async fn holds(stage: &dyn Stage, truth: &[u8]) -> bool {
    let found = stage.published().await.expect("it is published");
    match stage.replacing() {
        Replacing::AtOnce | Replacing::Streamed => found == truth,
        Replacing::InPlace => found.starts_with(truth),
    }
}

/// Checks that the sinks of `stage` fulfil the contract of the trait. `unit` is a suitable length of one write in
/// bytes: for a multipart upload, more than its smallest part.
///
/// # Panics
/// If a check fails.
pub async fn check_sink(stage: &dyn Stage, unit: usize) {
    let nothing = Before::of(stage).await;
    if let Before::Same(found) = &nothing {
        assert_eq!(*found, None, "the stage begins empty");
    }
    check_dropped(stage, unit).await;
    assert!(nothing.is_there(stage).await, "nothing was finished");
    for len in [0, 1, unit - 1, unit, 2 * unit + 513] {
        check_in_order(stage, unit, len).await;
    }
    check_zeros(stage, unit).await;
    check_gather(stage).await;
    let order = create(stage, None).await.capabilities().order;
    match order {
        WriteOrder::Any => {
            check_any_order(stage, unit).await;
            check_first_bytes_last(stage, unit).await;
        }
        WriteOrder::Ascending => check_first_bytes_last(stage, unit).await,
        WriteOrder::Sequential => {}
    }
    check_read_back(stage, unit).await;
    check_abort(stage, unit).await;
    check_dropped_finish(stage, unit).await;
}

/// The memory that a sink of the suite may use.
const MEMORY: u64 = 64 << 20;

/// A sink that was prepared.
async fn create(stage: &dyn Stage, len: Option<usize>) -> Arc<dyn Sink> {
    let sink = stage.create().await.expect("a sink");
    sink.prepare(expected(len)).await.expect("preparing");
    sink
}

fn expected(len: Option<usize>) -> SinkHint {
    SinkHint { most_bytes: len.map(|len| len as u64), exact: len.is_some(), memory: MEMORY }
}

async fn put(sink: &dyn Sink, at: usize, bytes: Bytes) {
    sink.write(TargetOffset::new(at as u64), vec![bytes]).await.expect("a write");
}

async fn zero(sink: &dyn Sink, at: usize, len: usize) {
    let range = TargetRange::new(TargetOffset::new(at as u64), len as u64).expect("a range of the test");
    sink.zero(range).await.expect("zeros");
}

async fn finish(stage: &dyn Stage, sink: Arc<dyn Sink>, truth: &[u8]) {
    let receipt = sink.finish(truth.len() as u64).await.expect("finishing");
    assert_eq!(receipt.bytes, truth.len() as u64, "the receipt's length");
    assert!(sink.written().is_none_or(|written| written == receipt.written), "the receipt's bytes");
    assert!(!receipt.url.is_empty() && receipt.url == sink.url());
    assert!(!sink.abort().await, "a published target cannot be aborted");
    drop(sink);
    // Not `assert_eq`: it would print all bytes.
    assert!(holds(stage, truth).await, "the bytes of the target");
    assert_eq!(stage.leftovers().await, Vec::<String>::new(), "after finishing");
}

async fn check_in_order(stage: &dyn Stage, unit: usize, len: usize) {
    let before = Before::of(stage).await;
    let truth = Bytes::from(pattern(len, len as u64));
    let sink = create(stage, Some(len)).await;
    assert!(sink.capabilities().in_flight > 0);
    for at in (0..len).step_by(unit) {
        put(&*sink, at, truth.slice(at..len.min(at + unit))).await;
    }
    assert!(sink.written().is_none_or(|written| written <= len as u64), "no byte is written twice");
    assert!(before.is_there(stage).await, "the previous object must exist until the new one is finished");
    finish(stage, sink, &truth).await;
}

async fn check_zeros(stage: &dyn Stage, unit: usize) {
    let mut truth = pattern(7 * unit, 7);
    for zeros in [0..unit, 2 * unit..4 * unit, 5 * unit + 100..7 * unit] {
        truth[zeros].fill(0);
    }
    let bytes = Bytes::from(truth.clone());
    let sink = create(stage, None).await;
    let sparse = sink.capabilities().sparse;
    zero(&*sink, 0, unit).await;
    put(&*sink, unit, bytes.slice(unit..2 * unit)).await;
    zero(&*sink, 2 * unit, 2 * unit).await;
    put(&*sink, 4 * unit, bytes.slice(4 * unit..5 * unit + 100)).await;
    zero(&*sink, 5 * unit + 100, 2 * unit - 100).await;
    if sparse {
        assert!(
            sink.written().is_none_or(|written| written <= 2 * unit as u64 + 100),
            "zeros must cost nothing if the sink is sparse"
        );
    }
    finish(stage, sink, &truth).await;
    if sparse {
        let sink = create(stage, None).await;
        put(&*sink, 0, bytes.slice(unit..2 * unit)).await;
        let mut truth = truth[unit..2 * unit].to_vec();
        truth.resize(3 * unit + 1, 0);
        finish(stage, sink, &truth).await;
        let sink = create(stage, None).await;
        finish(stage, sink, &vec![0; unit + 1]).await;
    }
}

/// More pieces than one system call accepts, with lengths from 0 on.
async fn check_gather(stage: &dyn Stage) {
    let truth = Bytes::from(pattern(3000 * 3001 / 2, 3));
    let mut rest = truth.clone();
    let pieces: Vec<Bytes> = (0..=3000).map(|len| rest.split_to(len)).collect();
    let sink = create(stage, None).await;
    sink.write(TargetOffset::ZERO, pieces).await.expect("a write of many pieces");
    sink.write(TargetOffset::new(truth.len() as u64), Vec::new()).await.expect("a write of nothing");
    sink.write(TargetOffset::new(truth.len() as u64), vec![Bytes::new(); 3]).await.expect("likewise");
    finish(stage, sink, &truth).await;
}

async fn check_any_order(stage: &dyn Stage, unit: usize) {
    const UNITS: usize = 16;
    let truth = Bytes::from(pattern(UNITS * unit - 5, 16));
    let sink = create(stage, None).await;
    let writes = (0..UNITS).map(|index| {
        let at = (index * 7 % UNITS) * unit;
        let bytes = truth.slice(at..truth.len().min(at + unit));
        sink.write(TargetOffset::new(at as u64), vec![bytes.slice(..unit / 3), bytes.slice(unit / 3..)])
    });
    for written in join_all(writes).await {
        written.expect("one of many writes");
    }
    finish(stage, sink, &truth).await;
}

/// Most formats have a header that is written after everything that it refers to.
async fn check_first_bytes_last(stage: &dyn Stage, unit: usize) {
    for left_out in [512, unit - 1, unit, 2 * unit + 77] {
        let truth = Bytes::from(pattern(4 * unit + 3, left_out as u64));
        let sink = create(stage, None).await;
        for at in (left_out..truth.len()).step_by(unit) {
            put(&*sink, at, truth.slice(at..truth.len().min(at + unit))).await;
        }
        let half = left_out / 2;
        put(&*sink, 0, truth.slice(..half)).await;
        put(&*sink, half, truth.slice(half..left_out)).await;
        finish(stage, sink, &truth).await;
    }
}

/// Written data can be read back when the sink says so, and a published target can be retracted.
async fn check_read_back(stage: &dyn Stage, unit: usize) {
    let truth = Bytes::from(pattern(2 * unit + 9, 9));
    let sink = create(stage, Some(truth.len())).await;
    let when = sink.capabilities().read_back;
    for at in (0..truth.len()).step_by(unit) {
        put(&*sink, at, truth.slice(at..truth.len().min(at + unit))).await;
    }
    let len = truth.len() as u64;
    if when == ReadBack::Before {
        check_same(&*sink, &truth).await;
    }
    let receipt = sink.finish(len).await.expect("finishing");
    match when {
        ReadBack::Before => {}
        ReadBack::Never => {
            sink.read_back(len).await.map(drop).expect_err("reading back must fail");
            assert!(!sink.retract(&receipt).await.expect("an answer"), "streamed data cannot be retracted");
        }
        ReadBack::After => {
            check_same(&*sink, &truth).await;
            let taken_back = sink.retract(&receipt).await.expect("a retraction");
            assert!(taken_back, "nobody changed it");
            match stage.replacing() {
                Replacing::InPlace => {
                    assert!(Before::Blank.is_there(stage).await, "the target was retracted")
                }
                Replacing::AtOnce | Replacing::Streamed => {
                    assert!(
                        stage.published().await.as_deref() != Some(&truth[..]),
                        "the target was retracted"
                    );
                }
            }
        }
    }
    drop(sink);
    assert_eq!(stage.leftovers().await, Vec::<String>::new(), "after reading back");
}

async fn check_same(sink: &dyn Sink, truth: &Bytes) {
    let source = sink.read_back(truth.len() as u64).await.expect("reading back");
    assert_eq!(source.len(), truth.len() as u64);
    let all = source.read(StoredRange::first(source.len())).await.expect("reading back");
    assert!(all == truth, "the bytes read back");
    source.verify().await.expect("nobody changed it");
}

async fn check_abort(stage: &dyn Stage, unit: usize) {
    let before = Before::of(stage).await;
    for units in 0..3 {
        let sink = create(stage, None).await;
        for index in 0..units {
            put(&*sink, index * unit, Bytes::from(pattern(unit, 1))).await;
        }
        assert!(sink.abort().await, "nothing was published");
        assert!(sink.abort().await, "likewise");
        sink.finish((units * unit) as u64).await.expect_err("an aborted sink cannot be finished");
        drop(sink);
        assert!(before.is_there(stage).await, "the previous object must still exist");
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "after an abort");
    }
}

/// Drops a sink while it finishes: either the previous object or the complete new one must exist.
async fn check_dropped_finish(stage: &dyn Stage, unit: usize) {
    for round in 0..8 {
        let before = Before::of(stage).await;
        let truth = pattern(2 * unit, round as u64);
        let sink = create(stage, None).await;
        put(&*sink, 0, truth.clone().into()).await;
        let finished = drop_after(round / 2, sink.finish(truth.len() as u64)).await;
        drop(sink);
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "after a dropped finish");
        let (old, new) = (before.is_there(stage).await, stage.published().await.is_some());
        let new = new && holds(stage, &truth).await;
        assert!(old || new, "neither the old nor the new object exists");
        assert!(new || stage.replacing() != Replacing::Streamed, "completed writes are lost");
        assert!(finished.is_none() || new, "finished, but not published");
    }
}

/// Creates a sink after a dropped creation, whose last system call may still be running.
async fn create_at_last(stage: &dyn Stage) -> Arc<dyn Sink> {
    for _ in 0..100 {
        match stage.create().await {
            Ok(sink) => return sink,
            Err(error) => assert_eq!(error.kind(), ErrorKind::DestinationBusy, "{error:?}"),
        }
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "after a dropped creation");
    }
    panic!("the destination remains busy")
}

/// Drops a sink at every point of its life: nothing may remain, and the next sink must work.
async fn check_dropped(stage: &dyn Stage, unit: usize) {
    for polls in 0..3 {
        drop(drop_after(polls, stage.create()).await);
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "creation dropped after {polls} polls");

        let sink = create_at_last(stage).await;
        sink.prepare(expected(None)).await.expect("preparing");
        let _ = drop_after(polls, sink.write(TargetOffset::ZERO, vec![pattern(unit, 0).into()])).await;
        drop(sink);
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "a write dropped after {polls} polls");

        let sink = create(stage, None).await;
        put(&*sink, 0, pattern(unit, 0).into()).await;
        let _ = drop_after(polls, sink.abort()).await;
        drop(sink);
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "abort dropped after {polls} polls");
    }
}

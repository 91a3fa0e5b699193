//! Counts the sequential round trips of opening an image. This shows how long `measure --quick`, `info` and `measure`
//! take over a link of 30 ms, without a clock.
//!
//! All concurrent reads are answered at once, and only when no task can continue without an answer. That is one round.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Capabilities, Depth, Disk, Gate, HeadTail, Identity, Limits, Resources, Result, Segment,
    SiblingName, Source, StoredRange, Traffic, measure_at,
};
use diskferry_corpus::oracle::qemu_img;
use diskferry_corpus::samples;
use diskferry_formats::{Declared, inspect_disk, open_with};

/// Rounds of 30 ms in 300 ms, minus one for connecting.
const VERDICT: usize = 9;
/// Rounds in a second.
const MEASURE: usize = 30;

/// A task that waits for an answer.
#[derive(Debug, Default)]
struct Link(Mutex<Vec<(Arc<AtomicBool>, Waker)>>);

impl Link {
    /// Waits for the next round.
    fn round(&self) -> impl Future<Output = ()> + Send {
        let mut answered: Option<Arc<AtomicBool>> = None;
        poll_fn(move |context| match &answered {
            Some(answered) if answered.load(Ordering::Relaxed) => Poll::Ready(()),
            _ => {
                let waits = Arc::new(AtomicBool::new(false));
                self.0.lock().unwrap().push((Arc::clone(&waits), context.waker().clone()));
                answered = Some(waits);
                Poll::Pending
            }
        })
    }

    /// Runs a task to its end, and counts its rounds.
    fn run<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        let mut work = pin!(work);
        let mut rounds = 0;
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return (done, rounds);
            }
            let waiting = std::mem::take(&mut *self.0.lock().unwrap());
            assert!(!waiting.is_empty(), "waits for nothing");
            rounds += 1;
            for (answered, waker) in waiting {
                answered.store(true, Ordering::Relaxed);
                waker.wake();
            }
        }
    }
}

/// A remote file. Opening it returns its head, like a request to an object store.
#[derive(Debug)]
struct Far {
    file: File,
    len: u64,
    link: Arc<Link>,
    identity: Identity,
}

impl Far {
    async fn open(link: &Arc<Link>, path: &Path) -> Arc<dyn Source> {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        link.round().await;
        Arc::new(Self { file, len, link: Arc::clone(link), identity: Identity::default() })
    }
}

impl Source for Far {
    fn url(&self) -> &str {
        "far:"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(8 << 20).gap_bytes(1 << 20).in_flight(16).remote(true)
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            if range.end().get() > HeadTail::HEAD.min(self.len) {
                self.link.round().await;
            }
            let mut bytes = vec![0; range.len() as usize];
            self.file.read_exact_at(&mut bytes, range.start().get()).unwrap();
            Ok(bytes.into())
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(vec![Segment { range, hole: false }]) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

struct Beside(Arc<Link>, PathBuf);

impl Gate for Beside {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let path = self.1.join(name.as_str());
        Box::pin(async move { Ok(Far::open(&self.0, &path).await) })
    }
}

/// The rounds of opening an image and of an operation on it.
fn rounds(path: &Path, format: &str, work: impl AsyncFnOnce(Arc<Disk>)) -> usize {
    let link = Arc::new(Link::default());
    let (_, rounds) = link.run(async {
        let source = Far::open(&link, path).await;
        let gate = Arc::new(Beside(Arc::clone(&link), path.parent().unwrap().into()));
        let declared = Declared::Format(format.parse().unwrap());
        work(Arc::new(open_with(source, declared, gate).await.unwrap())).await;
    });
    rounds
}

async fn at(disk: Arc<Disk>, depth: Depth) {
    measure_at(&disk, &Limits::default(), depth, None, &Resources::default()).await.unwrap();
}

fn verdict(path: &Path, format: &str) -> usize {
    rounds(path, format, async |disk| at(disk, Depth::Quick).await)
}

fn info(path: &Path, format: &str) -> usize {
    rounds(path, format, async |disk| drop(inspect_disk(&disk).await.unwrap()))
}

fn measure(path: &Path, format: &str) -> usize {
    rounds(path, format, async |disk| at(disk, Depth::Tables).await)
}

#[test]
fn a_verdict_on_any_image_takes_at_most_three_round_trips() {
    let dir = tempfile::tempdir().unwrap();
    for sample in samples() {
        let path = sample.write_to(dir.path()).unwrap();
        let (verdict, info) = (verdict(&path, sample.format), info(&path, sample.format));
        println!("{:>3} {info:>3}  {}", verdict, sample.name);
        assert!(verdict <= 3, "{}: {verdict} rounds", sample.name);
        // The partition table, the starts of the partitions, and the tables of the image for both.
        assert!(info <= VERDICT, "{}: {info} rounds to describe it", sample.name);
    }
}

#[test]
fn fifty_gibibytes_get_a_verdict_in_9_round_trips_and_are_measured_in_30() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, format: &str, options: &str| {
        let path = dir.path().join(name);
        let mut args = vec!["create", "-q", "-f", format];
        args.extend(if options.is_empty() { vec![] } else { vec!["-o", options] });
        args.extend([path.to_str().unwrap(), "50G"]);
        qemu_img(&args);
        path
    };
    for (name, format, options) in [
        ("full.qcow2", "qcow2", "preallocation=metadata"),
        ("full-2m.qcow2", "qcow2", "preallocation=metadata,cluster_size=2M"),
        ("tiny.qcow2", "qcow2", "cluster_size=512"),
        ("dynamic.vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("fixed.vhd", "vpc", "subformat=fixed,force_size=on"),
        ("sparse.vmdk", "vmdk", "subformat=monolithicSparse"),
        ("stream.vmdk", "vmdk", "subformat=streamOptimized"),
        ("flat.vmdk", "vmdk", "subformat=monolithicFlat"),
        // 25 files and a descriptor each.
        ("split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
        ("split-flat.vmdk", "vmdk", "subformat=twoGbMaxExtentFlat"),
    ] {
        let path = make(name, format, options);
        let format = if format == "vpc" { "vhd" } else { format };
        let (verdict, info, measure) = (verdict(&path, format), info(&path, format), measure(&path, format));
        println!("{verdict:>3} {info:>3} {measure:>3}  {name}");
        assert!(verdict <= VERDICT, "{name}: {verdict} rounds");
        assert!(info <= VERDICT, "{name}: {info} rounds to describe it");
        assert!(measure <= MEASURE, "{name}: {measure} rounds to measure it");
    }
}

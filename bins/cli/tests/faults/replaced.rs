//! The source object is replaced during a conversion. The target must never mix both versions.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskferry_core::ErrorKind;
use diskferry_formats::Format;
use diskferry_s3io::server::Fault;

use crate::support::{Bench, IMAGE_KINDS, IMAGES, Image, is_data, make_image, names};

const DISK_MIB: u64 = 20;

/// An object, and another one of the same length that replaces it.
struct Pair<'a> {
    bench: &'a Bench,
    image: Image,
    first: &'a Path,
    second: &'a Path,
}

impl Pair<'_> {
    /// Replaces the object just before the nth request for its data. From then on, a server with `conditions` refuses requests
    /// that are conditional on the old ETag. With `broken`, that response is also cut off. Returns the run's outcome and the
    /// number of data requests.
    async fn convert(&self, nth: u64, conditions: bool, broken: bool) -> (Result<String, ErrorKind>, u64) {
        let object = self.bench.server.root().join(IMAGES).join(self.image.name);
        std::fs::copy(self.first, &object).unwrap();
        // A rename is atomic, as is replacing an object in a store.
        let fresh = self.bench.dir.path().join("fresh");
        std::fs::copy(self.second, &fresh).unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let (count, replaced) = (Arc::clone(&asked), AtomicBool::new(false));
        self.bench.server.set_faults(move |request| {
            if !is_data(request) {
                return Vec::new();
            }
            let number = count.fetch_add(1, Ordering::SeqCst);
            let mut faults = Vec::new();
            if number == nth {
                faults.push(Fault::Replace(fresh.clone()));
                replaced.store(true, Ordering::SeqCst);
            }
            if conditions && replaced.load(Ordering::SeqCst) && request.if_match.is_some() {
                faults.push(Fault::Status(412));
            } else if broken && number == nth {
                faults.push(Fault::Reset(1000));
            }
            faults
        });
        let ended = match self.bench.object("target", false).await {
            Ok(sink) => self.bench.convert(self.image, sink, Format::Qcow2).await,
            Err(error) => Err(error),
        };
        self.bench.client.settle().await;
        let ended = ended.map(|report| report.digest.unwrap().to_string()).map_err(|error| error.kind());
        (ended, asked.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_object_is_source_changed_in_every_phase_with_and_without_conditions() {
    let bench = Bench::new(DISK_MIB, &[]).await;
    let (old, new) = (bench.dir.path().join("old"), bench.dir.path().join("new"));
    for image in IMAGE_KINDS {
        make_image(DISK_MIB, image, &old);
        // The tables are equal and one data byte differs, so only the object's identity shows the change.
        std::fs::copy(&old, &new).unwrap();
        let at = std::fs::metadata(&new).unwrap().len() * 2 / 3;
        let byte = std::fs::File::options().read(true).write(true).open(&new).unwrap();
        let mut was = [0];
        std::os::unix::fs::FileExt::read_exact_at(&byte, &mut was, at).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&byte, &[was[0] ^ 1], at).unwrap();
        let pair = Pair { bench: &bench, image, first: &old, second: &new };
        let (clean, requests) = pair.convert(u64::MAX, true, false).await;
        assert_eq!(clean.unwrap(), bench.digest, "{image:?}");
        std::fs::remove_file(bench.stored("target")).unwrap();
        assert!(requests >= 3, "{image:?}: {requests}");
        for nth in 0..requests {
            for (conditions, broken) in [(true, false), (false, false), (true, true), (false, true)] {
                let (ended, _) = pair.convert(nth, conditions, broken).await;
                let what = format!(
                    "{} replaced at {nth} of {requests}, conditions {conditions}, broken {broken}",
                    image.name
                );
                assert_eq!(ended, Err(ErrorKind::SourceChanged), "{what}");
                assert_eq!(bench.left(), Vec::<String>::new(), "{what}");
            }
        }
        println!("{}: {requests} phases", image.name);
    }
    assert!(names(&bench.server.root().join(IMAGES)).len() == IMAGE_KINDS.len());
}

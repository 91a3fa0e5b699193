//! The object is replaced while it is converted, at whatever moment: never a mix.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskferry_core::ErrorKind;
use diskferry_formats::Format;
use diskferry_s3io::server::Fault;

use crate::support::{Bench, IMAGE_KINDS, IMAGES, Image, is_data, make_image, names};

const DISK_MIB: u64 = 20;

/// An object, and another one of the same length that takes its place.
struct Pair<'a> {
    bench: &'a Bench,
    image: Image,
    first: &'a Path,
    second: &'a Path,
}

impl Pair<'_> {
    /// Converts while the object is replaced just before data of it is asked for the nth time; from then on a server with
    /// conditions refuses what is pinned to the old one, and where `broken`, that answer breaks off too. Gives how the run
    /// ended, and how many requests for data there were.
    async fn convert(&self, nth: u64, conditions: bool, broken: bool) -> (Result<String, ErrorKind>, u64) {
        let object = self.bench.server.root().join(IMAGES).join(self.image.name);
        std::fs::copy(self.first, &object).unwrap();
        // Renaming is one step, as it is for a store.
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
async fn a_replaced_object_is_a_changed_source_at_every_phase_with_and_without_conditions() {
    let bench = Bench::new(DISK_MIB, &[]).await;
    let (old, new) = (bench.dir.path().join("old"), bench.dir.path().join("new"));
    for image in IMAGE_KINDS {
        make_image(DISK_MIB, image, &old);
        // The same tables, and one byte of data is another: only its identity tells.
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

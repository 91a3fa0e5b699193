//! Reads every variant that qemu-img makes, from a file, from S3 and over HTTP. The bytes, the map and the digest (by
//! `fsverity`) must be exact, and only extents and tables may be fetched.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use diskferry_core::{
    Budget, ClosedGate, Conversion, CpuPool, Disk, ExtentKind, FileGate, FileSink, FileSinkOptions,
    FileSource, Gate, GuestOffset, GuestRange, Report, Resources, Source,
};
use diskferry_corpus::oracle::matrix::{Base, Case, Recipe, recipes};
use diskferry_formats::{Declared, Format, TargetOptions, create, open_with};
use diskferry_s3io::server::{Server, ServerOptions};
use diskferry_s3io::{Client, S3Gate, open_source};

const MEMORY: u64 = 64 << 20;
const BUCKET: &str = "images";

struct Bench {
    server: Server,
    client: Client,
    resources: Resources,
}

impl Bench {
    async fn new() -> Self {
        let server = Server::start(ServerOptions::default().public(true)).unwrap();
        server.create_bucket(BUCKET).await.unwrap();
        let client = Client::new(server.client_options()).await.unwrap();
        let resources = Resources::default()
            .budget(Some(Budget::new(MEMORY)))
            .pool(Some(Arc::new(CpuPool::new(2).unwrap())));
        Self { server, client, resources }
    }

    /// Converts `disk` and compares the result with the expected disk.
    async fn check(&self, case: &Case, from: &str, disk: Disk, digest: &str, dir: &Path) -> Report {
        let what = format!("{} from {from}", case.name);
        assert_eq!(disk.info().format, case.format, "{what}");
        assert_eq!(disk.virtual_bytes(), case.virtual_bytes, "{what}");
        let out = dir.join("out.raw");
        let mut options = FileSinkOptions::default();
        options.sync = false;
        let sink = FileSink::create(&out, options).await.unwrap();
        let target = create(Format::Raw, sink, &TargetOptions::default()).unwrap();
        let run = Conversion::new(disk, target).resources(self.resources.clone()).run();
        let report = run.await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_same(&out, &case.truth, &what);
        assert_eq!(report.digest.unwrap().to_string(), digest, "{what}");
        let end = report.sizes.content_end.unwrap();
        assert!(report.sizes.content_bytes.unwrap() <= end && end <= case.virtual_bytes, "{what}");
        assert!(report.stats.peak_budget_bytes <= MEMORY, "{what}");
        std::fs::remove_file(&out).unwrap();
        report
    }

    async fn file(&self, case: &Case) -> Disk {
        let source: Arc<dyn Source> = Arc::new(FileSource::open(&case.image).await.unwrap());
        let gate: Arc<dyn Gate> = Arc::new(FileGate::beside(&case.image).await.unwrap());
        open(case, source, gate).await
    }

    async fn s3(&self, case: &Case) -> Disk {
        let url = format!("s3://{BUCKET}/{}/{}", case.name, name(&case.image));
        let source = open_source(&self.client, &url).await.unwrap().source;
        open(case, source, Arc::new(S3Gate::beside(&self.client, &url).unwrap())).await
    }

    async fn http(&self, case: &Case) -> Disk {
        let url = self.server.object_url(BUCKET, &format!("{}/{}", case.name, name(&case.image)));
        let anonymous = diskferry_s3io::ClientOptions::default().anonymous(true);
        let client = Client::new(anonymous).await.unwrap();
        let source = open_source(&client, &url).await.unwrap().source;
        open(case, source, Arc::new(ClosedGate)).await
    }

    async fn run(&self, recipe: &Recipe, base: &Base) {
        let dir = tempfile::tempdir().unwrap();
        let case = recipe.build(base, dir.path());
        let digest = case.digest();
        let digest = digest.strip_prefix("sha256:").unwrap_or(&digest);

        let disk = self.file(&case).await;
        check_map(&case, &disk).await;
        self.check(&case, "file", disk, digest, dir.path()).await;
        // An object has no holes, so a raw disk of gibibytes is all data there.
        if case.large && case.format == "raw" {
            return;
        }
        for file in &case.files {
            self.server.put_file(BUCKET, &format!("{}/{}", case.name, name(file)), file).await.unwrap();
        }
        let disk = self.s3(&case).await;
        let needed = stored_bytes(&disk).await;
        let report = self.check(&case, "s3", self.s3(&case).await, digest, dir.path()).await;
        let fetched = report.stats.source.bytes;
        assert!(fetched <= needed + needed / 100 + (1 << 20), "{}: fetched {fetched} of {needed}", case.name);
        // A set of files needs a gate for its siblings; an HTTP URL has none.
        if case.files.len() == 1 {
            self.check(&case, "http", self.http(&case).await, digest, dir.path()).await;
        }
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap()
}

async fn open(case: &Case, source: Arc<dyn Source>, gate: Arc<dyn Gate>) -> Disk {
    let declared = Declared::Format(case.format.parse().unwrap());
    open_with(source, declared, gate).await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name))
}

fn assert_same(ours: &Path, truth: &Path, what: &str) {
    let (mut a, mut b) = (File::open(ours).unwrap(), File::open(truth).unwrap());
    assert_eq!(a.metadata().unwrap().len(), b.metadata().unwrap().len(), "{what}: length");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let read = a.read(&mut left).unwrap();
        b.read_exact(&mut right[..read]).unwrap();
        if read == 0 {
            return;
        }
        assert!(left[..read] == right[..read], "{what}: bytes differ from {at} on");
        at += read;
    }
}

/// Asserts that the map covers the disk, and that plain data is stored at the mapped offsets.
async fn check_map(case: &Case, disk: &Disk) {
    let image = File::open(&case.image).unwrap();
    let truth = File::open(&case.truth).unwrap();
    let mut at = 0;
    let (mut stored, mut guest) = (vec![0; 4096], vec![0; 4096]);
    while at < disk.virtual_bytes() {
        let rest = GuestRange::between(GuestOffset::new(at), GuestOffset::new(disk.virtual_bytes()));
        for extent in disk.extents(rest).await.unwrap() {
            assert_eq!(extent.guest.start().get(), at, "{}: a gap or an overlap", case.name);
            at = extent.guest.end().get();
            if let ExtentKind::Data(data) = extent.kind
                && data.file.0 == 0
            {
                let len = data.range.len().min(4096) as usize;
                read_at(&image, &mut stored[..len], data.range.start().get());
                read_at(&truth, &mut guest[..len], extent.guest.start().get());
                assert!(stored[..len] == guest[..len], "{}: {extent:?}", case.name);
            }
        }
    }
    assert_eq!(at, case.virtual_bytes, "{}: the map ends early or late", case.name);
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at).unwrap();
}

/// Returns how many bytes of the image the extents need, each counted once.
async fn stored_bytes(disk: &Disk) -> u64 {
    let mut ranges = Vec::new();
    let mut at = GuestOffset::ZERO;
    while at.get() < disk.virtual_bytes() {
        let rest = GuestRange::between(at, GuestOffset::new(disk.virtual_bytes()));
        for extent in disk.extents(rest).await.unwrap() {
            at = extent.guest.end();
            ranges.extend(extent.to_fetch().map(|stored| (stored.file.0, stored.range)));
        }
    }
    ranges.sort();
    let (mut sum, mut last) = (0, (0, 0));
    for (file, range) in ranges {
        let start = if file == last.0 { range.start().get().max(last.1) } else { range.start().get() };
        sum += range.end().get().saturating_sub(start);
        last = (file, range.end().get().max(if file == last.0 { last.1 } else { 0 }));
    }
    sum
}

async fn run_all(format: &str) {
    let bench = Bench::new().await;
    let home = tempfile::tempdir().unwrap();
    let base = Base::ext4(home.path());
    let recipes: Vec<Recipe> = recipes().into_iter().filter(|recipe| recipe.format == format).collect();
    assert!(!recipes.is_empty());
    for recipe in recipes {
        bench.run(&recipe, &base).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_raw_disk_reads_correctly_from_file_s3_and_http() {
    run_all("raw").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vhd_reads_correctly_from_file_s3_and_http() {
    run_all("vhd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_qcow2_reads_correctly_from_file_s3_and_http() {
    run_all("qcow2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vmdk_reads_correctly_from_file_s3_and_http() {
    run_all("vmdk").await;
}

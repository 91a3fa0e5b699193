//! The documented bounds on requests, bytes, memory and time, counted at a real S3 server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diskferry_core::internal::{DigestTree, hash_block};
use diskferry_core::{
    Budget, Conversion, Depth, Disk, FileSource, GuestOffset, GuestRange, Limits, Resources, Source, measure,
    measure_at,
};
use diskferry_corpus::oracle::{make, qemu_img, qemu_io};
use diskferry_corpus::{sample, samples};
use diskferry_formats::{Declared, open, open_with};
use diskferry_s3io::server::{Server, ServerOptions};
use diskferry_s3io::{Client, S3Gate, open_source};

const MIB: u64 = 1 << 20;

struct Store {
    server: Server,
    client: Client,
}

impl Store {
    async fn new() -> Self {
        let server = Server::start(ServerOptions::default()).unwrap();
        server.create_bucket("images").await.unwrap();
        let client = Client::new(server.client_options()).await.unwrap();
        Self { server, client }
    }

    /// Uploads a file and opens it as an image. Resets the counters first, so that only requests for opening are counted.
    async fn open(&self, file: &Path, format: &str) -> Disk {
        let key = file.file_name().unwrap().to_str().unwrap();
        self.server.put_file("images", key, file).await.unwrap();
        self.open_key(key, format).await
    }

    async fn open_key(&self, key: &str, format: &str) -> Disk {
        self.server.forget();
        let url = format!("s3://images/{key}");
        let source = open_source(&self.client, &url).await.unwrap().source;
        let gate = Arc::new(S3Gate::beside(&self.client, &url).unwrap());
        open_with(source, Declared::Format(format.parse().unwrap()), gate).await.unwrap()
    }

    fn requests(&self) -> usize {
        self.server.exchanges().len()
    }
}

/// Content that is not zero anywhere.
fn filled(path: &Path, len: u64) {
    let bytes: Vec<u8> =
        (0..len / 8).flat_map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1).to_le_bytes()).collect();
    std::fs::write(path, bytes).unwrap();
}

fn budget(mib: u64) -> Resources {
    Resources::default().budget(Some(Budget::new(mib * MIB)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversion_fetches_stored_bytes_once_in_requests_of_about_8_mib() {
    let store = Store::new().await;
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("full.raw");
    filled(&raw, 64 * MIB);
    for (format, options, flags) in [
        ("raw", vec![], vec![]),
        ("qcow2", vec![], vec![]),
        ("qcow2", vec!["cluster_size=2M"], vec![]),
        ("qcow2", vec!["compression_type=zlib"], vec!["-c"]),
        ("qcow2", vec!["compression_type=zstd"], vec!["-c"]),
        ("vhd", vec!["subformat=dynamic", "force_size=on"], vec![]),
        ("vmdk", vec!["subformat=monolithicSparse"], vec![]),
        ("vmdk", vec!["subformat=streamOptimized"], vec![]),
    ] {
        let what = format!("{format} {options:?} {flags:?}");
        let file = dir.path().join(format!("image-{}{}.{format}", options.join("-"), flags.concat()));
        match format {
            "raw" => drop(std::fs::copy(&raw, &file).unwrap()),
            _ => make(&raw, format, &options, &flags, &file),
        }
        // The disk is fully allocated, so the image consists of extents and tables.
        let stored = file.metadata().unwrap().len();
        let disk = store.open(&file, format).await;
        let report = Conversion::reading(disk).run().await.unwrap();
        // Requests are shorter at both ends and at a table within a run of data, and only three units of 2 MiB fit into 8 MiB.
        let most = usize::try_from(stored / (6 * MIB)).unwrap() + 8;
        assert!(store.requests() <= most, "{what}: {} requests of {most}", store.requests());
        let source = report.stats.source;
        assert_eq!(source.requests, store.requests() as u64, "{what}: the report counts them");
        let sent: u64 = store.server.exchanges().iter().map(|exchange| exchange.sent).sum();
        assert_eq!(source.bytes, sent, "{what}: the report counts their bytes");
        assert!(sent <= stored + stored / 100 + MIB, "{what}: {sent} bytes of {stored}");
    }
}

/// Permutes the clusters of a QCOW2 with one L2 table, so that no two clusters that are adjacent on the disk are adjacent in
/// the file.
fn scatter(path: &Path) {
    const CLUSTER: usize = 64 << 10;
    let mut image = std::fs::read(path).unwrap();
    let number = |image: &[u8], at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let offset = |entry: u64| (entry & 0x00ff_ffff_ffff_fe00) as usize;
    let l2 = offset(number(&image, number(&image, 40) as usize));
    let entries: Vec<u64> =
        (0..CLUSTER / 8).map(|n| number(&image, l2 + 8 * n)).filter(|e| *e != 0).collect();
    assert_eq!(entries.len(), 1024, "the disk has one L2 table, which is full");
    let old = image.clone();
    for (n, entry) in entries.iter().enumerate() {
        // Coprime with 1024, so that each position is used once.
        let place = entries[n * 389 % entries.len()];
        image[l2 + 8 * n..][..8].copy_from_slice(&place.to_be_bytes());
        image[offset(place)..][..CLUSTER].copy_from_slice(&old[offset(*entry)..][..CLUSTER]);
    }
    std::fs::write(path, image).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragmented_image_is_read_in_file_order_like_a_contiguous_one() {
    let store = Store::new().await;
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    filled(&raw, 64 * MIB);
    let mut costs = Vec::new();
    for name in ["ordered.qcow2", "fragmented.qcow2"] {
        let path = dir.path().join(name);
        make(&raw, "qcow2", &[], &[], &path);
        if name == "fragmented.qcow2" {
            scatter(&path);
            qemu_img(&["check", "-q", path.to_str().unwrap()]);
        }
        let disk = store.open(&path, "qcow2").await;
        let opened = store.requests();
        let report = Conversion::reading(disk).run().await.unwrap();
        let ranges: Vec<(u64, u64)> = store
            .server
            .exchanges()
            .iter()
            .skip(opened)
            .filter_map(|exchange| exchange.request.range)
            .collect();
        let long: Vec<(u64, u64)> = ranges.into_iter().filter(|(first, last)| last - first > MIB).collect();
        let mut sorted = long.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0].1 < pair[1].0), "{name}: {sorted:?}");
        costs.push((report.digest.unwrap(), report.stats.source));
    }
    let (in_order, fragmented) = (costs[0], costs[1]);
    assert_eq!(in_order.0, fragmented.0);
    assert!(fragmented.1.requests <= in_order.1.requests + 2, "{costs:?}");
    assert!(fragmented.1.bytes <= in_order.1.bytes + MIB / 2, "{costs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_measure_makes_at_most_6_requests_for_any_image() {
    let store = Store::new().await;
    let dir = tempfile::tempdir().unwrap();
    for (name, options, size) in [
        ("large.qcow2", vec!["cluster_size=512", "size=127G"], "127G"),
        ("huge.qcow2", vec![], "16T"),
        ("snapshots.qcow2", vec![], "1G"),
        ("large.vmdk", vec!["subformat=monolithicSparse"], "2T"),
        ("large.vhd", vec!["subformat=dynamic", "force_size=on"], "2040G"),
    ] {
        let path = dir.path().join(name);
        let format = if name.ends_with("vhd") { "vpc" } else { name.rsplit_once('.').unwrap().1 };
        let options: Vec<&str> = options.into_iter().filter(|option| !option.starts_with("size=")).collect();
        let options = options.join(",");
        let mut args = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options.as_str()]);
        }
        args.extend([path.to_str().unwrap(), size]);
        qemu_img(&args);
        if name.starts_with("snapshots") {
            for number in 0..20 {
                qemu_io(&path, "qcow2", &[&format!("write -P {} {number}M 64k", number + 1)]);
                qemu_img(&["snapshot", "-c", &format!("s{number}"), path.to_str().unwrap()]);
            }
        }
        let disk = Arc::new(store.open(&path, format).await);
        let measured =
            measure_at(&disk, &Limits::default(), Depth::Quick, None, &Resources::default()).await.unwrap();
        assert!(store.requests() <= 6, "{name}: {} requests", store.requests());
        assert!(measured.sizes.virtual_bytes.is_some() && measured.sizes.content_bytes.is_none());
    }
    for sample in samples() {
        for (name, bytes) in sample.files {
            store.server.put("images", name, *bytes).await.unwrap();
        }
        let disk = Arc::new(store.open_key(sample.file_name(), sample.format).await);
        measure_at(&disk, &Limits::default(), Depth::Quick, None, &Resources::default()).await.unwrap();
        // In a set of files, each file has a head and a tail.
        assert!(store.requests() <= 6 * sample.files.len(), "{}: {} requests", sample.name, store.requests());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure_reads_all_tables_but_no_data_and_merges_adjacent_tables() {
    let store = Store::new().await;
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    filled(&raw, 48 * MIB);
    // The grain tables of a VMDK are contiguous after their directory; the L2 tables of a QCOW2 are between data.
    for (format, options) in [
        ("vmdk", vec!["subformat=monolithicSparse"]),
        ("vmdk", vec!["subformat=streamOptimized"]),
        ("vhd", vec!["subformat=dynamic", "force_size=on"]),
        ("qcow2", vec!["cluster_size=4k"]),
        ("qcow2", vec![]),
    ] {
        let path = dir.path().join(format!("disk-{}.{format}", options.join("-")));
        make(&raw, format, &options, &[], &path);
        let disk = Arc::new(store.open(&path, format).await);
        let opened = store.requests();
        let measured = measure(&disk, &Limits::default()).await.unwrap();
        assert_eq!(measured.sizes.allocated_bytes, Some(48 * MIB), "{format} {options:?}");
        let tables: Vec<_> = store.server.exchanges().into_iter().skip(opened).collect();
        let mut at = GuestOffset::ZERO;
        while at.get() < disk.virtual_bytes() {
            for extent in
                disk.extents(GuestRange::between(at, GuestOffset::new(disk.virtual_bytes()))).await.unwrap()
            {
                at = extent.guest.end();
                let Some(data) = extent.to_fetch() else { continue };
                for exchange in &tables {
                    let (first, last) = exchange.request.range.unwrap();
                    let apart = last < data.range.start().get() || first >= data.range.end().get();
                    assert!(apart, "{format} {options:?}: read {first}-{last}, data of {:?}", data.range);
                }
            }
        }
        if options == ["subformat=monolithicSparse"] || format == "vhd" {
            assert!(tables.len() <= 1, "{format} {options:?}: {} requests for tables", tables.len());
        }
        assert!(tables.len() <= 64, "{format} {options:?}: {} requests for tables", tables.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sparse_disk_of_40_gib_needs_a_few_requests() {
    let store = Store::new().await;
    let sample = sample("qcow2-40g-ext4");
    store.server.put("images", sample.file_name(), sample.bytes()).await.unwrap();
    let disk = store.open_key(sample.file_name(), "qcow2").await;
    assert_eq!(disk.virtual_bytes(), 40 << 30);
    let report = Conversion::reading(disk).resources(budget(32)).run().await.unwrap();
    assert_eq!(report.digest.unwrap().to_string(), sample.digest_hex);
    assert!(report.stats.source.bytes <= sample.object_bytes() + MIB);
    assert!(store.requests() <= 16, "{} requests", store.requests());
    assert!(report.stats.peak_budget_bytes <= 32 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digest_of_a_nearly_empty_16_tib_disk_is_immediate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.qcow2");
    let size = 16u64 << 40;
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "16T"]);
    qemu_io(&path, "qcow2", &["write -P 7 9T 4k"]);
    let source: Arc<dyn Source> = Arc::new(FileSource::open(&path).await.unwrap());
    let disk = open(source, Declared::Unknown).await.unwrap();
    let report = Conversion::reading(disk).run().await.unwrap();
    let mut tree = DigestTree::new();
    let number = (9u64 << 40) / 4096;
    tree.add_zeros(0, number);
    tree.add(number, &[hash_block(&[7; 4096])]);
    tree.add_zeros(number + 1, size / 4096 - number - 1);
    assert_eq!(report.digest, Some(tree.finish(size).unwrap()));
    assert_eq!(report.sizes.content_bytes, Some(4096));
    assert_eq!(report.sizes.content_end, Some((9 << 40) + 4096));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presigned_url_is_read_without_credentials_and_without_head_requests() {
    let store = Store::new().await;
    let sample = sample("qcow2-zstd");
    store.server.put("images", sample.file_name(), sample.bytes()).await.unwrap();
    let url = store.server.presign("images", sample.file_name(), Duration::from_secs(600)).await.unwrap();
    store.server.forget();
    let options = diskferry_s3io::ClientOptions::default().anonymous(true);
    let client = Client::new(options).await.unwrap();
    let opened = open_source(&client, &url).await.unwrap();
    assert!(!opened.source.url().contains("X-Amz"), "{}", opened.source.url());
    let disk = open(opened.source, Declared::Unknown).await.unwrap();
    let report = Conversion::reading(disk).run().await.unwrap();
    assert_eq!(report.digest.unwrap().to_string(), sample.digest_hex);
    assert!(store.server.exchanges().iter().all(|exchange| exchange.request.method == "GET"));
}

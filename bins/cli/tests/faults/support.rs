//! A server with two buckets, images of one disk, and conversions of these images.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskferry_core::{
    Budget, Conversion, CpuPool, FileSink, FileSinkOptions, FileSource, ImageLimit, Limits, Report,
    Resources, Result, Sink, Source,
};
use diskferry_corpus::oracle::{fsverity_digest, make};
use diskferry_formats::{Declared, Format, create, open};
use diskferry_s3io::server::{Request, Server, ServerOptions};
use diskferry_s3io::{Client, ClientOptions, S3Sink, S3SinkOptions, S3Source};

pub(crate) const MIB: u64 = 1 << 20;
/// The bucket for source images.
pub(crate) const IMAGES: &str = "images";
/// The bucket for targets.
pub(crate) const LIBRARY: &str = "library";
/// The memory budget of a conversion.
pub(crate) const MEMORY: u64 = 64 * MIB;

/// A kind of image: its name, its format, and how qemu-img makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) format: Format,
    options: &'static [&'static str],
    flags: &'static [&'static str],
}

/// Every format, uncompressed and compressed.
pub(crate) const IMAGE_KINDS: [Image; 8] = [
    Image { name: "raw", format: Format::Raw, options: &[], flags: &[] },
    Image { name: "qcow2", format: Format::Qcow2, options: &[], flags: &[] },
    Image { name: "qcow2-zlib", format: Format::Qcow2, options: &[], flags: &["-c"] },
    Image { name: "qcow2-zstd", format: Format::Qcow2, options: &["compression_type=zstd"], flags: &["-c"] },
    Image { name: "vhd-dynamic", format: Format::Vhd, options: &["force_size=on"], flags: &[] },
    Image {
        name: "vhd-fixed",
        format: Format::Vhd,
        options: &["subformat=fixed", "force_size=on"],
        flags: &[],
    },
    Image { name: "vmdk-sparse", format: Format::Vmdk, options: &[], flags: &[] },
    Image { name: "vmdk-stream", format: Format::Vmdk, options: &["subformat=streamOptimized"], flags: &[] },
];

impl Image {
    pub(crate) fn named(name: &str) -> Self {
        IMAGE_KINDS.into_iter().find(|image| image.name == name).expect("a kind of image")
    }

    fn make(&self, raw: &Path, path: &Path) {
        if self.format == Format::Raw {
            std::fs::copy(raw, path).unwrap();
        } else {
            make(raw, &self.format.to_string(), self.options, self.flags, path);
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("s3://{IMAGES}/{}", self.name)
    }
}

/// Writes a raw disk of `mib` MiB. Three fifths of it are noise and text, and no two clusters are equal.
pub(crate) fn disk(path: &Path, mib: u64) {
    const BLOCK: usize = 4096;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(mib * MIB).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(MIB as usize);
    while noise.len() < MIB as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    let text: Vec<u8> =
        b"the quick brown fox jumps over the lazy dog; ".iter().copied().cycle().take(MIB as usize).collect();
    for at in (0..mib).filter(|at| at % 5 < 3) {
        let mut bytes = if at % 5 == 1 { text.clone() } else { noise.clone() };
        for (index, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            block[..16].copy_from_slice(&(u128::from(at) << 64 | index as u128 | 1 << 127).to_le_bytes());
        }
        file.write_all_at(&bytes, at * MIB).unwrap();
    }
    // One Linux partition that starts at 1 MiB.
    let mut mbr = [0; 512];
    mbr[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&mbr, 0).unwrap();
}

/// Makes an image of the disk of `mib` MiB.
pub(crate) fn make_image(mib: u64, image: Image, path: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw disk");
    disk(&raw, mib);
    image.make(&raw, path);
}

pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) dir: tempfile::TempDir,
    /// The digest of the disk, computed by `fsverity`. All images have this disk.
    pub(crate) digest: String,
}

impl Bench {
    /// Starts a server that has images of a disk of `mib` MiB.
    pub(crate) async fn new(mib: u64, images: &[Image]) -> Self {
        let server = Server::start(ServerOptions::default()).unwrap();
        for bucket in [IMAGES, LIBRARY] {
            server.create_bucket(bucket).await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw disk");
        disk(&raw, mib);
        for image in images {
            let path = dir.path().join(image.name);
            image.make(&raw, &path);
            server.put_file(IMAGES, image.name, &path).await.unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        let digest = fsverity_digest(&raw);
        std::fs::remove_file(&raw).unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap_or(&digest).to_owned();
        let client = Client::new(impatient(&server)).await.unwrap();
        Self { server, client, dir, digest }
    }

    /// Converts an image to a sink.
    pub(crate) async fn convert(&self, image: Image, sink: Box<dyn Sink>, to: Format) -> Result<Report> {
        self.conversion(image, sink, to).await?.run().await
    }

    pub(crate) async fn conversion(
        &self,
        image: Image,
        sink: Box<dyn Sink>,
        to: Format,
    ) -> Result<Conversion> {
        let source: Arc<dyn Source> = Arc::new(S3Source::open(&self.client, &image.url()).await?);
        let disk = open(source, Declared::Format(image.format)).await?;
        let target = create(to, sink, &diskferry_formats::TargetOptions::default())?;
        let limits = Limits::default().image(ImageLimit::None);
        Ok(Conversion::new(disk, target).limits(limits).resources(resources(MEMORY)))
    }

    /// Runs `act` once, at the nth request (from 0) for source data after the head.
    pub(crate) fn when_read(&self, nth: u64, act: impl Fn() + Send + Sync + 'static) {
        let count = AtomicU64::new(0);
        self.server.set_faults(move |request| {
            if is_data(request) && count.fetch_add(1, Ordering::SeqCst) == nth {
                act();
            }
            Vec::new()
        });
    }

    pub(crate) async fn object(&self, name: &str, resume: bool) -> Result<Box<dyn Sink>> {
        object(&self.client, name, resume).await
    }

    /// The path at which the server stores a target.
    pub(crate) fn stored(&self, name: &str) -> PathBuf {
        self.server.root().join(LIBRARY).join(name)
    }

    /// The names of the objects in the bucket for targets, and of upload parts.
    pub(crate) fn left(&self) -> Vec<String> {
        let root = names(self.server.root());
        let parts = root.into_iter().filter(|name| name.starts_with(".upload"));
        names(&self.server.root().join(LIBRARY)).into_iter().chain(parts).collect()
    }

    /// Bytes of the images that the server sent since its log was last cleared.
    pub(crate) fn sent(&self) -> u64 {
        let exchanges = self.server.exchanges();
        exchanges.iter().filter(|seen| seen.request.object.starts_with(IMAGES)).map(|seen| seen.sent).sum()
    }
}

pub(crate) async fn object(client: &Client, name: &str, resume: bool) -> Result<Box<dyn Sink>> {
    let mut options = S3SinkOptions::default();
    options.resume = resume;
    Ok(Box::new(S3Sink::create_with(client, &format!("s3://{LIBRARY}/{name}"), options).await?))
}

pub(crate) async fn file(path: &Path, resume: bool) -> Result<Box<dyn Sink>> {
    let mut options = FileSinkOptions::default();
    options.sync = false;
    options.resume = resume;
    Ok(Box::new(FileSink::create(path, options).await?))
}

/// Client options with timeouts of seconds instead of a minute.
pub(crate) fn impatient(server: &Server) -> ClientOptions {
    server.client_options().stall_timeout(Duration::from_secs(12))
}

pub(crate) fn resources(memory: u64) -> Resources {
    Resources::default().budget(Some(Budget::new(memory))).pool(Some(Arc::new(CpuPool::new(2).unwrap())))
}

/// Computes the digest of the disk in an image file.
pub(crate) async fn digest(path: &Path, format: Format) -> String {
    let disk = open(Arc::new(FileSource::open(path).await.unwrap()), Declared::Format(format)).await.unwrap();
    let reading = Conversion::reading(disk).limits(Limits::default().image(ImageLimit::None));
    reading.resources(resources(MEMORY)).run().await.unwrap().digest.unwrap().to_string()
}

/// Returns whether the request is for source data after the head.
pub(crate) fn is_data(request: &Request) -> bool {
    request.object.starts_with(IMAGES) && request.range.is_some_and(|(first, _)| first > 0)
}

/// The environment variable with the arguments of a test that runs in a child process.
const CHILD: &str = "DISKFERRY_TEST_CHILD";

/// Runs `test` of this binary in a child process, and passes it these arguments.
pub(crate) fn in_a_child_process<const N: usize>(test: &str, tell: &[&str; N]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, tell.join("\n"));
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    println!("{out}");
}

/// Returns the arguments of this process, if a test started it.
pub(crate) fn child_arguments<const N: usize>() -> Option<[String; N]> {
    let told = std::env::var(CHILD).ok()?;
    Some(std::array::from_fn(|at| told.lines().nth(at).unwrap_or_default().to_owned()))
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    match dir.read_dir() {
        Ok(entries) => entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}

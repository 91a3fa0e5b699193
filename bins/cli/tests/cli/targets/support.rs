//! Target formats, destinations, and conversions between them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use diskferry_core::{
    Budget, ClosedGate, Conversion, CpuPool, Disk, ErrorKind, FileGate, FileSink, FileSinkOptions,
    FileSource, Gate, ImageLimit, Limits, Report, Resources, Result, Sink, Source, StdoutSink,
};
use diskferry_formats::{Declared, Format, TargetOptions, create, open_with};
use diskferry_s3io::server::{Server, ServerOptions};
use diskferry_s3io::{Client, S3Sink, S3Source};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BUCKET: &str = "library";
/// The memory budget of the conversions of a [`Bench`].
pub(crate) const MEMORY: u64 = 64 * MIB;

/// A kind of target: a format with options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) format: Format,
    pub(crate) options: &'static [(&'static str, &'static str)],
}

/// Every kind of target in the interface contract, with default unit sizes.
pub(crate) const KINDS: [Kind; 8] = [
    Kind::new("raw", Format::Raw, &[]),
    Kind::new("vhd-fixed", Format::Vhd, &[("subformat", "fixed")]),
    Kind::new("vhd-dynamic", Format::Vhd, &[("subformat", "dynamic")]),
    Kind::new("qcow2", Format::Qcow2, &[]),
    Kind::new("qcow2-zlib", Format::Qcow2, &[("compression", "zlib")]),
    Kind::new("qcow2-zstd", Format::Qcow2, &[("compression", "zstd")]),
    Kind::new("vmdk-sparse", Format::Vmdk, &[("subformat", "monolithicSparse")]),
    Kind::new("vmdk-stream", Format::Vmdk, &[("subformat", "streamOptimized")]),
];

/// Other unit sizes and compression levels, tested with fewer sources.
pub(crate) const ODD_KINDS: [Kind; 6] = [
    Kind::new("qcow2-512", Format::Qcow2, &[("cluster_size", "512")]),
    Kind::new("qcow2-2m", Format::Qcow2, &[("cluster_size", "2M")]),
    Kind::new("qcow2-zlib-4k", Format::Qcow2, &[("cluster_size", "4K"), ("compression", "zlib")]),
    Kind::new("qcow2-zlib-512", Format::Qcow2, &[("cluster_size", "512"), ("compression", "zlib")]),
    Kind::new(
        "qcow2-zstd-2m",
        Format::Qcow2,
        &[("cluster_size", "2M"), ("compression", "zstd"), ("level", "1")],
    ),
    Kind::new("vmdk-stream-9", Format::Vmdk, &[("subformat", "streamOptimized"), ("level", "9")]),
];

impl Kind {
    const fn new(
        name: &'static str,
        format: Format,
        options: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { name, format, options }
    }

    /// Returns the kind with this name.
    pub(crate) fn named(name: &str) -> Self {
        KINDS.into_iter().find(|kind| kind.name == name).expect("a kind")
    }

    /// Returns whether its virtual size must be a multiple of the sector size.
    pub(crate) fn counts_sectors(&self) -> bool {
        matches!(self.format, Format::Vhd | Format::Vmdk)
    }

    /// Returns whether it can be written to a pipe. A compressed QCOW2 cannot: its tables are known only at the end.
    pub(crate) fn flows(&self) -> bool {
        !(self.format == Format::Qcow2 && self.compression().is_some())
    }

    /// Returns whether it stores every guest byte, without compression or holes.
    pub(crate) fn is_flat(&self) -> bool {
        self.format == Format::Raw || self.options.contains(&("subformat", "fixed"))
    }

    pub(crate) fn compression(&self) -> Option<&'static str> {
        self.options.iter().find(|(key, _)| *key == "compression").map(|(_, value)| *value)
    }

    /// Returns its options, followed by these.
    pub(crate) fn options(&self, more: &[(&str, &str)]) -> TargetOptions {
        TargetOptions::from_pairs(self.format, self.options.iter().chain(more).copied()).unwrap()
    }
}

/// A kind of destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    File,
    Pipe,
    S3,
}

impl Place {
    pub(crate) const ALL: [Self; 3] = [Self::File, Self::Pipe, Self::S3];
}

/// A server, a directory, and the resources that conversions share.
pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) resources: Resources,
    pub(crate) dir: tempfile::TempDir,
}

/// A written target.
pub(crate) struct Written {
    pub(crate) report: Report,
    /// A file with its bytes, for every kind of destination.
    pub(crate) path: PathBuf,
    /// Its URL, if it is an object.
    url: Option<String>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let server = Server::start(ServerOptions::default()).unwrap();
        server.create_bucket(BUCKET).await.unwrap();
        let client = Client::new(server.client_options()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { server, client, resources: resources(MEMORY, 2, None), dir }
    }

    /// Converts a disk to the target `name` at a kind of destination.
    pub(crate) async fn convert(
        &self,
        disk: impl Into<Arc<Disk>>,
        options: &TargetOptions,
        (place, name): (Place, &str),
        resources: &Resources,
    ) -> Result<Written> {
        let run = async |sink: Box<dyn Sink>| {
            let target = create(options.format().unwrap(), sink, options)?;
            let conversion = Conversion::new(disk.into(), target).limits(unlimited());
            conversion.resources(resources.clone()).run().await
        };
        let path = self.dir.path().join(name);
        match place {
            Place::File => {
                let mut options = FileSinkOptions::default();
                options.sync = false;
                let report = run(Box::new(FileSink::create(&path, options).await?)).await?;
                Ok(Written { report, path, url: None })
            }
            Place::Pipe => {
                let (mut from, into) = io::pipe().unwrap();
                let mut file = std::fs::File::create(&path).unwrap();
                let copied = std::thread::spawn(move || io::copy(&mut from, &mut file).unwrap());
                let ended = match StdoutSink::over(into.into(), "-") {
                    Ok(sink) => run(Box::new(sink)).await,
                    Err(error) => Err(error),
                };
                let copied = copied.join().unwrap();
                match ended {
                    Ok(report) => {
                        assert_eq!(
                            report.target.as_ref().unwrap().2.bytes,
                            copied,
                            "{name}: the reader received everything"
                        );
                        Ok(Written { report, path, url: None })
                    }
                    Err(error) => {
                        std::fs::remove_file(&path).unwrap();
                        let refused = error.kind() == ErrorKind::DestinationUnsuitable;
                        assert!(!refused || copied == 0, "{name}: refused with {copied} bytes written");
                        Err(error)
                    }
                }
            }
            Place::S3 => {
                let url = format!("s3://{BUCKET}/{name}");
                let report = run(Box::new(S3Sink::create(&self.client, &url).await?)).await?;
                let path = self.server.root().join(BUCKET).join(name);
                Ok(Written { report, path, url: Some(url) })
            }
        }
    }

    /// Asserts that no targets and no temporary files are left at any destination.
    pub(crate) fn assert_nothing_is_left(&self) {
        let names = |dir: &Path| -> Vec<String> {
            let entries = dir.read_dir().unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let left = names(self.dir.path());
        assert!(left.is_empty(), "{left:?}");
        let objects = names(&self.server.root().join(BUCKET));
        assert!(objects.is_empty(), "{objects:?}");
        let root = names(self.server.root());
        assert!(!root.iter().any(|name| name.contains(".part-")), "parts of an upload: {root:?}");
    }

    /// Opens the target with its format's reader, from its destination.
    pub(crate) async fn read_back(&self, format: Format, written: &Written) -> Result<Disk> {
        let source: Arc<dyn Source> = match &written.url {
            Some(url) => Arc::new(S3Source::open(&self.client, url).await?),
            None => Arc::new(FileSource::open(&written.path).await?),
        };
        open_with(source, Declared::Format(format), Arc::new(ClosedGate)).await
    }
}

/// Opens an image file; its siblings can be opened.
pub(crate) async fn open_file(image: &Path, format: &str) -> Disk {
    let source: Arc<dyn Source> = Arc::new(FileSource::open(image).await.unwrap());
    let gate: Arc<dyn Gate> = Arc::new(FileGate::beside(image).await.unwrap());
    let declared = Declared::Format(format.parse().unwrap());
    open_with(source, declared, gate).await.unwrap_or_else(|error| panic!("{}: {error:?}", image.display()))
}

/// Computes the digest of a disk, read through its map.
pub(crate) async fn digest(disk: Disk, resources: &Resources) -> String {
    let reading = Conversion::reading(disk).limits(unlimited()).resources(resources.clone());
    reading.run().await.unwrap().digest.unwrap().to_string()
}

pub(crate) fn resources(memory: u64, threads: usize, connections: Option<usize>) -> Resources {
    Resources::default()
        .budget(Some(Budget::new(memory)))
        .pool(Some(Arc::new(CpuPool::new(threads).unwrap())))
        .connections(connections)
}

pub(crate) fn unlimited() -> Limits {
    Limits::default().image(ImageLimit::None)
}

/// Returns a command for the program, isolated from the environment of the test run.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Returns whether two files have the same bytes.
pub(crate) fn same_bytes(a: &Path, b: &Path) -> bool {
    use std::io::Read as _;
    let (mut a, mut b) = (std::fs::File::open(a).unwrap(), std::fs::File::open(b).unwrap());
    let len = a.metadata().unwrap().len();
    if b.metadata().unwrap().len() != len {
        return false;
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = a.read(&mut left).unwrap();
        if read == 0 {
            return true;
        }
        b.read_exact(&mut right[..read]).unwrap();
        if left[..read] != right[..read] {
            return false;
        }
    }
}

/// The content of a run of a generated disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Incompressible; different for each seed.
    Noise(u64),
    /// Compressible to about a quarter; different for each seed.
    Text(u64),
    Zeros,
}

/// Writes a raw disk of consecutive runs, each with a length and a content.
pub(crate) fn made(runs: &[(usize, Content)]) -> Vec<u8> {
    let mut disk = Vec::with_capacity(runs.iter().map(|(len, _)| len).sum());
    for (len, content) in runs {
        let end = disk.len() + len;
        let mut state = match content {
            Content::Noise(seed) | Content::Text(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Content::Zeros => 0,
        };
        while disk.len() < end {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match content {
                Content::Noise(_) => disk.extend_from_slice(&state.to_le_bytes()),
                Content::Text(_) => {
                    disk.extend_from_slice(format!("sector {:5};\n", state % 65_536).as_bytes())
                }
                Content::Zeros => disk.resize(end, 0),
            }
        }
        disk.truncate(end);
    }
    disk
}

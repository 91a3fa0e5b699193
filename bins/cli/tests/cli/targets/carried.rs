//! Passthrough: compressed units that the target format supports are copied verbatim. Nothing is deflated, and qemu-img reads
//! the result.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskferry_core::{
    BoxFuture, Coding, Compression, Conversion, Disk, Encoder, FileSink, FileSinkOptions, HeadTail, Layout,
    LayoutFacts, LayoutInput, OutputSize, Part, Result, Sink, Source, SourceStream, Target, Warning, Write,
    Writes,
};
use diskferry_corpus::oracle::{make, qemu_check, qemu_format, qemu_img};
use diskferry_formats::create;

use crate::targets::support::{Content, Kind, made, open_file, resources, unlimited};

/// Counts of an encoder's calls.
#[derive(Debug, Default)]
struct Done {
    encoded: AtomicU64,
    carried: AtomicU64,
}

/// An encoder that counts its calls.
struct Watched {
    encoder: Arc<dyn Encoder>,
    done: Arc<Done>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encoder.fmt(f)
    }
}

impl Encoder for Watched {
    fn unit_bytes(&self) -> u64 {
        self.encoder.unit_bytes()
    }

    fn most_bytes(&self) -> usize {
        self.encoder.most_bytes()
    }

    fn encode(&self, unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding> {
        self.done.encoded.fetch_add(1, Ordering::Relaxed);
        self.encoder.encode(unit, guest, out)
    }

    fn passthrough(&self) -> Option<Compression> {
        self.encoder.passthrough()
    }

    fn pass_through(
        &self,
        unit: u64,
        guest: &[u8],
        stream: &SourceStream,
        out: &mut [u8],
    ) -> Result<Option<Coding>> {
        let carried = self.encoder.pass_through(unit, guest, stream, out)?;
        self.done.carried.fetch_add(u64::from(carried.is_some()), Ordering::Relaxed);
        Ok(carried)
    }
}

/// A layout whose encoder counts its calls.
struct Watching {
    layout: Box<dyn Layout>,
    done: Arc<Done>,
}

impl Layout for Watching {
    fn format(&self) -> &'static str {
        self.layout.format()
    }

    fn variant(&self) -> String {
        self.layout.variant()
    }

    fn options(&self) -> String {
        self.layout.options()
    }

    fn input(&self) -> LayoutInput {
        match self.layout.input() {
            LayoutInput::Units(encoder) => {
                LayoutInput::Units(Arc::new(Watched { encoder, done: Arc::clone(&self.done) }))
            }
            bytes => bytes,
        }
    }

    fn unit(&self) -> Option<u64> {
        self.layout.unit()
    }

    fn needs_map(&self) -> bool {
        self.layout.needs_map()
    }

    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64> {
        self.layout.virtual_bytes(source_bytes)
    }

    fn output_size(&self, facts: &LayoutFacts) -> Result<Option<OutputSize>> {
        self.layout.output_size(facts)
    }

    fn begin(&mut self, facts: &LayoutFacts) -> Result<Writes> {
        self.layout.begin(facts)
    }

    fn place(&mut self, part: Part) -> Result<Vec<Write>> {
        self.layout.place(part)
    }

    fn flush(&mut self) -> Vec<Write> {
        self.layout.flush()
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)> {
        self.layout.finish(virtual_bytes)
    }

    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>> {
        self.layout.recognise(target)
    }

    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>> {
        self.layout.open(target)
    }
}

const UNIT: usize = 65_536;
/// Number of units of [`disk`] that are not all zero.
const UNITS: u64 = 75;

/// Complete, compressible units only. An incompressible unit is stored uncompressed, so passthrough does not apply to it.
fn disk() -> Vec<u8> {
    made(&[
        (20 * UNIT, Content::Text(1)),
        (3 * UNIT, Content::Zeros),
        (UNIT, Content::Text(2)),
        (100 * UNIT, Content::Zeros),
        (54 * UNIT, Content::Text(3)),
        (UNIT, Content::Zeros),
    ])
}

/// Converts an image, and counts encoded and passed-through units. Asserts that qemu-img reads the target as `raw`.
async fn convert(image: &Path, raw: &Path, kind: &str, more: &[(&str, &str)], to: &Path) -> (u64, u64) {
    let kind = Kind::named(kind);
    let format = image.extension().unwrap().to_str().unwrap();
    let mut options = FileSinkOptions::default();
    (options.sync, options.force) = (false, true);
    let sink: Box<dyn Sink> = Box::new(FileSink::create(to, options).await.unwrap());
    let Target { layout, sink } = create(kind.format, sink, &kind.options(more)).unwrap();
    let done = Arc::new(Done::default());
    let layout = Box::new(Watching { layout, done: Arc::clone(&done) });
    let conversion = Conversion::new(open_file(image, format).await, Target { layout, sink });
    conversion.limits(unlimited()).resources(resources(64 << 20, 2, None)).verify(true).run().await.unwrap();
    let format = kind.format.name();
    qemu_check(to, format);
    let (to, raw) = (to.to_str().unwrap(), raw.to_str().unwrap());
    qemu_img(&["compare", "-f", qemu_format(format), "-F", "raw", to, raw]);
    (done.encoded.load(Ordering::Relaxed), done.carried.load(Ordering::Relaxed))
}

#[tokio::test]
async fn compatible_compressed_units_are_passed_through_and_never_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let raw = path("disk.raw");
    std::fs::write(&raw, disk()).unwrap();
    make(&raw, "vmdk", &["subformat=streamOptimized"], &[], &path("stream.vmdk"));
    make(&raw, "qcow2", &[], &["-c"], &path("zlib.qcow2"));
    make(&raw, "qcow2", &["compression_type=zstd"], &["-c"], &path("zstd.qcow2"));
    // The first image of each line is made by qemu-img; each following one is converted from the one before it.
    for line in [
        [
            ("", "stream.vmdk"),
            ("qcow2-zlib", "a.qcow2"),
            ("vmdk-stream", "b.vmdk"),
            ("qcow2-zlib", "c.qcow2"),
        ],
        [("", "zlib.qcow2"), ("vmdk-stream", "d.vmdk"), ("qcow2-zlib", "e.qcow2"), ("vmdk-stream", "f.vmdk")],
        [("", "zlib.qcow2"), ("qcow2-zlib", "g.qcow2"), ("qcow2-zlib", "h.qcow2"), ("vmdk-stream", "i.vmdk")],
        [
            ("", "stream.vmdk"),
            ("vmdk-stream", "j.vmdk"),
            ("vmdk-stream", "k.vmdk"),
            ("qcow2-zlib", "l.qcow2"),
        ],
        [("", "zstd.qcow2"), ("qcow2-zstd", "m.qcow2"), ("qcow2-zstd", "n.qcow2"), ("qcow2-zstd", "o.qcow2")],
    ] {
        for pair in line.windows(2) {
            let [(_, from), (kind, to)] = pair else { unreachable!() };
            let counted = convert(&path(from), &raw, kind, &[], &path(to)).await;
            assert_eq!(counted, (0, UNITS), "{from} to {to}: units encoded and passed through");
        }
    }
}

#[tokio::test]
async fn units_are_encoded_if_recompression_is_on_or_formats_are_incompatible() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let raw = path("disk.raw");
    std::fs::write(&raw, disk()).unwrap();
    make(&raw, "vmdk", &["subformat=streamOptimized"], &[], &path("stream.vmdk"));
    make(&raw, "qcow2", &[], &["-c"], &path("zlib.qcow2"));
    make(&raw, "qcow2", &["compression_type=zstd"], &["-c"], &path("zstd.qcow2"));
    make(&raw, "qcow2", &["cluster_size=4k"], &["-c"], &path("small.qcow2"));
    let anew: &[(&str, &str)] = &[("recompress", "on")];
    for (from, kind, more) in [
        ("stream.vmdk", "qcow2-zlib", anew),
        ("stream.vmdk", "vmdk-stream", anew),
        ("zlib.qcow2", "vmdk-stream", anew),
        ("zstd.qcow2", "qcow2-zstd", anew),
        ("zlib.qcow2", "qcow2-zstd", &[]),
        ("zstd.qcow2", "qcow2-zlib", &[]),
        ("zstd.qcow2", "vmdk-stream", &[]),
        ("small.qcow2", "qcow2-zlib", &[]),
        ("small.qcow2", "vmdk-stream", &[]),
    ] {
        let to = path(if kind == "vmdk-stream" { "out.vmdk" } else { "out.qcow2" });
        let counted = convert(&path(from), &raw, kind, more, &to).await;
        assert_eq!(counted, (UNITS, 0), "{from} to {kind} {more:?}: units encoded and passed through");
    }
}

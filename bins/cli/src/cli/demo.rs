//! `demo`: imports sample images on an embedded S3 server. It needs no setup and leaves no files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diskferry_core::internal::HumanBytes;
use diskferry_core::{Conversion, Depth, Disk, Error, ErrorKind, Limits, Report, Result, measure_at};
use diskferry_corpus::{Sample, sample};
use diskferry_formats::{self as formats, Declared, Format, Qcow2Compression, Qcow2Options};
use diskferry_s3io::server::{Server, ServerOptions, Shape};
use diskferry_s3io::{Client, ClientOptions, S3Gate, S3Sink, S3Source};

use super::{convert, info};
use crate::context::Context;
use crate::exit::{self, Answer};
use crate::output::{self, Output};
use crate::progress::Afterwards;
use crate::{progress, render};
use diskferry::json;

/// The bucket for customers' images.
const BUCKET: &str = "images";
/// The bucket for imported images.
const LIBRARY: &str = "library";
/// Images in all four formats, written by other tools.
const SAMPLES: [&str; 7] = [
    "raw-mbr-fat-ext4",
    "vhd-fixed",
    "vhd-dynamic-ntfs",
    "qcow2-zstd",
    "qcow2-40g-ext4",
    "vmdk-split-sparse",
    "vmdk-stream-10g-xfs",
];
/// The image that is refused, and the capacity that it exceeds.
const REFUSED: (&str, u64) = ("qcow2-40g-ext4", 20 << 30);
/// Latency and throughput of an object store in the same region. On unshaped loopback, the demo would not show the
/// benefit of planned requests.
const LINE: Shape = Shape { latency: Duration::from_millis(30), each: Some(50_000_000), all: None };

/// The document that `demo --json` prints.
#[derive(serde::Serialize, Debug)]
struct Document {
    imported: Vec<json::Converted>,
    refused: json::Failure,
}

pub(crate) async fn run(ctx: &Context) -> Result<Answer> {
    // Dropping the server removes its directory, on success and on failure.
    let server = Server::start(ServerOptions::default().shape(LINE));
    let server = server.map_err(|error: std::io::Error| {
        Error::new(ErrorKind::DestinationUnavailable, "the demo's S3 server cannot create its directory")
            .hint("set TMPDIR to a writable directory")
            .caused_by(error)
    })?;
    let demo = Demo { ctx, server: &server, out: Told(ctx.common.json) };
    demo.all().await
}

struct Demo<'a> {
    ctx: &'a Context,
    server: &'a Server,
    out: Told,
}

/// Standard output; silent with `--json`.
struct Told(bool);

impl Told {
    /// Returns false if the reader closed the pipe.
    async fn say(&self, text: &str) -> Result<bool> {
        if self.0 { Ok(true) } else { Output::new().write(text).await }
    }
}

impl Demo<'_> {
    async fn all(&self) -> Result<Answer> {
        self.ctx.guard(self.stock()).await?;
        if !self.out.say(&self.opening()).await? {
            return Ok(Answer::Yes);
        }
        let client = Client::new(self.options()).await?;
        let described = self.ctx.guard(describe(&client)).await?;
        if !self.out.say(&described).await? {
            return Ok(Answer::Yes);
        }
        let mut imported = Vec::new();
        for name in SAMPLES {
            let sample = sample(name);
            if !self.out.say(&heading(sample)).await? {
                return Ok(Answer::Yes);
            }
            let report = self.import(&client, sample, Limits::default()).await?;
            check(sample, &report)?;
            let source = json::Source::at(url(sample));
            let document = convert::document(source, &report)?;
            self.out.say(&outcome(&report, &document)).await?;
            imported.push((sample, report, document));
        }
        let refusal = self.refused(&client).await?;
        if self.ctx.common.json {
            let imported = imported.into_iter().map(|(.., document)| document).collect();
            output::print_json(&Document { imported, refused: (&refusal).into() }).await?;
        } else {
            let rows: Vec<(&Sample, &Report)> =
                imported.iter().map(|(sample, report, _)| (*sample, report)).collect();
            output::print(&closing(&refusal, &rows)).await?;
        }
        Ok(Answer::Yes)
    }

    /// Uploads the samples to the bucket.
    async fn stock(&self) -> Result<()> {
        for bucket in [BUCKET, LIBRARY] {
            self.server.create_bucket(bucket).await?;
        }
        for sample in SAMPLES.map(sample) {
            for (name, bytes) in sample.files {
                self.server.put(BUCKET, name, *bytes).await?;
            }
        }
        Ok(())
    }

    fn options(&self) -> ClientOptions {
        let common = &self.ctx.common;
        let mut options = self.server.client_options();
        options.stall_timeout = common.stall_timeout;
        if let Some(connections) = common.connections {
            options.connections = connections.get();
        }
        options
    }

    /// Does the same as `diskferry convert s3://… s3://… --verify`.
    async fn import(&self, client: &Client, sample: &Sample, limits: Limits) -> Result<Report> {
        let disk = Arc::new(self.ctx.guard(open(client, sample)).await?);
        let resources = self.ctx.resources()?;
        let known = measure_at(&disk, &limits, Depth::Quick, None, &resources);
        self.ctx.guard(known).await?.verdict.enforce()?;
        let afterwards = if limits.capacity.is_some() { Afterwards::Gone } else { Afterwards::Stays };
        let sink = self.ctx.guard(S3Sink::create(client, &target(sample))).await?;
        let target = formats::create(Format::Qcow2, sink, &compressed())?;
        let conversion = Conversion::new(disk, target)
            .limits(limits)
            .resources(resources)
            .verify(true)
            .stall_timeout(Some(self.ctx.common.stall_timeout))
            .cancel(self.ctx.cancel.clone());
        let name = sample.file_name();
        let run = |sender| conversion.on_progress(sender).run();
        progress::shown(&self.ctx.common, name, afterwards, run).await
    }

    /// Imports a disk that is larger than its declared capacity, and returns the error.
    async fn refused(&self, client: &Client) -> Result<Error> {
        let (name, capacity) = REFUSED;
        let limits = Limits::default().capacity(Some(capacity));
        match self.import(client, sample(name), limits).await {
            Err(error) if error.kind() == ErrorKind::CapacityExceeded => Ok(error),
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(
                ErrorKind::VerificationFailed,
                "a disk larger than the declared capacity was imported",
            )
            .hint("this is a bug in diskferry; please report it")),
        }
    }

    fn opening(&self) -> String {
        format!(
            "diskferry imports disk images from object storage directly into object storage. It reads the tables of an image,
fetches only the bytes that are needed, and uploads the converted image. No temporary copy is written to a local disk.

An S3 server now runs inside this process, at {}, with random keys. Its bucket
\"{BUCKET}\" has {} images made by qemu-img and other tools: disks with partitions, file systems
and files. Its bucket \"{LIBRARY}\" is empty. The server simulates a network: {} ms to the first byte, {} MB/s per
connection.
",
            self.server.endpoint(),
            SAMPLES.len(),
            LINE.latency.as_millis(),
            LINE.each.unwrap_or_default() / 1_000_000,
        )
    }
}

/// Compares the digest with the sample's known digest. `--verify` has checked that the written object has the same one.
fn check(sample: &Sample, report: &Report) -> Result<()> {
    let hex = report.digest.map(|digest| digest.to_string()).unwrap_or_default();
    if hex == sample.digest_hex {
        return Ok(());
    }
    let message =
        format!("the converted disk of {} has the digest {hex}; expected {}", sample.name, sample.digest_hex);
    Err(Error::new(ErrorKind::VerificationFailed, message)
        .hint("this is a bug in diskferry; please report it"))
}

async fn open(client: &Client, sample: &Sample) -> Result<Disk> {
    let url = url(sample);
    let source = Arc::new(S3Source::open(client, &url).await?);
    let gate = Arc::new(S3Gate::beside(client, &url)?);
    formats::open_with(source, Declared::Unknown, gate).await
}

fn url(sample: &Sample) -> String {
    format!("s3://{BUCKET}/{}", sample.file_name())
}

/// Returns the URL of the target of a sample.
fn target(sample: &Sample) -> String {
    let stem = sample.file_name().rsplit_once('.').map_or(sample.file_name(), |(stem, _)| stem);
    format!("s3://{LIBRARY}/{stem}.qcow2")
}

/// The library's images are compressed.
fn compressed() -> Qcow2Options {
    Qcow2Options::default().compression(Qcow2Compression::Zstd)
}

/// Returns the output of `diskferry info` for an image with a small object and a large virtual disk.
async fn describe(client: &Client) -> Result<String> {
    let sample = sample(REFUSED.0);
    let disk = open(client, sample).await?;
    let layout = formats::inspect_disk(&disk).await?;
    let strip = info::strip(&disk).await;
    Ok(format!("\n$ diskferry info {}\n{}", url(sample), info::text(&disk, &layout, &strip)))
}

fn heading(sample: &Sample) -> String {
    format!(
        "\n$ diskferry convert {} {} -o compression=zstd --verify\n  {}: {}\n",
        url(sample),
        target(sample),
        kind(sample),
        sample.about
    )
}

/// `qcow2 v3 zstd`, and `raw` alone.
fn kind(sample: &Sample) -> String {
    if sample.variant == sample.format {
        sample.format.to_owned()
    } else {
        format!("{} {}", sample.format, sample.variant)
    }
}

fn outcome(report: &Report, document: &json::Converted) -> String {
    let (sizes, transfer) = (&report.sizes, &document.transfer);
    format!(
        "  {} stored, {} fetched in {}, {} written, {}\n  virtual disk {}, real content {}; the digest is as expected, while converting and read back from the target\n",
        HumanBytes(sizes.object_bytes),
        HumanBytes(transfer.bytes_fetched),
        render::counted(transfer.requests, "request"),
        HumanBytes(document.target.bytes),
        render::seconds(transfer.seconds),
        HumanBytes(sizes.virtual_bytes.unwrap_or_default()),
        HumanBytes(sizes.content_bytes.unwrap_or_default()),
    )
}

fn closing(refusal: &Error, imported: &[(&Sample, &Report)]) -> String {
    let (name, capacity) = REFUSED;
    let (refused, gib) = (sample(name), capacity >> 30);
    let mut text = format!(
        "\nAn image whose virtual disk is larger than the declared system disk is refused before its data is read:

$ diskferry convert {} {} --capacity {gib}G
{}
",
        url(refused),
        target(refused),
        exit::as_text(refusal, false),
    );
    let head = ["format", "object", "virtual disk", "real content", "requests", "fetched", "qcow2", "digest"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (sample, report) in imported {
        let (sizes, traffic) = (&report.sizes, report.stats.source);
        rows.push(vec![
            kind(sample),
            HumanBytes(sizes.object_bytes).to_string(),
            HumanBytes(sizes.virtual_bytes.unwrap_or_default()).to_string(),
            HumanBytes(sizes.content_bytes.unwrap_or_default()).to_string(),
            traffic.requests.to_string(),
            HumanBytes(traffic.bytes).to_string(),
            HumanBytes(sizes.output_bytes.unwrap_or_default()).to_string(),
            "ok".to_owned(),
        ]);
    }
    text += &render::table(&rows, &[1, 2, 3, 4, 5, 6]);
    text += "\nThe server and its objects have been removed. Next steps:\n\n";
    text += &next();
    text
}

/// Returns commands to try next, with this program's path.
fn next() -> String {
    let program = std::env::args_os().next().map(|name| name.to_string_lossy().into_owned());
    let program = diskferry_core::internal::printable(&program.unwrap_or_else(|| "diskferry".to_owned()));
    let here = Path::new("corpus/images/linux-40g.qcow2");
    let image = if here.exists() { here.to_str().unwrap_or("IMAGE") } else { "IMAGE" };
    format!(
        "  {program} info {image}
  {program} measure s3://BUCKET/KEY --capacity 40G
  {program} convert s3://BUCKET/KEY disk.raw --capacity 40G
  {program} convert s3://BUCKET/KEY s3://LIBRARY/KEY.qcow2 --verify
  {program} --help

Credentials, profile and region come from the AWS environment variables and files. For a store other than AWS, use --endpoint-url.
"
    )
}

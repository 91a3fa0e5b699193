//! `demo`: the main job on an embedded S3 server, with nothing to set up and nothing left behind.

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

/// Where customers put their images.
const BUCKET: &str = "images";
/// Where the import backend keeps its own.
const LIBRARY: &str = "library";
/// All four formats, each as other tools write it.
const SAMPLES: [&str; 7] = [
    "raw-mbr-fat-ext4",
    "vhd-fixed",
    "vhd-dynamic-ntfs",
    "qcow2-zstd",
    "qcow2-40g-ext4",
    "vmdk-split-sparse",
    "vmdk-stream-10g-xfs",
];
/// The one that is refused, and for which capacity.
const REFUSED: (&str, u64) = ("qcow2-40g-ext4", 20 << 30);
/// An object store as it is from a machine beside it: without this a demo on loopback would show nothing of what a plan is
/// good for.
const LINE: Shape = Shape { latency: Duration::from_millis(30), each: Some(50_000_000), all: None };

/// What `demo --json` prints.
#[derive(serde::Serialize, Debug)]
struct Document {
    imported: Vec<json::Converted>,
    refused: json::Failure,
}

pub(crate) async fn run(ctx: &Context) -> Result<Answer> {
    // It is gone with all that it holds when it goes out of scope, whichever way this ends.
    let server = Server::start(ServerOptions::default().shape(LINE));
    let server = server.map_err(|error: std::io::Error| {
        Error::new(ErrorKind::DestinationUnavailable, "there is no room for the demo's server")
            .hint("set TMPDIR to a directory that can be written to")
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

/// Standard output, unless the result is to be JSON.
struct Told(bool);

impl Told {
    /// False where the reader went away.
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

    /// Puts the samples into the bucket.
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

    /// What `diskferry convert s3://… s3://… --verify` does.
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

    /// The error of a disk that is larger than its declared capacity.
    async fn refused(&self, client: &Client) -> Result<Error> {
        let (name, capacity) = REFUSED;
        let limits = Limits::default().capacity(Some(capacity));
        match self.import(client, sample(name), limits).await {
            Err(error) if error.kind() == ErrorKind::CapacityExceeded => Ok(error),
            Err(error) => Err(error),
            Ok(_) => {
                Err(Error::new(ErrorKind::VerificationFailed, "a disk beyond its capacity was imported")
                    .hint("this is a defect of diskferry: please report it"))
            }
        }
    }

    fn opening(&self) -> String {
        format!(
            "diskferry imports disk images from object storage straight into object storage: it reads an image's own tables,
fetches only the bytes that it needs, and uploads the image in the format of the library. Nothing lies on a local disk
in between.

An S3 server now runs inside this process, at {}, with keys made up for this run. Its bucket
\"{BUCKET}\" holds {} images as qemu-img and other tools made them: true disks with partitions, file systems
and files. Its bucket \"{LIBRARY}\" is empty. The line to it is made as slow as a real one: {} ms to the first byte, {} MB/s a
connection.
",
            self.server.endpoint(),
            SAMPLES.len(),
            LINE.latency.as_millis(),
            LINE.each.unwrap_or_default() / 1_000_000,
        )
    }
}

/// Checks the digest against the truth; that of the object that was written is the same, since it was verified.
fn check(sample: &Sample, report: &Report) -> Result<()> {
    let hex = report.digest.map(|digest| digest.to_string()).unwrap_or_default();
    if hex == sample.digest_hex {
        return Ok(());
    }
    let message =
        format!("{} became a disk whose digest is {hex} and should be {}", sample.name, sample.digest_hex);
    Err(Error::new(ErrorKind::VerificationFailed, message)
        .hint("this is a defect of diskferry: please report it"))
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

/// What a sample becomes.
fn target(sample: &Sample) -> String {
    let stem = sample.file_name().rsplit_once('.').map_or(sample.file_name(), |(stem, _)| stem);
    format!("s3://{LIBRARY}/{stem}.qcow2")
}

/// The library keeps its images compressed.
fn compressed() -> Qcow2Options {
    Qcow2Options::default().compression(Qcow2Compression::Zstd)
}

/// What `diskferry info` says of an image that is small as an object and large as a disk.
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
        "  {} stored, {} fetched in {}, {} written, {}\n  a disk of {} with {} of real content; digest as known, both on the way and read back from the new object\n",
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
        "\nA disk that is larger than the system disk that it is for is refused before its data is read:

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
    text += "\nThe server and its objects are gone again. To go on:\n\n";
    text += &next();
    text
}

/// What to type next, as it works here.
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

Keys, profile and region come from the environment and files that the AWS tools use; --endpoint-url names another store.
"
    )
}

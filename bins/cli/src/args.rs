//! Command-line options, as clap reads them.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use diskferry_core::internal::HumanBytes;
use diskferry_core::{Budget, Error, ErrorKind, ImageLimit, Limits};
use diskferry_formats::Format;

/// Inspects, measures, compares and converts virtual disk images (RAW, VHD, QCOW2, VMDK). Reads from S3, HTTP and local
/// files, and streams to S3 and local files without a temporary copy.
#[derive(Debug, Parser)]
#[command(name = "diskferry", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the format, sizes, features and partitions of an image
    Info(OneSource),
    /// List the extents of an image in guest order
    Map(OneSource),
    /// Measure the sizes of an image and check them against the limits
    Measure(Measure),
    /// Convert an image to another format; enforces the limits while converting
    Convert(Convert),
    /// Check whether two images have the same guest content
    Compare(Compare),
    /// Print the content digest of the guest disk; it does not depend on the image format
    Digest(OneSource),
    /// Import sample images on an embedded S3 server; needs no setup and leaves no files
    #[cfg(feature = "demo")]
    Demo,
}

/// Options that every command accepts.
#[derive(Debug, Args)]
#[command(next_help_heading = "General options")]
pub(crate) struct Common {
    /// Print the result as JSON on standard output, and an error as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show progress on standard error: `auto` shows a bar on a terminal only, `json` prints one event per line
    #[arg(long, global = true, value_enum, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressMode,
    /// Memory budget for buffers, at least 16M
    #[arg(long, global = true, value_name = "SIZE", value_parser = memory, default_value = "256M")]
    pub(crate) memory: u64,
    /// Number of CPU worker threads [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Maximum number of concurrent ranged requests [default: adaptive]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) connections: Option<NonZeroUsize>,
    /// Fail after this many seconds without progress
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(crate) stall_timeout: Duration,
    /// Log more on standard error; repeat for more detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print only errors on standard error
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// Options for opening sources.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source options")]
pub(crate) struct SourceArgs {
    /// Source format: raw, vhd, qcow2 or vmdk; must agree with the detected format [default: detect]
    #[arg(short, long, value_name = "FORMAT", value_parser = format)]
    pub(crate) from: Option<Format>,
    /// Read local sources through a memory map; the file must not be truncated while it is read
    #[arg(long)]
    pub(crate) mmap: bool,
    /// Fail unless the source bucket is in this region
    #[arg(long, value_name = "REGION")]
    pub(crate) require_region: Option<String>,
    /// URL of an S3 service other than AWS [default: AWS_ENDPOINT_URL, then the AWS profile]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,
    /// Region for request signing [default: AWS_REGION, then the AWS profile]
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// Put the bucket name in the URL path; `auto` does if the endpoint is an IP address or localhost
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub(crate) s3_path_style: When,
    /// Do not sign requests; works for public objects only
    #[arg(long)]
    pub(crate) s3_anonymous: bool,
    /// Send checksums with uploads: `auto` if the store supports them, `required`, or `off`
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub(crate) s3_checksum: Checksum,
    /// CA certificates (PEM) to trust instead of the system's [default: AWS_CA_BUNDLE and the profile's ca_bundle for S3,
    /// then SSL_CERT_FILE and SSL_CERT_DIR]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// Client certificate (PEM) for servers of https:// URLs that ask for one
    #[arg(long, value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Private key (PEM) of the client certificate [default: in the same file]
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// Header for http(s):// sources, repeatable; sent to the URL's own host and port only, also after redirects
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// As --header, one header a line: other users of this host can read command lines
    #[arg(long, value_name = "FILE")]
    pub(crate) header_file: Option<PathBuf>,
}

impl SourceArgs {
    /// The files that connections are made with.
    pub(crate) fn connection_files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca_bundle, &self.client_cert, &self.client_key, &self.header_file].into_iter().flatten()
    }

    /// Names and values of the headers.
    ///
    /// # Errors
    /// `usage` for what is no header, without repeating it; if the file cannot be read.
    pub(crate) fn header_pairs(&self) -> Result<Vec<(String, String)>, Error> {
        let text = match &self.header_file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Error::new(ErrorKind::Usage, format!("--header-file {}: {error}", path.display()))
            })?,
            None => String::new(),
        };
        let in_file = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all = self.headers.iter().map(|line| ("--header", &**line));
        all.chain(in_file.map(|line| ("--header-file", line)))
            .map(|(option, line)| match line.split_once(':') {
                Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                None => Err(Error::new(ErrorKind::Usage, format!("a header of {option} has no colon"))
                    .hint("give each header as 'Name: value'")),
            })
            .collect()
    }
}

/// Limits that images are checked against.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Declared capacity of the system disk; a larger virtual disk is refused
    #[arg(long, value_name = "SIZE", value_parser = diskferry_core::internal::parse_size)]
    pub(crate) capacity: Option<u64>,
    /// Image size limit, or `none`; the default warns from 50*10^9 bytes and refuses from 50*2^30 bytes [default: 50GB]
    #[arg(long, value_name = "SIZE", value_parser = limit)]
    pub(crate) limit: Option<ImageLimit>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits::default().capacity(self.capacity).image(self.limit.unwrap_or_default())
    }
}

/// Options for the target.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target options")]
pub(crate) struct TargetArgs {
    /// Target format: raw, vhd, qcow2 or vmdk [default: the extension of DST, else raw]
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = format)]
    pub(crate) to: Option<Format>,
    /// Target option; repeatable, or comma separated; `-o help` lists the options
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE", value_parser = option, value_delimiter = ',')]
    pub(crate) options: Vec<TargetOption>,
}

#[derive(Debug, Args)]
pub(crate) struct OneSource {
    /// Path, s3://bucket/key[?versionId=ID] or http(s):// URL
    #[arg(value_name = "SRC")]
    pub(crate) src: OsString,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Path, s3://bucket/key[?versionId=ID] or http(s):// URL
    #[arg(value_name = "SRC")]
    pub(crate) src: Option<OsString>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Read all data to measure the real content
    #[arg(long, conflicts_with = "quick")]
    pub(crate) scan: bool,
    /// Read only the headers, not the allocation tables
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

#[derive(Debug, Args)]
#[command(override_usage = "diskferry convert [OPTIONS] <SRC> <DST>")]
pub(crate) struct Convert {
    /// Path, s3://bucket/key[?versionId=ID], http(s):// URL, or `-` for standard input
    #[arg(value_name = "SRC")]
    pub(crate) src: Option<OsString>,
    /// File, block device, s3://bucket/key, or `-` for standard output
    #[arg(value_name = "DST")]
    pub(crate) dst: Option<OsString>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Replace an existing DST
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not compute the content digest of the guest disk
    #[arg(long)]
    pub(crate) no_digest: bool,
    /// Do not wait for the target to reach stable storage
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Read the target back after writing, and compare the digests
    #[arg(long)]
    pub(crate) verify: bool,
    /// Continue an interrupted run, and keep resume data if this run fails; DST must be a file or in S3
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// First image: path, s3://bucket/key[?versionId=ID] or http(s):// URL
    #[arg(value_name = "A")]
    pub(crate) a: OsString,
    /// Second image, named in the same way
    #[arg(value_name = "B")]
    pub(crate) b: OsString,
    /// Format of B; `--from` is the format of A [default: detect]
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = format)]
    pub(crate) from_b: Option<Format>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ProgressMode {
    Auto,
    Bar,
    Json,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Checksum {
    Auto,
    Required,
    Off,
}

/// A value of `-o`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TargetOption {
    Help,
    Pair(String, String),
}

fn format(name: &str) -> Result<Format, String> {
    name.parse().map_err(|_| "the format must be raw, vhd (or vpc), qcow2 or vmdk".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = diskferry_core::internal::parse_size(text)?;
    if bytes < Budget::SMALLEST {
        return Err(format!("must be at least {}", HumanBytes(Budget::SMALLEST)));
    }
    Ok(bytes)
}

fn threads(text: &str) -> Result<usize, String> {
    /// Far more than any machine has cores, far fewer than a process can have threads.
    const MOST: usize = 1024;
    text.parse()
        .ok()
        .filter(|threads| (1..=MOST).contains(threads))
        .ok_or(format!("must be from 1 to {MOST}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().filter(|seconds| *seconds > 0.0);
    let duration = parsed.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // Timers do not support durations of centuries.
    duration
        .filter(|duration| !duration.is_zero() && duration.as_secs() <= 1 << 31)
        .ok_or_else(|| "must be a number of seconds greater than 0".to_owned())
}

fn limit(text: &str) -> Result<ImageLimit, String> {
    match text {
        "none" => Ok(ImageLimit::None),
        _ => diskferry_core::internal::parse_size(text).map(ImageLimit::Exact),
    }
}

fn option(text: &str) -> Result<TargetOption, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(TargetOption::Pair(key.to_owned(), value.to_owned())),
        None if text == "help" || text == "?" => Ok(TargetOption::Help),
        _ => Err("must be KEY=VALUE; `-o help` lists the options".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn explicit_limit_is_exact_and_default_limit_has_a_grey_zone() {
        assert_eq!(limit("50GB"), Ok(ImageLimit::Exact(50_000_000_000)));
        assert_eq!(limit("none"), Ok(ImageLimit::None));
        assert_eq!(LimitArgs { capacity: None, limit: None }.limits(), Limits::default());
    }
}

//! Parses `SRC` and opens the source.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskferry_core::{
    ClosedGate, Disk, Error, ErrorKind, FileGate, FileSource, Gate, ImageStream, MapSource, Result, Source,
    StandardInput, Warning,
};
use diskferry_formats as formats;
use diskferry_formats::{Declared, Format};
use diskferry_s3io as s3io;
use diskferry_s3io::{Client, ClientOptions, PathStyle, S3Gate, open_source};
use tokio::sync::OnceCell;

use crate::args::{Checksum, SourceArgs, When};
use crate::context::Context;

/// The location that a source string names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Location {
    /// `-`.
    StandardInput,
    /// A local path.
    Path(PathBuf),
    /// `s3://`, `http://` or `https://`.
    Url(String),
}

/// Parses a source string.
///
/// # Errors
/// `usage` if it is empty, or a URL with another scheme.
pub(crate) fn parse(src: &OsStr) -> Result<Location> {
    let usage = |message: &str, hint: &'static str| Error::new(ErrorKind::Usage, message).hint(hint);
    let Some(text) = src.to_str() else { return Ok(Location::Path(src.into())) };
    let is_scheme = |scheme: &&str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme);
    match (text, scheme.map(str::to_ascii_lowercase).as_deref()) {
        ("", _) => Err(usage("SRC is empty", "SRC must be a path, an s3:// URL or an http(s):// URL")),
        ("-", _) => Ok(Location::StandardInput),
        (_, Some("s3" | "http" | "https")) => Ok(Location::Url(text.to_owned())),
        // The rest of the URL is not printed: it may contain a password.
        (_, Some(scheme)) => Err(usage(
            &format!("the URL scheme {scheme}:// is not supported for a source"),
            "SRC must be a path, an s3:// URL or an http(s):// URL; start a path that contains :// with ./",
        )),
        (_, None) => Ok(Location::Path(src.into())),
    }
}

/// Converts the `--from` option.
pub(crate) fn declared(format: Option<Format>) -> Declared {
    format.map_or(Declared::Unknown, Declared::Format)
}

/// Opens sources with the given options. The S3 and HTTP client is created on first use.
pub(crate) struct Opener<'a> {
    ctx: &'a Context,
    args: &'a SourceArgs,
    client: OnceCell<Client>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(ctx: &'a Context, args: &'a SourceArgs) -> Self {
        Self { ctx, args, client: OnceCell::new() }
    }

    /// Opens the image that `src` names, with random access.
    ///
    /// # Errors
    /// `usage` for standard input; `cancelled`; the errors of opening sources and images.
    pub(crate) async fn disk(&self, src: &OsStr, format: Option<Format>) -> Result<Arc<Disk>> {
        let disk = self.ctx.guard(self.open(src, format)).await?;
        tracing::info!(
            url = disk.files().first().map(|file| file.url()),
            format = disk.info().format,
            variant = disk.info().variant,
            virtual_bytes = disk.virtual_bytes(),
            "opened"
        );
        Ok(Arc::new(disk))
    }

    /// Opens standard input as an image that is read in one pass.
    ///
    /// # Errors
    /// The errors of [`formats::open_stream`]; `usage` if standard input is a terminal.
    pub(crate) async fn stream(&self, format: Option<Format>) -> Result<Box<dyn ImageStream>> {
        if std::io::stdin().is_terminal() {
            return Err(Error::new(ErrorKind::Usage, "SRC is standard input, which is a terminal")
                .hint("pipe an image into diskferry, or give a path or URL as SRC"));
        }
        let input = StandardInput::new()?.stall_timeout(Some(self.ctx.common.stall_timeout));
        formats::open_stream(Box::new(input), declared(format)).await
    }

    async fn open(&self, src: &OsStr, format: Option<Format>) -> Result<Disk> {
        let (source, gate, warnings) = match parse(src)? {
            Location::StandardInput => {
                return Err(Error::new(ErrorKind::Usage, "only `convert` can read standard input")
                    .hint("save the image to a file first"));
            }
            Location::Path(path) => self.local(&path).await?,
            Location::Url(url) => self.remote(&url).await?,
        };
        let disk = formats::open_with(source, declared(format), gate).await?;
        warnings.into_iter().for_each(|warning| disk.warnings().add(warning));
        Ok(disk)
    }

    async fn local(&self, path: &Path) -> Result<(Arc<dyn Source>, Arc<dyn Gate>, Vec<Warning>)> {
        let source: Arc<dyn Source> = if self.args.mmap {
            Arc::new(MapSource::open(path).await?)
        } else {
            Arc::new(FileSource::open(path).await?)
        };
        let gate = FileGate::beside(path).await?.mmap(self.args.mmap);
        let no_region = self.args.require_region.as_ref().map(|region| {
            Warning::new(
                "region_unknown",
                format!("{} is a local file, so it is in no region; {region} is required", path.display()),
            )
        });
        Ok((source, Arc::new(gate), no_region.into_iter().collect()))
    }

    /// Returns the S3 and HTTP client; creates it on first use.
    ///
    /// # Errors
    /// The errors of [`Client::new`].
    pub(crate) async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| async { Client::new(self.client_options()?).await }).await
    }

    async fn remote(&self, url: &str) -> Result<(Arc<dyn Source>, Arc<dyn Gate>, Vec<Warning>)> {
        let client = self.client().await?;
        let opened = open_source(client, url).await?;
        // Sibling URLs of an HTTP source cannot be derived, and a presigned URL grants access to one object only.
        let gate: Arc<dyn Gate> = match s3io::Location::parse(url)? {
            s3io::Location::S3(_) => Arc::new(S3Gate::beside(client, url)?),
            s3io::Location::Http(_) => Arc::new(ClosedGate),
        };
        Ok((opened.source, gate, opened.warnings))
    }

    fn client_options(&self) -> Result<ClientOptions> {
        let (args, common) = (self.args, &self.ctx.common);
        let path_style = match args.s3_path_style {
            When::Auto => PathStyle::Auto,
            When::Always => PathStyle::Always,
            When::Never => PathStyle::Never,
        };
        let checksum = match args.s3_checksum {
            Checksum::Auto => s3io::Checksum::Auto,
            Checksum::Required => s3io::Checksum::Required,
            Checksum::Off => s3io::Checksum::Off,
        };
        let mut options = ClientOptions::default()
            .endpoint_url(args.endpoint_url.clone())
            .region(args.region.clone())
            .path_style(path_style)
            .anonymous(args.s3_anonymous)
            .checksum(checksum)
            .require_region(args.require_region.clone())
            .stall_timeout(common.stall_timeout)
            .ca_bundle(args.ca_bundle.clone())
            .client_certificate(args.client_cert.clone())
            .client_key(args.client_key.clone())
            .headers(args.header_pairs()?);
        if let Some(connections) = common.connections {
            options.connections = connections.get();
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_without_a_scheme_is_a_path() {
        let parse = |text: &str| parse(OsStr::new(text));
        assert_eq!(parse("-").unwrap(), Location::StandardInput);
        assert_eq!(parse("a/b.raw").unwrap(), Location::Path("a/b.raw".into()));
        assert_eq!(parse("./odd://name").unwrap(), Location::Path("./odd://name".into()));
        assert_eq!(parse("s3://b/k").unwrap(), Location::Url("s3://b/k".into()));
        assert_eq!(parse("HTTPS://h/k").unwrap(), Location::Url("HTTPS://h/k".into()));
        assert_eq!(parse("").unwrap_err().kind(), ErrorKind::Usage);
        let error = parse("ftp://user:secret@host/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(!format!("{error:?}").contains("secret"));
    }
}

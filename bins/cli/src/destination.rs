//! Parses `DST` and creates the sink.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diskferry_core::{
    BlockDeviceSink, DeviceSinkOptions, Disk, Error, ErrorKind, FileSink, FileSinkOptions, Preallocation,
    Result, Sink, StdoutSink, WriteOrder, is_block_device,
};
use diskferry_formats::Format;
use diskferry_s3io::{S3Sink, S3SinkOptions};

use crate::source::Opener;

/// The destination that `DST` names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    /// `-`.
    StandardOutput,
    /// A regular file, which may exist.
    File(PathBuf),
    /// A block device.
    Device(PathBuf),
    /// `s3://bucket/key`.
    S3(String),
}

/// Options for writing the destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    pub(crate) force: bool,
    pub(crate) sync: bool,
    /// Continue an interrupted run, and keep resume data if this run fails.
    pub(crate) resume: bool,
    /// None if the option was not given.
    pub(crate) preallocation: Option<Preallocation>,
}

/// Parses `dst`.
///
/// # Errors
/// `usage` if it is empty; `destination_unsuitable` if it cannot be written to.
pub(crate) fn parse(dst: &OsStr) -> Result<Destination> {
    let text = dst.to_string_lossy();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match (&*text, scheme.as_deref()) {
        ("", _) => Err(Error::new(ErrorKind::Usage, "DST is empty")),
        ("-", _) => Ok(Destination::StandardOutput),
        (_, Some("s3")) => Ok(Destination::S3(text.into_owned())),
        (_, Some("http" | "https")) => {
            Err(Error::new(ErrorKind::DestinationUnsuitable, "an HTTP URL cannot be written to")
                .hint("use s3://bucket/key, with --endpoint-url for a store other than AWS"))
        }
        // The rest of the URL is not printed: it may contain a password.
        (_, Some(scheme))
            if scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) =>
        {
            Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!("the URL scheme {scheme}:// is not supported for a destination"),
            )
            .hint("DST must be a path, a block device, s3://bucket/key or `-`; start a path that contains :// with ./"))
        }
        _ if is_block_device(dst) => Ok(Destination::Device(dst.into())),
        _ => Ok(Destination::File(dst.into())),
    }
}

impl Destination {
    /// Returns the format for the extension; raw if the extension is unknown.
    pub(crate) fn format(&self) -> Format {
        let name = match self {
            Self::File(path) | Self::Device(path) => path.as_path(),
            Self::S3(url) => Path::new(url),
            Self::StandardOutput => return Format::Raw,
        };
        let extension = name.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        extension.and_then(|extension| extension.parse().ok()).unwrap_or(Format::Raw)
    }

    /// Returns the order in which it must be written.
    pub(crate) fn order(&self) -> WriteOrder {
        match self {
            Self::File(_) | Self::Device(_) => WriteOrder::Any,
            Self::S3(_) => WriteOrder::Ascending,
            Self::StandardOutput => WriteOrder::Sequential,
        }
    }

    /// Checks whether it can be written, without changing anything.
    ///
    /// # Errors
    /// The `destination_*` codes; `usage` for an option that does not apply to it.
    pub(crate) async fn admit(&self, opener: &Opener<'_>, writing: Writing) -> Result<()> {
        if writing.preallocation.is_some() && !matches!(self, Self::File(_)) {
            return Err(Error::new(
                ErrorKind::Usage,
                "`-o preallocation` is supported for file destinations only",
            ));
        }
        match self {
            Self::File(path) => FileSink::admit(path, writing.force).await,
            Self::Device(path) => BlockDeviceSink::admit(path).await,
            Self::S3(url) => S3Sink::admit(opener.client().await?, url, writing.force).await,
            Self::StandardOutput => StdoutSink::new().map(drop),
        }
    }

    /// Creates the sink.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(crate) async fn sink(&self, opener: &Opener<'_>, writing: Writing) -> Result<Box<dyn Sink>> {
        Ok(match self {
            Self::File(path) => {
                let mut options = FileSinkOptions::default();
                options.force = writing.force;
                options.sync = writing.sync;
                options.resume = writing.resume;
                options.preallocation = writing.preallocation.unwrap_or_default();
                Box::new(FileSink::create(path, options).await?)
            }
            Self::Device(path) => {
                let mut options = DeviceSinkOptions::default();
                options.sync = writing.sync;
                Box::new(BlockDeviceSink::create(path, options).await?)
            }
            Self::S3(url) => {
                let mut options = S3SinkOptions::default();
                options.force = writing.force;
                options.resume = writing.resume;
                Box::new(S3Sink::create_with(opener.client().await?, url, options).await?)
            }
            Self::StandardOutput => Box::new(StdoutSink::new()?),
        })
    }

    /// Fails if the destination is one of the source's files.
    ///
    /// # Errors
    /// `usage`.
    pub(crate) fn is_no_source(&self, disk: &Disk) -> Result<()> {
        let found = match self {
            Self::StandardOutput => return Ok(()),
            Self::File(path) | Self::Device(path) => {
                let Ok(meta) = std::fs::metadata(path) else { return Ok(()) };
                let same = |file: (u64, u64, i128)| (file.0, file.1) == (meta.dev(), meta.ino());
                disk.files().iter().find(|file| file.identity().file.is_some_and(same))
            }
            Self::S3(url) => disk.files().iter().find(|file| {
                let object = file.url().split_once('?').map_or(file.url(), |(object, _)| object);
                object == url
            }),
        };
        match found {
            Some(file) => Err(Error::new(
                ErrorKind::Usage,
                format!("DST is one of the source's files ({})", file.url()),
            )
            .hint("choose another DST")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Destination {
        parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn format_is_derived_from_the_extension() {
        for (name, format) in [
            ("x.qcow2", Format::Qcow2),
            ("x.VMDK", Format::Vmdk),
            ("x.vhd", Format::Vhd),
            ("x.vpc", Format::Vhd),
            ("x.raw", Format::Raw),
            ("x.img", Format::Raw),
            ("qcow2", Format::Raw),
            ("s3://library/a.b/centos7.qcow2", Format::Qcow2),
            ("s3://library.vmdk/centos7", Format::Raw),
            ("-", Format::Raw),
        ] {
            assert_eq!(parsed(name).format(), format, "{name}");
        }
    }

    #[test]
    fn destination_without_a_scheme_is_a_file() {
        assert_eq!(parsed("-"), Destination::StandardOutput);
        assert_eq!(parsed("S3://b/k"), Destination::S3("S3://b/k".to_owned()));
        assert_eq!(parsed("./-"), Destination::File("./-".into()));
        assert_eq!(parsed("/dev/null"), Destination::File("/dev/null".into()));
        for url in ["http://h/k", "https://h/k", "ftp://user:secret@h/k", "file:///k"] {
            assert_eq!(parse(OsStr::new(url)).unwrap_err().kind(), ErrorKind::DestinationUnsuitable, "{url}");
        }
        assert_eq!(parse(OsStr::new("")).unwrap_err().kind(), ErrorKind::Usage);
    }
}

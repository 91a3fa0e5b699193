//! What `DST` names, and what can be written there.

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

/// Where a target goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    /// `-`.
    StandardOutput,
    /// A regular file, there already or not.
    File(PathBuf),
    /// A block device.
    Device(PathBuf),
    /// `s3://bucket/key`.
    S3(String),
}

/// How it is written there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    pub(crate) force: bool,
    pub(crate) sync: bool,
    /// Take up what an interrupted run left, and leave what is needed to go on.
    pub(crate) resume: bool,
    /// None where nothing was said.
    pub(crate) preallocation: Option<Preallocation>,
}

/// Takes `dst` apart.
///
/// # Errors
/// `usage` where it is empty; `destination_unsuitable` for what cannot be written to.
pub(crate) fn parse(dst: &OsStr) -> Result<Destination> {
    let text = dst.to_string_lossy();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match (&*text, scheme.as_deref()) {
        ("", _) => Err(Error::new(ErrorKind::Usage, "DST is empty")),
        ("-", _) => Ok(Destination::StandardOutput),
        (_, Some("s3")) => Ok(Destination::S3(text.into_owned())),
        (_, Some("http" | "https")) => {
            Err(Error::new(ErrorKind::DestinationUnsuitable, "an HTTP URL cannot be written to")
                .hint("name an object s3://bucket/key, with --endpoint-url for another store than AWS"))
        }
        // The rest of the URL may hold a password.
        (_, Some(scheme))
            if scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) =>
        {
            Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!("a destination of the scheme {scheme}:// cannot be written to"),
            )
            .hint("name a path, a device, s3://bucket/key or `-`; a path with :// in it starts with ./"))
        }
        _ if is_block_device(dst) => Ok(Destination::Device(dst.into())),
        _ => Ok(Destination::File(dst.into())),
    }
}

impl Destination {
    /// The format that its extension stands for; raw where it stands for none.
    pub(crate) fn format(&self) -> Format {
        let name = match self {
            Self::File(path) | Self::Device(path) => path.as_path(),
            Self::S3(url) => Path::new(url),
            Self::StandardOutput => return Format::Raw,
        };
        let extension = name.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        extension.and_then(|extension| extension.parse().ok()).unwrap_or(Format::Raw)
    }

    /// In which order it is written.
    pub(crate) fn order(&self) -> WriteOrder {
        match self {
            Self::File(_) | Self::Device(_) => WriteOrder::Any,
            Self::S3(_) => WriteOrder::Ascending,
            Self::StandardOutput => WriteOrder::Sequential,
        }
    }

    /// Looks whether it may be written, and changes nothing.
    ///
    /// # Errors
    /// The `destination_*` codes; `usage` for an option that is none of its.
    pub(crate) async fn admit(&self, opener: &Opener<'_>, writing: Writing) -> Result<()> {
        if writing.preallocation.is_some() && !matches!(self, Self::File(_)) {
            return Err(Error::new(ErrorKind::Usage, "preallocation is an option of files"));
        }
        match self {
            Self::File(path) => FileSink::admit(path, writing.force).await,
            Self::Device(path) => BlockDeviceSink::admit(path).await,
            Self::S3(url) => S3Sink::admit(opener.client().await?, url, writing.force).await,
            Self::StandardOutput => StdoutSink::new().map(drop),
        }
    }

    /// Begins the target.
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

    /// Refuses to replace what is being read.
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
            Some(file) => {
                Err(Error::new(ErrorKind::Usage, format!("DST is a file of the source ({})", file.url()))
                    .hint("name another DST"))
            }
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
    fn the_extension_stands_for_the_format() {
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
    fn a_destination_is_a_file_unless_it_says_otherwise() {
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

//! What `DST` names, and what can be written there.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diskferry_core::disk::Disk;
use diskferry_core::error::{Error, ErrorKind, Result};
use diskferry_formats::Format;

/// The path that `dst` names.
///
/// # Errors
/// `destination_unsuitable` for what cannot be written to.
pub(crate) fn parse(dst: &OsStr) -> Result<PathBuf> {
    let text = dst.to_string_lossy();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let what = match (&*text, scheme.as_deref()) {
        ("", _) => return Err(Error::new(ErrorKind::Usage, "DST is empty")),
        ("-", _) => "writing to standard output is not built yet",
        (_, Some("s3")) => "writing to S3 is not built yet",
        (_, Some("http" | "https")) => "an HTTP URL cannot be written to",
        _ => return Ok(PathBuf::from(dst)),
    };
    Err(Error::new(ErrorKind::DestinationUnsuitable, what).hint("name a file"))
}

/// The format that the extension of `dst` stands for; raw where it stands for none.
pub(crate) fn format_of(dst: &Path) -> Format {
    let extension = dst.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.and_then(|extension| extension.parse().ok()).unwrap_or(Format::Raw)
}

/// Refuses to replace a file that is being read.
///
/// # Errors
/// `usage`.
pub(crate) fn is_no_source(dst: &Path, disk: &Disk) -> Result<()> {
    let Ok(meta) = std::fs::metadata(dst) else { return Ok(()) };
    let same = |file: (u64, u64, i128)| (file.0, file.1) == (meta.dev(), meta.ino());
    match disk.files().iter().find(|file| file.identity().file.is_some_and(same)) {
        Some(file) => {
            let message = format!("DST {} is a file of the source ({})", dst.display(), file.url());
            Err(Error::new(ErrorKind::Usage, message).hint("name another file as DST"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert_eq!(format_of(Path::new(name)), format, "{name}");
        }
    }
}

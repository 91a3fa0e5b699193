//! Opening an image: detection, then the reader of the format.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, ByteStream, ClosedGate, Disk, Error, ErrorKind, Gate, HeadTailSource, ImageStream, Result,
    Source,
};

use crate::detect::{detect, format_by_magic};
use crate::feed::Feed;
use crate::format::{Declared, Format};
use crate::open_input::OpenInput;
use crate::{qcow2, raw, vhd, vmdk};

/// Bytes that are examined to detect the format of a stream.
const STREAM_HEAD_BYTES: usize = 512;

/// Opens an image that is one file.
///
/// # Errors
/// See [`open_with`]; an image of several files is refused.
pub async fn open(source: impl Source + 'static, declared: Declared) -> Result<Disk> {
    open_with(source, declared, Arc::new(ClosedGate)).await
}

/// Opens an image. The other files of a multi-file image are opened through `gate`, by plain names only.
///
/// This reads the object's head and tail, and the tables that the format stores in one place: two to four round trips.
/// An image that is valid but cannot be converted (encrypted, or a difference to another image) opens too. Its
/// [`Disk::refusals`] say why, and every read of it returns that error.
///
/// # Errors
/// - `unknown_format`, `format_mismatch`, `ambiguous_format` from detection;
/// - `malformed`, `truncated` and `unsupported_feature`, with the offset;
/// - `external_data_refused` if the image names something other than a plain file name beside it;
/// - the `source_*` codes.
pub async fn open_with(
    source: impl Source + 'static,
    declared: Declared,
    gate: Arc<dyn Gate>,
) -> Result<Disk> {
    open_shared(Arc::new(source), declared, gate).await
}

async fn open_shared(source: Arc<dyn Source>, declared: Declared, gate: Arc<dyn Gate>) -> Result<Disk> {
    let file = Arc::new(HeadTailSource::open(source).await?);
    let format = detect(&file, declared)?;
    let fingerprint = file.fingerprint();
    let input = OpenInput { file, gate };
    let disk = match format {
        Format::Raw => raw::open(input),
        Format::Vhd => vhd::open(input).await,
        Format::Qcow2 => qcow2::open(input).await,
        Format::Vmdk => vmdk::open(input).await,
    };
    Ok(disk?.with_fingerprint(fingerprint))
}

/// Opens a target that was written as `format`.
///
/// A raw target is opened without detection: its bytes are a raw disk, whatever they look like.
pub(crate) fn open_target(target: Arc<dyn Source>, format: Format) -> BoxFuture<'static, Result<Disk>> {
    Box::pin(async move {
        if format == Format::Raw {
            let file = Arc::new(HeadTailSource::open(target).await?);
            return raw::open(OpenInput { file, gate: Arc::new(ClosedGate) });
        }
        open_shared(target, Declared::Format(format), Arc::new(ClosedGate)).await
    })
}

/// Opens an image that is read once, from front to back, such as standard input.
///
/// Two kinds of image can be read this way: a raw disk, which must be declared because it has no magic, and a
/// streamOptimized VMDK, which is made for it. Every other format has tables that a pipe cannot seek to.
///
/// # Errors
/// - `usage` for every other format, declared or detected;
/// - `unknown_format` if nothing is declared and nothing is detected;
/// - `format_mismatch` if the detected format is not the declared one;
/// - `malformed`, `truncated`, `unsupported_feature` and `parent_disk_refused` from the head of a VMDK;
/// - the `source_*` codes.
pub async fn open_stream(bytes: Box<dyn ByteStream>, declared: Declared) -> Result<Box<dyn ImageStream>> {
    let mut feed = Feed::new(bytes);
    let head = Bytes::copy_from_slice(feed.look(STREAM_HEAD_BYTES).await?);
    let seen = format_by_magic(&head);
    match (declared, seen) {
        (Declared::Format(Format::Raw), None) => Ok(raw::open_stream(feed, &head)),
        (Declared::Format(Format::Vmdk) | Declared::Unknown, Some(Format::Vmdk)) => vmdk::open_stream(feed).await,
        (Declared::Format(declared @ (Format::Raw | Format::Vmdk)), seen) => {
            let seen = seen.map_or("nothing known", Format::name);
            Err(Error::new(
                ErrorKind::FormatMismatch,
                format!("standard input is declared as {declared} but looks like {seen}"),
            ))
        }
        (Declared::Format(format), _) | (Declared::Unknown, Some(format)) => Err(Error::new(
            ErrorKind::Usage,
            format!("a {format} image cannot be read from standard input, which is not seekable"),
        )
        .hint("give a path or a URL; standard input can be a raw disk declared with -f raw, or a streamOptimized VMDK")),
        (Declared::Unknown, None) => Err(Error::new(
            ErrorKind::UnknownFormat,
            "standard input does not begin like a streamOptimized VMDK",
        )
        .hint("if it is a raw disk, declare it with -f raw")),
    }
}

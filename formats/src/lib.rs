//! Readers of RAW, VHD, QCOW2 and VMDK, behind one block map.
//!
//! One format, one folder: `header.rs` has the on-disk structs and is pure, `read.rs` opens an image and maps it,
//! `write.rs` lays one out.
//! Nothing here knows where bytes come from: everything is read through [`diskferry_core::Source`].
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod codec;
mod detect;
mod flat;
mod options;
pub mod partition;
mod placing;
mod qcow2;
mod raw;
mod stream;
mod table;
mod vhd;
mod vmdk;
mod zero_tail;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use diskferry_core::{
    ClosedGate, Disk, Error, ErrorKind, Gate, HeadTailSource, Layout, Result, Sink, Source, Target,
    WriteOrder,
};

use options::Options;
pub use options::TargetOptions;
pub use stream::open_stream;

/// A format of disk images.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Format {
    /// The guest's bytes as they are.
    Raw,
    /// Microsoft's Virtual Hard Disk: fixed and dynamic.
    Vhd,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// VMware's Virtual Disk Format.
    Vmdk,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Vhd, Self::Qcow2, Self::Vmdk];

    /// The name as the command line spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    /// Takes the names, and `vpc` for `vhd` as qemu-img calls it.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "vpc" => Ok(Self::Vhd),
            _ => Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("there is no format {name:?}"))
                    .hint("formats are raw, vhd, qcow2 and vmdk")
            }),
        }
    }
}

/// What the caller says of an image's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Declared {
    /// Nothing: it is detected.
    #[default]
    Unknown,
    /// This format: what is detected must agree.
    Format(Format),
}

/// What a reader opens an image from: its file, with head and tail in hand, and the gate for what lies beside it.
#[derive(Clone)]
struct Opening {
    file: Arc<HeadTailSource>,
    gate: Arc<dyn Gate>,
}

/// Opens an image of one file.
///
/// # Errors
/// See [`open_with`]; an image of several files is refused.
pub async fn open(source: impl Source + 'static, declared: Declared) -> Result<Disk> {
    open_with(source, declared, Arc::new(ClosedGate)).await
}

/// Opens an image; files beside it are asked of `gate`, by plain names only.
///
/// It reads the object's head and tail and the tables that the format has in one place: two to four round trips.
/// A sound image that other commands would not read (encrypted, a difference to another) opens too: its
/// [`Disk::refusals`] say so, and every read of it answers them.
///
/// # Errors
/// `unknown_format`, `format_mismatch`, `ambiguous_format`; `malformed`, `truncated` and `unsupported_feature` with
/// their place; `external_data_refused` where the image names what is no plain name beside it; the `source_*` codes.
pub async fn open_with(
    source: impl Source + 'static,
    declared: Declared,
    gate: Arc<dyn Gate>,
) -> Result<Disk> {
    open_shared(Arc::new(source), declared, gate).await
}

async fn open_shared(source: Arc<dyn Source>, declared: Declared, gate: Arc<dyn Gate>) -> Result<Disk> {
    let file = Arc::new(HeadTailSource::open(source).await?);
    let format = detect::detect(&file, declared)?;
    let fingerprint = file.fingerprint();
    let opening = Opening { file, gate };
    let disk = match format {
        Format::Raw => raw::open(opening).await,
        Format::Vhd => vhd::open(opening).await,
        Format::Qcow2 => qcow2::open(opening).await,
        Format::Vmdk => vmdk::open(opening).await,
    };
    Ok(disk?.with_fingerprint(fingerprint))
}

/// A layout of `format` for a sink that takes writes in `order`: to predict what a target takes, or to refuse before a
/// source is opened or a sink made.
///
/// # Errors
/// `usage` where an option is not one of the format's, or has a value that it cannot have; `destination_unsuitable` for
/// what cannot be written in that order, naming what can.
pub fn layout(format: Format, options: &TargetOptions, order: WriteOrder) -> Result<Box<dyn Layout>> {
    let mut options = Options::new(format, options);
    let layout: Box<dyn Layout> = match format {
        Format::Raw => Box::new(raw::write::RawLayout::new(order)),
        Format::Vhd => vhd::write::layout(&mut options, order)?,
        Format::Qcow2 => qcow2::write::layout(&mut options, order)?,
        Format::Vmdk => vmdk::write::layout(&mut options, order)?,
    };
    options.finish()?;
    Ok(layout)
}

/// What options each format takes, for a person: what `-o help` prints.
pub fn options_help() -> String {
    [raw::write::HELP, qcow2::write::HELP, vhd::write::HELP, vmdk::write::HELP].concat()
}

/// A target in `format` on `sink`.
///
/// # Errors
/// Those of [`layout`].
pub fn create(format: Format, sink: impl Sink + 'static, options: &TargetOptions) -> Result<Target> {
    Ok(Target { layout: layout(format, options, sink.capabilities().order)?, sink: Box::new(sink) })
}

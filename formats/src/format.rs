//! The formats and their names.

use std::fmt;
use std::str::FromStr;

use diskferry_core::{Error, ErrorKind, Result};

/// A format of disk images.
///
/// ```
/// use diskferry_formats::Format;
///
/// assert_eq!("qcow2".parse::<Format>()?, Format::Qcow2);
/// assert_eq!("vpc".parse::<Format>()?, Format::Vhd);
/// # Ok::<(), diskferry_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Format {
    /// The guest's bytes, verbatim.
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

    /// The name that the command line uses.
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

    /// Accepts the names, and `vpc` for `vhd`, which is qemu-img's name.
    ///
    /// # Errors
    /// `usage` for any other name.
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

/// The caller's declaration of an image's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Declared {
    /// Nothing: the format is detected.
    #[default]
    Unknown,
    /// This format: detection must agree.
    Format(Format),
}

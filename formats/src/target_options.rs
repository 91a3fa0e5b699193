//! The options of a target in any format.

use diskferry_core::{Error, ErrorKind, Result};

use crate::format::Format;
use crate::option_text::OptionText;
use crate::qcow2::{self, Qcow2Options};
use crate::raw::{self, RawOptions};
use crate::vhd::{self, VhdOptions};
use crate::vmdk::{self, VmdkOptions};

/// The options of a target.
///
/// ```
/// use diskferry_formats::{Format, Qcow2Compression, Qcow2Options, TargetOptions};
///
/// let options = TargetOptions::from(Qcow2Options::default().compression(Qcow2Compression::Zstd));
/// assert_eq!(options, TargetOptions::parse(Format::Qcow2, "compression=zstd")?);
/// # Ok::<(), diskferry_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum TargetOptions {
    /// The defaults of whichever format is created.
    #[default]
    Defaults,
    /// A RAW target.
    Raw(RawOptions),
    /// A VHD target.
    Vhd(VhdOptions),
    /// A QCOW2 target.
    Qcow2(Qcow2Options),
    /// A VMDK target.
    Vmdk(VmdkOptions),
}

impl TargetOptions {
    /// Parses the options of `format` from `key=value,key=value`.
    ///
    /// # Errors
    /// `usage`, with the option and its allowed values.
    pub fn parse(format: Format, text: &str) -> Result<Self> {
        Self::of(OptionText::split(format, text)?, format)
    }

    /// Takes the options of `format` as pairs of key and value. If a key is given several times, the last value counts.
    ///
    /// # Errors
    /// `usage`, with the option and its allowed values.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        format: Format,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self::of(OptionText::new(format, pairs), format)
    }

    fn of(text: OptionText, format: Format) -> Result<Self> {
        Ok(match format {
            Format::Raw => Self::Raw(RawOptions::parse(text)?),
            Format::Vhd => Self::Vhd(VhdOptions::parse(text)?),
            Format::Qcow2 => Self::Qcow2(Qcow2Options::parse(text)?),
            Format::Vmdk => Self::Vmdk(VmdkOptions::parse(text)?),
        })
    }

    /// The format of the options; `None` for the defaults.
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Defaults => None,
            Self::Raw(_) => Some(Format::Raw),
            Self::Vhd(_) => Some(Format::Vhd),
            Self::Qcow2(_) => Some(Format::Qcow2),
            Self::Vmdk(_) => Some(Format::Vmdk),
        }
    }

    /// The options of `format`.
    ///
    /// # Errors
    /// `usage` if they are those of another format.
    pub(crate) fn of_format(&self, format: Format) -> Result<Self> {
        let Some(own) = self.format() else { return Ok(Self::from(format)) };
        if own == format {
            return Ok(self.clone());
        }
        let message = format!("the target is {}, and its options are those of {}", format.name(), own.name());
        Err(Error::new(ErrorKind::Usage, message))
    }
}

impl From<Format> for TargetOptions {
    /// The defaults of the format.
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw(RawOptions::default()),
            Format::Vhd => Self::Vhd(VhdOptions::default()),
            Format::Qcow2 => Self::Qcow2(Qcow2Options::default()),
            Format::Vmdk => Self::Vmdk(VmdkOptions::default()),
        }
    }
}

impl From<RawOptions> for TargetOptions {
    fn from(options: RawOptions) -> Self {
        Self::Raw(options)
    }
}

impl From<VhdOptions> for TargetOptions {
    fn from(options: VhdOptions) -> Self {
        Self::Vhd(options)
    }
}

impl From<Qcow2Options> for TargetOptions {
    fn from(options: Qcow2Options) -> Self {
        Self::Qcow2(options)
    }
}

impl From<VmdkOptions> for TargetOptions {
    fn from(options: VmdkOptions) -> Self {
        Self::Vmdk(options)
    }
}

/// A text for people that lists the options of each format, as `-o help` prints it.
pub fn options_help() -> String {
    [raw::HELP, qcow2::HELP, vhd::HELP, vmdk::HELP].concat()
}

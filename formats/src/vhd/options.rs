//! The options of VHD targets.

use std::str::FromStr;

use diskferry_core::{Error, Result};

use crate::format::Format;
use crate::option_text::OptionText;
use crate::sector_size::SectorSize;

/// The text of `-o help`.
pub(crate) const HELP: &str = "\
vhd
  subformat=KIND       dynamic (the default): blocks of 2 MiB as the disk needs them; or fixed: every byte
  align=SIZE           rounds the virtual size up to a multiple of SIZE, with zeros; some clouds ask for 1MiB
  id=UUID              the unique id (default: derived from the source)
";

/// The kinds of VHD that are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum VhdSubformat {
    /// Blocks of 2 MiB, allocated as the disk needs them.
    #[default]
    Dynamic,
    /// Every byte of the disk is stored.
    Fixed,
}

/// The options of a VHD target.
///
/// ```
/// use diskferry_formats::{VhdOptions, VhdSubformat};
///
/// let options = VhdOptions::default().subformat(VhdSubformat::Fixed).align(Some(1 << 20));
/// assert_eq!("subformat=fixed,align=1MiB".parse::<VhdOptions>()?, options);
/// # Ok::<(), diskferry_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct VhdOptions {
    /// `subformat`: the kind of VHD.
    pub subformat: VhdSubformat,
    /// `align`: the virtual size is rounded up, with zeros, to a multiple of this many bytes, itself a multiple of 512.
    /// Without it, a disk that is no whole number of sectors is refused.
    pub align: Option<u64>,
    /// `id`: the unique ID, in the order in which a UUID is written. Without it, the ID is derived from the source.
    pub id: Option<[u8; 16]>,
}

setters!(VhdOptions { subformat: VhdSubformat, align: Option<u64>, id: Option<[u8; 16]> });

impl VhdOptions {
    pub(crate) fn parse(mut text: OptionText) -> Result<Self> {
        let words = [("dynamic", VhdSubformat::Dynamic), ("fixed", VhdSubformat::Fixed)];
        let subformat = text.choice("subformat", &words)?.unwrap_or_default();
        let options = Self { subformat, align: text.size("align")?, id: text.uuid("id")? };
        text.finish()?;
        options.sector_size()?;
        Ok(options)
    }

    /// The sizes that the target can have.
    ///
    /// # Errors
    /// `usage` if `align` is 0 or no multiple of a sector.
    pub(super) fn sector_size(&self) -> Result<SectorSize> {
        SectorSize::new(Format::Vhd, self.align)
    }
}

impl FromStr for VhdOptions {
    type Err = Error;

    /// Parses `key=value,key=value`.
    ///
    /// # Errors
    /// `usage`, with the option and its allowed values.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(OptionText::split(Format::Vhd, text)?)
    }
}

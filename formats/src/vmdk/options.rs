//! The options of VMDK targets.

use std::str::FromStr;

use diskferry_core::{Error, ErrorKind, Result};

use super::content_id::ContentId;
use crate::format::Format;
use crate::option_text::{OptionText, wrong};
use crate::sector_size::SectorSize;

/// The text of `-o help`.
pub(crate) const HELP: &str = "\
vmdk
  subformat=KIND       monolithicSparse (the default), or streamOptimized: compressed, as in an OVA
  level=N              streamOptimized: how hard to compress, from 0 to 9 (default 5)
  recompress=on|off    streamOptimized: compress anew what the source has compressed already (default off)
  align=SIZE           rounds the virtual size up to a multiple of SIZE, with zeros
  id=UUID              the content ID, whose last four bytes are the CID (default: derived from the source)
";

/// Output is shorter than zlib's at its default level, 6. Each higher level takes more time than it saves bytes.
const DEFAULT_LEVEL: u32 = 5;
const MAX_LEVEL: u32 = 9;

/// The kinds of VMDK that are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum VmdkSubformat {
    /// Plain grains, which a virtual machine can run from.
    #[default]
    MonolithicSparse,
    /// Compressed grains in a stream, as in an OVA.
    StreamOptimized,
}

/// The options of a VMDK target.
///
/// ```
/// use diskferry_formats::{VmdkOptions, VmdkSubformat};
///
/// let options = VmdkOptions::default().subformat(VmdkSubformat::StreamOptimized).level(Some(9));
/// assert_eq!("subformat=streamOptimized,level=9".parse::<VmdkOptions>()?, options);
/// # Ok::<(), diskferry_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct VmdkOptions {
    /// `subformat`: the kind of VMDK.
    pub subformat: VmdkSubformat,
    /// `level`: how hard to compress, 0 to 9. The default is 5. Only for streamOptimized.
    pub level: Option<u32>,
    /// `recompress`: true to recompress grains that the source stores compressed. By default their streams are copied.
    /// Only for streamOptimized.
    pub recompress: Option<bool>,
    /// `align`: the virtual size is rounded up, with zeros, to a multiple of this many bytes, itself a multiple of 512.
    /// Without it, a disk that is no whole number of sectors is refused.
    pub align: Option<u64>,
    /// `id`: the content ID, in the order in which a UUID is written. Its last four bytes are the CID. Without it, the
    /// ID is derived from the source.
    pub id: Option<[u8; 16]>,
}

setters!(VmdkOptions {
    subformat: VmdkSubformat,
    level: Option<u32>,
    recompress: Option<bool>,
    align: Option<u64>,
    id: Option<[u8; 16]>,
});

impl VmdkOptions {
    pub(crate) fn parse(mut text: OptionText) -> Result<Self> {
        let words = [
            ("monolithicSparse", VmdkSubformat::MonolithicSparse),
            ("streamOptimized", VmdkSubformat::StreamOptimized),
        ];
        let options = Self {
            subformat: text.choice("subformat", &words)?.unwrap_or_default(),
            level: text.number("level")?,
            recompress: text.switch("recompress")?,
            align: text.size("align")?,
            id: text.uuid("id")?,
        };
        text.finish()?;
        options.compression_level()?;
        options.content_id()?;
        options.sector_size()?;
        Ok(options)
    }

    /// The level of a compressed target; `None` if the target is not compressed.
    ///
    /// # Errors
    /// `usage` for a level that does not exist, and for options of a compressed target if the target is not compressed.
    pub(super) fn compression_level(&self) -> Result<Option<u32>> {
        match self.subformat {
            VmdkSubformat::StreamOptimized => match self.level.unwrap_or(DEFAULT_LEVEL) {
                level if level > MAX_LEVEL => {
                    Err(wrong("level", level, &format!("it is a number from 0 to {MAX_LEVEL}")))
                }
                level => Ok(Some(level)),
            },
            VmdkSubformat::MonolithicSparse => {
                let compressing = self.level.map(|_| "level").or(self.recompress.map(|_| "recompress"));
                match compressing {
                    Some(key) => Err(Error::new(
                        ErrorKind::Usage,
                        format!(
                            "the option {key} is for compressed targets, and monolithicSparse is not one"
                        ),
                    )
                    .hint("add -o subformat=streamOptimized")),
                    None => Ok(None),
                }
            }
        }
    }

    /// The sizes that the target can have.
    ///
    /// # Errors
    /// `usage` if `align` is 0 or no multiple of a sector.
    pub(super) fn sector_size(&self) -> Result<SectorSize> {
        SectorSize::new(Format::Vmdk, self.align)
    }

    /// The content ID, if one was given.
    ///
    /// # Errors
    /// `usage` if it ends in a CID that does not identify content.
    pub(super) fn content_id(&self) -> Result<Option<ContentId>> {
        match self.id.map(ContentId) {
            Some(id) if id.is_reserved() => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the option id cannot end in {:08x}: as a CID that does not name a content",
                    id.cid()
                ),
            )),
            id => Ok(id),
        }
    }
}

impl FromStr for VmdkOptions {
    type Err = Error;

    /// Parses `key=value,key=value`.
    ///
    /// # Errors
    /// `usage`, with the option and its allowed values.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(OptionText::split(Format::Vmdk, text)?)
    }
}

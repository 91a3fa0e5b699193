//! The options of RAW targets.

use std::str::FromStr;

use diskferry_core::{Error, Result};

use crate::format::Format;
use crate::option_text::OptionText;

/// The text of `-o help`.
pub(crate) const HELP: &str = "\
raw
  (none)
";

/// The options of a RAW target. There are none yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RawOptions {}

impl RawOptions {
    pub(crate) fn parse(text: OptionText) -> Result<Self> {
        text.finish()?;
        Ok(Self {})
    }
}

impl FromStr for RawOptions {
    type Err = Error;

    /// # Errors
    /// `usage` for any option.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(OptionText::split(Format::Raw, text)?)
    }
}

//! Writing VMDK.

use diskferry_core::error::{Error, Result};
use diskferry_core::sink::WriteOrder;
use diskferry_core::target::Layout;

use crate::options::Options;

/// What `-o help` says of it.
pub(crate) const HELP: &str = "\
vmdk
  (not built yet)
";

/// The layout that `options` ask for, for a sink that takes writes in `order`.
pub(crate) fn layout(_options: &mut Options<'_>, _order: WriteOrder) -> Result<Box<dyn Layout>> {
    Err(Error::unsupported("writing vmdk is not built yet"))
}

//! How a layout reads back the target that it wrote.
//!
//! Checking a target needs detection, and opening it needs the reader. Both know every format, so a layout must not
//! import them: it gets this pair of functions when it is created.

use std::sync::Arc;

use diskferry_core::{BoxFuture, Disk, HeadTail, Result, Source, Warning};

use crate::format::Format;

/// The two functions that a layout uses on its own target.
#[derive(Clone, Copy)]
pub(crate) struct TargetReader {
    /// Checks that a target is detected as its format and as no other.
    pub(crate) check: fn(&HeadTail, Format) -> Result<Vec<Warning>>,
    /// Opens a target as its format.
    pub(crate) open: fn(Arc<dyn Source>, Format) -> BoxFuture<'static, Result<Disk>>,
}

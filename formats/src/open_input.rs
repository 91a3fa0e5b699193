//! The input of a format's reader.

use std::sync::Arc;

use diskferry_core::{Gate, HeadTailSource};

/// The file of an image, with its head and tail already read, and the gate to the files beside it.
#[derive(Clone)]
pub(crate) struct OpenInput {
    /// The file that was given to open.
    pub(crate) file: Arc<HeadTailSource>,
    /// Opens the other files of a multi-file image, by plain names.
    pub(crate) gate: Arc<dyn Gate>,
}
